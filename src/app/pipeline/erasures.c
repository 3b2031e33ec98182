#include "app/pipeline/erasures.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/diag.h"
#include "codec/crc32c.h"

#define HEAD "kizashi-erasures 1 "

enum { SIZE_MAX_BYTES = 1 << 30, LINE_BYTES = 64 };

int kz_erasures_order(const void *a, const void *b)
{
    const struct kz_erasure *x = a, *y = b;

    if (x->id_hash != y->id_hash)
        return x->id_hash < y->id_hash ? -1 : 1;
    return x->asked_ms < y->asked_ms ? -1 : x->asked_ms > y->asked_ms;
}

static int print_line(char line[LINE_BYTES], const struct kz_erasure *erasure)
{
    int n = snprintf(line, LINE_BYTES, "%016llx %lld ", (unsigned long long)erasure->id_hash,
            (long long)erasure->asked_ms);

    return n + snprintf(line + n, LINE_BYTES - (size_t)n, "%08x\n",
                       (unsigned)kz_crc32c(0, line, (size_t)n));
}

/* A line is whole if it is what would be written for what it says. */
static bool parse_line(struct kz_str line, struct kz_erasure *ret_erasure)
{
    char copy[LINE_BYTES], again[LINE_BYTES], *end;
    struct kz_erasure erasure;

    if (line.size >= sizeof(copy))
        return false;
    memcpy(copy, line.ptr, line.size);
    copy[line.size] = '\0';
    erasure.id_hash = strtoull(copy, &end, 16);
    erasure.asked_ms = strtoll(end, NULL, 10);
    if (print_line(again, &erasure) != (int)line.size + 1 || memcmp(copy, again, line.size) != 0)
        return false;
    *ret_erasure = erasure;
    return true;
}

/* Cuts a line off the front, its newline too; false at the end or where it has none. */
static bool next_line(struct kz_str *text, struct kz_str *ret_line)
{
    const char *end = text->size ? memchr(text->ptr, '\n', text->size) : NULL;

    if (!end)
        return false;
    *ret_line = kz_str_n(text->ptr, (size_t)(end - text->ptr));
    *text = kz_str_n(end + 1, text->size - ret_line->size - 1);
    return true;
}

/* The file's text in `ret_data` (the caller's), its first line taken off and looked at. */
static enum kz_code open_text(struct kz_fs *fs, const char *path, char **ret_data,
        struct kz_str *ret_rest, struct kz_str *ret_project, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_str line, text;
    size_t size;

    KZ_TRY(kz_fs_read_all(fs, path, SIZE_MAX_BYTES, &data, &size, err));
    text = kz_str_n(data, size);
    if (!next_line(&text, &line) || !kz_str_starts(line, HEAD)) {
        (void)kz_fail(err, KZ_CORRUPT, "\"%s\" is no file of erasures", path);
        return kz_hint(err, "move it away; a restore would then bring back whom only it names");
    }
    *ret_project = kz_str_n(line.ptr + strlen(HEAD), line.size - strlen(HEAD));
    *ret_rest = text;
    *ret_data = kz_take(&data);
    return KZ_OK;
}

enum kz_code kz_erasures_read(struct kz_fs *fs, const char *path, const char *project,
        struct kz_buf *out, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_str text, line, name;
    size_t damaged = 0;

    KZ_TRY(open_text(fs, path, &data, &text, &name, err));
    if (!kz_str_is(name, project))
        return kz_fail(err, KZ_CONFLICT, "\"%s\" is of project \"" KZ_STR_FMT "\", not \"%s\"",
                path, KZ_STR_ARG(name), project);
    while (next_line(&text, &line)) {
        struct kz_erasure erasure;

        if (parse_line(line, &erasure))
            kz_buf_put(out, &erasure, sizeof(erasure));
        else
            damaged += line.size > 0;
    }
    if (damaged)
        kz_diag_warn("erasures that cannot be read are passed over", "file=\"%s\" lines=%zu", path,
                damaged);
    return KZ_OK;
}

enum kz_code kz_erasures_project(
        struct kz_fs *fs, const char *path, char out[64], struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_str text, name;

    KZ_TRY(open_text(fs, path, &data, &text, &name, err));
    snprintf(out, 64, KZ_STR_FMT, KZ_STR_ARG(name));
    return KZ_OK;
}

static void print_lines(const struct kz_erasure *erasures, size_t count, struct kz_buf *out)
{
    char line[LINE_BYTES];

    for (size_t i = 0; i < count; i++)
        kz_buf_put(out, line, (size_t)print_line(line, &erasures[i]));
}

static enum kz_code append(struct kz_fs *fs, const char *path, const struct kz_erasure *erasures,
        size_t count, struct kz_buf *text, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    uint64_t size;
    char last;

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_READ | KZ_OPEN_WRITE, &file, err));
    KZ_TRY(file->ops->size(file, &size, err));
    KZ_TRY(file->ops->pread(file, &last, 1, size - 1, err));
    if (last != '\n') /* behind what a crash has left of a line */
        kz_buf_char(text, '\n');
    print_lines(erasures, count, text);
    KZ_TRY(file->ops->pwrite(file, text->data, text->size, size, err));
    return file->ops->sync(file, err);
}

enum kz_code kz_erasures_add(struct kz_fs *fs, const char *path, const char *project,
        const struct kz_erasure *erasures, size_t count, struct kz_err *err)
{
    struct kz_buf text = {0};
    enum kz_code rc;

    if (!count)
        return KZ_OK;
    if (kz_fs_exists(fs, path)) {
        rc = append(fs, path, erasures, count, &text, err);
    } else {
        kz_buf_printf(&text, HEAD "%s\n", project);
        print_lines(erasures, count, &text);
        rc = kz_fs_replace(fs, path, text.data, text.size, err);
    }
    kz_buf_done(&text);
    return rc;
}

enum kz_code kz_erasures_copy(
        struct kz_fs *fs, const char *from_dir, const char *to_dir, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    char path[PATH_MAX];
    size_t size;

    snprintf(path, sizeof(path), "%s/" KZ_ERASURES_NAME, from_dir);
    if (!kz_fs_exists(fs, path))
        return KZ_OK;
    KZ_TRY(kz_fs_read_all(fs, path, SIZE_MAX_BYTES, &data, &size, err));
    snprintf(path, sizeof(path), "%s/" KZ_ERASURES_NAME, to_dir);
    return kz_fs_replace(fs, path, data, size, err);
}
