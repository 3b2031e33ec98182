/* How a call failed: what the server's status means to us, and when to come again. */
#include <stdio.h>

#include "rpc/proto/status.pb-c.h"
#include "rpc/rpc_int.h"
#include "sys/random.h"

enum { BACKOFF_MAX_MS = 5000, INTERNAL_ATTEMPTS_MAX = 3, RETRY_INFO_MAX_MS = 600000 };

#define RETRY_INFO_TYPE "type.googleapis.com/google.rpc.RetryInfo"
#define DETAILS_KEY "grpc-status-details-bin"

/* `back_off_ms`: the first wait where the call is tried again; `always`: whether or not it may be
 * sent twice, since it was refused before it ran. */
static const struct {
    const char *name;
    enum kz_code code;
    int back_off_ms;
    bool always;
} statuses[] = {
        [GRPC_STATUS_OK] = {"OK", KZ_OK, 0, false},
        [GRPC_STATUS_CANCELLED] = {"CANCELLED", KZ_UNAVAILABLE, 0, false},
        [GRPC_STATUS_UNKNOWN] = {"UNKNOWN", KZ_IO, 0, false},
        [GRPC_STATUS_INVALID_ARGUMENT] = {"INVALID_ARGUMENT", KZ_INVALID, 0, false},
        [GRPC_STATUS_DEADLINE_EXCEEDED] = {"DEADLINE_EXCEEDED", KZ_TIMEOUT, 20, false},
        [GRPC_STATUS_NOT_FOUND] = {"NOT_FOUND", KZ_NOT_FOUND, 0, false},
        [GRPC_STATUS_ALREADY_EXISTS] = {"ALREADY_EXISTS", KZ_CONFLICT, 0, false},
        [GRPC_STATUS_PERMISSION_DENIED] = {"PERMISSION_DENIED", KZ_FORBIDDEN, 0, false},
        [GRPC_STATUS_RESOURCE_EXHAUSTED] = {"RESOURCE_EXHAUSTED", KZ_LIMIT, 100, true},
        [GRPC_STATUS_FAILED_PRECONDITION] = {"FAILED_PRECONDITION", KZ_CONFLICT, 0, false},
        [GRPC_STATUS_ABORTED] = {"ABORTED", KZ_CONFLICT, 0, false},
        [GRPC_STATUS_OUT_OF_RANGE] = {"OUT_OF_RANGE", KZ_INVALID, 0, false},
        [GRPC_STATUS_UNIMPLEMENTED] = {"UNIMPLEMENTED", KZ_UNSUPPORTED, 0, false},
        [GRPC_STATUS_INTERNAL] = {"INTERNAL", KZ_IO, 50, false},
        [GRPC_STATUS_UNAVAILABLE] = {"UNAVAILABLE", KZ_UNAVAILABLE, 20, false},
        [GRPC_STATUS_DATA_LOSS] = {"DATA_LOSS", KZ_CORRUPT, 0, false},
        [GRPC_STATUS_UNAUTHENTICATED] = {"UNAUTHENTICATED", KZ_UNAUTHENTICATED, 0, false},
};

static _Thread_local struct {
    enum kz_rpc_status status;
    int64_t retry_ms;
} last = {.status = KZ_RPC_UNKNOWN};

/* A number that a server made up is as good as UNKNOWN. */
static grpc_status_code known(grpc_status_code status)
{
    return (unsigned)status < KZ_ARRAY_COUNT(statuses) ? status : GRPC_STATUS_UNKNOWN;
}

enum kz_rpc_status kz_rpc_status(void)
{
    return last.status;
}

int64_t kz_rpc_retry_ms(void)
{
    return last.retry_ms;
}

void kz_rpc_remember(grpc_status_code status, int64_t retry_ms)
{
    last.status = (enum kz_rpc_status)known(status);
    last.retry_ms = retry_ms;
}

static int64_t delay_of(const Kizashi__Rpc__Any *detail)
{
    Kizashi__Rpc__RetryInfo *info;
    int64_t ms = 0;

    if (strcmp(detail->type_url, RETRY_INFO_TYPE) != 0)
        return 0;
    info = kizashi__rpc__retry_info__unpack(NULL, detail->value.len, detail->value.data);
    if (!info)
        return 0;
    if (info->retry_delay && info->retry_delay->seconds >= 0 && info->retry_delay->nanos >= 0) {
        ms = KZ_MIN(info->retry_delay->seconds, RETRY_INFO_MAX_MS / 1000) * 1000 +
             info->retry_delay->nanos / 1000000;
        if (!ms && info->retry_delay->nanos)
            ms = 1;
    }
    kizashi__rpc__retry_info__free_unpacked(info, NULL);
    return ms;
}

int64_t kz_rpc_parse_retry_info_ms(struct kz_str status_details)
{
    Kizashi__Rpc__Status *status = kizashi__rpc__status__unpack(
            NULL, status_details.size, (const uint8_t *)status_details.ptr);
    int64_t ms = 0;

    if (!status)
        return 0;
    for (size_t i = 0; i < status->n_details && !ms; i++)
        ms = delay_of(status->details[i]);
    kizashi__rpc__status__free_unpacked(status, NULL);
    return ms;
}

int64_t kz_rpc_retry_info_ms(const grpc_metadata_array *trailing)
{
    for (size_t i = 0; i < trailing->count; i++) {
        const grpc_metadata *metadata = &trailing->metadata[i];
        struct kz_str key = kz_str_n(
                GRPC_SLICE_START_PTR(metadata->key), GRPC_SLICE_LENGTH(metadata->key));

        if (kz_str_is(key, DETAILS_KEY))
            return kz_rpc_parse_retry_info_ms(kz_str_n(
                    GRPC_SLICE_START_PTR(metadata->value), GRPC_SLICE_LENGTH(metadata->value)));
    }
    return 0;
}

static struct kz_str details_of(const struct kz_rpc_end *end)
{
    return kz_str_n(GRPC_SLICE_START_PTR(end->details), GRPC_SLICE_LENGTH(end->details));
}

bool kz_rpc_is_too_large(const struct kz_rpc_end *end)
{
    static const char words[] = "message larger than max";
    const struct kz_str details = details_of(end);

    return end->status == GRPC_STATUS_RESOURCE_EXHAUSTED && details.size &&
           memmem(details.ptr, details.size, words, sizeof(words) - 1);
}

static bool any_connected(const struct kz_rpc_channel *channel)
{
    for (unsigned i = 0; i < channel->connection_count; i++)
        if (kz_rpc_state(channel->rpc, channel->connections[i]) == GRPC_CHANNEL_READY)
            return true;
    return false;
}

/* Foreign text goes into one line. */
static void flatten(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
}

enum kz_code kz_rpc_failed(const struct kz_rpc_channel *channel, const char *method,
        const struct kz_rpc_end *end, struct kz_err *err)
{
    const enum kz_code code = kz_rpc_is_too_large(end) ? KZ_TOO_LARGE
                                                       : statuses[known(end->status)].code;
    const struct kz_str details = details_of(end);

    kz_rpc_remember(end->status, kz_rpc_retry_info_ms(&end->trailing));
    if (!err)
        return code;
    kz_fail(err, code, "%s at %s: %s%s%.*s%s", method + 1, channel->endpoint,
            statuses[known(end->status)].name, details.size ? ": " : "",
            (int)KZ_MIN(details.size, (size_t)600), details.ptr,
            code == KZ_TIMEOUT && !any_connected(channel) ? ", without a connection" : "");
    flatten(err->message);
    if (code == KZ_UNAVAILABLE && channel->is_emulator)
        kz_hint(err, "see whether the emulator runs at %s", channel->endpoint);
    return code;
}

int64_t kz_rpc_try_again_ms(
        grpc_status_code status, bool idempotent, unsigned attempt, int64_t retry_info_ms)
{
    const int64_t first = statuses[known(status)].back_off_ms;
    int64_t most;
    uint32_t random;

    if (!first || (!idempotent && !statuses[known(status)].always))
        return -1;
    if (status == GRPC_STATUS_INTERNAL && attempt + 1 >= INTERNAL_ATTEMPTS_MAX)
        return -1;
    most = KZ_MIN(first << KZ_MIN(attempt, 10u), (int64_t)BACKOFF_MAX_MS);
    most = KZ_MAX(most, retry_info_ms);
    kz_random_bytes(&random, sizeof(random));
    /* The server's word is a lower bound; ours may be gone below, so that many do not come at once.
     */
    return retry_info_ms ? most + random % (most / 4 + 1) : most / 2 + random % (most / 2 + 1);
}
