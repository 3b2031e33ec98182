"""`kizashi manifests`: valid by Kubernetes' own schema, and what GKE Autopilot admits.

The schema comes with the PyPI package kubernetes-validate, installed into an environment of the
test's own below build/; where it cannot be had the tests are skipped, in CI they fail.
"""

import json
import os
import subprocess
import sys

import pytest

import harness

PACKAGE = "kubernetes-validate==1.31.0"
# Google's and Knative's own kinds are not in Kubernetes' schema.
VALIDATE = """
import json, sys, yaml, kubernetes_validate
documents = [d for d in yaml.safe_load_all(sys.stdin) if d]
for document in documents:
    if not document["apiVersion"].startswith(("monitoring.googleapis.com/", "serving.knative.dev/")):
        kubernetes_validate.validate(document, "1.31", strict=True)
json.dump(documents, sys.stdout)
"""


@pytest.fixture(scope="module")
def validator():
    home = harness.ROOT / "build" / PACKAGE  # kept: it has all of Kubernetes' schemas, 70 MB
    made = subprocess.run([sys.executable, "-m", "venv", home], capture_output=True, check=False)
    if made.returncode == 0:
        made = subprocess.run([home / "bin" / "pip", "install", "-q", PACKAGE], capture_output=True,
                              timeout=300, check=False)
    if made.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{PACKAGE} could not be installed: {made.stderr.decode()[-500:]}")
        pytest.skip(f"{PACKAGE} could not be installed")

    def validate(text):
        done = subprocess.run([home / "bin" / "python", "-c", VALIDATE], input=text, capture_output=True,
                              timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return json.loads(done.stdout)

    return validate


def render(project, *more):
    return harness.run("manifests", project, "--image", "example.com/kizashi/shop:1", "--gcp-project",
                       "my-project", *more).stdout


def find(documents, kind, name):
    found = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def milli(text):
    return int(text[:-1])


def check_autopilot(deployment):
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any(v.get("hostPath") for v in pod.get("volumes", []))
    # Partitioned over zones and machines, and it goes where it likes otherwise.
    assert [c["topologyKey"] for c in pod["topologySpreadConstraints"]] == [
        "topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert set(pod.get("nodeSelector", {})) <= {"cloud.google.com/gke-spot"}
    for container in pod["containers"]:
        needs = container["resources"]
        assert needs["requests"] == needs["limits"]
        cpu, memory = milli(needs["requests"]["cpu"]), int(needs["requests"]["memory"][:-2])
        assert cpu % 250 == 0 and 250 <= cpu <= 30000
        assert 1024 <= memory * 1000 / cpu <= 6656 and 512 <= memory <= 110 * 1024
        assert not any(port.get("hostPort") for port in container.get("ports", []))
        security = container["securityContext"]
        assert not security.get("privileged") and "add" not in security["capabilities"]
        assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}


def test_the_example_is_valid_and_what_autopilot_admits(validator):
    documents = validator(render(harness.ROOT / "examples" / "shop", "--spot", "--balloon", "2"))
    deployments = [d for d in documents if d["kind"] == "Deployment"]
    assert sorted(d["metadata"]["name"] for d in deployments) == [
        "kizashi-shop-balloon", "kizashi-shop-collect", "kizashi-shop-infer", "kizashi-shop-process",
        "kizashi-shop-serve"]
    for deployment in deployments:
        check_autopilot(deployment)
        pod = deployment["spec"]["template"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
        assert pod["spec"]["terminationGracePeriodSeconds"] == 15
        find(documents, "ServiceAccount", pod["spec"]["serviceAccountName"])
    # infer: 500m and 1024 Mi of its own, two models of 500m and 256Mi with two replicas each.
    infer = find(documents, "Deployment", "kizashi-shop-infer")["spec"]["template"]["spec"]["containers"][0]
    assert infer["resources"]["requests"] == {"cpu": "2500m", "memory": "2560Mi", "ephemeral-storage": "1Gi"}
    assert infer["args"][:4] == ["up", "/project", "--role", "infer"]
    assert infer["args"][-2:] == ["--backend", "gcp"]  # the example says nothing of backends
    balloon = find(documents, "Deployment", "kizashi-shop-balloon")["spec"]["template"]["spec"]
    assert balloon["containers"][0]["resources"] == infer["resources"]
    account = find(documents, "ServiceAccount", "kizashi-shop-infer")["metadata"]["annotations"]
    assert account == {"iam.gke.io/gcp-service-account": "kizashi-shop-infer@my-project.iam.gserviceaccount.com"}
    scaler = find(documents, "HorizontalPodAutoscaler", "kizashi-shop-process")["spec"]["metrics"]
    external = scaler[0]["external"]["metric"]
    assert external["name"] == "pubsub.googleapis.com|subscription|num_undelivered_messages"
    assert external["selector"]["matchLabels"] == {
        "resource.labels.subscription_id": "kizashi-shop-events-process"}
    assert scaler[1]["pods"]["metric"]["name"] == "prometheus.googleapis.com|kizashi_lag_seconds|gauge"
    scaler = find(documents, "HorizontalPodAutoscaler", "kizashi-shop-infer")["spec"]["metrics"]
    assert [m["external"]["metric"]["selector"]["matchLabels"]["resource.labels.subscription_id"] for m in scaler[:-1]] == [
        "kizashi-shop-requests-infer-purchase", "kizashi-shop-requests-infer-leaving"]
    assert scaler[-1]["pods"]["metric"]["name"] == "prometheus.googleapis.com|kizashi_lag_seconds|gauge"
    assert {d["metadata"]["name"] for d in documents if d["kind"] == "PodDisruptionBudget"} == {
        f"kizashi-shop-{role}" for role in ("collect", "process", "infer", "serve")}
    assert {d["metadata"]["name"] for d in documents if d["kind"] == "Service"} == {
        "kizashi-shop-collect", "kizashi-shop-serve"}
    find(documents, "PodMonitoring", "kizashi-shop-metrics")
    find(documents, "PriorityClass", "kizashi-shop-balloon")


def test_cloud_run_serves_infer(validator):
    documents = validator(render(harness.ROOT / "examples" / "shop", "--cloud-run"))
    assert [d["kind"] for d in documents] == ["Service"]
    spec = documents[0]["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"][:4] == ["up", "/project", "--role", "infer"]
    assert spec["containers"][0]["args"][-1] == "--push"
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "4", "memory": "2048Mi"}}


def test_what_is_missing_is_said():
    shop = harness.ROOT / "examples" / "shop"
    assert b"--image is missing" in harness.run("manifests", shop, check=2).stderr
    clean = {k: v for k, v in os.environ.items() if k != "GOOGLE_CLOUD_PROJECT"}
    done = subprocess.run([harness.BINARY, "manifests", shop, "--image", "x"], capture_output=True,
                          env=clean, check=False)
    assert done.returncode == 2 and b"--gcp-project is missing" in done.stderr


def test_a_pod_larger_than_what_is_admitted_is_refused(tmp_path):
    yaml = harness.YAML.replace("    timeout: 20s", "    replicas: {min: 1, max: 40}\n    resources: {cpu: 1, memory: 1Gi}\n    timeout: 20s")
    project = harness.write_project(tmp_path / "shop", yaml=yaml)
    for more, admits in ((), b"Autopilot admits 30000m"), (("--cloud-run",), b"Cloud Run admits 8000m"):
        refused = harness.run("manifests", project, "--image", "x", "--gcp-project", "p", *more, check=1).stderr
        assert b"would need 40500m of CPU" in refused and admits in refused, refused


def test_the_prefix_of_a_deployment_is_in_the_subscriptions_it_is_scaled_by(tmp_path):
    yaml = harness.YAML + "backends: {bus: pubsub, history: spanner, predictions: bigtable, gcp: {project: theirs, prefix: blue-}}\n"
    project = harness.write_project(tmp_path / "shop", yaml=yaml)
    told = harness.run("manifests", project, "--image", "x", check=0).stdout
    assert b"subscription_id: blue-kizashi-testshop-events-process" in told
    assert b"{name: GOOGLE_CLOUD_PROJECT, value: \"theirs\"}" in told and b"--backend" not in told
