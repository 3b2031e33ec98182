#include "app/commands/eventfile.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/hash.h"
#include "codec/csv.h"
#include "codec/hex.h"
#include "codec/json.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"
#include "sys/file.h"

enum { COLUMNS_MAX = 256, PROBLEMS_SHOWN = 10 };

enum field {
    FIELD_PROP,
    FIELD_TS,
    FIELD_NAME,
    FIELD_USER,
    FIELD_ANONYMOUS,
    FIELD_EVENT_ID,
    FIELD_COUNT
};
static const char *const field_names[] = {
        NULL, "ts", "name", "user_id", "anonymous_id", "event_id"};

struct place {
    int64_t ts_ms;
    uint64_t offset;
    uint64_t line;
};

struct kz_event_file {
    char *path;
    char *map;
    struct kz_str data;
    bool mapped;
    bool csv;
    uint64_t base; /* hash of the contents' beginning and size: the file's part of made ids */

    /* CSV header: what each column is, and its name. */
    enum field fields[COLUMNS_MAX];
    char *names[COLUMNS_MAX];
    size_t column_count;
    struct kz_csv reader;
    uint64_t rows_at; /* offset of the first row */
    uint64_t rows_line;

    uint64_t offset, line;
    struct place *order; /* sorted reading; NULL: as in the file */
    size_t order_count, order_at;
    struct kz_buf out;
    struct kz_arena arena;
};

static enum kz_code read_in(struct kz_event_file *file, struct kz_err *err)
{
    struct stat st;
    struct kz_buf all = {0};
    int fd;

    if (strcmp(file->path, "-") == 0) {
        ssize_t n;

        do {
            kz_buf_reserve(&all, 1 << 16);
            n = read(STDIN_FILENO, all.data + all.size, 1 << 16);
            if (n > 0)
                all.size += (size_t)n;
        } while (n > 0);
        file->data = kz_buf_view(&all);
        return n < 0 ? kz_fail_errno(err, "could not read standard input") : KZ_OK;
    }
    fd = open(
            file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO is refused, not waited for */
    if (fd < 0)
        return kz_fail_errno(err, "could not open \"%s\"", file->path);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return kz_fail(err, KZ_INVALID, "\"%s\" is not a file", file->path);
    }
    if (st.st_size) {
        void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (data == MAP_FAILED) {
            close(fd);
            return kz_fail_errno(err, "could not map \"%s\"", file->path);
        }
        file->data = kz_str_n(data, (size_t)st.st_size);
        file->mapped = true;
    }
    close(fd);
    return KZ_OK;
}

/* ---- CSV header and map ------------------------------------------------------------------------------- */

static enum kz_code find_column(
        struct kz_event_file *file, struct kz_str name, size_t *ret_index, struct kz_err *err)
{
    for (size_t i = 0; i < file->column_count; i++)
        if (kz_str_is(name, file->names[i])) {
            *ret_index = i;
            return KZ_OK;
        }
    return kz_fail(
            err, KZ_INVALID, "%s has no column \"" KZ_STR_FMT "\"", file->path, KZ_STR_ARG(name));
}

/* "ts=event_time,name=event_type" */
static enum kz_code apply_map(struct kz_event_file *file, struct kz_err *err)
{
    const char *at = file->map;

    while (at && *at) {
        size_t size = strcspn(at, ",");
        const char *equals = memchr(at, '=', size);
        enum field field = FIELD_COUNT;
        size_t column = 0;

        if (!equals)
            return kz_fail(err, KZ_INVALID, "--map \"%s\": \"%.*s\" has no \"=\"", file->map,
                    (int)size, at);
        for (int f = FIELD_TS; f < FIELD_COUNT; f++)
            if (kz_str_is(kz_str_n(at, (size_t)(equals - at)), field_names[f]))
                field = (enum field)f;
        if (field == FIELD_COUNT)
            return kz_fail(err, KZ_INVALID,
                    "--map: \"%.*s\" is no field; they are ts, name, user_id, anonymous_id, event_id",
                    (int)(equals - at), at);
        KZ_TRY(find_column(
                file, kz_str_n(equals + 1, size - (size_t)(equals + 1 - at)), &column, err));
        file->fields[column] = field;
        at += size + (at[size] == ',');
    }
    return KZ_OK;
}

static enum kz_code read_header(struct kz_event_file *file, struct kz_err *err)
{
    struct kz_csv_row row;
    bool has[FIELD_COUNT] = {0};
    enum kz_code rc;

    kz_csv_init(&file->reader, file->data, ',', true);
    rc = kz_csv_next(&file->reader, &row, err);
    if (rc == KZ_END)
        return kz_fail(err, KZ_INVALID, "\"%s\" is empty", file->path);
    if (rc != KZ_OK)
        return kz_wrap(err, "%s", file->path);
    if (row.count > COLUMNS_MAX)
        return kz_fail(err, KZ_INVALID, "%s has more than %d columns", file->path, COLUMNS_MAX);
    for (size_t i = 0; i < row.count; i++) {
        file->names[i] = kz_strndup(row.fields[i].ptr, row.fields[i].size);
        file->column_count++;
        for (int f = FIELD_TS; f < FIELD_COUNT && !file->map; f++)
            if (kz_str_is(row.fields[i], field_names[f]))
                file->fields[i] = (enum field)f;
    }
    KZ_TRY(apply_map(file, err));
    for (size_t i = 0; i < file->column_count; i++)
        has[file->fields[i]] = true;
    if (!has[FIELD_NAME] || !(has[FIELD_USER] || has[FIELD_ANONYMOUS])) {
        (void)kz_fail(
                err, KZ_INVALID, "%s: no column is mapped to \"name\" or to a user", file->path);
        return kz_hint(err, "--map ts=COLUMN,name=COLUMN,user_id=COLUMN");
    }
    file->rows_at = file->data.size - kz_csv_rest(&file->reader).size;
    file->rows_line = file->reader.line;
    return KZ_OK;
}

enum kz_code kz_event_file_open(
        const char *path, const char *map, struct kz_event_file **ret_file, struct kz_err *err)
{
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = kz_calloc(1, sizeof(*file));
    size_t start = 0;

    file->path = kz_strdup(path);
    file->map = map ? kz_strdup(map) : NULL;
    kz_arena_init(&file->arena, 0);
    KZ_TRY(read_in(file, err));
    while (start < file->data.size && strchr(" \t\r\n", file->data.ptr[start]))
        start++;
    file->csv = start < file->data.size && file->data.ptr[start] != '{';
    file->base = kz_hash(file->data.ptr, KZ_MIN(file->data.size, (size_t)1 << 16)) ^
                 (uint64_t)file->data.size;
    if (file->csv)
        KZ_TRY(read_header(file, err));
    KZ_TRY(kz_event_file_rewind(file, false, NULL, NULL, err));
    *ret_file = kz_take(&file);
    return KZ_OK;
}

void kz_event_file_close(struct kz_event_file *file)
{
    if (!file)
        return;
    if (file->mapped)
        munmap((void *)file->data.ptr, file->data.size);
    else
        free((void *)file->data.ptr);
    for (size_t i = 0; i < file->column_count; i++)
        free(file->names[i]);
    kz_csv_done(&file->reader);
    kz_buf_done(&file->out);
    kz_arena_done(&file->arena);
    free(file->order);
    free(file->path);
    free(file->map);
    free(file);
}

/* ---- one event ----------------------------------------------------------------------------------------- */

static void put_made_id(struct kz_json_out *out, const struct kz_event_file *file, uint64_t line)
{
    char text[40];

    snprintf(text, sizeof(text), "f%016llx-%llu", (unsigned long long)file->base,
            (unsigned long long)line);
    kz_json_out_kv_cstr(out, "event_id", text);
}

/* A cell as JSON: a number where it is written as one, else text. */
static void put_cell(struct kz_json_out *out, struct kz_str cell)
{
    struct kz_json_value value;

    if ((cell.ptr[0] == '-' || (cell.ptr[0] >= '0' && cell.ptr[0] <= '9')) && cell.size < 16 &&
            kz_json_parse(cell, 1, &value, NULL) == KZ_OK)
        kz_json_out_raw(out, cell);
    else
        kz_json_out_str(out, cell);
}

/* The line of a row that cannot be read is passed over, so that the next call goes on behind it. */
static void skip_line(struct kz_event_file *file)
{
    struct kz_csv *csv = &file->reader;
    const char *newline = memchr(csv->rest.ptr, '\n', csv->rest.size);
    size_t skip = newline ? (size_t)(newline - csv->rest.ptr) + 1 : csv->rest.size;

    csv->rest = kz_str_n(csv->rest.ptr + skip, csv->rest.size - skip);
    csv->line++;
}

static enum kz_code next_csv(
        struct kz_event_file *file, struct kz_event_line *ret, struct kz_err *err)
{
    struct kz_csv_row row;
    struct kz_json_out out;
    bool has_id = false;
    enum kz_code rc = kz_csv_next(&file->reader, &row, err);

    if (rc != KZ_OK && rc != KZ_END)
        skip_line(file);
    file->offset = file->data.size - kz_csv_rest(&file->reader).size;
    KZ_TRY(rc);
    *ret = (struct kz_event_line){.line = row.line};
    if (row.count != file->column_count)
        return kz_fail(err, KZ_INVALID, "%s:%llu: %zu fields, the header has %zu", file->path,
                (unsigned long long)row.line, row.count, file->column_count);
    kz_buf_clear(&file->out);
    kz_arena_reset(&file->arena);
    out = kz_json_out(&file->out);
    kz_json_out_object(&out);
    for (size_t i = 0; i < row.count; i++) {
        enum field field = file->fields[i];

        if (field == FIELD_PROP || !row.fields[i].size)
            continue;
        if (field == FIELD_TS) {
            struct kz_err inner;

            if (kz_time_parse(row.fields[i], &ret->ts_ms, &inner) != KZ_OK) {
                char *end, *text = kz_arena_cstr(&file->arena, row.fields[i]);
                long long ms = strtoll(text, &end, 10);

                if (*end)
                    return kz_fail(err, KZ_INVALID, "%s:%llu: %s", file->path,
                            (unsigned long long)row.line, inner.message);
                ret->ts_ms = ms;
            }
            kz_json_out_kv_i64(&out, "ts", ret->ts_ms);
        } else {
            kz_json_out_kv_str(&out, field_names[field], row.fields[i]);
        }
        if (field == FIELD_USER || (field == FIELD_ANONYMOUS && !ret->user.size))
            ret->user = kz_arena_str(&file->arena, row.fields[i]);
        has_id |= field == FIELD_EVENT_ID;
    }
    if (!has_id)
        put_made_id(&out, file, row.line);
    kz_json_out_key(&out, "props");
    kz_json_out_object(&out);
    for (size_t i = 0; i < row.count; i++)
        if (file->fields[i] == FIELD_PROP && row.fields[i].size) {
            kz_json_out_key(&out, file->names[i]);
            put_cell(&out, row.fields[i]);
        }
    kz_json_out_object_end(&out);
    kz_json_out_object_end(&out);
    ret->json = kz_buf_view(&file->out);
    return KZ_OK;
}

static enum kz_code next_json(
        struct kz_event_file *file, struct kz_event_line *ret, struct kz_err *err)
{
    struct kz_str line = KZ_STR_NULL;
    struct kz_json_value root, value, key;
    struct kz_json_walk walk;
    struct kz_err inner;

    while (!line.size) {
        size_t left = file->data.size - file->offset;
        const char *start, *end;

        if (!left)
            return kz_fail(err, KZ_END, "no more events");
        start = file->data.ptr + file->offset;
        end = memchr(start, '\n', left);
        line = kz_str_n(start, end ? (size_t)(end - start) : left);
        file->offset += line.size + (end != NULL);
        file->line++;
        /* strchr() would take a NUL for a blank, too. */
        while (line.size && memchr(" \t\r", line.ptr[line.size - 1], 3))
            line.size--;
    }
    *ret = (struct kz_event_line){.line = file->line, .json = line};
    if (kz_json_parse(line, 0, &root, &inner) != KZ_OK)
        return kz_fail(err, KZ_INVALID, "%s:%llu: %s", file->path, (unsigned long long)file->line,
                inner.message);
    if (root.kind != KZ_JSON_OBJECT)
        return kz_fail(err, KZ_INVALID, "%s:%llu: not a JSON object", file->path,
                (unsigned long long)file->line);
    kz_arena_reset(&file->arena);
    value = kz_json_get(root, "ts");
    if (value.kind == KZ_JSON_INT)
        KZ_IGNORE(kz_json_i64(value, &ret->ts_ms, NULL)); /* stays 0: the server will say */
    else if (value.kind == KZ_JSON_STRING) {
        struct kz_str text;

        if (kz_json_str(value, &file->arena, &text, NULL) == KZ_OK)
            KZ_IGNORE(kz_time_parse(text, &ret->ts_ms, NULL)); /* likewise */
    }
    value = kz_json_get(root, "user_id");
    if (value.kind != KZ_JSON_STRING)
        value = kz_json_get(root, "anonymous_id");
    if (value.kind == KZ_JSON_STRING)
        KZ_IGNORE(kz_json_str(value, &file->arena, &ret->user, NULL)); /* stays empty */
    if (kz_json_get(root, "event_id").kind != KZ_JSON_NONE)
        return KZ_OK;
    kz_buf_clear(&file->out);
    struct kz_json_out out = kz_json_out(&file->out);
    kz_json_out_object(&out);
    put_made_id(&out, file, file->line);
    kz_json_out_object_end(&out);
    file->out.size--; /* the closing brace: the event's own members follow */
    walk = kz_json_walk(root);
    if (kz_json_walk_member(&walk, &key, &value))
        kz_buf_char(&file->out, ',');
    kz_buf_put(&file->out, root.raw.ptr + 1, root.raw.size - 1);
    ret->json = kz_buf_view(&file->out);
    return KZ_OK;
}

static enum kz_code next_in_file(
        struct kz_event_file *file, struct kz_event_line *ret, struct kz_err *err)
{
    enum kz_code rc = file->csv ? next_csv(file, ret, err) : next_json(file, ret, err);

    if (rc == KZ_INVALID && file->csv && !strstr(err->message, file->path))
        return kz_wrap(err, "%s", file->path);
    return rc;
}

static void seek(struct kz_event_file *file, uint64_t offset, uint64_t line)
{
    file->offset = offset;
    if (!file->csv) {
        file->line = line - 1;
        return;
    }
    kz_csv_done(&file->reader);
    kz_csv_init(
            &file->reader, kz_str_n(file->data.ptr + offset, file->data.size - offset), ',', true);
    file->reader.begun = true;
    file->reader.line = line;
}

enum kz_code kz_event_file_next(
        struct kz_event_file *file, struct kz_event_line *ret_line, struct kz_err *err)
{
    if (!file->order)
        return next_in_file(file, ret_line, err);
    if (file->order_at == file->order_count)
        return kz_fail(err, KZ_END, "no more events");
    seek(file, file->order[file->order_at].offset, file->order[file->order_at].line);
    file->order_at++;
    return next_in_file(file, ret_line, err);
}

/* ---- order --------------------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->ts_ms != y->ts_ms)
        return x->ts_ms < y->ts_ms ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

enum kz_code kz_event_file_rewind(struct kz_event_file *file, bool sorted,
        void (*broken)(void *arg, const struct kz_err *err), void *arg, struct kz_err *err)
{
    size_t capacity = 0;

    free(file->order);
    file->order = NULL;
    file->order_count = file->order_at = 0;
    seek(file, file->csv ? file->rows_at : 0, file->csv ? file->rows_line : 1);
    if (!sorted)
        return KZ_OK;
    struct place *order = NULL;
    for (;;) {
        struct place place = {
                .offset = file->offset, .line = file->csv ? file->reader.line : file->line + 1};
        struct kz_event_line line;
        enum kz_code rc = next_in_file(file, &line, err);

        if (rc == KZ_END)
            break;
        if (rc != KZ_OK) {
            if (broken)
                broken(arg, err);
            continue;
        }
        place.ts_ms = line.ts_ms;
        if (file->order_count == capacity) {
            capacity = capacity ? capacity * 2 : 1024;
            order = kz_realloc(order, capacity * sizeof(*order));
        }
        order[file->order_count++] = place;
    }
    if (order)
        qsort(order, file->order_count, sizeof(*order), by_time);
    else
        order = kz_malloc(sizeof(*order));
    file->order = order;
    return KZ_OK;
}

struct kz_str kz_event_file_text(const struct kz_event_file *file)
{
    return file->data;
}

uint64_t kz_event_file_size(const struct kz_event_file *file)
{
    return file->data.size;
}

uint64_t kz_event_file_position(const struct kz_event_file *file)
{
    return file->offset;
}

uint64_t kz_event_file_count(const struct kz_event_file *file)
{
    return file->order_count;
}

/* ---- rows that cannot be taken --------------------------------------------------------------------- */

static void show_problem(struct kz_row_problems *problems, const char *text)
{
    if (problems->count++ < PROBLEMS_SHOWN)
        fprintf(stderr, "%s\n", text);
    else if (problems->count == PROBLEMS_SHOWN + 1)
        fprintf(stderr, "... further rows that cannot be taken are only counted\n");
}

static void broken_row(void *arg, const struct kz_err *err)
{
    show_problem(arg, err->message);
}

void kz_row_rejected(void *arg, uint64_t line, const char *code, struct kz_str message)
{
    struct kz_row_problems *problems = arg;
    char text[600];

    snprintf(text, sizeof(text), "%s:%llu: %s: " KZ_STR_FMT, problems->file,
            (unsigned long long)line, code, KZ_STR_ARG(message));
    show_problem(problems, text);
}

enum kz_code kz_event_file_sort(
        struct kz_event_file *file, struct kz_row_problems *problems, struct kz_err *err)
{
    return kz_event_file_rewind(file, true, broken_row, problems, err);
}
