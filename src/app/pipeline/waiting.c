#include "app/pipeline/waiting.h"

#include <stdlib.h>

static void heap_put(struct kz_waiting *w, size_t at, struct kz_submission *s)
{
    w->items[at] = s;
    s->wait_place = at + 1;
}

/* Puts `s` at `at` or, where it is due earlier than those above, further up. */
static void heap_up(struct kz_waiting *w, size_t at, struct kz_submission *s)
{
    for (; at && s->wait_until_us < w->items[(at - 1) / 2]->wait_until_us; at = (at - 1) / 2)
        heap_put(w, at, w->items[(at - 1) / 2]);
    heap_put(w, at, s);
}

static void heap_down(struct kz_waiting *w, size_t at, struct kz_submission *s)
{
    size_t child;

    while ((child = 2 * at + 1) < w->count) {
        if (child + 1 < w->count &&
                w->items[child + 1]->wait_until_us < w->items[child]->wait_until_us)
            child++;
        if (s->wait_until_us <= w->items[child]->wait_until_us)
            break;
        heap_put(w, at, w->items[child]);
        at = child;
    }
    heap_put(w, at, s);
}

void kz_waiting_add(struct kz_waiting *w, struct kz_submission *submission)
{
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? w->capacity * 2 : 64;
        w->items = kz_realloc(w->items, w->capacity * sizeof(*w->items));
    }
    heap_up(w, w->count++, submission);
}

void kz_waiting_remove(struct kz_waiting *w, struct kz_submission *submission)
{
    size_t at = submission->wait_place - 1;
    struct kz_submission *last;

    if (!submission->wait_place)
        return;
    submission->wait_place = 0;
    last = w->items[--w->count];
    if (last == submission)
        return;
    if (at && last->wait_until_us < w->items[(at - 1) / 2]->wait_until_us)
        heap_up(w, at, last);
    else
        heap_down(w, at, last);
}

struct kz_submission *kz_waiting_first(const struct kz_waiting *w)
{
    return w->count ? w->items[0] : NULL;
}

void kz_waiting_done(struct kz_waiting *w)
{
    free(w->items);
    *w = (struct kz_waiting){0};
}
