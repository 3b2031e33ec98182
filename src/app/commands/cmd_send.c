/* app/commands/cmd_send.c -- events of a file into a running Kizashi: `kizashi send` as fast as it takes
 * them, `kizashi replay --url` at their own pace.
 *
 * Nothing is lost on the way: what broke off, or was refused by a code for which a retry helps
 * (base/errors.def), is sent again, be it a request or some events of one; whoever waits is told why.
 * Every event has an event_id, so one that had arrived all the same counts as a duplicate.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "app/commands/eventfile.h"
#include "app/commands/online.h"
#include "app/commands/replay.h"
#include "codec/duration.h"
#include "codec/json_out.h"
#include "sys/clock.h"
#include "sys/random.h"

enum {
    BATCH_MAX = 10000,
    REASONS_MAX = 5,
    WAIT_FIRST_MS = 50,
    WAIT_MAX_MS = 5000,
    SAY_EVERY_MS = 10000,
    ANSWER_MS = 60000
};

/* ---- posting with patience ------------------------------------------------------------------------ */

struct event_place {
    size_t at; /* in the body */
    uint64_t line;
    bool settled; /* taken, or never to be */
};

struct poster {
    struct kz_online online;
    const char *path; /* the file's, for messages */
    struct kz_buf body;
    struct event_place *events;
    size_t count, batch_max;
    int64_t patience_ms;
    bool quiet;
    bool begun; /* an answer came: from here on, a lost connection is waited for */
    /* While the server does not take events: since when it took none, when that was last said (of any
     * time that it did not), whether of this time, and the next pause. */
    int64_t refused_ms, said_ms, wait_ms;
    bool said;
    uint64_t accepted, duplicates, rejected, retries;
    char *reasons[REASONS_MAX];
    size_t reason_count;
    char *ignored[REASONS_MAX]; /* fields that the server did not know; the first few */
    size_t ignored_count;
};

static enum kz_code poster_open(
        struct poster *poster, const struct kz_args *args, size_t batch_max, struct kz_err *err)
{
    *poster = (struct poster){.path = args->arguments[0],
            .batch_max = batch_max,
            .quiet = kz_args_flag(args, "quiet")};
    poster->events = kz_calloc(batch_max + 1, sizeof(*poster->events));
    return kz_online_open(args, &poster->online, err);
}

static void poster_close(struct poster *poster)
{
    for (size_t i = 0; i < poster->reason_count; i++)
        free(poster->reasons[i]);
    for (size_t i = 0; i < poster->ignored_count; i++)
        free(poster->ignored[i]);
    free(poster->events);
    kz_buf_done(&poster->body);
    kz_online_close(&poster->online);
}

static void reject(struct poster *poster, uint64_t line, const char *reason)
{
    struct kz_buf text = {0};

    poster->rejected++;
    if (poster->reason_count == REASONS_MAX)
        return;
    if (line)
        kz_buf_printf(&text, "%s:%" PRIu64 ": ", poster->path, line);
    kz_buf_cstr(&text, reason);
    kz_buf_char(&text, '\0');
    poster->reasons[poster->reason_count++] = text.data;
}

/* A row that could not be read; the message names the place already. */
static void reject_row(void *arg, const struct kz_err *err)
{
    reject(arg, 0, err->message);
}

static void note_ignored(struct poster *poster, struct kz_json_value fields)
{
    struct kz_json_walk walk = kz_json_walk(fields);
    struct kz_json_value field;

    while (kz_json_walk_element(&walk, &field) && poster->ignored_count < REASONS_MAX) {
        size_t i = 0;

        while (i < poster->ignored_count && !kz_str_is(field.raw, poster->ignored[i]))
            i++;
        if (i == poster->ignored_count)
            poster->ignored[poster->ignored_count++] = kz_strndup(field.raw.ptr, field.raw.size);
    }
}

/* What the server says of the events from..to: all are settled but those that it refused for a while,
 * of which `err` tells the last one's reason. */
static enum kz_code take_answer(struct poster *poster, size_t from, size_t to, struct kz_str body,
        bool *ret_again, struct kz_err *err)
{
    struct kz_json_value root, item;
    struct kz_json_walk walk;
    struct kz_buf text = {0};
    bool again = false;
    uint64_t taken;

    if (kz_json_parse(body, 0, &root, err) != KZ_OK)
        return kz_wrap(err, "%s did not answer as Kizashi does", poster->online.url);
    for (size_t i = from; i < to; i++)
        poster->events[i].settled = true;
    taken = kz_online_count(root, "accepted") + kz_online_count(root, "duplicates");
    poster->accepted += kz_online_count(root, "accepted");
    poster->duplicates += kz_online_count(root, "duplicates");
    walk = kz_json_walk(kz_json_get(root, "rejected"));
    while (kz_json_walk_element(&walk, &item)) {
        uint64_t index = kz_online_count(item, "index");
        struct event_place *event = index < to - from ? &poster->events[from + index] : NULL;
        enum kz_code code = kz_online_code(item);

        if (event && kz_code_retry(code)) {
            event->settled = false;
            again = true;
            (void)kz_fail(err, code, "%s", kz_online_text(item, "message", &text));
        } else {
            reject(poster, event ? event->line : 0, kz_online_text(item, "message", &text));
        }
    }
    note_ignored(poster, kz_json_get(root, "ignored_fields"));
    kz_buf_done(&text);
    if (taken && poster->refused_ms) { /* patience is for a server that takes nothing */
        poster->refused_ms = kz_mono_ms();
        poster->wait_ms = WAIT_FIRST_MS;
    }
    *ret_again = again;
    return KZ_OK;
}

static void nap(int64_t ms)
{
    struct timespec span = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&span, NULL); /* cut short by a signal is fine: the caller looks at the clock */
}

/* Whether sending the same again may help, given how it ended. */
static bool worth_waiting(const struct poster *poster, enum kz_code code)
{
    if (poster->online.status)
        return kz_code_retry(code);
    return poster->begun && (code == KZ_UNAVAILABLE || code == KZ_IO || code == KZ_TIMEOUT);
}

/* Once when it begins, then every ten seconds; where it comes and goes, no more often than that. */
static void say_refused(struct poster *poster, int64_t now_ms, const struct kz_err *err)
{
    char for_ms[KZ_DURATION_BYTES], left_ms[KZ_DURATION_BYTES], status[24] = "";
    int64_t since_ms = now_ms - poster->refused_ms;

    if (poster->quiet || (poster->said_ms && now_ms - poster->said_ms < SAY_EVERY_MS))
        return;
    if (poster->online.status >= 400)
        snprintf(status, sizeof(status), "%d: ", poster->online.status);
    if (!poster->said) {
        fprintf(stderr, "%skizashi: %s does not take events for now: %s%s\n", kz_progress_clear(),
                poster->online.url, status, err->message);
        if (err->hint[0])
            fprintf(stderr, "  %s\n", err->hint);
        fprintf(stderr,
                "  trying again for up to %s; Ctrl-C ends it, and sending the file again is safe\n",
                kz_duration_format(poster->patience_ms, left_ms));
    } else {
        fprintf(stderr, "%skizashi: not taken for %s: %s%s; trying for %s more\n",
                kz_progress_clear(), kz_duration_format(since_ms / 1000 * 1000, for_ms), status,
                err->message,
                kz_duration_format((poster->patience_ms - since_ms + 999) / 1000 * 1000, left_ms));
    }
    poster->said = true;
    poster->said_ms = now_ms;
}

static void taken_again(struct poster *poster)
{
    char for_ms[KZ_DURATION_BYTES];

    if (poster->said)
        fprintf(stderr, "%skizashi: events are taken again, after %s\n", kz_progress_clear(),
                kz_duration_format(kz_mono_ms() - poster->refused_ms, for_ms));
    poster->said = false;
    poster->refused_ms = 0;
}

/* False where patience is at its end: it is counted from the first refusal on behind the last event that
 * was taken. */
static bool wait_a_while(struct poster *poster, const struct kz_err *err)
{
    int64_t now_ms = kz_mono_ms(), left_ms, wait_ms;

    if (!poster->refused_ms) {
        poster->refused_ms = now_ms;
        poster->wait_ms = WAIT_FIRST_MS;
    }
    left_ms = poster->refused_ms + poster->patience_ms - now_ms;
    if (left_ms <= 0)
        return false;
    say_refused(poster, now_ms, err);
    wait_ms = KZ_MAX(poster->wait_ms, (int64_t)poster->online.retry_s * 1000);
    nap(KZ_MIN(wait_ms, left_ms));
    poster->wait_ms = KZ_MIN(wait_ms * 2, (int64_t)WAIT_MAX_MS);
    poster->retries++;
    return true;
}

/* The first events that are not settled, side by side and at most `max` of them. */
static bool next_run(const struct poster *poster, size_t max, size_t *ret_from, size_t *ret_to)
{
    size_t from = 0, to;

    while (from < poster->count && poster->events[from].settled)
        from++;
    for (to = from; to < poster->count && to - from < max && !poster->events[to].settled; to++)
        ;
    *ret_from = from;
    *ret_to = to;
    return from < to;
}

/* One that is too large even alone is rejected: a request of one event more or less may be taken. */
static void too_large(
        struct poster *poster, size_t from, size_t to, size_t *max, const struct kz_err *err)
{
    *max = (to - from) / 2;
    if (*max)
        return;
    *max = 1;
    poster->events[from].settled = true;
    reject(poster, poster->events[from].line, err->message);
}

/* Until every event of the body is settled. */
static enum kz_code post_all(struct poster *poster, struct kz_err *err)
{
    size_t from, to, max = poster->count;

    while (next_run(poster, max, &from, &to)) {
        struct kz_str answer, body = kz_str_n(poster->body.data + poster->events[from].at,
                                      poster->events[to].at - poster->events[from].at);
        enum kz_code rc = kz_online_call(
                &poster->online, "POST", "/v1/events", body, ANSWER_MS, &answer, err);
        bool again = false;

        if (rc == KZ_OK) {
            poster->begun = true;
            max = KZ_MIN(max * 2, poster->count);
            KZ_TRY(take_answer(poster, from, to, answer, &again, err));
            if (!again)
                taken_again(poster);
            else if (!wait_a_while(poster, err))
                return err->code;
        } else if (poster->online.status == 413) {
            too_large(poster, from, to, &max, err);
        } else if (!worth_waiting(poster, rc) || !wait_a_while(poster, err)) {
            return rc;
        }
    }
    return KZ_OK;
}

static enum kz_code flush(struct poster *poster, struct kz_err *err)
{
    size_t count = poster->count;

    if (!count)
        return KZ_OK;
    poster->events[count].at = poster->body.size;
    KZ_TRY(post_all(poster, err));
    poster->count = 0;
    kz_buf_clear(&poster->body);
    return KZ_OK;
}

/* Where the next event's JSON is to be appended; end_event() follows. */
static struct kz_buf *begin_event(struct poster *poster, uint64_t line)
{
    poster->events[poster->count] = (struct event_place){.at = poster->body.size, .line = line};
    return &poster->body;
}

static enum kz_code end_event(struct poster *poster, struct kz_err *err)
{
    kz_buf_char(&poster->body, '\n');
    return ++poster->count == poster->batch_max ? flush(poster, err) : KZ_OK;
}

static uint64_t handled(const struct poster *poster)
{
    return poster->accepted + poster->duplicates + poster->rejected;
}

static int report(const struct poster *poster, bool json, bool quiet)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);

    if (json) {
        kz_json_out_object(&out);
        kz_json_out_kv_u64(&out, "accepted", poster->accepted);
        kz_json_out_kv_u64(&out, "duplicates", poster->duplicates);
        kz_json_out_kv_u64(&out, "rejected", poster->rejected);
        kz_json_out_kv_u64(&out, "retries", poster->retries);
        kz_json_out_key(&out, "reasons");
        kz_json_out_array(&out);
        for (size_t i = 0; i < poster->reason_count; i++)
            kz_json_out_cstr(&out, poster->reasons[i]);
        kz_json_out_array_end(&out);
        kz_json_out_key(&out, "ignored_fields");
        kz_json_out_array(&out);
        for (size_t i = 0; i < poster->ignored_count; i++)
            kz_json_out_raw(&out, kz_str(poster->ignored[i]));
        kz_json_out_array_end(&out);
        kz_json_out_object_end(&out);
        printf("%.*s\n", (int)buf.size, buf.data);
    } else if (!quiet) {
        printf("accepted %" PRIu64 ", duplicates %" PRIu64 ", rejected %" PRIu64 "\n",
                poster->accepted, poster->duplicates, poster->rejected);
    }
    kz_buf_done(&buf);
    for (size_t i = 0; i < poster->reason_count && !json; i++)
        fprintf(stderr, "  rejected: %s\n", poster->reasons[i]);
    if (!json && poster->rejected > poster->reason_count)
        fprintf(stderr,
                "  and %" PRIu64 " more; `kizashi deadletters list` shows what the server kept\n",
                poster->rejected - poster->reason_count);
    for (size_t i = 0; i < poster->ignored_count && !json; i++)
        fprintf(stderr, "  ignored: field %s, which belongs into props\n", poster->ignored[i]);
    return poster->rejected ? KZ_EXIT_FAILED : KZ_EXIT_DONE;
}

/* What went in before it failed is said, too: sending again continues. */
static int report_failure(const struct poster *poster, const struct kz_err *err)
{
    char for_ms[KZ_DURATION_BYTES];

    if (poster->refused_ms)
        fprintf(stderr, "kizashi: given up after %s without an event taken\n",
                kz_duration_format(kz_mono_ms() - poster->refused_ms, for_ms));
    if (handled(poster))
        fprintf(stderr,
                "kizashi: stopped after %" PRIu64 " accepted, %" PRIu64 " duplicates, %" PRIu64
                " rejected; sending the file again is safe\n",
                poster->accepted, poster->duplicates, poster->rejected);
    return kz_command_fail(err);
}

/* ---- send ----------------------------------------------------------------------------------------- */

static enum kz_code send_all(
        struct poster *poster, struct kz_event_file *file, bool quiet, struct kz_err *err)
{
    struct kz_progress progress;
    struct kz_event_line line;
    char extra[64];
    enum kz_code rc;

    kz_progress_begin(&progress, "sending", 0, quiet);
    while ((rc = kz_event_file_next(file, &line, err)) != KZ_END) {
        if (rc != KZ_OK && rc != KZ_INVALID)
            return rc;
        if (rc == KZ_INVALID) {
            reject_row(poster, err);
            continue;
        }
        kz_buf_str(begin_event(poster, line.line), line.json);
        KZ_TRY(end_event(poster, err));
        if (!poster->count) {
            snprintf(extra, sizeof(extra), "%.0f %% of the file",
                    100.0 * (double)kz_event_file_position(file) /
                            (double)KZ_MAX(kz_event_file_size(file), (uint64_t)1));
            kz_progress_show(&progress, handled(poster), extra);
        }
    }
    KZ_TRY(flush(poster, err));
    kz_progress_end(&progress, handled(poster), NULL);
    return KZ_OK;
}

static int run_send(const struct kz_args *args)
{
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = NULL;
    int64_t batch = kz_args_int(args, "batch", 1, BATCH_MAX);
    int64_t patience_ms = kz_args_duration_ms(args, "retry-for");
    bool json = kz_args_flag(args, "json"), quiet = kz_args_flag(args, "quiet");
    struct poster poster;
    struct kz_err err = {0};
    int exit_code;

    if (kz_event_file_open(args->arguments[0], kz_args_get(args, "map"), &file, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (poster_open(&poster, args, (size_t)batch, &err) == KZ_OK) {
        poster.patience_ms = patience_ms;
        exit_code = send_all(&poster, file, quiet || json, &err) == KZ_OK
                            ? report(&poster, json, false)
                            : report_failure(&poster, &err);
    } else {
        exit_code = kz_command_fail(&err);
    }
    poster_close(&poster);
    return exit_code;
}

const struct kz_command kz_command_send = {
        .name = "send",
        .arguments = "FILE|-",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Sends events of a file to a running Kizashi.",
        .details =
                "NDJSON as POST /v1/events takes it, or CSV; columns that are not mapped become\n"
                "props. What is refused for a while (a full disk, too many requests) is sent again,\n"
                "and said. An event without an event_id gets one made of the file and its line:\n"
                "sending a file twice is safe.\n"
                "Exit code 1 if anything was rejected. For history from before use `import`.",
        .example = "kizashi send log.csv --map ts=event_time,name=event_type,user_id=user_id",
        .options =
                {
                        KZ_ONLINE_OPTIONS,
                        {"map", "MAP", NULL,
                                "CSV: FIELD=COLUMN,... for ts, name, user_id, "
                                "anonymous_id, event_id"},
                        {"batch", "COUNT", "500", "events of a request"},
                        {"retry-for", "DURATION", "10m",
                                "how long to try again when refused or cut off; 0s: not at all"},
                        {"quiet", NULL, NULL, "no progress"},
                        {"json", NULL, NULL, "the outcome as JSON"},
                },
        .run = run_send,
};

/* ---- replay --------------------------------------------------------------------------------------- */

enum { REPLAY_BATCH = 500, COPIES_MAX = 1000, REPLAY_PATIENCE_MS = 60000 };

struct replay {
    struct poster *poster;
    struct kz_event_file *file;
    struct kz_progress progress;
    double speed; /* 0: as fast as it goes */
    uint32_t copies;
    bool shift, loop, event_clock;
    char token[16]; /* of this run, so that a loop's visitors are new in every run */
    uint64_t round;
    int64_t first_ms, last_ms;           /* ts of the file's first and last event that has one */
    int64_t started_ms, started_mono_ms; /* of the round */
};

/* "x3" or "3"; 0: neither. */
static uint32_t parse_times(const char *text)
{
    char *end;
    unsigned long n = strtoul(text + (*text == 'x'), &end, 10);

    return *end || n < 1 || n > COPIES_MAX ? 0 : (uint32_t)n;
}

/* "10x", "10", "0.5x", "max" (0); negative: none of these. */
static double parse_speed(const char *text)
{
    char *end;
    double speed;

    if (strcmp(text, "max") == 0)
        return 0;
    speed = strtod(text, &end);
    if (end == text || (*end && strcmp(end, "x") != 0) || !(speed > 0) || !isfinite(speed))
        return -1;
    return speed;
}

static int64_t offset_ms(const struct replay *replay, int64_t ts_ms)
{
    int64_t offset = ts_ms ? ts_ms - replay->first_ms : 0;

    return replay->speed > 0 ? (int64_t)((double)offset / replay->speed) : offset;
}

/* When it is played, its time is now; played all at once, the last one's is. */
static int64_t shifted_ms(const struct replay *replay, int64_t ts_ms)
{
    if (replay->speed > 0)
        return replay->started_ms + offset_ms(replay, ts_ms);
    return replay->started_ms - (replay->last_ms - (ts_ms ? ts_ms : replay->last_ms));
}

static void put_key(struct kz_json_out *out, struct kz_json_value key)
{
    struct kz_buf text = {0};

    kz_json_unescape(key, &text);
    kz_json_out_key_str(out, kz_buf_view(&text));
    kz_buf_done(&text);
}

static void put_suffixed(struct kz_json_out *out, struct kz_json_value value, const char *suffix)
{
    struct kz_buf text = {0};

    if (value.kind == KZ_JSON_STRING)
        kz_json_unescape(value, &text);
    else
        kz_buf_str(&text, value.raw);
    kz_buf_cstr(&text, suffix);
    kz_json_out_str(out, kz_buf_view(&text));
    kz_buf_done(&text);
}

static bool is_id(struct kz_json_value key)
{
    return kz_json_is(key, "user_id") || kz_json_is(key, "anonymous_id") ||
           kz_json_is(key, "event_id");
}

/* The event as this round and copy play it. */
static void put_event(const struct replay *replay, const struct kz_event_line *line,
        const char *suffix, struct kz_buf *buf)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_trusted(line->json));
    struct kz_json_out out = kz_json_out(buf);
    struct kz_json_value key, value;

    kz_json_out_object(&out);
    while (kz_json_walk_member(&walk, &key, &value)) {
        if (replay->shift && kz_json_is(key, "ts"))
            continue;
        put_key(&out, key);
        if (*suffix && is_id(key) && value.kind != KZ_JSON_NULL)
            put_suffixed(&out, value, suffix);
        else
            kz_json_out_raw(&out, value.raw);
    }
    if (replay->shift)
        kz_json_out_kv_i64(&out, "ts", shifted_ms(replay, line->ts_ms));
    kz_json_out_object_end(&out);
}

static enum kz_code put_copies(
        struct replay *replay, const struct kz_event_line *line, struct kz_err *err)
{
    char suffix[64];

    for (uint32_t copy = 0; copy < replay->copies; copy++) {
        size_t used = 0;

        suffix[0] = '\0';
        if (copy)
            used = (size_t)snprintf(suffix, sizeof(suffix), "-x%u", copy + 1);
        if (replay->loop)
            snprintf(suffix + used, sizeof(suffix) - used, "-%s-%" PRIu64, replay->token,
                    replay->round);
        put_event(replay, line, suffix, begin_event(replay->poster, line->line));
        KZ_TRY(end_event(replay->poster, err));
    }
    return KZ_OK;
}

static void show_replay(struct replay *replay, uint64_t played)
{
    char extra[96] = "";

    if (replay->loop)
        snprintf(extra, sizeof(extra), "round %" PRIu64 ", %.0f %% of it", replay->round,
                100.0 * (double)played / (double)KZ_MAX(kz_event_file_count(replay->file), 1u));
    kz_progress_show(&replay->progress, handled(replay->poster), extra[0] ? extra : NULL);
}

/* Sends what is due and sleeps until `line` is. */
static enum kz_code wait_for(struct replay *replay, const struct kz_event_line *line,
        uint64_t played, struct kz_err *err)
{
    int64_t due_ms;

    if (replay->speed <= 0)
        return KZ_OK;
    due_ms = replay->started_mono_ms + offset_ms(replay, line->ts_ms);
    if (due_ms <= kz_mono_ms())
        return KZ_OK;
    KZ_TRY(flush(replay->poster, err));
    for (int64_t left_ms; (left_ms = due_ms - kz_mono_ms()) > 0;) {
        show_replay(replay, played);
        nap(KZ_MIN(left_ms, (int64_t)200));
    }
    return KZ_OK;
}

static enum kz_code play_round(struct replay *replay, struct kz_err *err)
{
    struct kz_event_line line;
    enum kz_code rc;
    uint64_t played = 0;

    replay->round++;
    replay->started_ms = kz_clock_ms();
    replay->started_mono_ms = kz_mono_ms();
    KZ_TRY(kz_event_file_rewind(
            replay->file, true, replay->round == 1 ? reject_row : NULL, replay->poster, err));
    while ((rc = kz_event_file_next(replay->file, &line, err)) != KZ_END) {
        if (rc == KZ_INVALID)
            continue; /* counted by the rewind */
        KZ_TRY(rc);
        KZ_TRY(wait_for(replay, &line, played, err));
        KZ_TRY(put_copies(replay, &line, err));
        played++;
        show_replay(replay, played);
    }
    return flush(replay->poster, err);
}

/* The span of the file's times; an event without one comes first. */
static enum kz_code survey(struct replay *replay, struct kz_err *err)
{
    struct kz_event_line line;
    enum kz_code rc;

    KZ_TRY(kz_event_file_rewind(replay->file, true, NULL, NULL, err));
    while ((rc = kz_event_file_next(replay->file, &line, err)) != KZ_END) {
        if (rc == KZ_INVALID)
            continue;
        KZ_TRY(rc);
        if (!line.ts_ms)
            continue;
        if (!replay->first_ms)
            replay->first_ms = line.ts_ms;
        replay->last_ms = line.ts_ms;
    }
    if (!kz_event_file_count(replay->file))
        return kz_fail(
                err, KZ_INVALID, "\"%s\" has no event that can be read", replay->poster->path);
    return KZ_OK;
}

/* Roles on virtual time (`up --role ... --clock event`) are told that there is no more to come: what waits
 * for a time fires. */
static enum kz_code end_of_time(struct replay *replay, struct kz_err *err)
{
    const int64_t years_ms = 10ll * 366 * 86400000;
    struct kz_str answer;
    char path[80];

    snprintf(path, sizeof(path), "/v1/watermark?ms=%" PRId64, replay->last_ms + years_ms);
    if (kz_online_call(&replay->poster->online, "POST", path, KZ_STR_NULL, ANSWER_MS, &answer,
                err) != KZ_OK)
        return kz_wrap(err, "at the end of the replay (is it a role collect with --clock event?)");
    return KZ_OK;
}

static enum kz_code play(struct replay *replay, bool quiet, struct kz_err *err)
{
    uint8_t random[5];

    KZ_TRY(survey(replay, err));
    kz_random_bytes(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++)
        replay->token[i] = "abcdefghijklmnopqrstuvwxyz234567"[random[i] & 31];
    kz_progress_begin(&replay->progress, "replaying",
            replay->loop ? 0 : kz_event_file_count(replay->file) * replay->copies, quiet);
    do
        KZ_TRY(play_round(replay, err));
    while (replay->loop);
    if (replay->event_clock)
        KZ_TRY(end_of_time(replay, err));
    kz_progress_end(&replay->progress, handled(replay->poster), NULL);
    return KZ_OK;
}

int kz_replay_url(const struct kz_args *args)
{
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = NULL;
    const char *speed = kz_args_get(args, "speed"), *users = kz_args_get(args, "users"),
               *ts = kz_args_get(args, "ts");
    struct replay replay = {.speed = speed ? parse_speed(speed) : 1,
            .copies = users ? parse_times(users) : 1,
            .shift = !ts || strcmp(ts, "shift") == 0,
            .loop = kz_args_flag(args, "loop"),
            .event_clock = kz_args_get(args, "clock") != NULL &&
                           strcmp(kz_args_get(args, "clock"), "event") == 0};
    bool json = kz_args_flag(args, "json"), quiet = json || kz_args_flag(args, "quiet");
    struct poster poster;
    struct kz_err err = {0};
    int exit_code;

    if (replay.event_clock) { /* as they are, and as fast as they are taken */
        replay.speed = 0;
        replay.shift = false;
    }
    if (replay.speed < 0)
        return kz_command_usage(args, "--speed is \"%s\", it has to be like 10x or max", speed);
    if (!replay.copies)
        return kz_command_usage(args, "--users is \"%s\", it has to be like x3", users);
    if (ts && !replay.shift && strcmp(ts, "keep") != 0)
        return kz_command_usage(args, "--ts is \"%s\", it has to be shift or keep", ts);
    if (kz_event_file_open(args->arguments[0], kz_args_get(args, "map"), &file, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (poster_open(&poster, args, REPLAY_BATCH, &err) == KZ_OK) {
        poster.patience_ms = REPLAY_PATIENCE_MS;
        replay.poster = &poster;
        replay.file = file;
        exit_code = play(&replay, quiet, &err) == KZ_OK ? report(&poster, json, quiet)
                                                        : report_failure(&poster, &err);
    } else {
        exit_code = kz_command_fail(&err);
    }
    poster_close(&poster);
    return exit_code;
}
