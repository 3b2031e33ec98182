/* rpc/peer_int.h -- for tests: a gRPC server that fails as it is told to, in a process of its own,
 * so that it can be killed and suspended. It is the library's own server and knows nothing of
 * Google's services; what those do is tested against their emulators.
 *
 * Requests and answers are kizashi.rpc.Any {type_url, value}.
 *
 *     /peer/Echo      the request
 *     /peer/Script    `value` names a script, `type_url` is one: "14 8+250 0": the statuses of the
 *                     first, second, ... call of that name, with RetryInfo of 250 ms; on 0 the
 * answer's `type_url` is the number of calls so far /peer/Hold      no answer /peer/Metadata
 * type_url: x-goog-request-params, value: google-cloud-resource-prefix /peer/Where     type_url:
 * the address the call came from /peer/Big       `value` of as many bytes as `type_url` says
 *     /peer/Nothing   status OK, no message        /peer/Garbage  an answer that is no message
 *     /peer/Chat      stream: each message comes back; "bye" after the half-close, status OK
 *     /peer/Flood     stream: as many messages as `type_url` says, then the status in `value`
 */
#pragma once

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rpc/proto/status.pb-c.h"
#include "rpc/rpc_int.h"
#include "sys/clock.h"

#define PEER_FUNCTIONS(X)                                                                          \
    X(grpc_call_get_peer)                                                                          \
    X(grpc_call_start_batch)                                                                       \
    X(grpc_byte_buffer_reader_init)                                                                \
    X(grpc_byte_buffer_reader_readall)                                                             \
    X(grpc_call_details_init)                                                                      \
    X(grpc_completion_queue_create_for_next)                                                       \
    X(grpc_completion_queue_create_for_pluck)                                                      \
    X(grpc_completion_queue_next)                                                                  \
    X(grpc_completion_queue_pluck)                                                                 \
    X(grpc_init)                                                                                   \
    X(grpc_insecure_server_credentials_create)                                                     \
    X(grpc_metadata_array_init)                                                                    \
    X(grpc_raw_byte_buffer_create)                                                                 \
    X(grpc_server_add_http2_port)                                                                  \
    X(grpc_server_create)                                                                          \
    X(grpc_server_register_completion_queue)                                                       \
    X(grpc_server_request_call)                                                                    \
    X(grpc_server_start)                                                                           \
    X(grpc_slice_from_copied_buffer)                                                               \
    X(grpc_slice_malloc)                                                                           \
    X(grpc_ssl_server_credentials_create)

static struct {
#define X(function) __typeof__(function) *function;
    PEER_FUNCTIONS(X)
#undef X
} peer;

/* ---- in the peer's process: it is killed, so it frees nothing -------------------------------- */

enum { PEER_SCRIPTS_MAX = 64 };
static struct {
    pthread_mutex_t lock;
    struct {
        char name[64];
        unsigned calls;
    } items[PEER_SCRIPTS_MAX];
} peer_scripts = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct peer_call {
    grpc_completion_queue *queue;
    grpc_call *call;
    grpc_call_details details;
    grpc_metadata_array metadata;
};

static bool peer_batch(struct peer_call *call, const grpc_op *ops, size_t count)
{
    void *tag = (void *)ops;

    KZ_BUG_ON(peer.grpc_call_start_batch(call->call, ops, count, tag, NULL) != GRPC_CALL_OK);
    return peer
            .grpc_completion_queue_pluck(call->queue, tag,
                    (gpr_timespec){.tv_sec = INT64_MAX, .clock_type = GPR_CLOCK_MONOTONIC}, NULL)
            .success;
}

static Kizashi__Rpc__Any *peer_receive(struct peer_call *call)
{
    grpc_byte_buffer *bytes = NULL;
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &bytes};
    grpc_byte_buffer_reader reader;
    grpc_slice slice;

    if (!peer_batch(call, &op, 1) || !bytes)
        return NULL;
    KZ_BUG_ON(!peer.grpc_byte_buffer_reader_init(&reader, bytes));
    slice = peer.grpc_byte_buffer_reader_readall(&reader);
    return kizashi__rpc__any__unpack(NULL, GRPC_SLICE_LENGTH(slice), GRPC_SLICE_START_PTR(slice));
}

static bool peer_send_bytes(struct peer_call *call, grpc_slice slice)
{
    const grpc_op op = {.op = GRPC_OP_SEND_MESSAGE,
            .data.send_message.send_message = peer.grpc_raw_byte_buffer_create(&slice, 1)};

    return peer_batch(call, &op, 1);
}

static bool peer_send(struct peer_call *call, const char *type_url, const void *value, size_t size)
{
    Kizashi__Rpc__Any message = KIZASHI__RPC__ANY__INIT;
    grpc_slice slice;

    message.type_url = (char *)type_url;
    message.value = (ProtobufCBinaryData){size, (uint8_t *)value};
    slice = peer.grpc_slice_malloc(protobuf_c_message_get_packed_size(&message.base));
    protobuf_c_message_pack(&message.base, GRPC_SLICE_START_PTR(slice));
    return peer_send_bytes(call, slice);
}

/* RetryInfo as the services send it: in an Any, in a Status. */
static grpc_slice peer_details(int64_t retry_ms)
{
    Kizashi__Rpc__Status status = KIZASHI__RPC__STATUS__INIT;
    Kizashi__Rpc__Any any = KIZASHI__RPC__ANY__INIT, *anys = &any;
    Kizashi__Rpc__RetryInfo info = KIZASHI__RPC__RETRY_INFO__INIT;
    Kizashi__Rpc__Duration delay = KIZASHI__RPC__DURATION__INIT;
    uint8_t value[64], out[256];

    delay.seconds = retry_ms / 1000;
    delay.nanos = (int32_t)(retry_ms % 1000) * 1000000;
    info.retry_delay = &delay;
    any.type_url = (char *)"type.googleapis.com/google.rpc.RetryInfo";
    any.value = (ProtobufCBinaryData){kizashi__rpc__retry_info__pack(&info, value), value};
    status.details = &anys;
    status.n_details = 1;
    return peer.grpc_slice_from_copied_buffer(
            (char *)out, kizashi__rpc__status__pack(&status, out));
}

static void peer_end(struct peer_call *call, int status, int64_t retry_ms)
{
    grpc_slice text = peer.grpc_slice_from_copied_buffer("as told\nto", 10);
    grpc_metadata trailing = {0};
    grpc_op op = {.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
            .data.send_status_from_server = {.status = (grpc_status_code)status,
                    .status_details = &text,
                    .trailing_metadata = &trailing}};

    if (retry_ms) {
        trailing.key = peer.grpc_slice_from_copied_buffer("grpc-status-details-bin", 23);
        trailing.value = peer_details(retry_ms);
        op.data.send_status_from_server.trailing_metadata_count = 1;
    }
    peer_batch(call, &op, 1);
}

static unsigned peer_count(const char *name, size_t size)
{
    unsigned calls = 0;

    pthread_mutex_lock(&peer_scripts.lock);
    for (size_t i = 0; i < PEER_SCRIPTS_MAX && !calls; i++) {
        if (!peer_scripts.items[i].calls)
            memcpy(peer_scripts.items[i].name, name, KZ_MIN(size, (size_t)63));
        if (kz_str_eq(kz_str(peer_scripts.items[i].name), kz_str_n(name, size)))
            calls = ++peer_scripts.items[i].calls;
    }
    pthread_mutex_unlock(&peer_scripts.lock);
    return calls;
}

static void peer_script(struct peer_call *call, const Kizashi__Rpc__Any *request)
{
    unsigned calls = peer_count((const char *)request->value.data, request->value.len);
    const char *at = request->type_url;
    char number[16];
    long status, retry_ms = 0;

    for (unsigned i = 1; i < calls && strchr(at, ' '); i++)
        at = strchr(at, ' ') + 1;
    status = strtol(at, (char **)&at, 10);
    if (*at == '+')
        retry_ms = strtol(at + 1, NULL, 10);
    snprintf(number, sizeof(number), "%u", calls);
    if (!status)
        peer_send(call, number, NULL, 0);
    peer_end(call, (int)status, retry_ms);
}

/* The value of that key; empty: there is none. */
static struct kz_str peer_get(const struct peer_call *call, const char *key)
{
    for (size_t i = 0; i < call->metadata.count; i++) {
        const grpc_metadata *m = &call->metadata.metadata[i];

        if (kz_str_is(kz_str_n(GRPC_SLICE_START_PTR(m->key), GRPC_SLICE_LENGTH(m->key)), key))
            return kz_str_n(GRPC_SLICE_START_PTR(m->value), GRPC_SLICE_LENGTH(m->value));
    }
    return KZ_STR_NULL;
}

static void peer_metadata(struct peer_call *call, const char *key, const char *value_key)
{
    struct kz_str first = peer_get(call, key), second = peer_get(call, value_key);

    peer_send(call, kz_strndup(first.ptr ? first.ptr : "", first.size), second.ptr, second.size);
    peer_end(call, 0, 0);
}

static void peer_chat(struct peer_call *call)
{
    Kizashi__Rpc__Any *message;

    while ((message = peer_receive(call)))
        peer_send(call, message->type_url, message->value.data, message->value.len);
    peer_send(call, "bye", NULL, 0);
    peer_end(call, 0, 0);
}

static void peer_flood(struct peer_call *call, const Kizashi__Rpc__Any *request)
{
    static const char filling[1000];
    int status = request->value.len ? request->value.data[0] : 0;
    char number[16];

    for (int i = 0; i < atoi(request->type_url); i++) {
        snprintf(number, sizeof(number), "%d", i);
        if (!peer_send(call, number, filling, sizeof(filling)))
            return;
    }
    peer_end(call, status, 0);
}

static void peer_serve(struct peer_call *call, const char *method, const Kizashi__Rpc__Any *request)
{
    if (strcmp(method, "Script") == 0)
        return peer_script(call, request);
    if (strcmp(method, "Metadata") == 0)
        return peer_metadata(call, "x-goog-request-params", "google-cloud-resource-prefix");
    if (strcmp(method, "Token") == 0)
        return peer_metadata(call, "authorization", "");
    if (strcmp(method, "Flood") == 0)
        return peer_flood(call, request);
    if (strcmp(method, "Hold") == 0) {
        peer_receive(call); /* the half-close, and then nothing any more */
        pause();
    } else if (strcmp(method, "Echo") == 0) {
        peer_send(call, request->type_url, request->value.data, request->value.len);
    } else if (strcmp(method, "Where") == 0) {
        peer_send(call, peer.grpc_call_get_peer(call->call), NULL, 0);
    } else if (strcmp(method, "Big") == 0) {
        size_t size = strtoul(request->type_url, NULL, 10);

        peer_send(call, "", kz_calloc(size, 1), size);
    } else if (strcmp(method, "Garbage") == 0) {
        peer_send_bytes(call, peer.grpc_slice_from_copied_buffer("\xff\xff\xff", 3));
    } else if (strcmp(method, "Nothing") != 0) {
        return peer_end(call, GRPC_STATUS_UNIMPLEMENTED, 0);
    }
    peer_end(call, 0, 0);
}

static void *peer_handle(void *arg)
{
    struct peer_call *call = arg;
    const grpc_op head = {.op = GRPC_OP_SEND_INITIAL_METADATA};
    char path[64] = {0};
    Kizashi__Rpc__Any *request;

    memcpy(path, GRPC_SLICE_START_PTR(call->details.method),
            KZ_MIN(GRPC_SLICE_LENGTH(call->details.method), sizeof(path) - 1));
    peer_batch(call, &head, 1);
    if (strcmp(path, "/peer/Chat") == 0) {
        peer_chat(call);
        return NULL;
    }
    request = peer_receive(call);
    if (request)
        peer_serve(call, strrchr(path, '/') + 1, request);
    return NULL;
}

static void peer_load(void)
{
    void *handle = dlopen(KZ_GRPC_LIBRARY, RTLD_NOW | RTLD_LOCAL);

    KZ_BUG_ON(!handle);
#define X(function)                                                                                \
    {                                                                                              \
        void *address = dlsym(handle, #function);                                                  \
        KZ_BUG_ON(!address);                                                                       \
        memcpy(&peer.function, &address, sizeof(address));                                         \
    }
    PEER_FUNCTIONS(X)
#undef X
}

static char *peer_file(const char *directory, const char *name)
{
    struct kz_buf path = {0}, text = {0};
    FILE *file;
    int c;

    kz_buf_printf(&path, "%s/%s", directory, name);
    kz_buf_char(&path, '\0');
    file = fopen(path.data, "r");
    KZ_BUG_ON(!file);
    while ((c = fgetc(file)) != EOF)
        kz_buf_char(&text, (char)c);
    kz_buf_char(&text, '\0');
    return text.data;
}

/* Plain text, or TLS with the key.pem and cert.pem in the directory that KZ_PEER_TLS names. */
static grpc_server_credentials *peer_credentials(void)
{
    const char *directory = getenv("KZ_PEER_TLS");
    grpc_ssl_pem_key_cert_pair pair;

    if (!directory)
        return peer.grpc_insecure_server_credentials_create();
    pair.private_key = peer_file(directory, "key.pem");
    pair.cert_chain = peer_file(directory, "cert.pem");
    return peer.grpc_ssl_server_credentials_create(NULL, &pair, 1, 0, NULL);
}

/* Serves at 127.0.0.1:PORT (0: any free one), says the port on stdout, and ends with its parent. */
KZ_NORETURN static void peer_main(int wanted_port)
{
    grpc_completion_queue *queue;
    grpc_server *server;
    char address[32];

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if the test is killed */
    setenv("GRPC_VERBOSITY", "NONE", 1);    /* what it is told to do is no news */
    peer_load();
    peer.grpc_init();
    server = peer.grpc_server_create(NULL, NULL);
    queue = peer.grpc_completion_queue_create_for_next(NULL);
    peer.grpc_server_register_completion_queue(server, queue, NULL);
    snprintf(address, sizeof(address), "127.0.0.1:%d", wanted_port);
    dprintf(1, "%d\n", peer.grpc_server_add_http2_port(server, address, peer_credentials()));
    peer.grpc_server_start(server);
    for (;;) {
        struct peer_call *call = kz_calloc(1, sizeof(*call));
        pthread_t thread;

        call->queue = peer.grpc_completion_queue_create_for_pluck(NULL);
        peer.grpc_call_details_init(&call->details);
        peer.grpc_metadata_array_init(&call->metadata);
        KZ_BUG_ON(peer.grpc_server_request_call(server, &call->call, &call->details,
                          &call->metadata, call->queue, queue, call) != GRPC_CALL_OK);
        peer.grpc_completion_queue_next(queue,
                (gpr_timespec){.tv_sec = INT64_MAX, .clock_type = GPR_CLOCK_MONOTONIC}, NULL);
        KZ_BUG_ON(pthread_create(&thread, NULL, peer_handle, call) != 0);
        pthread_detach(thread);
    }
}

/* ---- in the test ----------------------------------------------------------------------------- */

struct peer_process {
    pid_t pid;
    int port;
    char address[32];
};

/* The test's own program, started again as "PROGRAM --peer PORT". */
static struct peer_process peer_start(int wanted_port)
{
    struct peer_process process = {0};
    char number[16], said[16] = {0};
    int out[2];

    snprintf(number, sizeof(number), "%d", wanted_port);
    KZ_BUG_ON(pipe(out) != 0);
    process.pid = fork();
    KZ_BUG_ON(process.pid < 0);
    if (process.pid == 0) {
        dup2(out[1], 1);
        close(out[0]);
        execl("/proc/self/exe", "peer", "--peer", number, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    KZ_BUG_ON(read(out[0], said, sizeof(said) - 1) <= 0);
    close(out[0]);
    process.port = atoi(said);
    KZ_BUG_ON(process.port <= 0);
    snprintf(process.address, sizeof(process.address), "127.0.0.1:%d", process.port);
    return process;
}

static void peer_kill(struct peer_process *process)
{
    if (process->pid <= 0)
        return;
    kill(process->pid, SIGKILL);
    waitpid(process->pid, NULL, 0);
    process->pid = 0;
}
