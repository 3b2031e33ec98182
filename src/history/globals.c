/* history/globals.c -- what belongs to no user: dead letters, an operator's words, total caps,
 * tombstones; and all of it as bytes, for checkpoints and CARRY.
 */
#include <stdlib.h>

#include "base/buf.h"
#include "history/views_int.h"

/* ---- dead letters ---------------------------------------------------------------------------- */

static struct kz_dead_letter *letters_at(const struct kz_dead_letters *letters, size_t index)
{
    return &letters->items[letters->first + index];
}

static void letters_push(struct kz_views *views, const struct kz_dead_letter *letter)
{
    struct kz_dead_letters *letters = &views->dead_letters;

    if (letters->count == letters->max) {
        letters->first++;
        letters->count--;
        views->odd.dead_letters_lost++;
    }
    if (letters->first + letters->count == letters->capacity) {
        if (letters->first > letters->capacity / 2) {
            memmove(letters->items, letters_at(letters, 0),
                    letters->count * sizeof(*letters->items));
            letters->first = 0;
        } else {
            letters->capacity = KZ_MAX((size_t)64, letters->capacity * 2);
            letters->items = kz_realloc(
                    letters->items, letters->capacity * sizeof(*letters->items));
        }
    }
    *letters_at(letters, letters->count++) = *letter;
}

size_t kz_views_dead_letter_count(const struct kz_views *views)
{
    return views->dead_letters.count;
}

const struct kz_dead_letter *kz_views_dead_letter_at(const struct kz_views *views, size_t index)
{
    KZ_BUG_ON(index >= views->dead_letters.count);
    return letters_at(&views->dead_letters, index);
}

const struct kz_dead_letter *kz_views_dead_letter(const struct kz_views *views, uint64_t seq)
{
    const struct kz_dead_letters *letters = &views->dead_letters;
    size_t low = 0, high = letters->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (letters_at(letters, middle)->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < letters->count && letters_at(letters, low)->seq == seq ? letters_at(letters, low)
                                                                        : NULL;
}

void kz_views_apply_dead_letter(struct kz_views *views, kz_lsn lsn, const struct kz_record *record)
{
    const struct kz_deadletter_body *body = (const void *)kz_record_body(record).ptr;
    struct kz_dead_letter letter = {
            .lsn = lsn,
            .seq = record->seq,
            .ref = body->ref,
            .owner = record->owner,
            .at_ms = record->at_ms,
            .stage = body->stage,
    };

    letters_push(views, &letter);
}

static void letters_remove(struct kz_views *views, uint64_t seq)
{
    struct kz_dead_letters *letters = &views->dead_letters;
    struct kz_dead_letter *letter = (struct kz_dead_letter *)kz_views_dead_letter(views, seq);

    if (!letter)
        return;
    letters->count--;
    memmove(letter, letter + 1,
            (size_t)(letters_at(letters, letters->count) - letter) * sizeof(*letter));
}

/* ---- an operator's words --------------------------------------------------------------------- */

static void control_remove(struct kz_controls *controls, size_t index)
{
    free(controls->items[index].family);
    controls->count--;
    memmove(&controls->items[index], &controls->items[index + 1],
            (controls->count - index) * sizeof(*controls->items));
}

static const struct kz_control *control_find(
        const struct kz_views *views, struct kz_str family, struct kz_str object)
{
    for (size_t i = 0; i < views->controls.count; i++) {
        const struct kz_control *control = &views->controls.items[i];

        if (kz_str_is(family, control->family) && kz_str_eq(control->object, object))
            return control;
    }
    return NULL;
}

/* Remembers the word in the place of an earlier one about the same. An empty verb only forgets. */
void kz_views_control_put(struct kz_views *views, struct kz_str family, struct kz_str object,
        struct kz_str verb, uint64_t seq)
{
    struct kz_controls *controls = &views->controls;
    const struct kz_control *there = control_find(views, family, object);
    char *text;

    if (there)
        control_remove(controls, (size_t)(there - controls->items));
    if (!verb.size)
        return;
    if (controls->count == KZ_VIEWS_CONTROLS_MAX)
        control_remove(controls, 0);
    if (controls->count == controls->capacity) {
        controls->capacity = KZ_MAX((size_t)16, controls->capacity * 2);
        controls->items = kz_realloc(
                controls->items, controls->capacity * sizeof(*controls->items));
    }
    text = kz_calloc(1, family.size + 1 + object.size + verb.size);
    memcpy(text, family.ptr, family.size);
    if (object.size)
        memcpy(text + family.size + 1, object.ptr, object.size);
    memcpy(text + family.size + 1 + object.size, verb.ptr, verb.size);
    controls->items[controls->count++] = (struct kz_control){
            .family = text,
            .object = kz_str_n(text + family.size + 1, object.size),
            .verb = kz_str_n(text + family.size + 1 + object.size, verb.size),
            .seq = seq,
    };
}

static uint64_t parse_seq(struct kz_str s)
{
    uint64_t value = 0;

    for (size_t i = 0; i < s.size; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9' || value > UINT64_MAX / 10 - 1)
            return 0;
        value = value * 10 + (uint64_t)(s.ptr[i] - '0');
    }
    return value;
}

void kz_views_apply_control(struct kz_views *views, const struct kz_record *record)
{
    static const struct {
        const char *prefix, *instead;
    } answers[] = {{"resume-", "pause-"}, {"unfence-", "fence-"}};
    struct kz_str bytes = kz_record_body(record);
    const struct kz_control_body *body = (const void *)bytes.ptr;
    struct kz_str verb = kz_span_str(bytes, body->verb);
    struct kz_str object = kz_span_str(bytes, body->object);
    const char *colon = verb.size ? memchr(verb.ptr, ':', verb.size) : NULL;
    struct kz_str stem = kz_str_n(verb.ptr, colon ? (size_t)(colon - verb.ptr) : verb.size);
    char family[256];

    if (kz_str_is(stem, "drop-deadletter") || kz_str_is(stem, "retry-deadletter")) {
        letters_remove(
                views, parse_seq(colon ? kz_str_n(colon + 1, verb.size - stem.size - 1) : object));
        return;
    }
    if (!stem.size || stem.size >= sizeof(family) - 8)
        return;
    memcpy(family, stem.ptr, stem.size);
    family[stem.size] = 0;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(answers); i++) {
        size_t prefix = strlen(answers[i].prefix), instead = strlen(answers[i].instead);

        if (!kz_str_starts(stem, answers[i].prefix))
            continue;
        memcpy(family, answers[i].instead, instead);
        memcpy(family + instead, stem.ptr + prefix, stem.size - prefix);
        family[instead + stem.size - prefix] = 0;
    }
    kz_views_control_put(views, kz_str(family), object, verb, record->seq);
}

struct kz_str kz_views_control(
        const struct kz_views *views, const char *family, struct kz_str object)
{
    const struct kz_control *control = control_find(views, kz_str(family), object);

    return control ? control->verb : KZ_STR_NULL;
}

bool kz_views_paused(const struct kz_views *views, const char *what, struct kz_str name)
{
    char family[64] = "pause-";
    const struct kz_control *one, *all;

    KZ_BUG_ON(strlen(what) > 32);
    memcpy(family + 6, what, strlen(what) + 1);
    one = control_find(views, kz_str(family), name);
    all = control_find(views, kz_str(family), KZ_STR("*"));
    if (!one || (all && all->seq > one->seq))
        one = all;
    return one && kz_str_starts(one->verb, "pause-");
}

/* ---- total caps ------------------------------------------------------------------------------ */

static struct kz_cap_total *cap_find(const struct kz_views *views, uint64_t action)
{
    for (size_t i = 0; i < views->caps.count; i++) {
        if (views->caps.items[i].action == action)
            return &views->caps.items[i];
    }
    return NULL;
}

static struct kz_cap_total *cap_get(struct kz_views *views, uint64_t action)
{
    struct kz_cap_total *cap = cap_find(views, action);

    if (cap)
        return cap;
    views->caps.items = kz_realloc(
            views->caps.items, (views->caps.count + 1) * sizeof(*views->caps.items));
    cap = &views->caps.items[views->caps.count++];
    *cap = (struct kz_cap_total){.action = action};
    return cap;
}

static int64_t *cap_at(const struct kz_cap_total *cap, uint32_t index)
{
    return &cap->at_ms[(cap->first + index) % cap->capacity];
}

static void cap_grow(struct kz_cap_total *cap)
{
    uint32_t capacity = KZ_MIN(KZ_MAX(64u, cap->capacity * 2), (uint32_t)KZ_VIEWS_CAP_TIMES_MAX);
    int64_t *at_ms = kz_malloc(capacity * sizeof(*at_ms));

    for (uint32_t i = 0; i < cap->count; i++)
        at_ms[i] = *cap_at(cap, i);
    free(cap->at_ms);
    cap->at_ms = at_ms;
    cap->first = 0;
    cap->capacity = capacity;
}

void kz_views_cap_total_add(struct kz_views *views, uint64_t action, int64_t at_ms)
{
    struct kz_cap_total *cap = cap_get(views, action);

    if (cap->count == cap->capacity && cap->capacity < KZ_VIEWS_CAP_TIMES_MAX)
        cap_grow(cap);
    if (cap->count == cap->capacity) {
        cap->first = (cap->first + 1) % cap->capacity;
        cap->count--;
    }
    /* Our clock may step back; the ring stays in order for the search below. */
    if (cap->count)
        at_ms = KZ_MAX(at_ms, *cap_at(cap, cap->count - 1));
    cap->count++;
    *cap_at(cap, cap->count - 1) = at_ms;
}

size_t kz_views_deliveries_total(const struct kz_views *views, uint64_t action, int64_t since_ms)
{
    const struct kz_cap_total *cap = cap_find(views, action);
    uint32_t low = 0, high = cap ? cap->count : 0;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (*cap_at(cap, middle) < since_ms)
            low = middle + 1;
        else
            high = middle;
    }
    return cap ? cap->count - low : 0;
}

/* ---- tombstones ------------------------------------------------------------------------------ */

/* In order of seq. An id that was erased more than once has one for each; the newest is in the table. */
static struct kz_tombstone *tombstone_at(const struct kz_views *views, uint32_t index)
{
    return kz_pool_at(&views->tombstones, index);
}

static bool is_tombstone(const void *arg, uint32_t index, uint64_t id_hash)
{
    return tombstone_at(arg, index)->id_hash == id_hash;
}

static uint32_t tombstone_find(const struct kz_views *views, uint64_t id_hash)
{
    return kz_table_find(&views->tombstone_by_hash, id_hash, is_tombstone, views, id_hash);
}

const struct kz_tombstone *kz_views_tombstone(const struct kz_views *views, uint64_t id_hash)
{
    uint32_t index = tombstone_find(views, id_hash);

    return index ? tombstone_at(views, index) : NULL;
}

const struct kz_tombstone *kz_views_erasure(const struct kz_views *views, uint64_t seq)
{
    uint32_t low = 1, high = views->tombstones.end;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (tombstone_at(views, middle)->seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < views->tombstones.end && tombstone_at(views, low)->seq == seq
                   ? tombstone_at(views, low)
                   : NULL;
}

const struct kz_tombstone *kz_views_tombstone_at(const struct kz_views *views, size_t index)
{
    KZ_BUG_ON(index + 1 >= views->tombstones.end);
    return tombstone_at(views, (uint32_t)index + 1);
}

void kz_views_tombstone_add(struct kz_views *views, const struct kz_tombstone *tombstone)
{
    uint32_t older = tombstone_find(views, tombstone->id_hash);
    uint32_t index = kz_pool_take(&views->tombstones, 1, NULL);

    *tombstone_at(views, index) = *tombstone;
    if (older)
        kz_table_remove(&views->tombstone_by_hash, tombstone->id_hash, older);
    kz_table_insert(&views->tombstone_by_hash, tombstone->id_hash, index);
}

void kz_views_tombstone_done(struct kz_views *views, uint64_t seq, int64_t at_ms)
{
    struct kz_tombstone *there = (struct kz_tombstone *)kz_views_erasure(views, seq);

    if (there)
        there->done_at_ms = at_ms;
}

/* ---- as bytes -------------------------------------------------------------------------------- */

void kz_views_globals_encode(const struct kz_views *views, struct kz_buf *out)
{
    size_t start = out->size;

    kz_buf_i64(out, views->clock_ms);
    kz_buf_u64(out, views->dead_letters.count);
    for (size_t i = 0; i < views->dead_letters.count; i++)
        kz_buf_put(out, letters_at(&views->dead_letters, i), sizeof(struct kz_dead_letter));
    kz_buf_u64(out, views->tombstones.end - 1);
    for (uint32_t i = 1; i < views->tombstones.end; i++)
        kz_buf_put(out, tombstone_at(views, i), sizeof(struct kz_tombstone));
    kz_buf_u64(out, views->caps.count);
    for (size_t i = 0; i < views->caps.count; i++) {
        const struct kz_cap_total *cap = &views->caps.items[i];

        kz_buf_u64(out, cap->action);
        kz_buf_u64(out, cap->count);
        for (uint32_t j = 0; j < cap->count; j++)
            kz_buf_i64(out, *cap_at(cap, j));
    }
    kz_buf_u64(out, views->controls.count);
    for (size_t i = 0; i < views->controls.count; i++) {
        const struct kz_control *control = &views->controls.items[i];
        struct kz_str parts[] = {kz_str(control->family), control->object, control->verb};

        kz_buf_u64(out, control->seq);
        for (size_t j = 0; j < KZ_ARRAY_COUNT(parts); j++) {
            kz_buf_u32(out, (uint32_t)parts[j].size);
            kz_buf_str(out, parts[j]);
        }
    }
    while ((out->size - start) % 8)
        kz_buf_u8(out, 0);
}

static void decode_letters(struct kz_views *views, struct kz_cursor *c)
{
    for (uint64_t n = kz_cursor_u64(c); n && !c->failed; n--) {
        const void *bytes = kz_cursor_take(c, sizeof(struct kz_dead_letter));
        struct kz_dead_letter letter;

        if (!bytes)
            return;
        memcpy(&letter, bytes, sizeof(letter));
        letters_push(views, &letter);
    }
}

static void decode_tombstones(struct kz_views *views, struct kz_cursor *c)
{
    for (uint64_t n = kz_cursor_u64(c); n && !c->failed; n--) {
        const void *bytes = kz_cursor_take(c, sizeof(struct kz_tombstone));
        struct kz_tombstone tombstone;

        if (!bytes)
            return;
        memcpy(&tombstone, bytes, sizeof(tombstone));
        kz_views_tombstone_add(views, &tombstone);
    }
}

static void decode_caps(struct kz_views *views, struct kz_cursor *c)
{
    for (uint64_t n = kz_cursor_u64(c); n && !c->failed; n--) {
        uint64_t action = kz_cursor_u64(c);

        for (uint64_t m = kz_cursor_u64(c); m && !c->failed; m--)
            kz_views_cap_total_add(views, action, kz_cursor_i64(c));
    }
}

static void decode_controls(struct kz_views *views, struct kz_cursor *c)
{
    for (uint64_t n = kz_cursor_u64(c); n && !c->failed; n--) {
        uint64_t seq = kz_cursor_u64(c);
        struct kz_str family = kz_cursor_str(c, kz_cursor_u32(c));
        struct kz_str object = kz_cursor_str(c, kz_cursor_u32(c));
        struct kz_str verb = kz_cursor_str(c, kz_cursor_u32(c));

        if (!c->failed && family.size)
            kz_views_control_put(views, family, object, verb, seq);
    }
}

/* Whether the bytes hold what they say, before anything is replaced. */
static bool globals_are_whole(struct kz_str bytes)
{
    struct kz_cursor c = kz_cursor(bytes);
    uint64_t n;

    (void)kz_cursor_i64(&c);
    n = kz_cursor_u64(&c);
    (void)kz_cursor_take(&c, n > c.left ? SIZE_MAX : n * sizeof(struct kz_dead_letter));
    n = kz_cursor_u64(&c);
    (void)kz_cursor_take(&c, n > c.left ? SIZE_MAX : n * sizeof(struct kz_tombstone));
    for (n = kz_cursor_u64(&c); n && !c.failed; n--) {
        uint64_t m;

        (void)kz_cursor_u64(&c);
        m = kz_cursor_u64(&c);
        (void)kz_cursor_take(&c, m > c.left ? SIZE_MAX : m * sizeof(int64_t));
    }
    for (n = kz_cursor_u64(&c); n && !c.failed; n--) {
        (void)kz_cursor_u64(&c);
        for (unsigned i = 0; i < 3; i++)
            (void)kz_cursor_take(&c, kz_cursor_u32(&c));
    }
    return !c.failed && c.left < 8;
}

enum kz_code kz_views_globals_decode(
        struct kz_views *views, struct kz_str bytes, struct kz_err *err)
{
    struct kz_cursor c = kz_cursor(bytes);
    uint64_t lost = views->odd.dead_letters_lost;

    if (!globals_are_whole(bytes))
        return kz_fail(
                err, KZ_CORRUPT, "what belongs to no user ends early (%zu bytes)", bytes.size);
    kz_views_globals_done(views);
    kz_pool_set_end(&views->tombstones, 1);
    kz_table_done(&views->tombstone_by_hash);
    views->clock_ms = kz_cursor_i64(&c);
    decode_letters(views, &c);
    decode_tombstones(views, &c);
    decode_caps(views, &c);
    decode_controls(views, &c);
    views->odd.dead_letters_lost = lost;
    return KZ_OK;
}

void kz_views_globals_done(struct kz_views *views)
{
    size_t max = views->dead_letters.max;

    free(views->dead_letters.items);
    views->dead_letters = (struct kz_dead_letters){.max = max};
    for (size_t i = 0; i < views->caps.count; i++)
        free(views->caps.items[i].at_ms);
    free(views->caps.items);
    views->caps = (struct kz_cap_totals){0};
    while (views->controls.count)
        control_remove(&views->controls, views->controls.count - 1);
    free(views->controls.items);
    views->controls = (struct kz_controls){0};
}
