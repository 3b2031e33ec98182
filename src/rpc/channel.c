/* Channels: where to, with which credentials, over how many connections. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "rpc/rpc_int.h"
#include "sys/clock.h"

enum {
    DEFAULT_RECEIVE_MAX_BYTES = 64 << 20,
    CONNECTIONS_MAX = 64,
    CONNECT_TIMEOUT_MS = 10000,
    RECONNECT_FIRST_MS = 100,
    RECONNECT_MAX_MS = 2000,
    /* What Google's own clients use. Its servers allow a ping every 30 s. */
    KEEPALIVE_MS = 30000,
    KEEPALIVE_TIMEOUT_MS = 10000,
    ARGS_MAX = 12,
};

struct args {
    grpc_channel_args list;
    grpc_arg items[ARGS_MAX];
};

static void put_number(struct args *args, const char *key, int number)
{
    KZ_BUG_ON(args->list.num_args == ARGS_MAX);
    args->items[args->list.num_args++] = (grpc_arg){
            .type = GRPC_ARG_INTEGER,
            .key = (char *)key, /* gRPC copies it */
            .value.integer = number,
    };
    args->list.args = args->items;
}

static void fill_args(struct args *args, const struct kz_rpc_target *target, bool is_emulator)
{
    size_t receive_max = target->receive_max_bytes ? target->receive_max_bytes
                                                   : DEFAULT_RECEIVE_MAX_BYTES;

    put_number(
            args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)KZ_MIN(receive_max, (size_t)INT_MAX));
    /* Else gRPC joins channels to one address into one connection. */
    put_number(args, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    put_number(args, GRPC_ARG_ENABLE_CHANNELZ, 0);
    put_number(args, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, RECONNECT_FIRST_MS);
    put_number(args, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, RECONNECT_MAX_MS);
    put_number(args, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, CONNECT_TIMEOUT_MS);
    if (is_emulator) {
        put_number(args, GRPC_ARG_ENABLE_HTTP_PROXY, 0);
        return;
    }
    /* An emulator takes pings this often for an attack (its default is one in 5 minutes) and hangs
     * up. */
    put_number(args, GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS);
    put_number(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS);
    put_number(args, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
}

/* Why there are none, in words for whoever has to set them: what gRPC says of it is a list of its own
 * files and lines (`--verbose` shows it). It looks in the three places named here, in this order. */
static enum kz_code no_credentials(struct kz_err *err)
{
    const char *key = getenv("GOOGLE_APPLICATION_CREDENTIALS"), *home = getenv("HOME");
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/.config/gcloud/application_default_credentials.json",
            home ? home : "");
    if (key && *key && access(key, R_OK) != 0)
        (void)kz_fail(err, KZ_UNAUTHENTICATED,
                "no credentials for Google Cloud: GOOGLE_APPLICATION_CREDENTIALS names \"%s\": %s",
                key, strerror(errno));
    else if (key && *key)
        (void)kz_fail(err, KZ_UNAUTHENTICATED,
                "no credentials for Google Cloud: \"%s\", which GOOGLE_APPLICATION_CREDENTIALS "
                "names, is no key of a service account nor made by gcloud",
                key);
    else if (access(path, F_OK) == 0)
        (void)kz_fail(err, KZ_UNAUTHENTICATED,
                "no credentials for Google Cloud: \"%s\" cannot be used%s%s", path,
                access(path, R_OK) == 0 ? "" : ": ",
                access(path, R_OK) == 0 ? "" : strerror(errno));
    else
        (void)kz_fail(err, KZ_UNAUTHENTICATED,
                "no credentials for Google Cloud: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud "
                "has left none in \"%s\", and no service account is attached to this machine",
                path);
    return kz_hint(err,
            "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS=KEY_FILE, or "
            "run where a service account is attached (Workload Identity, Cloud Run); for emulators "
            "set PUBSUB_, SPANNER_ and BIGTABLE_EMULATOR_HOST");
}

/* Made once and shared, so that one token serves all channels. May ask the metadata server. */
static enum kz_code google_credentials(
        struct kz_rpc *rpc, grpc_channel_credentials **ret_credentials, struct kz_err *err)
{
    enum kz_code rc = KZ_OK;

    pthread_mutex_lock(&rpc->lock);
    if (!rpc->google)
        rpc->google = rpc->grpc->grpc_google_default_credentials_create(NULL);
    if (!rpc->google)
        rc = no_credentials(err);
    *ret_credentials = rpc->google;
    pthread_mutex_unlock(&rpc->lock);
    return rc;
}

static void connect_all(struct kz_rpc_channel *channel, grpc_channel_credentials *credentials,
        const struct kz_rpc_target *target)
{
    struct kz_buf uri = {0};

    /* "localhost:8085" alone would be read as the scheme "localhost". */
    kz_buf_printf(
            &uri, "%s%s", strstr(channel->endpoint, ":/") ? "" : "dns:///", channel->endpoint);
    kz_buf_char(&uri, '\0');
    for (unsigned i = 0; i < channel->connection_count; i++) {
        struct args args = {0};

        fill_args(&args, target, channel->is_emulator);
        channel->connections[i] = channel->rpc->grpc->grpc_channel_create(
                uri.data, credentials, &args.list);
    }
    kz_buf_done(&uri);
}

enum kz_code kz_rpc_connect(struct kz_rpc *rpc, const struct kz_rpc_target *target,
        struct kz_rpc_channel **ret_channel, struct kz_err *err)
{
    const bool is_emulator = target->emulator && target->emulator[0];
    const char *endpoint = is_emulator ? target->emulator : target->endpoint;
    grpc_channel_credentials *credentials;
    struct kz_rpc_channel *channel;

    if (!endpoint || !endpoint[0])
        return kz_fail(err, KZ_INVALID, "an endpoint cannot be empty");
    if (target->connection_count > CONNECTIONS_MAX)
        return kz_fail(err, KZ_INVALID, "%u connections to %s are over the limit of %d",
                target->connection_count, endpoint, CONNECTIONS_MAX);
    if (is_emulator)
        credentials = rpc->grpc->grpc_insecure_credentials_create();
    else
        KZ_TRY(google_credentials(rpc, &credentials, err));
    channel = kz_calloc(1, sizeof(*channel));
    channel->rpc = rpc;
    channel->endpoint = kz_strdup(endpoint);
    channel->is_emulator = is_emulator;
    channel->connection_count = KZ_MAX(target->connection_count, 1u);
    channel->connections = kz_calloc(channel->connection_count, sizeof(*channel->connections));
    KZ_BUG_ON(pthread_mutex_init(&channel->lock, NULL) != 0);
    KZ_BUG_ON(pthread_cond_init(&channel->empty, NULL) != 0);
    connect_all(channel, credentials, target);
    if (is_emulator)
        rpc->grpc->grpc_channel_credentials_release(credentials);
    atomic_fetch_add(&rpc->channel_count, 1);
    *ret_channel = channel;
    return KZ_OK;
}

void kz_rpc_channel_close(struct kz_rpc_channel *channel)
{
    if (!channel)
        return;
    KZ_BUG_ON(atomic_load(&channel->streams) != 0);
    kz_rpc_calls_close(channel);
    for (unsigned i = 0; i < channel->connection_count; i++)
        channel->rpc->grpc->grpc_channel_destroy(channel->connections[i]);
    atomic_fetch_sub(&channel->rpc->channel_count, 1);
    pthread_cond_destroy(&channel->empty);
    pthread_mutex_destroy(&channel->lock);
    free(channel->connections);
    free(channel->endpoint);
    free(channel);
}

grpc_channel *kz_rpc_channel_pick(struct kz_rpc_channel *channel)
{
    unsigned turn = atomic_fetch_add_explicit(&channel->turn, 1, memory_order_relaxed);

    return channel->connections[turn % channel->connection_count];
}

/* ---- silence ------------------------------------------------------------------------------- */

/* Whether the server itself has spoken; the others gRPC makes on this side, or a proxy. */
static bool is_the_server_s(grpc_status_code status)
{
    switch (status) {
    case GRPC_STATUS_CANCELLED:
    case GRPC_STATUS_UNKNOWN:
    case GRPC_STATUS_DEADLINE_EXCEEDED:
    case GRPC_STATUS_INTERNAL:
    case GRPC_STATUS_UNAVAILABLE:
        return false;
    default:
        return true;
    }
}

void kz_rpc_await(struct kz_rpc_channel *channel)
{
    kz_rpc_silence_await(&channel->silence, kz_mono_ms());
}

void kz_rpc_awaited(struct kz_rpc_channel *channel, grpc_status_code status)
{
    kz_rpc_silence_end(&channel->silence, is_the_server_s(status), kz_mono_ms());
}

int64_t kz_rpc_silent_ms(struct kz_rpc_channel *channel)
{
    int64_t ms;

    pthread_mutex_lock(&channel->lock);
    ms = kz_rpc_silence_ms(&channel->silence, kz_mono_ms());
    pthread_mutex_unlock(&channel->lock);
    return ms;
}

grpc_connectivity_state kz_rpc_state(const struct kz_rpc *rpc, grpc_channel *connection)
{
    return rpc->grpc->grpc_channel_check_connectivity_state(connection, 0);
}
