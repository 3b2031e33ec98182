/* app/commands/cmd_manifests.c -- `kizashi manifests`: what a project needs on GKE Autopilot (or, for infer,
 * on Cloud Run), as YAML for `kubectl apply -f -`.
 *
 * A role is a row of `roles` below: what it runs, what it needs, what it is scaled by. A pod of infer
 * needs what its models' `resources` say, times their replicas. A model with an image of its own is a
 * Deployment of its own that speaks Open Inference v2.
 *
 * Resources are what Autopilot admits: CPU in steps of 250m, 1 to 6.5 GiB of memory a vCPU, limits
 * equal to requests.
 */

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config/check.h"
#include "app/commands/command.h"
#include "base/diag.h"

enum {
    PORT = 8080,
    CPU_STEP_MILLI = 250,
    MIB_MIN = 512,
    CPU_MAX_MILLI = 30000, /* of a pod on Autopilot's general-purpose machines */
    MIB_MAX = 110 << 10,
    CLOUD_RUN_CPU_MAX_MILLI = 8000,
    CLOUD_RUN_MIB_MAX = 32 << 10,
    GRACE_S = 30,
    SPOT_GRACE_S = 15, /* Spot pods get no more */
};

struct role {
    const char *name;
    unsigned cpu_milli, memory_mib; /* of a pod, without models */
    unsigned pods_min, pods_max;
    const char *subscription; /* whose backlog it is scaled by; NULL: by CPU */
    unsigned backlog_target;  /* messages a pod */
    bool serves;              /* has a Service, and needs keys */
    bool models;
};

enum { COLLECT, PROCESS, INFER, SERVE };
static const struct role roles[] = {
        [COLLECT] = {"collect", 1000, 1024, 2, 20, NULL, 0, true, false},
        [PROCESS] = {"process", 1000, 1024, 2, 50, "events-process", 500, false, false},
        [INFER] = {"infer", 500, 1024, 2, 50, "requests-infer", 200, false, true},
        [SERVE] = {"serve", 1000, 1024, 2, 20, NULL, 0, true, false},
};

struct render {
    struct kz_buf out;
    const struct kz_project *project;
    char name[80]; /* kizashi-shop */
    const char *image, *space, *gcp, *env;
    bool spot;
    unsigned balloon;
    unsigned grace_s;
};

#define PUT(r, ...) kz_buf_printf(&(r)->out, __VA_ARGS__)

/* A string of the user's as YAML: JSON's quoting is YAML's, too. */
static void put_quoted(struct render *r, const char *text)
{
    kz_buf_char(&r->out, '"');
    for (const char *at = text; *at; at++) {
        if (*at == '"' || *at == '\\')
            kz_buf_char(&r->out, '\\');
        kz_buf_char(&r->out, *at);
    }
    kz_buf_char(&r->out, '"');
}

/* A name as Kubernetes takes it (RFC 1123): lower case, digits and '-'. */
static void label(const char *text, char *out, size_t size)
{
    size_t n = 0;

    for (; *text && n + 1 < size; text++)
        out[n++] = isalnum((unsigned char)*text) ? (char)tolower((unsigned char)*text) : '-';
    while (n && out[n - 1] == '-')
        n--;
    out[n] = '\0';
}

/* ---- parts of a pod -------------------------------------------------------------------------------- */

static void put_head(struct render *r, const char *api, const char *kind, const char *part)
{
    PUT(r,
            "---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s-%s\n  namespace: %s\n"
            "  labels: {app.kubernetes.io/name: kizashi, app.kubernetes.io/instance: %s, "
            "app.kubernetes.io/component: %s}\n",
            api, kind, r->name, part, r->space, r->name, part);
}

static void put_selector(struct render *r, const char *indent, const char *part)
{
    PUT(r, "%sapp.kubernetes.io/instance: %s\n%sapp.kubernetes.io/component: %s\n", indent, r->name,
            indent, part);
}

struct needs { /* of a pod */
    uint64_t cpu_milli, memory_mib;
};

/* The least that Autopilot admits and that is enough. */
static struct needs admitted(struct needs n)
{
    n.cpu_milli = (KZ_MAX(n.cpu_milli, (uint64_t)1) + CPU_STEP_MILLI - 1) / CPU_STEP_MILLI *
                  CPU_STEP_MILLI;
    while (n.cpu_milli * 6656 / 1000 < n.memory_mib) /* much memory needs CPU to go with it */
        n.cpu_milli += CPU_STEP_MILLI;
    n.memory_mib = KZ_MAX(KZ_MAX(n.memory_mib, n.cpu_milli * 1024 / 1000), (uint64_t)MIB_MIN);
    return n;
}

static void put_resources(struct render *r, struct needs needs)
{
    struct needs n = admitted(needs);

    PUT(r, "          resources:\n");
    for (int limits = 0; limits < 2; limits++)
        PUT(r,
                "            %s: {cpu: %" PRIu64 "m, memory: %" PRIu64
                "Mi, ephemeral-storage: 1Gi}\n",
                limits ? "limits" : "requests", n.cpu_milli, n.memory_mib);
}

static void put_probes(struct render *r, const char *live, const char *ready)
{
    PUT(r,
            "          startupProbe: {httpGet: {path: %s, port: http}, periodSeconds: 2, "
            "failureThreshold: 60}\n"
            "          livenessProbe: {httpGet: {path: %s, port: http}, periodSeconds: 10, "
            "timeoutSeconds: 5, failureThreshold: 3}\n"
            "          readinessProbe: {httpGet: {path: %s, port: http}, periodSeconds: 3, "
            "timeoutSeconds: 3, failureThreshold: 2}\n",
            live, live, ready);
}

static void put_pod_security(struct render *r)
{
    PUT(r,
            "      securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: "
            "10001, seccompProfile: {type: RuntimeDefault}}\n"
            "      terminationGracePeriodSeconds: %u\n",
            r->grace_s);
    if (r->spot)
        PUT(r, "      nodeSelector: {cloud.google.com/gke-spot: \"true\"}\n");
}

static void put_spread(struct render *r, const char *part)
{
    static const char *const keys[] = {"topology.kubernetes.io/zone", "kubernetes.io/hostname"};

    PUT(r, "      topologySpreadConstraints:\n");
    for (size_t i = 0; i < KZ_ARRAY_COUNT(keys); i++) {
        PUT(r,
                "        - maxSkew: 1\n          topologyKey: %s\n          whenUnsatisfiable: "
                "ScheduleAnyway\n          labelSelector:\n            matchLabels:\n",
                keys[i]);
        put_selector(r, "              ", part);
    }
}

static void put_deployment_head(struct render *r, const char *part, unsigned pods)
{
    put_head(r, "apps/v1", "Deployment", part);
    PUT(r,
            "spec:\n  replicas: %u\n  strategy: {rollingUpdate: {maxSurge: 25%%, maxUnavailable: 0}}\n"
            "  selector:\n    matchLabels:\n",
            pods);
    put_selector(r, "      ", part);
    PUT(r, "  template:\n    metadata:\n      labels:\n        app.kubernetes.io/name: kizashi\n");
    put_selector(r, "        ", part);
    PUT(r, "    spec:\n      serviceAccountName: %s-%s\n", r->name, part);
    put_pod_security(r);
    put_spread(r, part);
}

static void put_container_security(struct render *r)
{
    PUT(r, "          securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, "
           "capabilities: {drop: [ALL]}}\n");
}

/* ---- a role ------------------------------------------------------------------------------------------ */

static struct needs needs_of_model(const struct kz_model_def *model, uint64_t replicas)
{
    return (struct needs){model->resources.cpu_milli * replicas,
            (model->resources.memory_bytes >> 20) * replicas};
}

static struct needs needs_of(const struct render *r, const struct role *role)
{
    struct needs needs = {role->cpu_milli, role->memory_mib};

    for (size_t i = 0; role->models && i < r->project->model_count; i++) {
        const struct kz_model_def *model = &r->project->models[i];
        struct needs its = needs_of_model(model, KZ_MAX(model->replicas.max, 1u));

        if (model->image)
            continue;
        needs.cpu_milli += its.cpu_milli;
        needs.memory_mib += its.memory_mib;
    }
    return needs;
}

static void put_arguments(struct render *r, const struct role *role, bool push)
{
    PUT(r, "          args: [up, /project, --role, %s, --listen, \"0.0.0.0:%d\", --data, /data, --log, json",
            role->name, PORT);
    if (r->project->backends.bus != KZ_BACKEND_GCP)
        PUT(r, ", --backend, gcp");
    if (r->env) {
        PUT(r, ", --env, ");
        put_quoted(r, r->env);
    }
    PUT(r, "%s]\n", push ? ", --push" : "");
}

static void put_volumes(struct render *r, const struct role *role)
{
    PUT(r,
            "          volumeMounts:\n            - {name: tmp, mountPath: /tmp}\n"
            "            - {name: data, mountPath: /data%s}\n"
            "      volumes:\n        - {name: tmp, emptyDir: {}}\n",
            role->serves ? ", readOnly: true" : "");
    if (role->serves)
        PUT(r, "        - {name: data, secret: {secretName: %s-keys}}\n", r->name);
    else
        PUT(r, "        - {name: data, emptyDir: {}}\n");
}

static void put_role(struct render *r, const struct role *role)
{
    put_deployment_head(r, role->name, role->pods_min);
    PUT(r, "      containers:\n        - name: kizashi\n          image: ");
    put_quoted(r, r->image);
    PUT(r, "\n");
    put_arguments(r, role, false);
    PUT(r,
            "          ports: [{name: http, containerPort: %d}]\n          env:\n"
            "            - {name: GOOGLE_CLOUD_PROJECT, value: ",
            PORT);
    put_quoted(r, r->gcp);
    PUT(r, "}\n");
    put_resources(r, needs_of(r, role));
    put_probes(r, "/healthz", "/readyz");
    /* The load balancer hears of our end a little after we do. */
    if (role->serves)
        PUT(r, "          lifecycle: {preStop: {exec: {command: [sleep, \"5\"]}}}\n");
    put_container_security(r);
    put_volumes(r, role);
}

static void put_account(struct render *r, const char *part, const char *google)
{
    put_head(r, "v1", "ServiceAccount", part);
    /* Workload identity: the pod is that Google service account, without a key. */
    PUT(r, "  annotations: {iam.gke.io/gcp-service-account: %s@%s.iam.gserviceaccount.com}\n",
            google, r->gcp);
}

static void put_backlog(struct render *r, const struct role *role, const char *subscription)
{
    PUT(r,
            "    - type: External # what waits in Pub/Sub\n      external:\n        metric:\n"
            "          name: pubsub.googleapis.com|subscription|num_undelivered_messages\n"
            "          selector: {matchLabels: {resource.labels.subscription_id: "
            "%skizashi-%s-%s}}\n"
            "        target: {type: AverageValue, averageValue: \"%u\"}\n",
            r->project->backends.gcp.prefix, r->project->name, subscription, role->backlog_target);
}

/* Infer has a subscription a model: the one with the longest backlog decides. */
static void put_scaling(struct render *r, const struct role *role)
{
    char subscription[256];

    put_head(r, "autoscaling/v2", "HorizontalPodAutoscaler", role->name);
    PUT(r,
            "spec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s-%s}\n"
            "  minReplicas: %u\n  maxReplicas: %u\n"
            "  behavior:\n"
            "    scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Percent, value: 100, "
            "periodSeconds: 15}]}\n"
            "    scaleDown: {stabilizationWindowSeconds: 300, policies: [{type: Percent, value: 20, "
            "periodSeconds: 60}]}\n  metrics:\n",
            r->name, role->name, role->pods_min, role->pods_max);
    if (!role->subscription) {
        PUT(r, "    - type: Resource\n      resource: {name: cpu, target: {type: Utilization, "
               "averageUtilization: 60}}\n");
        return;
    }
    if (!role->models)
        put_backlog(r, role, role->subscription);
    for (size_t i = 0; role->models && i < r->project->model_count; i++) {
        snprintf(subscription, sizeof(subscription), "%s-%.200s", role->subscription,
                r->project->models[i].name);
        put_backlog(r, role, subscription);
    }
    PUT(r, "    - type: Pods # how long it has waited: ours, by way of Managed Prometheus\n"
           "      pods:\n        metric: {name: prometheus.googleapis.com|kizashi_lag_seconds|gauge}\n"
           "        target: {type: AverageValue, averageValue: \"2\"}\n");
}

static void put_disruption(struct render *r, const char *part)
{
    put_head(r, "policy/v1", "PodDisruptionBudget", part);
    PUT(r, "spec:\n  maxUnavailable: 1\n  selector:\n    matchLabels:\n");
    put_selector(r, "      ", part);
}

static void put_service(struct render *r, const char *part)
{
    put_head(r, "v1", "Service", part);
    PUT(r, "spec:\n  type: ClusterIP\n  ports: [{name: http, port: 80, targetPort: http}]\n  selector:\n");
    put_selector(r, "    ", part);
}

static void put_monitoring(struct render *r)
{
    put_head(r, "monitoring.googleapis.com/v1", "PodMonitoring", "metrics");
    PUT(r,
            "spec:\n  selector: {matchLabels: {app.kubernetes.io/name: kizashi, "
            "app.kubernetes.io/instance: %s}}\n"
            "  endpoints: [{port: http, path: /metrics, interval: 15s}]\n",
            r->name);
}

/* ---- models with images of their own ----------------------------------------------------------------- */

static void put_model(struct render *r, const struct kz_model_def *model)
{
    char name[64], part[80];

    label(model->name, name, sizeof(name));
    snprintf(part, sizeof(part), "model-%s", name);
    put_head(r, "v1", "ServiceAccount", part); /* it may call nothing */
    put_deployment_head(r, part, KZ_MAX(model->replicas.min, 1u));
    PUT(r, "      automountServiceAccountToken: false\n"
           "      containers:\n        - name: model # speaks Open Inference v2 on $PORT\n"
           "          image: ");
    put_quoted(r, model->image);
    PUT(r,
            "\n          ports: [{name: http, containerPort: %d}]\n"
            "          env: [{name: PORT, value: \"%d\"}]\n",
            PORT, PORT);
    put_resources(r, needs_of_model(model, 1));
    put_probes(r, "/v2/health/live", "/v2/health/ready");
    PUT(r, "          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n"
           "          volumeMounts: [{name: tmp, mountPath: /tmp}]\n"
           "      volumes: [{name: tmp, emptyDir: {}}]\n");
    put_service(r, part);
    put_disruption(r, part);
    put_head(r, "autoscaling/v2", "HorizontalPodAutoscaler", part);
    PUT(r,
            "spec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: %s-%s}\n"
            "  minReplicas: %u\n  maxReplicas: %u\n  metrics:\n"
            "    - type: Resource\n      resource: {name: cpu, target: {type: Utilization, "
            "averageUtilization: 60}}\n",
            r->name, part, KZ_MAX(model->replicas.min, 1u), KZ_MAX(model->replicas.max, 1u));
}

/* ---- room for a quick scale-up ------------------------------------------------------------------------- */

/* Pods that do nothing, as large as infer's, at a priority below all: they hold nodes, and make way at
 * once when a real pod needs the place; Autopilot then makes new nodes for them. */
static void put_balloon(struct render *r)
{
    if (!r->balloon)
        return;
    PUT(r,
            "---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: %s-balloon}\n"
            "value: -10\npreemptionPolicy: Never\nglobalDefault: false\n"
            "description: holds nodes for pods that are worth more\n",
            r->name);
    put_head(r, "v1", "ServiceAccount", "balloon");
    put_deployment_head(r, "balloon", r->balloon);
    PUT(r,
            "      automountServiceAccountToken: false\n      priorityClassName: %s-balloon\n"
            "      containers:\n        - name: balloon\n          image: ",
            r->name);
    put_quoted(r, r->image);
    PUT(r, "\n          command: [sleep, infinity]\n");
    put_resources(r, needs_of(r, &roles[INFER]));
    put_container_security(r);
}

/* kizashi-shop-infer; of a long project name the end goes, not that of the role. */
static void account_id(const struct render *r, const char *role, char out[31])
{
    snprintf(out, 31, "%.*s-%s", (int)(29 - strlen(role)), r->name, role);
}

/* ---- Cloud Run ------------------------------------------------------------------------------------------ */

static void put_cloud_run(struct render *r)
{
    const struct role *infer = &roles[INFER];
    struct needs needs = needs_of(r, infer);
    uint64_t cpus = KZ_MAX((needs.cpu_milli + 999) / 1000, (uint64_t)1);
    uint64_t least;
    char google[31];

    account_id(r, infer->name, google);
    cpus = cpus > 4 ? 8 : cpus > 2 ? 4 : cpus;
    least = cpus >= 8 ? 4096 : cpus >= 4 ? 2048 : 512;
    PUT(r,
            "---\n# infer on Cloud Run: Pub/Sub pushes requests to /v1/pubsub/push. Each model's subscription has\n"
            "# to be told so (docs/google-cloud.md, \"infer on Cloud Run\").\n"
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: %s-infer\n"
            "  annotations: {run.googleapis.com/ingress: internal}\n"
            "spec:\n  template:\n    metadata:\n      annotations:\n"
            "        autoscaling.knative.dev/minScale: \"1\"\n"
            "        autoscaling.knative.dev/maxScale: \"100\"\n"
            "        run.googleapis.com/cpu-throttling: \"false\"\n"
            "        run.googleapis.com/execution-environment: gen2\n"
            "    spec:\n      serviceAccountName: %s@%s.iam.gserviceaccount.com\n"
            "      containerConcurrency: 64\n      timeoutSeconds: 60\n      containers:\n"
            "        - image: ",
            r->name, google, r->gcp);
    put_quoted(r, r->image);
    PUT(r, "\n");
    put_arguments(r, infer, true);
    PUT(r,
            "          ports: [{name: http1, containerPort: %d}]\n          env: [{name: "
            "GOOGLE_CLOUD_PROJECT, value: ",
            PORT);
    put_quoted(r, r->gcp);
    PUT(r,
            "}]\n          resources: {limits: {cpu: \"%" PRIu64 "\", memory: %" PRIu64 "Mi}}\n"
            "          startupProbe: {httpGet: {path: /readyz}, periodSeconds: 2, failureThreshold: 60}\n"
            "          livenessProbe: {httpGet: {path: /healthz}, periodSeconds: 10}\n",
            cpus, KZ_MAX(needs.memory_mib, least));
}

/* ---- the command ---------------------------------------------------------------------------------------- */

static void put_all(struct render *r)
{
    char google[31]; /* Google's limit on an account's id */

    PUT(r,
            "# Made by `kizashi manifests`; apply with: kubectl apply -f -\n"
            "# Before it: kizashi gcp init, and the keys of those who send and read:\n"
            "#   kizashi keys create DIR --kind write --data keys && kubectl -n %s create secret generic "
            "%s-keys --from-file=keys/keys.json\n",
            r->space, r->name);
    PUT(r, "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", r->space);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(roles); i++) {
        const struct role *role = &roles[i];

        account_id(r, role->name, google);
        put_account(r, role->name, google);
        put_role(r, role);
        put_scaling(r, role);
        put_disruption(r, role->name);
        if (role->serves)
            put_service(r, role->name);
    }
    for (size_t i = 0; i < r->project->model_count; i++)
        if (r->project->models[i].image)
            put_model(r, &r->project->models[i]);
    put_monitoring(r);
    put_balloon(r);
}

/* The largest pod of all is infer's, or that of a model with an image of its own. */
static enum kz_code check_sizes(const struct render *r, bool cloud_run, struct kz_err *err)
{
    struct needs most = {cloud_run ? CLOUD_RUN_CPU_MAX_MILLI : CPU_MAX_MILLI,
            cloud_run ? CLOUD_RUN_MIB_MAX : MIB_MAX};

    for (size_t i = 0; i <= r->project->model_count; i++) {
        const struct kz_model_def *model = i ? &r->project->models[i - 1] : NULL;
        struct needs needs;

        if (model && (!model->image || cloud_run))
            continue;
        needs = model ? needs_of_model(model, 1) : needs_of(r, &roles[INFER]);
        if (!cloud_run)
            needs = admitted(needs);
        if (needs.cpu_milli <= most.cpu_milli && needs.memory_mib <= most.memory_mib)
            continue;
        (void)kz_fail(err, KZ_LIMIT,
                "a pod of %s \"%s\" would need %" PRIu64 "m of CPU and %" PRIu64
                "Mi of memory; %s admits %" PRIu64 "m and %" PRIu64 "Mi",
                model ? "model" : "role", model ? model->name : "infer", needs.cpu_milli,
                needs.memory_mib, cloud_run ? "Cloud Run" : "Autopilot", most.cpu_milli,
                most.memory_mib);
        return kz_hint(
                err, model ? "lower the model's resources"
                           : "lower \"replicas\" or \"resources\" of the models: pods make up "
                             "for it; or give a model an image of its own");
    }
    return KZ_OK;
}

static int run(const struct kz_args *args)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    struct render r = {.image = kz_args_get(args, "image"),
            .space = kz_args_get(args, "namespace"),
            .gcp = kz_args_get(args, "gcp-project"),
            .env = kz_args_get(args, "env"),
            .spot = kz_args_flag(args, "spot"),
            .balloon = (unsigned)kz_args_int(args, "balloon", 0, 1000)};
    char project[64];
    struct kz_err err;

    if (!r.image)
        return kz_command_usage(
                args, "--image is missing: the image that holds the project in /project");
    kz_diag_set(KZ_DIAG_WARN, false);
    config = kz_check_load(args->arguments[0], r.env, &err);
    if (!config)
        return kz_command_fail(&err);
    r.project = kz_config_project(config);
    if (!r.gcp) /* which is GOOGLE_CLOUD_PROJECT where the project has none of its own */
        r.gcp = r.project->backends.gcp.project;
    if (!r.gcp || !r.gcp[0])
        return kz_command_usage(args,
                "--gcp-project is missing, the project has no backends.gcp.project, "
                "and GOOGLE_CLOUD_PROJECT is not set");
    r.grace_s = r.spot ? SPOT_GRACE_S : GRACE_S;
    label(r.project->name, project, sizeof(project));
    snprintf(r.name, sizeof(r.name), "kizashi-%s", project);
    if (check_sizes(&r, kz_args_flag(args, "cloud-run"), &err) != KZ_OK)
        return kz_command_fail(&err);
    if (kz_args_flag(args, "cloud-run"))
        put_cloud_run(&r);
    else
        put_all(&r);
    printf("%.*s", (int)r.out.size, r.out.data);
    kz_buf_done(&r.out);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_manifests = {
        .name = "manifests",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Prints what the project needs on GKE Autopilot, as YAML for kubectl.",
        .details =
                "A Deployment for each role (infer's pods as large as the models' resources ask), with\n"
                "autoscalers on the Pub/Sub backlog and on our own lag, disruption budgets, service\n"
                "accounts with workload identity, Services and a PodMonitoring. A model with an `image`\n"
                "is a Deployment of its own. docs/google-cloud.md tells the whole way.",
        .example = "kizashi manifests shop --image REGION-docker.pkg.dev/PROJECT/kizashi/shop:1 "
                   "--gcp-project PROJECT | kubectl apply -f -",
        .options =
                {
                        {"image", "IMAGE", NULL, "the image, with the project in /project"},
                        {"gcp-project", "ID", NULL,
                                "Google Cloud project (default: backends.gcp.project, else the "
                                "environment's GOOGLE_CLOUD_PROJECT)"},
                        {"namespace", "NAME", "kizashi", "Kubernetes namespace"},
                        {"env", "NAME", NULL, "pods run with kizashi.NAME.yaml laid over"},
                        {"spot", NULL, NULL,
                                "pods on Spot machines: cheaper, ended at short notice"},
                        {"balloon", "COUNT", "0", "pods that hold nodes for a quick scale-up"},
                        {"cloud-run", NULL, NULL,
                                "infer as a Cloud Run service instead of all this"},
                },
        .run = run,
};
