#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include "base/hash.h"
#include "codec/csv.h"
#include "codec/utf8.h"
#include "feature/lex.h"
#include "feature/sql_int.h"
#include "sys/file.h"

enum { FILE_SIZE_MAX = 256 << 20, FILE_COLUMNS_MAX = 1000, NUMBER_SIZE_MAX = 64 };

/* One CSV file on its way into a table. */
struct load {
    sqlite3 *db;
    const struct kz_table_def *def;
    struct kz_str text;
    struct kz_csv csv;
    size_t column_count;
    enum kz_type types[FILE_COLUMNS_MAX];
    sqlite3_stmt *insert;
};

static void quote_name(struct kz_buf *out, struct kz_str name)
{
    kz_buf_char(out, '"');
    for (size_t i = 0; i < name.size; i++) {
        if (name.ptr[i] == '"')
            kz_buf_char(out, '"');
        kz_buf_char(out, name.ptr[i]);
    }
    kz_buf_char(out, '"');
}

static enum kz_code run(sqlite3 *db, struct kz_buf *statement, struct kz_err *err)
{
    kz_buf_char(statement, '\0');
    if (sqlite3_exec(db, statement->data, NULL, NULL, NULL) != SQLITE_OK)
        return kz_fail(err, KZ_CONFIG, "%s", sqlite3_errmsg(db));
    return KZ_OK;
}

static enum kz_code create_index(sqlite3 *db, const struct kz_table_def *def, struct kz_err *err)
{
    struct kz_buf statement = {0};
    enum kz_code code;

    if (!def->key)
        return KZ_OK;
    kz_buf_cstr(&statement, "CREATE INDEX ");
    quote_name(&statement, kz_str(def->key));
    statement.size--; /* "key by table", a name of its own */
    kz_buf_printf(&statement, " of %s\" ON ", def->name);
    quote_name(&statement, kz_str(def->name));
    kz_buf_char(&statement, '(');
    quote_name(&statement, kz_str(def->key));
    kz_buf_char(&statement, ')');
    code = run(db, &statement, err);
    kz_buf_done(&statement);
    return code == KZ_OK ? code : kz_wrap(err, "indexing table %s by %s", def->name, def->key);
}

/* ---- files
 * --------------------------------------------------------------------------------------- */

/* The place of a cell. Where quotes were undoubled the cell is elsewhere, and its row has to do. */
static struct kz_place cell_place(
        const struct load *load, const struct kz_csv_row *row, size_t index)
{
    const char *cell = row->fields[index].ptr, *line_start = load->text.ptr;
    struct kz_place place = {load->def->file, (unsigned)row->line, 1};

    if (!cell || cell < load->text.ptr || cell > load->text.ptr + load->text.size)
        return place;
    place.line = 1;
    for (const char *p = load->text.ptr; p < cell; p++) {
        if (*p == '\n') {
            place.line++;
            line_start = p + 1;
        }
    }
    for (const char *p = line_start; p < cell; p++)
        place.column += ((unsigned char)*p & 0xc0) != 0x80;
    return place;
}

static enum kz_code place_fail(
        struct kz_err *err, struct kz_place place, const char *what, struct kz_str quoted)
{
    return kz_lex_fail(err, place, KZ_STR_NULL, 0, "%s \"" KZ_STR_FMT "\"", what,
            (int)KZ_MIN(quoted.size, (size_t)80), quoted.ptr ? quoted.ptr : "");
}

static bool parse_number(struct kz_str cell, enum kz_type type, sqlite3_stmt *insert, int at)
{
    char text[NUMBER_SIZE_MAX + 1], *end;

    if (cell.size > NUMBER_SIZE_MAX || !memchr("+-.0123456789", cell.ptr[0], 13))
        return false;
    memcpy(text, cell.ptr, cell.size);
    text[cell.size] = '\0';
    if (strlen(text) != cell.size || strpbrk(text, "xXpP"))
        return false;
    errno = 0;
    if (type == KZ_TYPE_INT) {
        long long v = strtoll(text, &end, 10);

        return !*end && !errno && sqlite3_bind_int64(insert, at, v) == SQLITE_OK;
    } else {
        double v = strtod(text, &end);

        return !*end && isfinite(v) && sqlite3_bind_double(insert, at, v) == SQLITE_OK;
    }
}

static enum kz_code bind_cell(
        struct load *load, const struct kz_csv_row *row, size_t index, struct kz_err *err)
{
    struct kz_str cell = row->fields[index];
    int at = (int)index + 1;
    bool is_true;

    if (!cell.size) {
        sqlite3_bind_null(load->insert, at);
        return KZ_OK;
    }
    switch (load->types[index]) {
    case KZ_TYPE_INT:
        if (!parse_number(cell, KZ_TYPE_INT, load->insert, at))
            return place_fail(err, cell_place(load, row, index), "not an integer:", cell);
        break;
    case KZ_TYPE_FLOAT:
        if (!parse_number(cell, KZ_TYPE_FLOAT, load->insert, at))
            return place_fail(err, cell_place(load, row, index), "not a finite number:", cell);
        break;
    case KZ_TYPE_BOOL:
        is_true = kz_str_is(cell, "true") || kz_str_is(cell, "1");
        if (!is_true && !kz_str_is(cell, "false") && !kz_str_is(cell, "0"))
            return place_fail(err, cell_place(load, row, index), "neither true nor false:", cell);
        sqlite3_bind_int(load->insert, at, is_true);
        break;
    default:
        if (!kz_utf8_check(cell, NULL))
            return kz_lex_fail(err, cell_place(load, row, index), KZ_STR_NULL, 0, "not UTF-8");
        sqlite3_bind_text64(load->insert, at, cell.ptr, cell.size, SQLITE_STATIC, SQLITE_UTF8);
    }
    return KZ_OK;
}

static size_t header_find(const struct kz_csv_row *header, const char *name)
{
    for (size_t i = 0; i < header->count; i++)
        if (header->fields[i].size == strlen(name) &&
                strncasecmp(header->fields[i].ptr, name, header->fields[i].size) == 0)
            return i;
    return SIZE_MAX;
}

static enum kz_code check_header(
        struct load *load, const struct kz_csv_row *header, struct kz_err *err)
{
    const struct kz_table_def *def = load->def;
    struct kz_place start = {def->file, 1, 1};

    if (header->count > FILE_COLUMNS_MAX)
        return kz_lex_fail(err, start, KZ_STR_NULL, 0, "%zu columns; %d are the most",
                header->count, FILE_COLUMNS_MAX);
    for (size_t i = 0; i < header->count; i++) {
        struct kz_str name = header->fields[i];

        load->types[i] = KZ_TYPE_TEXT;
        if (!name.size || memchr(name.ptr, '\0', name.size) || !kz_utf8_check(name, NULL))
            return kz_lex_fail(err, cell_place(load, header, i), KZ_STR_NULL, 0,
                    "column %zu has no name", i + 1);
        for (size_t k = 0; k < i; k++)
            if (header->fields[k].size == name.size &&
                    strncasecmp(header->fields[k].ptr, name.ptr, name.size) == 0)
                return place_fail(err, cell_place(load, header, i), "a second column", name);
    }
    for (size_t i = 0; i < def->column_count; i++) {
        size_t at = header_find(header, def->columns[i].name);

        if (at == SIZE_MAX)
            return kz_lex_fail(err, start, KZ_STR_NULL, 0,
                    "column \"%s\", declared in %s:%u:%u, is not in the header",
                    def->columns[i].name,
                    def->columns[i].place.file ? def->columns[i].place.file : "the project",
                    def->columns[i].place.line, def->columns[i].place.column);
        load->types[at] = def->columns[i].type;
    }
    if (def->key && header_find(header, def->key) == SIZE_MAX)
        return kz_lex_fail(
                err, start, KZ_STR_NULL, 0, "the key \"%s\" is not in the header", def->key);
    load->column_count = header->count;
    return KZ_OK;
}

static enum kz_code create_table(
        struct load *load, const struct kz_csv_row *header, struct kz_err *err)
{
    struct kz_buf create = {0}, insert = {0};
    enum kz_code code;

    kz_buf_cstr(&create, "CREATE TABLE ");
    quote_name(&create, kz_str(load->def->name));
    kz_buf_cstr(&insert, "INSERT INTO ");
    quote_name(&insert, kz_str(load->def->name));
    for (size_t i = 0; i < header->count; i++) {
        kz_buf_char(&create, i ? ',' : '(');
        quote_name(&create, header->fields[i]);
        kz_buf_printf(&create, " %s", kz_column_sql_type(load->types[i]));
        kz_buf_cstr(&insert, i ? ",?" : " VALUES(?");
    }
    kz_buf_char(&create, ')');
    kz_buf_put(&insert, ")", 2);
    code = run(load->db, &create, err);
    if (code == KZ_OK &&
            sqlite3_prepare_v2(load->db, insert.data, -1, &load->insert, NULL) != SQLITE_OK)
        code = kz_fail(err, KZ_CONFIG, "%s", sqlite3_errmsg(load->db));
    kz_buf_done(&create);
    kz_buf_done(&insert);
    return code;
}

static enum kz_code insert_rows(struct load *load, struct kz_err *err)
{
    struct kz_csv_row row;
    enum kz_code code;

    while ((code = kz_csv_next(&load->csv, &row, err)) == KZ_OK) {
        if (row.count != load->column_count)
            return kz_lex_fail(err, (struct kz_place){load->def->file, (unsigned)row.line, 1},
                    KZ_STR_NULL, 0, "%zu cells, but the header names %zu columns", row.count,
                    load->column_count);
        for (size_t i = 0; i < row.count; i++)
            KZ_TRY(bind_cell(load, &row, i, err));
        if (sqlite3_step(load->insert) != SQLITE_DONE)
            return kz_lex_fail(err, (struct kz_place){load->def->file, (unsigned)row.line, 1},
                    KZ_STR_NULL, 0, "%s", sqlite3_errmsg(load->db));
        sqlite3_reset(load->insert);
    }
    return code == KZ_END ? KZ_OK : code;
}

static enum kz_code load_rows(struct load *load, struct kz_err *err)
{
    struct kz_csv_row header;
    enum kz_code code = kz_csv_next(&load->csv, &header, err);

    if (code == KZ_END)
        return kz_lex_fail(err, (struct kz_place){load->def->file, 1, 1}, KZ_STR_NULL, 0,
                "the file is empty; its first row has to name the columns");
    if (code != KZ_OK)
        return code;
    KZ_TRY(check_header(load, &header, err));
    KZ_TRY(create_table(load, &header, err));
    return insert_rows(load, err);
}

static enum kz_code load_file(sqlite3 *db, const struct kz_table_def *def, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    KZ_AUTO(kz_freep) struct load *load = kz_calloc(1, sizeof(*load));
    enum kz_code code;
    size_t size;

    if (kz_fs_read_all(kz_fs_posix(), def->file, FILE_SIZE_MAX, &data, &size, err) != KZ_OK) {
        if (err)
            err->code = KZ_CONFIG;
        kz_wrap(err, "%s:%u:%u: table %s", def->place.file ? def->place.file : "", def->place.line,
                def->place.column, def->name);
        return KZ_CONFIG;
    }
    *load = (struct load){.db = db, .def = def, .text = kz_str_n(data, size)};
    kz_csv_init(&load->csv, load->text, ',', true);
    code = load_rows(load, err);
    sqlite3_finalize(load->insert);
    kz_csv_done(&load->csv);
    if (code == KZ_INVALID) { /* the CSV itself: "line 7: ..." */
        if (err)
            err->code = KZ_CONFIG;
        kz_wrap(err, "%s", def->file);
        return KZ_CONFIG;
    }
    return code;
}

/* ---- materialised
 * ---------------------------------------------------------------------------------- */

static const struct kz_column_def *declared(const struct kz_table_def *def, const char *name)
{
    for (size_t i = 0; i < def->column_count; i++)
        if (strcasecmp(def->columns[i].name, name) == 0)
            return &def->columns[i];
    return NULL;
}

static enum kz_code check_result(
        const struct kz_table_def *def, sqlite3_stmt *stmt, struct kz_err *err)
{
    int count = sqlite3_column_count(stmt);
    bool has_key = !def->key;

    for (int i = 0; i < count; i++)
        has_key |= strcasecmp(sqlite3_column_name(stmt, i), def->key ? def->key : "") == 0;
    if (!has_key)
        return kz_lex_fail(err, def->place, KZ_STR_NULL, 0,
                "table %s: its SQL gives no column \"%s\", "
                "which is to be its key",
                def->name, def->key);
    for (size_t k = 0; k < def->column_count; k++) {
        bool found = false;

        for (int i = 0; i < count; i++)
            found |= strcasecmp(sqlite3_column_name(stmt, i), def->columns[k].name) == 0;
        if (!found)
            return kz_lex_fail(err, def->columns[k].place, KZ_STR_NULL, 0,
                    "table %s: its SQL gives no column \"%s\"", def->name, def->columns[k].name);
    }
    return KZ_OK;
}

static enum kz_code materialise(
        struct kz_sql *sql, const struct kz_table_def *def, sqlite3_stmt *stmt, struct kz_err *err)
{
    struct kz_buf statement = {0};
    enum kz_code code = check_result(def, stmt, err);

    if (code != KZ_OK)
        return code;
    kz_buf_cstr(&statement, "CREATE TABLE ");
    quote_name(&statement, kz_str(def->name));
    for (int i = 0; i < sqlite3_column_count(stmt); i++) {
        const char *name = sqlite3_column_name(stmt, i), *type = sqlite3_column_decltype(stmt, i);
        const struct kz_column_def *column = declared(def, name);

        kz_buf_char(&statement, i ? ',' : '(');
        quote_name(&statement, kz_str(name));
        kz_buf_printf(&statement, " %s",
                column ? kz_column_sql_type(column->type)
                : type ? type
                       : "");
    }
    kz_buf_char(&statement, ')');
    code = run(sql->db, &statement, err);
    kz_buf_clear(&statement);
    kz_buf_cstr(&statement, "INSERT INTO ");
    quote_name(&statement, kz_str(def->name));
    kz_buf_printf(&statement, " %s", sqlite3_sql(stmt));
    if (code == KZ_OK)
        code = run(sql->db, &statement, err);
    kz_buf_done(&statement);
    if (code == KZ_OK)
        return KZ_OK;
    if (sql->steps > sql->steps_max)
        return kz_lex_fail(err, def->place, KZ_STR_NULL, 0,
                "table %s takes too many steps to compute", def->name);
    return kz_lex_fail(
            err, def->place, KZ_STR_NULL, 0, "table %s: %s", def->name, sqlite3_errmsg(sql->db));
}

/* Whether the last compilation failed only because a table of ours is not there yet. */
static bool waits_for_table(struct kz_sql *sql)
{
    static const char missing[] = "no such table: ";
    const char *message = sqlite3_errmsg(sql->db);

    if (strncmp(message, missing, sizeof(missing) - 1) != 0)
        return false;
    return kz_is_reference_table(sql->project, message + sizeof(missing) - 1);
}

static enum kz_code materialise_all(struct kz_sql *sql, struct kz_err *err)
{
    const struct kz_project *project = sql->project;
    KZ_AUTO(kz_freep) bool *done = kz_calloc(project->table_count, sizeof(*done));
    bool progress = true;

    while (progress) {
        const struct kz_table_def *waiting = NULL;

        progress = false;
        for (size_t i = 0; i < project->table_count; i++) {
            const struct kz_table_def *def = &project->tables[i];
            sqlite3_stmt *stmt;
            enum kz_code code;

            if (done[i] || def->file || !def->sql)
                continue;
            code = kz_prepare(
                    sql, KZ_SCOPE_TABLES, def->sql, def->place, kz_str(def->sql), 0, &stmt, err);
            if (code != KZ_OK && !waits_for_table(sql))
                return code;
            if (code != KZ_OK) {
                waiting = waiting ? waiting : def;
                continue;
            }
            code = materialise(sql, def, stmt, err);
            sqlite3_finalize(stmt);
            KZ_TRY(code);
            KZ_TRY(create_index(sql->db, def, err));
            done[i] = progress = true;
        }
        if (waiting && !progress)
            return kz_lex_fail(err, waiting->place, KZ_STR_NULL, 0,
                    "table %s needs itself, directly or through other tables", waiting->name);
    }
    return KZ_OK;
}

/* ---- hash
 * ------------------------------------------------------------------------------------------ */

static uint64_t hash_value(uint64_t hash, sqlite3_stmt *stmt, int column)
{
    int type = sqlite3_column_type(stmt, column);
    int64_t integer;
    double real;

    hash = kz_hash_mix(hash, (uint64_t)type);
    switch (type) {
    case SQLITE_INTEGER:
        integer = sqlite3_column_int64(stmt, column);
        return kz_hash_mix(hash, (uint64_t)integer);
    case SQLITE_FLOAT:
        real = sqlite3_column_double(stmt, column);
        return kz_hash_mix(hash, kz_hash(&real, sizeof(real)));
    case SQLITE_NULL:
        return hash;
    }
    return kz_hash_mix(hash,
            kz_hash(sqlite3_column_blob(stmt, column), (size_t)sqlite3_column_bytes(stmt, column)));
}

static enum kz_code hash_table(
        sqlite3 *db, const struct kz_table_def *def, uint64_t *hash, struct kz_err *err)
{
    struct kz_buf statement = {0};
    sqlite3_stmt *stmt = NULL;
    int rc;

    kz_buf_cstr(&statement, "SELECT * FROM ");
    quote_name(&statement, kz_str(def->name));
    kz_buf_put(&statement, " ORDER BY rowid", sizeof(" ORDER BY rowid"));
    rc = sqlite3_prepare_v2(db, statement.data, -1, &stmt, NULL);
    kz_buf_done(&statement);
    if (rc == SQLITE_OK) {
        *hash = kz_hash_mix(*hash, kz_hash_str(kz_str(def->name)));
        for (int i = 0; i < sqlite3_column_count(stmt); i++) {
            const char *type = sqlite3_column_decltype(stmt, i);

            *hash = kz_hash_mix(*hash, kz_hash_str(kz_str(sqlite3_column_name(stmt, i))));
            *hash = kz_hash_mix(*hash, kz_hash_str(kz_str(type ? type : "")));
        }
        while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
            for (int i = 0; i < sqlite3_column_count(stmt); i++)
                *hash = hash_value(*hash, stmt, i);
    }
    sqlite3_finalize(stmt);
    if (rc != SQLITE_DONE)
        return kz_fail(err, KZ_INTERNAL, "reading table %s: %s", def->name, sqlite3_errmsg(db));
    return KZ_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct kz_table_def *const *)a)->name,
            (*(const struct kz_table_def *const *)b)->name);
}

static enum kz_code hash_all(struct kz_sql *sql, struct kz_err *err)
{
    size_t count = sql->project->table_count;
    KZ_AUTO(kz_freep) const struct kz_table_def **sorted = kz_malloc(count * sizeof(*sorted));
    uint64_t hash = 0;

    for (size_t i = 0; i < count; i++)
        sorted[i] = &sql->project->tables[i];
    qsort(sorted, count, sizeof(*sorted), by_name);
    for (size_t i = 0; i < count; i++)
        KZ_TRY(hash_table(sql->db, sorted[i], &hash, err));
    sql->tables_hash = hash;
    return KZ_OK;
}

static enum kz_code check_name(const struct kz_table_def *def, struct kz_err *err)
{
    static const char *const taken[] = {
            "events", "predictions", "actions", "dead_letters", "json_each", "json_tree", "event"};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(taken); i++)
        if (strcasecmp(def->name, taken[i]) == 0)
            return kz_lex_fail(
                    err, def->place, KZ_STR_NULL, 0, "table \"%s\": the name is taken", def->name);
    if (strncasecmp(def->name, "sqlite_", 7) == 0 || strncasecmp(def->name, "pragma_", 7) == 0)
        return kz_lex_fail(err, def->place, KZ_STR_NULL, 0,
                "table \"%s\": names that begin with sqlite_ or pragma_ are SQLite's", def->name);
    return KZ_OK;
}

enum kz_code kz_reference_load(struct kz_sql *sql, struct kz_err *err)
{
    const struct kz_project *project = sql->project;
    enum kz_code code = KZ_OK;

    if (!project->table_count)
        return KZ_OK;
    (void)sqlite3_exec(sql->db, "BEGIN", NULL, NULL, NULL);
    for (size_t i = 0; code == KZ_OK && i < project->table_count; i++) {
        code = check_name(&project->tables[i], err);
        if (code == KZ_OK && project->tables[i].file)
            code = load_file(sql->db, &project->tables[i], err);
        if (code == KZ_OK && project->tables[i].file)
            code = create_index(sql->db, &project->tables[i], err);
    }
    if (code == KZ_OK)
        code = materialise_all(sql, err);
    if (code == KZ_OK)
        code = hash_all(sql, err);
    (void)sqlite3_exec(sql->db, "COMMIT", NULL, NULL, NULL);
    return code;
}
