/* history/times.c -- when a count rule was hit and an action was delivered, by user and name.
 *
 *     slot      first, count, capacity, and up to four times or
 *     run       a ring of 8, 16 ... 256, 320 times in the store of runs
 *
 * Times come nearly in order, so one more is a write at the ring's end, and those since some moment
 * are a search in one place. What the ring looks like is no part of the state: equal
 * times are equal states, and as bytes (CARRY, a user's row) they are slots of five, newest first.
 */
#include "history/views_int.h"

enum { CAPACITY_MIN = 8, CAPACITY_DOUBLED_MAX = 256 };
_Static_assert(sizeof(struct kz_times_ring) == sizeof(struct kz_times), "both fill the slot");
_Static_assert((int)KZ_VIEWS_TIMES_MAX < (int)KZ_RUN_CLASSES, "runs of times are used again");
_Static_assert((int)KZ_VIEWS_TIMES_MAX > (int)CAPACITY_DOUBLED_MAX, "the last step is smaller");

static uint32_t capacity_for(uint32_t count)
{
    uint32_t capacity = CAPACITY_MIN;

    if (count <= KZ_TIMES_FEW)
        return KZ_TIMES_FEW;
    while (capacity < count && capacity < CAPACITY_DOUBLED_MAX)
        capacity *= 2;
    return capacity < count ? KZ_VIEWS_TIMES_MAX : capacity;
}

/* ---- the ring -------------------------------------------------------------------------------- */

static int64_t *items_of(const struct kz_views *views, const struct kz_times_ring *ring)
{
    return ring->capacity == KZ_TIMES_FEW ? (int64_t *)ring->few
                                          : kz_views_run_at(views, ring->run);
}

/* The place of the `index`th oldest; `index` <= capacity. */
static uint32_t place(const struct kz_times_ring *ring, uint32_t index)
{
    uint32_t at = ring->first + index;

    return at < ring->capacity ? at : at - ring->capacity;
}

/* Moves the times to where `capacity` of them have room. */
static void resize(struct kz_views *views, struct kz_times_ring *ring, uint32_t capacity)
{
    struct kz_times_ring next = {.count = ring->count, .capacity = capacity};
    const int64_t *from = items_of(views, ring);
    int64_t *to;

    if (capacity != KZ_TIMES_FEW)
        next.run = kz_views_run_take(views, capacity);
    to = items_of(views, &next);
    for (uint32_t i = 0; i < ring->count; i++)
        to[i] = from[place(ring, i)];
    if (ring->capacity != KZ_TIMES_FEW)
        kz_views_run_free(views, ring->run, ring->capacity);
    *ring = next;
}

static void drop_oldest(struct kz_times_ring *ring)
{
    ring->first = (uint16_t)place(ring, 1);
    ring->count--;
}

static void insert(struct kz_views *views, struct kz_times_ring *ring, int64_t at_ms)
{
    uint32_t at;
    int64_t *items;

    if (ring->count == KZ_VIEWS_TIMES_MAX) {
        if (at_ms <= items_of(views, ring)[ring->first])
            return;
        drop_oldest(ring);
    } else if (ring->count == ring->capacity) {
        resize(views, ring, capacity_for(ring->count + 1u));
    }
    items = items_of(views, ring);
    for (at = ring->count++; at > 0 && items[place(ring, at - 1)] > at_ms; at--)
        items[place(ring, at)] = items[place(ring, at - 1)];
    items[place(ring, at)] = at_ms;
}

static void forget(struct kz_views *views, struct kz_times_ring *ring, int64_t horizon_ms)
{
    const int64_t *items = items_of(views, ring);

    while (ring->count && items[ring->first] < horizon_ms)
        drop_oldest(ring);
    if (ring->capacity != KZ_TIMES_FEW && ring->count <= ring->capacity / 4u)
        resize(views, ring, capacity_for(2u * ring->count));
}

/* How many of the times are before `since_ms`. */
static uint32_t count_before(
        const struct kz_views *views, const struct kz_times_ring *ring, int64_t since_ms)
{
    const int64_t *items = items_of(views, ring);
    uint32_t low = 0, high = ring->count;

    if (high && items[ring->first] >= since_ms) /* nearly always: old ones are forgotten */
        return 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (items[place(ring, middle)] < since_ms)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- of a user ------------------------------------------------------------------------------- */

void kz_views_times_add(
        struct kz_views *views, uint32_t user, uint64_t name, int64_t at_ms, int64_t horizon_ms)
{
    struct kz_slot *slot = kz_views_slot_get(views, user, KZ_SLOT_TIMES, name);

    if (at_ms)
        insert(views, &slot->ring, at_ms);
    forget(views, &slot->ring, horizon_ms);
    if (!slot->ring.count)
        kz_views_slot_remove(views, user, slot);
}

void kz_views_times_merge(struct kz_views *views, uint32_t user, const struct kz_slot *from)
{
    for (uint32_t i = from->ring.count; i-- > 0;)
        kz_views_times_add(views, user, from->name, kz_views_times_at(views, from, i), INT64_MIN);
}

void kz_views_times_decode(struct kz_views *views, uint32_t user, const struct kz_slot *from)
{
    for (unsigned i = KZ_TIMES_PER_SLOT; i-- > 0;) {
        if (from->times.at_ms[i])
            kz_views_times_add(views, user, from->name, from->times.at_ms[i], INT64_MIN);
    }
}

int64_t kz_views_times_at(const struct kz_views *views, const struct kz_slot *slot, size_t index)
{
    const struct kz_times_ring *ring = &slot->ring;

    return items_of(views, ring)[place(ring, ring->count - 1u - (uint32_t)index)];
}

struct kz_times kz_views_times_encode(
        const struct kz_views *views, const struct kz_slot *slot, size_t index)
{
    struct kz_times times = {0};

    for (unsigned i = 0; i < KZ_TIMES_PER_SLOT && index + i < slot->ring.count; i++)
        times.at_ms[i] = kz_views_times_at(views, slot, index + i);
    return times;
}

void kz_views_times_free(struct kz_views *views, struct kz_slot *slot)
{
    if (slot->ring.capacity != KZ_TIMES_FEW)
        kz_views_run_free(views, slot->ring.run, slot->ring.capacity);
}

bool kz_views_times_valid(const struct kz_views *views, const struct kz_slot *slot)
{
    const struct kz_times_ring *ring = &slot->ring;

    return ring->count && ring->count <= ring->capacity && ring->first < ring->capacity &&
           ring->capacity == capacity_for(ring->capacity) &&
           (ring->capacity == KZ_TIMES_FEW ||
                   kz_views_run_exists(views, ring->run, ring->capacity));
}

static size_t count_since(
        const struct kz_views *views, uint32_t user, uint64_t name, int64_t since_ms)
{
    const struct kz_slot *slot = kz_views_slot(views, user, KZ_SLOT_TIMES, name);

    return slot ? slot->ring.count - count_before(views, &slot->ring, since_ms) : 0;
}

size_t kz_views_hits(const struct kz_views *views, uint32_t user, uint64_t rule, int64_t since_ms)
{
    return count_since(views, user, rule, since_ms);
}

size_t kz_views_deliveries(
        const struct kz_views *views, uint32_t user, uint64_t action, int64_t since_ms)
{
    return count_since(views, user, kz_views_cap_name(action), since_ms);
}
