/* A small log of several segments, remembered record by record; whatever upkeep does to it, and
 * whatever step it is cut off at, a reader must see the same records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "log/log_int.h"
#include "sys/file_sim.h"
#include "sys/random.h"

enum { OWNERS = 12, SEGMENTS = 4, RECORDS_MAX = 8000 };

struct memory {
    struct kz_record *records[RECORDS_MAX]; /* owned, as the log gave them back */
    kz_lsn lsns[RECORDS_MAX];
    size_t count;
};

static uint64_t owner_number(unsigned i)
{
    return kz_hash_mix(i + 1, 7) | 1;
}

static void must(enum kz_code rc, const struct kz_err *err)
{
    if (rc != KZ_OK)
        fail_msg("%s", err->message);
}

static struct kz_log *open_log_sized(
        struct kz_fs *fs, uint64_t segment_size_bytes, uint64_t keys_bytes_max)
{
    struct kz_log_options options = {.fs = fs,
            .dir = "./log",
            .segment_size_bytes = segment_size_bytes,
            .keys_bytes_max = keys_bytes_max,
            .sync_inline = true};
    struct kz_log_recovery recovery;
    struct kz_log *log = NULL;
    struct kz_err err;

    must(kz_log_open(&options, &log, &recovery, &err), &err);
    return log;
}

static struct kz_log *open_log_keys(struct kz_fs *fs, uint64_t keys_bytes_max)
{
    return open_log_sized(fs, 256 << 10, keys_bytes_max);
}

static struct kz_log *open_log(struct kz_fs *fs)
{
    return open_log_keys(fs, 0);
}

/* Fills whole segments until there are SEGMENTS complete ones. */
static void write_log(struct kz_log *log, struct kz_prng *prng)
{
    kz_lsn heads[OWNERS][2] = {{0}};
    struct kz_err err;

    for (int i = 0; i < RECORDS_MAX && KZ_LSN_SEGMENT(kz_log_end(log)) <= SEGMENTS; i++) {
        unsigned pick = (unsigned)kz_prng_below(prng, OWNERS);
        bool is_event = kz_prng_below(prng, 3) != 0;
        struct kz_log_entry entry = {
                .type = is_event ? KZ_RECORD_EVENT : KZ_RECORD_REQUEST,
                .owner = owner_number(pick),
                .prev = heads[pick][is_event],
                .key = is_event ? kz_prng_u64(prng) | 1 : 0,
                .at_ms = 1700000000000 + i,
        };
        char body[400];
        uint64_t seq;

        kz_prng_bytes(prng, body, sizeof(body));
        /* Without strings; what is behind the fixed part is not looked at. */
        memset(body, 0, sizeof(struct kz_request_body));
        entry.body = kz_str_n(body, sizeof(struct kz_request_body) + kz_prng_below(prng, 290));
        must(kz_log_append(log, &entry, &heads[pick][is_event], &seq, &err), &err);
        if (kz_prng_below(prng, 4) == 0)
            must(kz_log_commit(log, &err), &err);
    }
    must(kz_log_commit(log, &err), &err);
    must(kz_log_wait(log, &err), &err);
}

static enum kz_code remember(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct memory *memory = arg;

    assert_true(memory->count < RECORDS_MAX);
    memory->records[memory->count] = kz_malloc(record->size);
    memcpy(memory->records[memory->count], record, record->size);
    memory->lsns[memory->count++] = lsn;
    return KZ_OK;
}

static void memorise(struct kz_log *log, struct memory *memory)
{
    struct kz_history_reader *reader = kz_log_reader(log);
    struct kz_err err;

    memory->count = 0;
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, remember, memory, &err), &err);
}

static void forget(struct memory *memory)
{
    for (size_t i = 0; i < memory->count; i++)
        free(memory->records[i]);
    memory->count = 0;
}

static bool is_erased(const struct kz_log_seal *seal, uint64_t owner)
{
    for (size_t i = 0; seal && i < seal->erased_count; i++)
        if (seal->erased[i] == owner)
            return true;
    return false;
}

struct compare {
    const struct memory *memory;
    const struct kz_log_seal *without; /* its erased owners, or NULL */
    kz_lsn from;                       /* what was before is dropped */
    size_t next;
};

static void pass_over(struct compare *compare)
{
    const struct memory *memory = compare->memory;

    while (compare->next < memory->count &&
            (memory->lsns[compare->next] < compare->from ||
                    is_erased(compare->without, memory->records[compare->next]->owner)))
        compare->next++;
}

static enum kz_code compare_next(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct compare *compare = arg;
    const struct kz_record *expected;

    pass_over(compare);
    assert_true(compare->next < compare->memory->count);
    expected = compare->memory->records[compare->next];
    assert_int_equal(lsn, compare->memory->lsns[compare->next]);
    assert_int_equal(record->size, expected->size);
    assert_memory_equal(record, expected, record->size);
    compare->next++;
    return KZ_OK;
}

/* One owner's events through the reader, against memory. */
static void check_history(struct kz_log *log, const struct compare *compare, uint64_t owner)
{
    const struct memory *memory = compare->memory;
    struct kz_history_reader *reader = kz_log_reader(log);
    struct kz_source source = {.owner = owner};
    struct kz_history_query query = {.sources = &source,
            .source_count = 1,
            .chain = KZ_CHAIN_EVENTS,
            .as_of = UINT64_MAX,
            .since_ms = INT64_MIN,
            .include_actions = true};
    struct kz_history_rows rows = {0};
    struct kz_err err;
    size_t at = 0;

    for (size_t i = 0; i < memory->count; i++)
        if (memory->records[i]->owner == owner && memory->records[i]->type == KZ_RECORD_EVENT)
            source.head = memory->lsns[i];
    must(reader->ops->scan(reader, &query, &rows, &err), &err);
    for (size_t i = 0; i < memory->count; i++) {
        const struct kz_record *record = memory->records[i];

        if (record->owner != owner || record->type != KZ_RECORD_EVENT ||
                memory->lsns[i] < compare->from || is_erased(compare->without, owner))
            continue;
        assert_true(at < rows.count);
        assert_int_equal(rows.lsns[at], memory->lsns[i]);
        assert_memory_equal(rows.records[at], record, record->size);
        at++;
    }
    assert_int_equal(rows.count, at);
    reader->ops->release(reader, &rows);
}

/* Everything a reader can ask is as remembered. */
static void check_log(struct kz_log *log, const struct memory *memory,
        const struct kz_log_seal *without, kz_lsn from)
{
    struct kz_history_reader *reader = kz_log_reader(log);
    struct compare compare = {.memory = memory, .without = without, .from = from};
    struct kz_buf out = {0};
    struct kz_err err;

    must(reader->ops->scan_all(reader, 0, UINT64_MAX, compare_next, &compare, &err), &err);
    pass_over(&compare);
    assert_int_equal(compare.next, memory->count);
    for (unsigned i = 0; i < OWNERS; i++)
        check_history(log, &compare, owner_number(i));
    for (size_t i = 0; i < memory->count; i += 13) {
        const struct kz_record *record = memory->records[i];
        bool gone = memory->lsns[i] < from || is_erased(without, record->owner);
        bool found = false;

        assert_int_equal(reader->ops->get(reader, memory->lsns[i], record->owner, &out, &err),
                gone ? KZ_NOT_FOUND : KZ_OK);
        if (!record->key)
            continue;
        must(kz_log_find_key(log, record->key, record->owner, INT64_MIN, NULL, NULL, &found, &err),
                &err);
        assert_int_equal(found, !gone);
    }
    kz_buf_done(&out);
}

static void print_line(void *arg, const char *line)
{
    (void)arg;
    print_error("%s\n", line);
}

static void assert_sound(struct kz_fs *fs)
{
    struct kz_err err;
    uint64_t records;

    must(kz_log_fsck(fs, "./log", print_line, NULL, &records, &err), &err);
}

static void append_name(void *arg, const char *name)
{
    kz_buf_printf(arg, "%s ", name);
}

static void assert_names(struct kz_fs *fs, const char *expected)
{
    struct kz_buf names = {0};
    struct kz_err err;

    must(fs->ops->list(fs, "./log", append_name, &names, &err), &err);
    kz_buf_char(&names, 0);
    if (!strstr(names.data, expected))
        fail_msg("\"%s\" does not have \"%s\"", names.data, expected);
    assert_null(strstr(names.data, ".tmp"));
    kz_buf_done(&names);
}

static struct kz_log_seal seal_all(struct kz_log *log)
{
    return (struct kz_log_seal){.below = kz_log_end(log), .segments_max = 100};
}

static uint32_t first_segment(struct kz_log *log)
{
    KZ_AUTO(kz_log_view_unrefp) struct kz_log_view *view = kz_log_get_view(log);

    return view->first;
}

/* ---- nothing goes wrong --------------------------------------------------------------------- */

static void sealing_changes_nothing_a_reader_sees(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;
    unsigned complete;

    (void)state;
    kz_prng_init(&prng, 1);
    write_log(log, &prng);
    memorise(log, memory);
    complete = KZ_LSN_SEGMENT(kz_log_durable(log)) - first_segment(log);
    assert_in_range(memory->count, 1000, RECORDS_MAX - 1);
    check_log(log, memory, NULL, 0);

    seal = seal_all(log);
    seal.segments_max = 1;
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 1);
    check_log(log, memory, NULL, 0);
    seal.segments_max = 100;
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, complete - 1);
    assert_int_equal(seal.ret_rewritten, 0);
    check_log(log, memory, NULL, 0);
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 0);

    kz_log_close(log);
    assert_sound(fs);
    log = open_log(fs);
    check_log(log, memory, NULL, 0);
    kz_log_close(log);
    forget(memory);
    free(memory);
}

static void only_what_is_wholly_below_is_sealed_or_dropped(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;
    uint32_t first;
    kz_lsn last_of_second = 0;

    (void)state;
    kz_prng_init(&prng, 2);
    write_log(log, &prng);
    memorise(log, memory);
    first = first_segment(log);
    for (size_t i = 0; i < memory->count; i++)
        if (KZ_LSN_SEGMENT(memory->lsns[i]) == first + 1)
            last_of_second = memory->lsns[i];
    seal = seal_all(log);
    seal.below = last_of_second;
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 1);
    must(kz_log_drop(log, KZ_LSN(first, 4096), &err), &err);
    assert_int_equal(first_segment(log), first);
    check_log(log, memory, NULL, 0);
    must(kz_log_drop(log, last_of_second, &err), &err);
    assert_int_equal(first_segment(log), first + 1);
    check_log(log, memory, NULL, KZ_LSN(first + 1, 0));
    /* The one being written stays, whatever is asked for. */
    must(kz_log_drop(log, UINT64_MAX, &err), &err);
    assert_int_equal(first_segment(log), KZ_LSN_SEGMENT(kz_log_end(log)));
    check_log(log, memory, NULL, KZ_LSN(first_segment(log), 0));
    kz_log_close(log);
    assert_sound(fs);
    forget(memory);
    free(memory);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = kz_load_u64(a), y = kz_load_u64(b);

    return (x > y) - (x < y);
}

static void the_erased_go_from_raw_and_from_sealed_segments(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    uint64_t erased[] = {owner_number(3), owner_number(7), owner_number(100)};
    struct kz_log *log = open_log(fs);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;
    unsigned complete;

    (void)state;
    kz_prng_init(&prng, 3);
    write_log(log, &prng);
    /* All segments but the current one are to be sealed, and it is to be empty of users. */
    kz_log_roll(log);
    must(kz_log_append(log, &(struct kz_log_entry){.type = KZ_RECORD_CLOCK, .at_ms = 1700000009999},
                 &(kz_lsn){0}, &(uint64_t){0}, &err),
            &err);
    must(kz_log_commit(log, &err), &err);
    memorise(log, memory);
    complete = KZ_LSN_SEGMENT(kz_log_durable(log)) - first_segment(log);
    qsort(erased, KZ_ARRAY_COUNT(erased), sizeof(erased[0]), compare_u64);

    seal = seal_all(log);
    seal.segments_max = 2;
    must(kz_log_seal(log, &seal, &err), &err);
    seal.erased = erased;
    seal.erased_count = KZ_ARRAY_COUNT(erased);
    seal.segments_max = 100;
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_rewritten, 2);
    assert_int_equal(seal.ret_sealed, complete - 2);
    check_log(log, memory, &seal, 0);
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_rewritten, 0);
    assert_int_equal(seal.ret_sealed, 0);
    kz_log_close(log);
    assert_sound(fs);
    log = open_log(fs);
    check_log(log, memory, &seal, 0);
    kz_log_close(log);
    forget(memory);
    free(memory);
}

struct tally {
    uint64_t owner;
    kz_lsn below;
    unsigned before, since;
};

static enum kz_code count_owner(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    struct tally *tally = arg;

    if (record->owner == tally->owner)
        ++*(lsn < tally->below ? &tally->before : &tally->since);
    return KZ_OK;
}

/* Twice in a segment: what came before an address in its middle goes, the rest stays and is read. */
static void who_came_back_keeps_what_came_since(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct kz_history_reader *reader = kz_log_reader(log);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct tally tally = {.owner = owner_number(3)};
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;
    unsigned since;

    (void)state;
    kz_prng_init(&prng, 5);
    write_log(log, &prng);
    memorise(log, memory);
    seal = seal_all(log);
    seal.segments_max = 1; /* so that one is sealed already, and the next is not */
    must(kz_log_seal(log, &seal, &err), &err);
    tally.below = memory->lsns[memory->count / 2];
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, count_owner, &tally, &err), &err);
    assert_true(tally.before > 0 && tally.since > 0);
    since = tally.since;
    seal.erased = &tally.owner;
    seal.erased_below = &tally.below;
    seal.erased_count = 1;
    seal.segments_max = 100;
    must(kz_log_seal(log, &seal, &err), &err);
    tally.before = tally.since = 0;
    must(reader->ops->scan_all(reader, 0, UINT64_MAX, count_owner, &tally, &err), &err);
    assert_int_equal(tally.before, 0);
    assert_int_equal(tally.since, since);
    must(kz_log_seal(log, &seal, &err), &err);
    assert_true(seal.ret_rewritten <= 1); /* where the address lies, and no segment behind it */
    kz_log_close(log);
    assert_sound(fs);
    forget(memory);
    free(memory);
}

static void a_view_outlives_sealing_and_dropping(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct kz_log_view *view;
    struct compare compare = {.memory = memory};
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 4);
    write_log(log, &prng);
    memorise(log, memory);
    view = kz_log_get_view(log);
    seal = seal_all(log);
    must(kz_log_seal(log, &seal, &err), &err);
    must(kz_log_drop(log, UINT64_MAX, &err), &err);
    for (size_t i = 0; i < view->count; i++)
        must(kz_segment_each(view->segments[i], 0, UINT64_MAX, compare_next, &compare, &err), &err);
    assert_int_equal(compare.next, memory->count);
    kz_log_view_unref(view);
    kz_log_close(log);
    forget(memory);
    free(memory);
}

static void a_raw_segment_with_a_bad_byte_is_not_sealed(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct kz_log_seal seal;
    KZ_AUTO(kz_freep) char *path = NULL;
    struct kz_file *file;
    struct kz_prng prng;
    struct kz_err err;
    char byte;

    (void)state;
    kz_prng_init(&prng, 5);
    write_log(log, &prng);
    path = kz_segment_path("./log", first_segment(log) + 1, false);
    must(fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE, &file, &err), &err);
    must(file->ops->pread(file, &byte, 1, 9000, &err), &err);
    byte ^= 16;
    must(file->ops->pwrite(file, &byte, 1, 9000, &err), &err);
    kz_file_close(file);
    seal = seal_all(log);
    assert_int_equal(kz_log_seal(log, &seal, &err), KZ_CORRUPT);
    assert_int_equal(seal.ret_sealed, 1);
    assert_true(kz_fs_exists(fs, path));
    kz_log_close(log);
}

/* ---- everything goes wrong ------------------------------------------------------------------ */

enum job { JOB_SEAL, JOB_REWRITE, JOB_DROP };

static enum kz_code run_job(
        struct kz_log *log, enum job job, struct kz_log_seal *seal, struct kz_err *err)
{
    if (job == JOB_DROP)
        return kz_log_drop(log, seal->below, err);
    return kz_log_seal(log, seal, err);
}

/* Each segment may or may not hold the erased owner; all other histories are whole. */
static void check_the_others(struct kz_log *log, const struct memory *memory, uint64_t erased)
{
    struct compare compare = {.memory = memory};

    for (unsigned i = 0; i < OWNERS; i++)
        if (owner_number(i) != erased)
            check_history(log, &compare, owner_number(i));
}

/* The nth call of the job and all after it (or it alone) fail; then the power goes, or the process
 * dies, and the log is opened again. True where the job went through. */
static bool cut_at(enum job job, unsigned nth, bool once, bool power, uint64_t seed)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(seed);
    uint64_t erased = owner_number(5);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct kz_log *log = open_log(fs);
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;
    enum kz_code rc;
    kz_lsn from = 0;

    kz_prng_init(&prng, 6);
    write_log(log, &prng);
    memorise(log, memory);
    seal = seal_all(log);
    seal.segments_max = 2;
    if (job != JOB_SEAL)
        must(kz_log_seal(log, &seal, &err), &err);
    if (job == JOB_REWRITE) {
        seal.erased = &erased;
        seal.erased_count = 1;
    }
    if (once)
        kz_fs_sim_fail_once(fs, nth, KZ_IO);
    else
        kz_fs_sim_fail_from(fs, nth, KZ_IO);
    rc = run_job(log, job, &seal, &err);
    if (power)
        kz_fs_sim_power_cut(fs, seed);
    else
        kz_fs_sim_crash(fs);
    kz_log_close(log);

    log = open_log(fs);
    if (job == JOB_DROP)
        from = KZ_LSN(first_segment(log), 0);
    if (job == JOB_REWRITE)
        check_the_others(log, memory, erased);
    else
        check_log(log, memory, NULL, from);
    kz_log_close(log);
    assert_names(fs, ".kzl");
    assert_sound(fs);

    /* What was cut off can be done again. */
    log = open_log(fs);
    must(run_job(log, job, &seal, &err), &err);
    kz_log_close(log);
    assert_sound(fs);
    forget(memory);
    free(memory);
    return rc == KZ_OK;
}

static void cut_everywhere(enum job job, unsigned steps_min)
{
    for (unsigned how = 0; how < 8; how++) {
        unsigned nth = 1;

        while (!cut_at(job, nth, how & 1, how & 2, nth * 16 + how)) {
            nth++;
            assert_true(nth < 500);
        }
        assert_true(nth > steps_min);
    }
}

static void sealing_may_be_cut_off_at_every_step(void **state)
{
    (void)state;
    cut_everywhere(JOB_SEAL, 15);
}

static void rewriting_may_be_cut_off_at_every_step(void **state)
{
    (void)state;
    cut_everywhere(JOB_REWRITE, 15);
}

static void dropping_may_be_cut_off_at_every_step(void **state)
{
    (void)state;
    cut_everywhere(JOB_DROP, 2);
}

/* ---- readers beside it ---------------------------------------------------------------------- */

struct reader {
    struct kz_thread thread;
    struct kz_log *log;
    const struct memory *memory;
    atomic_bool *stop;
    unsigned rounds;
};

static void read_on(void *arg)
{
    struct reader *reader = arg;
    struct compare compare = {.memory = reader->memory};

    do {
        check_history(reader->log, &compare, owner_number(reader->rounds % OWNERS));
        reader->rounds++;
    } while (!atomic_load(reader->stop));
}

static void readers_do_not_notice_sealing(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(1);
    struct kz_log *log = open_log(fs);
    struct memory *memory = kz_calloc(1, sizeof(*memory));
    struct reader readers[3];
    atomic_bool stop = false;
    struct kz_log_seal seal;
    struct kz_prng prng;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 8);
    write_log(log, &prng);
    memorise(log, memory);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(readers); i++) {
        readers[i] = (struct reader){.log = log, .memory = memory, .stop = &stop};
        must(kz_thread_start(&readers[i].thread, "reader", read_on, &readers[i], &err), &err);
    }
    seal = seal_all(log);
    must(kz_log_seal(log, &seal, &err), &err);
    atomic_store(&stop, true);
    for (size_t i = 0; i < KZ_ARRAY_COUNT(readers); i++) {
        kz_thread_join(&readers[i].thread);
        assert_true(readers[i].rounds > 0);
    }
    check_log(log, memory, NULL, 0);
    kz_log_close(log);
    forget(memory);
    free(memory);
}

/* ---- keys ----------------------------------------------------------------------------------- */

static enum kz_code add_to_writer(void *arg, kz_lsn lsn, const struct kz_record *record)
{
    return kz_sealed_writer_add(arg, lsn, record, NULL);
}

/* A sealed segment as earlier versions wrote it. */
static void write_as_version(uint32_t version, struct kz_fs *fs, const char *path)
{
    struct kz_sealed_pool *pool = kz_sealed_pool_new(1);
    const struct kz_sealed_header *header;
    struct kz_sealed_writer *writer = NULL;
    struct kz_sealed *sealed = NULL;
    struct kz_sealed_params params;
    struct kz_err err;

    must(kz_sealed_open(fs, path, pool, &sealed, &err), &err);
    header = kz_sealed_get_header(sealed);
    params = (struct kz_sealed_params){.fs = fs,
            .dir = "./log",
            .segment = header->segment,
            .seq_first = header->seq_first,
            .seq_last = header->seq_last,
            .at_first_ms = header->at_first_ms,
            .at_last_ms = header->at_last_ms,
            .end = header->end,
            .last_crc = header->last_crc,
            .version = version};
    memcpy(params.log_id, header->log_id, sizeof(params.log_id));
    must(kz_sealed_writer_new(&params, &writer, &err), &err);
    must(kz_sealed_scan_sorted(sealed, add_to_writer, writer, &err), &err);
    must(kz_sealed_writer_finish(writer, &err), &err);
    kz_sealed_writer_free(writer);
    kz_sealed_close(sealed);
    kz_sealed_pool_free(pool);
}

static void write_more(struct kz_log *log, struct kz_prng *prng, unsigned count)
{
    kz_lsn head = 0;
    struct kz_err err;

    for (unsigned i = 0; i < count; i++) {
        struct kz_event_body body = {0};
        struct kz_log_entry entry = {.type = KZ_RECORD_EVENT,
                .owner = owner_number(50),
                .prev = head,
                .key = kz_prng_u64(prng) | 1,
                .at_ms = 1700000010000 + i,
                .body = kz_str_n(&body, sizeof(body))};
        uint64_t seq;

        must(kz_log_append(log, &entry, &head, &seq, &err), &err);
        must(kz_log_commit(log, &err), &err);
    }
}

/* Each key that is there, and one beside it that is not. */
static void check_keys(struct kz_log *log, const struct memory *memory)
{
    struct kz_err err;

    for (size_t i = 0; i < memory->count; i++) {
        const struct kz_record *record = memory->records[i];
        bool found;

        if (!record->key)
            continue;
        must(kz_log_find_key(log, record->key, record->owner, INT64_MIN, NULL, NULL, &found, &err),
                &err);
        assert_true(found);
        must(kz_log_find_key(
                     log, record->key ^ 2, record->owner, INT64_MIN, NULL, NULL, &found, &err),
                &err);
        assert_false(found);
        kz_log_prefetch_key(log, record->key);
    }
}

/* Raw and sealed, written in this run or an earlier one, of older formats (with narrow tags, or none
 * to make a filter of), and with no memory for a filter that reaches back to the beginning. */
static void a_key_is_found_wherever_it_lies(void **state)
{
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(5);
    KZ_AUTO(kz_log_closep) struct kz_log *log = open_log(fs);
    struct kz_log_seal seal = {.below = KZ_LSN(4, 0), .segments_max = 9};
    struct memory memory = {0};
    struct kz_log_stats stats;
    struct kz_prng prng;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 15);
    write_log(log, &prng);
    memorise(log, &memory);
    check_keys(log, &memory);
    kz_log_stats(log, &stats);
    assert_int_equal(stats.keys_bytes, 524288); /* the least, 256 Ki keys */
    kz_log_closep(&log);
    log = open_log(fs);
    check_keys(log, &memory);
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 3);
    check_keys(log, &memory);
    kz_log_closep(&log);
    log = open_log(fs);
    check_keys(log, &memory);
    kz_log_closep(&log);

    log = open_log_keys(fs, 1024); /* less than a segment's keys */
    check_keys(log, &memory);
    kz_log_stats(log, &stats);
    assert_in_range(stats.keys_bytes, 64, 1024);
    write_more(log, &prng, 1500);
    forget(&memory);
    memorise(log, &memory);
    kz_log_stats(log, &stats);
    assert_in_range(stats.keys_bytes, 64, 1024);
    assert_in_range(stats.keys_forgotten_total, 4, 20);
    assert_in_range(KZ_LSN_SEGMENT(kz_log_end(log)), 6, 7);
    check_keys(log, &memory);
    kz_log_closep(&log);

    for (uint32_t version = 2; version-- > 0;) {
        static const char *const paths[] = {"./log/00000002.kzs", "./log/00000003.kzs"};

        for (int i = 0; i < 2; i++) {
            write_as_version(version + 1, fs, paths[i]);
            log = open_log(fs);
            write_more(log, &prng, 50);
            forget(&memory);
            memorise(log, &memory);
            check_keys(log, &memory);
            kz_log_closep(&log);
        }
    }
    assert_sound(fs);
    forget(&memory);
}

/* Room for the keys of the raw segments is in the group that they go to, and not in the narrow one
 * before it as well. */
static void room_behind_narrow_tags_is_taken_once(void **state)
{
    enum {
        LARGE = 48 << 20,
        RAW_COUNT = 2,
        KEY_BYTES = KZ_KEYFILTER_KEY_BITS / 8,
        RECORD_BYTES = 256
    };
    KZ_AUTO(kz_fs_sim_freep) struct kz_fs *fs = kz_fs_sim_new(6);
    KZ_AUTO(kz_log_closep) struct kz_log *log = open_log_sized(fs, LARGE, 0);
    struct kz_log_seal seal = {.below = KZ_LSN(2, 0), .segments_max = 1};
    struct kz_log_stats stats;
    struct kz_prng prng;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 16);
    write_more(log, &prng, 50);
    for (int i = 0; i < RAW_COUNT; i++) {
        kz_log_roll(log);
        write_more(log, &prng, 50);
    }
    must(kz_log_wait(log, &err), &err);
    must(kz_log_seal(log, &seal, &err), &err);
    assert_int_equal(seal.ret_sealed, 1);
    kz_log_closep(&log);
    write_as_version(2, fs, "./log/00000001.kzs");
    log = open_log_sized(fs, LARGE, 0);
    kz_log_stats(log, &stats);
    assert_int_equal(stats.keys_bytes,
            KZ_KEYFILTER_KEYS_MIN * KEY_BYTES + RAW_COUNT * LARGE / RECORD_BYTES * KEY_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(sealing_changes_nothing_a_reader_sees),
            cmocka_unit_test(only_what_is_wholly_below_is_sealed_or_dropped),
            cmocka_unit_test(the_erased_go_from_raw_and_from_sealed_segments),
            cmocka_unit_test(who_came_back_keeps_what_came_since),
            cmocka_unit_test(a_view_outlives_sealing_and_dropping),
            cmocka_unit_test(a_raw_segment_with_a_bad_byte_is_not_sealed),
            cmocka_unit_test(sealing_may_be_cut_off_at_every_step),
            cmocka_unit_test(rewriting_may_be_cut_off_at_every_step),
            cmocka_unit_test(dropping_may_be_cut_off_at_every_step),
            cmocka_unit_test(readers_do_not_notice_sealing),
            cmocka_unit_test(a_key_is_found_wherever_it_lies),
            cmocka_unit_test(room_behind_narrow_tags_is_taken_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
