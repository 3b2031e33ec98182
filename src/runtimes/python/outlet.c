#include "runtimes/python/python_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sys/clock.h"

enum { OUTLET_MAGIC = 0x6b7a6f75, DRAIN_BYTES_MAX = 256 << 10 };

static void say(struct outlet *outlet, struct kz_str line)
{
    outlet->events->printed(outlet->arg, line);
}

/* A second's lines are over: says how many were left out of it. */
static void next_window(struct outlet *outlet, int64_t now_ms)
{
    char text[64];

    if (now_ms - outlet->window_ms < 1000)
        return;
    if (outlet->left_out) {
        int size = snprintf(text, sizeof(text), "(%u lines left out)", outlet->left_out);

        say(outlet, kz_str_n(text, (size_t)size));
    }
    outlet->window_ms = now_ms;
    outlet->line_count = outlet->left_out = 0;
}

static void end_line(struct outlet *outlet)
{
    next_window(outlet, kz_mono_ms());
    if (outlet->line_count < OUTLET_LINES_A_SECOND) {
        outlet->line_count++;
        say(outlet, kz_str_n(outlet->line, outlet->line_size));
    } else {
        outlet->left_out++;
    }
    outlet->line_size = 0;
    outlet->line_cut = false;
}

static void remember(struct outlet *outlet, const char *data, size_t size)
{
    size_t keep;

    if (size > OUTLET_TAIL_BYTES) {
        data += size - OUTLET_TAIL_BYTES;
        size = OUTLET_TAIL_BYTES;
    }
    keep = KZ_MIN(outlet->tail_size, OUTLET_TAIL_BYTES - size);
    memmove(outlet->tail, outlet->tail + outlet->tail_size - keep, keep);
    memcpy(outlet->tail + keep, data, size);
    outlet->tail_size = keep + size;
}

static void feed(struct outlet *outlet, const char *data, size_t size)
{
    remember(outlet, data, size);
    while (size) {
        const char *end = memchr(data, '\n', size);
        size_t run = end ? (size_t)(end - data) : size;
        size_t fits = KZ_MIN(run, OUTLET_LINE_BYTES_MAX - outlet->line_size);

        memcpy(outlet->line + outlet->line_size, data, fits);
        outlet->line_size += fits;
        outlet->line_cut |= fits < run;
        if (end) {
            end_line(outlet);
            run++;
        }
        data += run;
        size -= run;
    }
}

void kz_py_outlet_drain(struct outlet *outlet)
{
    char data[16 << 10];

    /* Bounded, so that a model that prints without end does not keep the loop for itself. */
    for (size_t total = 0; total < DRAIN_BYTES_MAX && outlet->fd >= 0;) {
        ssize_t n = read(outlet->fd, data, sizeof(data));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN)
                (void)uv_poll_stop(
                        &outlet->poll); /* nobody writes any more; it is freed by unref */
            return;
        }
        feed(outlet, data, (size_t)n);
        total += (size_t)n;
    }
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct outlet *outlet = poll->data;

    (void)status; /* read() says what it is */
    (void)events;
    KZ_CHECK_MAGIC(outlet, OUTLET_MAGIC);
    kz_py_outlet_drain(outlet);
}

enum kz_code kz_py_outlet_new(uv_loop_t *loop, int fd, const struct kz_replica_events *events,
        void *arg, struct outlet **ret_outlet, struct kz_err *err)
{
    struct outlet *outlet = kz_calloc(1, sizeof(*outlet));
    int rc;

    *outlet = (struct outlet){
            .magic = OUTLET_MAGIC, .refs = 1, .fd = fd, .events = events, .arg = arg};
    rc = uv_poll_init(loop, &outlet->poll, fd);
    if (rc != 0) {
        free(outlet);
        return kz_fail(err, KZ_IO, "could not watch a model's output: %s", uv_strerror(rc));
    }
    outlet->poll.data = outlet;
    KZ_BUG_ON(uv_poll_start(&outlet->poll, UV_READABLE, on_readable) != 0);
    *ret_outlet = outlet;
    return KZ_OK;
}

struct outlet *kz_py_outlet_ref(struct outlet *outlet)
{
    outlet->refs++;
    return outlet;
}

static void on_closed(uv_handle_t *handle)
{
    struct outlet *outlet = handle->data;

    KZ_CHECK_MAGIC(outlet, OUTLET_MAGIC);
    outlet->magic = 0;
    free(outlet);
}

void kz_py_outlet_unref(struct outlet *outlet)
{
    if (--outlet->refs)
        return;
    kz_py_outlet_drain(outlet);
    if (outlet->line_size)
        end_line(outlet);
    outlet->window_ms = 0;
    next_window(outlet, kz_mono_ms());
    (void)uv_poll_stop(&outlet->poll);
    uv_close((uv_handle_t *)&outlet->poll, on_closed);
    close(outlet->fd);
    outlet->fd = -1;
}
