#include "sys/http_int.h"

#include <stdlib.h>
#include <strings.h>

enum {
    REQUESTS_POOLED_MAX = 1024,
    BUFFERS_POOLED_MAX = 1024,
    BUFFER_POOLED_MAX_BYTES = 64 * 1024,
    BLOCKS_POOLED_MAX_BYTES = 32 * 1024 * 1024,
    ARENA_POOLED_MAX_BYTES = 64 * 1024,
};

static const size_t block_sizes[KZ_HTTP_BLOCK_CLASSES] = {4096, 16384, 65536, 262144};

/* ---- receive blocks ---- */

struct kz_http_block *kz_http_block_get(struct kz_http_server *server, size_t size)
{
    struct kz_http_block *block;
    uint32_t class = 0;
    size_t capacity;

    while (class < KZ_HTTP_BLOCK_CLASSES && block_sizes[class] - sizeof(*block) < size)
        class ++;
    capacity = class < KZ_HTTP_BLOCK_CLASSES ? block_sizes[class] - sizeof(*block) : size;
    if (server->counters.buffered_bytes + capacity > server->options.buffered_max_bytes)
        return NULL;
    server->counters.buffered_bytes += capacity;
    if (class < KZ_HTTP_BLOCK_CLASSES && server->blocks[class]) {
        block = server->blocks[class];
        server->blocks[class] = block->next;
        server->blocks_pooled_bytes -= capacity;
    } else {
        block = kz_malloc(sizeof(*block) + capacity);
        block->class = class;
        block->capacity = capacity;
    }
    block->next = NULL;
    block->refs = 1;
    block->size = 0;
    return block;
}

void kz_http_block_unref(struct kz_http_server *server, struct kz_http_block *block)
{
    KZ_BUG_ON(block->refs == 0);
    if (--block->refs > 0)
        return;
    server->counters.buffered_bytes -= block->capacity;
    if (block->class == KZ_HTTP_BLOCK_CLASSES ||
            server->blocks_pooled_bytes + block->capacity > BLOCKS_POOLED_MAX_BYTES) {
        free(block);
        return;
    }
    server->blocks_pooled_bytes += block->capacity;
    block->next = server->blocks[block->class];
    server->blocks[block->class] = block;
}

/* ---- output buffers ---- */

void kz_http_out_get(struct kz_http_server *server, struct kz_buf *buf)
{
    if (!buf->data && server->buffers_pooled > 0)
        *buf = server->buffers[--server->buffers_pooled];
}

void kz_http_out_put(struct kz_http_server *server, struct kz_buf *buf)
{
    server->counters.buffered_bytes -= buf->size;
    kz_buf_clear(buf);
    if (!buf->data)
        return;
    if (buf->capacity > BUFFER_POOLED_MAX_BYTES || server->buffers_pooled == BUFFERS_POOLED_MAX) {
        kz_buf_done(buf);
        return;
    }
    if (!server->buffers)
        server->buffers = kz_calloc(BUFFERS_POOLED_MAX, sizeof(*server->buffers));
    server->buffers[server->buffers_pooled++] = *buf;
    *buf = (struct kz_buf){0};
}

/* ---- requests ---- */

void kz_http_req_set_state(struct kz_http_req *req, enum kz_http_request_state state)
{
    static const bool allowed[KZ_HTTP_REQUEST_STATES][KZ_HTTP_REQUEST_STATES] = {
            [KZ_HTTP_FREE] = {[KZ_HTTP_RECEIVING] = true},
            [KZ_HTTP_RECEIVING] = {[KZ_HTTP_PENDING] = true,
                    [KZ_HTTP_ANSWERED] = true, /* refused */
                    [KZ_HTTP_FREE] = true},    /* the client left */
            [KZ_HTTP_PENDING] = {[KZ_HTTP_STREAMING] = true, [KZ_HTTP_ANSWERED] = true},
            [KZ_HTTP_STREAMING] = {[KZ_HTTP_ANSWERED] = true},
            [KZ_HTTP_ANSWERED] = {[KZ_HTTP_FREE] = true},
    };

    KZ_BUG_ON(!allowed[req->state][state]);
    req->state = state;
}

struct kz_http_req *kz_http_req_get(struct kz_http_server *server)
{
    struct kz_http_req *req = server->requests;
    struct kz_arena arena;
    uint64_t id = server->next_id++;

    if (req) {
        server->requests = req->next;
        server->requests_pooled--;
    } else {
        req = kz_calloc(1, sizeof(*req));
        kz_arena_init(&req->pub.arena, server->options.arena_max_bytes);
    }
    /* All but the arena and, for its size, the head, which the parser clears. */
    arena = req->pub.arena;
    memset(req, 0, offsetof(struct kz_http_req, head));
    req->pub.arena = arena;
    req->pub.magic = KZ_HTTP_REQUEST_MAGIC;
    req->pub.id = id;
    for (int i = 15; i >= 0; i--, id >>= 4)
        req->pub.id_text[i] = "0123456789abcdef"[id & 15];
    req->pub.first_byte_us = server->read_us;
    req->pub.content_length = -1;
    req->server = server;
    kz_http_link_init(&req->orphan);
    server->counters.requests_open++;
    kz_http_req_set_state(req, KZ_HTTP_RECEIVING);
    return req;
}

void kz_http_req_put(struct kz_http_req *req)
{
    struct kz_http_server *server = req->server;

    kz_http_req_set_state(req, KZ_HTTP_FREE);
    server->counters.requests_open--;
    if (req->block)
        kz_http_block_unref(server, req->block);
    req->block = NULL;
    kz_http_out_put(server, &req->out);
    req->pub.magic = 0;
    if (req->pub.arena.used_bytes > ARENA_POOLED_MAX_BYTES)
        kz_arena_done(&req->pub.arena);
    else
        kz_arena_reset(&req->pub.arena);
    if (server->requests_pooled == REQUESTS_POOLED_MAX) {
        kz_arena_done(&req->pub.arena);
        free(req);
        return;
    }
    req->next = server->requests;
    server->requests = req;
    server->requests_pooled++;
}

void kz_http_pools_done(struct kz_http_server *server)
{
    while (server->requests) {
        struct kz_http_req *next = server->requests->next;

        kz_arena_done(&server->requests->pub.arena);
        free(server->requests);
        server->requests = next;
    }
    for (size_t i = 0; i < KZ_HTTP_BLOCK_CLASSES; i++) {
        while (server->blocks[i]) {
            struct kz_http_block *next = server->blocks[i]->next;

            free(server->blocks[i]);
            server->blocks[i] = next;
        }
    }
    while (server->buffers_pooled > 0)
        kz_buf_done(&server->buffers[--server->buffers_pooled]);
    kz_freep(&server->buffers);
}

/* ---- reading a request ---- */

static enum kz_http_method method_of(struct kz_str name)
{
    static const struct {
        struct kz_str name;
        enum kz_http_method method;
    } methods[] = {
            {KZ_STR("GET"), KZ_HTTP_GET},
            {KZ_STR("POST"), KZ_HTTP_POST},
            {KZ_STR("HEAD"), KZ_HTTP_HEAD},
            {KZ_STR("PUT"), KZ_HTTP_PUT},
            {KZ_STR("DELETE"), KZ_HTTP_DELETE},
            {KZ_STR("OPTIONS"), KZ_HTTP_OPTIONS},
            {KZ_STR("PATCH"), KZ_HTTP_PATCH},
    };

    for (size_t i = 0; i < KZ_ARRAY_COUNT(methods); i++) {
        if (kz_str_eq(name, methods[i].name))
            return methods[i].method;
    }
    return KZ_HTTP_OTHER;
}

enum kz_code kz_http_req_resolve(struct kz_http_req *req, const char *message, struct kz_err *err)
{
    struct kz_http_request *pub = &req->pub;
    struct kz_str path;
    const char *mark;

    pub->method_name = kz_http_span_str(message, req->head.method);
    pub->method = method_of(pub->method_name);
    pub->target = path = kz_http_span_str(message, req->head.target);
    pub->content_length = req->head.content_length;
    /* The absolute form, which a server must take (RFC 9112 section 3.2.2). */
    if (path.size > 7 && strncasecmp(path.ptr, "http://", 7) == 0) {
        const char *slash = memchr(path.ptr + 7, '/', path.size - 7);

        path = slash ? kz_str_n(slash, path.size - (size_t)(slash - path.ptr)) : KZ_STR("/");
    }
    if (path.size == 0 || (path.ptr[0] != '/' && !kz_str_is(path, "*")) ||
            memchr(path.ptr, '#', path.size))
        return kz_fail(err, KZ_INVALID, "the request's target is not a path");
    mark = memchr(path.ptr, '?', path.size);
    pub->query = KZ_STR_NULL;
    if (mark) {
        pub->query = kz_str_n(mark + 1, path.size - (size_t)(mark + 1 - path.ptr));
        path.size = (size_t)(mark - path.ptr);
    }
    pub->path = path;
    return KZ_OK;
}

bool kz_http_name_eq(struct kz_str a, const char *name)
{
    return a.size == strlen(name) && strncasecmp(a.ptr, name, a.size) == 0;
}

struct kz_str kz_http_request_header(const struct kz_http_request *req, const char *name)
{
    const struct kz_http_head *head = &kz_http_req_of(req)->head;
    const char *message = req->method_name.ptr;
    size_t size = strlen(name);

    for (uint32_t i = 0; i < head->field_count; i++) {
        const struct kz_http_field *field = &head->fields[i];

        if (field->name.size == size && strncasecmp(message + field->name.at, name, size) == 0)
            return kz_http_span_str(message, field->value);
    }
    return KZ_STR_NULL;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f')
        return (c | 32) - 'a' + 10;
    return -1;
}

bool kz_http_unescape(struct kz_arena *arena, struct kz_str s, bool plus, struct kz_str *ret)
{
    char *out = kz_arena_alloc(arena, s.size + 1);
    size_t size = 0;

    if (!out)
        return false;
    for (size_t i = 0; i < s.size; i++) {
        char c = s.ptr[i];

        if (c == '%') {
            int high = s.size - i > 2 ? hex_value(s.ptr[i + 1]) : -1;
            int low = s.size - i > 2 ? hex_value(s.ptr[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c == '\0')
            return false;
        out[size++] = c;
    }
    out[size] = '\0';
    *ret = kz_str_n(out, size);
    return true;
}

bool kz_http_query_get(struct kz_http_request *req, const char *name, struct kz_str *ret_value)
{
    struct kz_str left = req->query;

    while (left.size > 0) {
        const char *end = memchr(left.ptr, '&', left.size);
        size_t size = end ? (size_t)(end - left.ptr) : left.size;
        const char *equals = memchr(left.ptr, '=', size);
        size_t name_size = equals ? (size_t)(equals - left.ptr) : size;

        if (kz_str_is(kz_str_n(left.ptr, name_size), name)) {
            size_t from = equals ? name_size + 1 : size;

            return kz_http_unescape(
                    &req->arena, kz_str_n(left.ptr + from, size - from), true, ret_value);
        }
        size += end != NULL;
        left = kz_str_n(left.ptr + size, left.size - size);
    }
    return false;
}

bool kz_http_request_gone(const struct kz_http_request *req)
{
    return kz_http_req_of(req)->gone;
}

void kz_http_request_on_gone(struct kz_http_request *pub,
        void (*gone)(void *arg, struct kz_http_request *req), void *arg)
{
    struct kz_http_req *req = kz_http_req_of(pub);

    KZ_BUG_ON(req->state != KZ_HTTP_PENDING);
    req->on_gone = gone;
    req->callback_arg = arg;
}
