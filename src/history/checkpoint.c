/* history/checkpoint.c
 *
 *     header                     what follows, CRC-32C over itself
 *     block*                     32 bytes about the data, with CRCs of both, then the data
 *     footer                     how many blocks and bytes, CRC over all CRCs
 *
 * Blocks are the chunks of the pools users, slots, links and runs in this order, then one with what
 * belongs to nobody. Every byte is under a CRC. Tables are not stored: they are rebuilt faster than
 * read. All sizes are checked against the file before memory is taken for them.
 */
#include "history/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/hash.h"
#include "codec/crc32c.h"
#include "history/views_int.h"

enum {
    BLOCK_MAGIC = 0x4b4c424b,
    PATH_SIZE_MAX = 4096,
    HEADER_SIZE_MAX = 65536,
    KEPT = 2,
    CANDIDATES_MAX = 16,
    GLOBALS_SECTION = 4,
    CRC_OFFSET = 16, /* in the header, of every version */
};

static const char header_magic[8] = "KZCKPT\r\n";
static const char footer_magic[8] = "KZCKEND\n";

struct header {
    char magic[8];
    uint32_t version;
    uint32_t header_size;
    uint32_t crc;        /* of the header with 0 here */
    uint32_t item_sizes; /* of users, slots, links and runs, a byte each */
    uint64_t seq;
    kz_lsn lsn;
    kz_lsn position;
    uint64_t project; /* hash of the name */
    uint64_t globals_size;
    uint32_t ends[4]; /* of the four pools */
    uint32_t gone_first, gone_last, gone_count;
    uint32_t slot_free, link_free;
    uint32_t run_free[KZ_RUN_CLASSES];
    uint32_t log_crc; /* struct kz_log_mark, as `position` is */
    uint32_t zero;
    uint8_t log_id[16];
    char project_name[128]; /* for messages; cut */
};
_Static_assert(sizeof(struct header) == 1536, "on disk");
_Static_assert(offsetof(struct header, crc) == CRC_OFFSET, "on disk");

struct block {
    uint32_t magic;
    uint32_t section;
    uint32_t number; /* of the chunk */
    uint32_t zero;
    uint64_t size;
    uint32_t data_crc;
    uint32_t crc; /* of this struct with 0 here */
};
_Static_assert(sizeof(struct block) == 32, "on disk");

struct footer {
    char magic[8];
    uint64_t size; /* of the file */
    uint32_t block_count;
    uint32_t blocks_crc; /* over the `crc` of each block */
    uint32_t zero;
    uint32_t crc;
};
_Static_assert(sizeof(struct footer) == 32, "on disk");

static const struct kz_pool *pool_of(const struct kz_views *views, unsigned section)
{
    const struct kz_pool *pools[] = {&views->users, &views->slots, &views->links, &views->runs};

    return pools[section];
}

/* How many bytes of the chunk are in use. */
static size_t chunk_size(const struct kz_pool *pool, uint32_t chunk)
{
    uint64_t first = (uint64_t)chunk << pool->shift;
    uint64_t items = pool->end > first ? pool->end - first : 0;

    return (size_t)KZ_MIN(items, (uint64_t)1 << pool->shift) * pool->item_size;
}

static uint32_t item_sizes(void)
{
    return sizeof(struct kz_user) | sizeof(struct kz_slot) << 8 |
           sizeof(struct kz_link_node) << 16 | (uint32_t)KZ_RUN_UNIT << 24;
}

/* ---- saving ---------------------------------------------------------------------------------- */

struct writer {
    struct kz_file *file;
    struct kz_trickle trickle;
    const atomic_bool *cancel;
    uint64_t at;
    uint32_t block_count, blocks_crc;
    struct kz_err *err;
};

static enum kz_code put(struct writer *w, const void *data, size_t size)
{
    const char *from = data;

    while (size) {
        size_t n = KZ_MIN(size, (size_t)KZ_TRICKLE_BYTES);

        if (w->cancel && atomic_load_explicit(w->cancel, memory_order_relaxed))
            return kz_fail(w->err, KZ_UNAVAILABLE, "given up");
        KZ_TRY(w->file->ops->pwrite(w->file, from, n, w->at, w->err));
        KZ_TRY(kz_trickle(&w->trickle, n, w->err));
        w->at += n;
        from += n;
        size -= n;
    }
    return KZ_OK;
}

static enum kz_code put_block(
        struct writer *w, unsigned section, uint32_t number, const void *data, size_t size)
{
    struct block block = {.magic = BLOCK_MAGIC,
            .section = section,
            .number = number,
            .size = size,
            .data_crc = kz_crc32c(0, data, size)};

    block.crc = kz_crc32c(0, &block, sizeof(block));
    w->blocks_crc = kz_crc32c(w->blocks_crc, &block.crc, sizeof(block.crc));
    w->block_count++;
    KZ_TRY(put(w, &block, sizeof(block)));
    return put(w, data, size);
}

static enum kz_code put_header(struct writer *w, const struct kz_views *views,
        const struct kz_log_mark *mark, const char *project, size_t globals_size)
{
    struct header header = {
            .version = KZ_CHECKPOINT_VERSION,
            .header_size = sizeof(header),
            .item_sizes = item_sizes(),
            .seq = views->seq,
            .lsn = views->lsn,
            .position = mark->position,
            .log_crc = mark->crc,
            .project = kz_hash_str(kz_str(project)),
            .globals_size = globals_size,
            .gone_first = views->gone_first,
            .gone_last = views->gone_last,
            .gone_count = views->gone_count,
            .slot_free = views->slot_free,
            .link_free = views->link_free,
    };

    memcpy(header.magic, header_magic, sizeof(header.magic));
    for (unsigned i = 0; i < 4; i++)
        header.ends[i] = pool_of(views, i)->end;
    memcpy(header.run_free, views->run_free, sizeof(header.run_free));
    memcpy(header.log_id, mark->log_id, sizeof(header.log_id));
    (void)snprintf(header.project_name, sizeof(header.project_name), "%s", project);
    header.crc = kz_crc32c(0, &header, sizeof(header));
    return put(w, &header, sizeof(header));
}

static enum kz_code put_all(struct writer *w, const struct kz_views *views,
        const struct kz_log_mark *mark, const char *project, const struct kz_buf *globals)
{
    struct footer footer = {0};

    KZ_TRY(put_header(w, views, mark, project, globals->size));
    for (unsigned section = 0; section < GLOBALS_SECTION; section++) {
        const struct kz_pool *pool = pool_of(views, section);

        for (uint32_t chunk = 0; chunk < pool->chunk_count && chunk_size(pool, chunk); chunk++)
            KZ_TRY(put_block(w, section, chunk, pool->chunks[chunk], chunk_size(pool, chunk)));
    }
    KZ_TRY(put_block(w, GLOBALS_SECTION, 0, globals->data, globals->size));
    memcpy(footer.magic, footer_magic, sizeof(footer.magic));
    footer.size = w->at + sizeof(footer);
    footer.block_count = w->block_count;
    footer.blocks_crc = w->blocks_crc;
    footer.crc = kz_crc32c(0, &footer, sizeof(footer));
    KZ_TRY(put(w, &footer, sizeof(footer)));
    return w->file->ops->sync(w->file, w->err);
}

static enum kz_code write_file(struct kz_fs *fs, const char *path, const struct kz_views *views,
        const struct kz_log_mark *mark, const char *project, const atomic_bool *cancel,
        uint64_t *ret_size, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    struct kz_buf globals = {0};
    struct writer w = {.cancel = cancel, .err = err};
    enum kz_code code;

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_TRUNCATE, &file, err));
    kz_views_globals_encode(views, &globals);
    w.file = w.trickle.file = file;
    code = put_all(&w, views, mark, project, &globals);
    kz_buf_done(&globals);
    if (code == KZ_OK)
        *ret_size = w.at;
    return code;
}

/* ---- which files there are ------------------------------------------------------------------- */

struct names {
    char names[CANDIDATES_MAX][64]; /* newest last */
    size_t count;
    struct kz_fs *fs; /* where set: older ones and leftovers are removed */
    const char *dir;
};

static bool is_checkpoint(const char *name)
{
    return strlen(name) == 5 + 16 + 4 && memcmp(name, "ckpt-", 5) == 0 &&
           strspn(name + 5, "0123456789abcdef") == 16 && strcmp(name + 21, ".kzc") == 0;
}

static bool is_leftover(const char *name)
{
    size_t size = strlen(name);

    return size > 9 && memcmp(name, "ckpt-", 5) == 0 && strcmp(name + size - 4, ".tmp") == 0;
}

static void collect(void *arg, const char *name)
{
    struct names *names = arg;

    if (!is_checkpoint(name) && !(names->fs && is_leftover(name)))
        return;
    if (names->count == CANDIDATES_MAX) {
        memmove(names->names, names->names + 1, sizeof(names->names) - sizeof(names->names[0]));
        names->count--;
    }
    if (strlen(name) < sizeof(names->names[0]))
        strcpy(names->names[names->count++], name);
}

static enum kz_code path_of(
        char path[PATH_SIZE_MAX], const char *dir, const char *name, struct kz_err *err)
{
    int n = snprintf(path, PATH_SIZE_MAX, "%s/%s", dir, name);

    return n < 0 || n >= PATH_SIZE_MAX ? kz_fail(err, KZ_INVALID, "path \"%s\" is too long", dir)
                                       : KZ_OK;
}

/* Removes what the newest ones make superfluous. A file that stays is no harm, so nobody hears of
 * failures; the next save tries again. */
static void remove_old(struct kz_fs *fs, const char *dir)
{
    struct names names = {.fs = fs, .dir = dir};
    size_t whole = 0;
    char path[PATH_SIZE_MAX];

    if (fs->ops->list(fs, dir, collect, &names, NULL) != KZ_OK)
        return;
    for (size_t i = names.count; i > 0; i--) {
        const char *name = names.names[i - 1];

        if (is_checkpoint(name) && ++whole <= KEPT)
            continue;
        if (path_of(path, dir, name, NULL) == KZ_OK)
            (void)fs->ops->unlink(fs, path, NULL);
    }
}

enum kz_code kz_checkpoint_save(struct kz_fs *fs, const char *dir, const struct kz_views *views,
        const struct kz_log_mark *mark, const char *project, const atomic_bool *cancel,
        struct kz_checkpoint_info *ret_info, struct kz_err *err)
{
    char name[64], path[PATH_SIZE_MAX], temporary[PATH_SIZE_MAX];
    uint64_t size = 0;
    enum kz_code code;

    (void)snprintf(name, sizeof(name), "ckpt-%016" PRIx64 ".kzc", views->seq);
    KZ_TRY(path_of(path, dir, name, err));
    (void)snprintf(name, sizeof(name), "ckpt-%016" PRIx64 ".kzc.tmp", views->seq);
    KZ_TRY(path_of(temporary, dir, name, err));
    code = write_file(fs, temporary, views, mark, project, cancel, &size, err);
    if (code == KZ_OK)
        code = fs->ops->rename(fs, temporary, path, err);
    if (code != KZ_OK) {
        (void)fs->ops->unlink(
                fs, temporary, NULL); /* room on a full disk; the next save tries too */
        return kz_wrap(err, "writing checkpoint \"%s\"", path);
    }
    if (fs->ops->sync_dir(fs, dir, err) != KZ_OK)
        return kz_wrap(err, "writing checkpoint \"%s\"", path);
    remove_old(fs, dir);
    if (ret_info)
        *ret_info = (struct kz_checkpoint_info){
                .mark = *mark, .seq = views->seq, .size_bytes = size};
    return KZ_OK;
}

static void add_path(void *arg, const char *name)
{
    if (is_checkpoint(name) || is_leftover(name))
        kz_buf_put(arg, name, strlen(name) + 1);
}

enum kz_code kz_checkpoint_forget(struct kz_fs *fs, const char *dir, struct kz_err *err)
{
    struct kz_buf names = {0};
    char path[PATH_SIZE_MAX];
    enum kz_code code = fs->ops->list(fs, dir, add_path, &names, err);

    for (const char *name = names.data;
            code == KZ_OK && names.size && name < names.data + names.size;
            name += strlen(name) + 1) {
        code = path_of(path, dir, name, err);
        if (code == KZ_OK)
            code = fs->ops->unlink(fs, path, err);
    }
    kz_buf_done(&names);
    KZ_TRY(code);
    return fs->ops->sync_dir(fs, dir, err);
}

/* ---- loading --------------------------------------------------------------------------------- */

struct reader {
    struct kz_file *file;
    uint64_t at, size;
    uint32_t block_count, blocks_crc;
    struct kz_err *err;
};

static enum kz_code bad(struct reader *r, const char *what)
{
    return kz_fail(r->err, KZ_CORRUPT, "checkpoint \"%s\" is damaged: %s", r->file->path, what);
}

static enum kz_code get(struct reader *r, void *data, size_t size)
{
    if (size > r->size - r->at)
        return bad(r, "it ends early");
    KZ_TRY(r->file->ops->pread(r->file, data, size, r->at, r->err));
    r->at += size;
    return KZ_OK;
}

/* Fields up to and with the CRC mean the same in every version, so that a newer one is told from a
 * damaged one. */
static enum kz_code get_header(struct reader *r, const char *project, struct header *header)
{
    char *bytes = NULL;
    uint32_t crc, zero = 0;
    enum kz_code code;

    KZ_TRY(get(r, header, CRC_OFFSET + 4));
    if (memcmp(header->magic, header_magic, sizeof(header_magic)) != 0)
        return bad(r, "its first bytes are no checkpoint's");
    if (header->header_size < CRC_OFFSET + 4 || header->header_size > HEADER_SIZE_MAX)
        return bad(r, "its header has an impossible size");
    bytes = kz_calloc(1, HEADER_SIZE_MAX);
    r->at = 0;
    code = get(r, bytes, header->header_size);
    crc = header->crc;
    memcpy(bytes + CRC_OFFSET, &zero, sizeof(zero));
    if (code == KZ_OK && kz_crc32c(0, bytes, header->header_size) != crc)
        code = bad(r, "the checksum of its header is wrong");
    if (code == KZ_OK && (!header->version || header->version > KZ_CHECKPOINT_VERSION))
        code = kz_fail(r->err, KZ_UNSUPPORTED,
                "checkpoint \"%s\" has format %u and this build reads %d: use the Kizashi that "
                "wrote it or a later one",
                r->file->path, header->version, KZ_CHECKPOINT_VERSION);
    if (code == KZ_OK && header->version < KZ_CHECKPOINT_VERSION)
        code = kz_fail(r->err, KZ_NOT_FOUND,
                "checkpoint \"%s\" has the older format %u: the log says it all again",
                r->file->path, header->version);
    if (code == KZ_OK && header->header_size != sizeof(*header))
        code = bad(r, "its header has another size");
    if (code == KZ_OK)
        memcpy(header, bytes, sizeof(*header));
    free(bytes);
    KZ_TRY(code);
    header->project_name[sizeof(header->project_name) - 1] = 0;
    if (header->project != kz_hash_str(kz_str(project)))
        return kz_fail(r->err, KZ_CONFLICT,
                "checkpoint \"%s\" is of project \"%s\", not \"%s\": another --data is meant",
                r->file->path, header->project_name, project);
    return header->item_sizes == item_sizes() ? KZ_OK : bad(r, "its items have other sizes");
}

static enum kz_code get_block(
        struct reader *r, unsigned section, uint32_t number, void *data, size_t size)
{
    struct block block;
    uint32_t crc;

    KZ_TRY(get(r, &block, sizeof(block)));
    crc = block.crc;
    block.crc = 0;
    if (kz_crc32c(0, &block, sizeof(block)) != crc || block.magic != BLOCK_MAGIC)
        return bad(r, "the checksum of a block's header is wrong");
    if (block.section != section || block.number != number || block.size != size)
        return bad(r, "a block is out of place");
    KZ_TRY(get(r, data, size));
    if (kz_crc32c(0, data, size) != block.data_crc)
        return bad(r, "the checksum of a block is wrong");
    r->block_count++;
    r->blocks_crc = kz_crc32c(r->blocks_crc, &crc, sizeof(crc));
    return KZ_OK;
}

static enum kz_code get_footer(struct reader *r)
{
    struct footer footer;
    uint32_t crc;

    KZ_TRY(get(r, &footer, sizeof(footer)));
    crc = footer.crc;
    footer.crc = 0;
    if (kz_crc32c(0, &footer, sizeof(footer)) != crc ||
            memcmp(footer.magic, footer_magic, sizeof(footer_magic)) != 0)
        return bad(r, "the checksum of its end is wrong");
    if (footer.size != r->size || r->at != r->size || footer.block_count != r->block_count ||
            footer.blocks_crc != r->blocks_crc)
        return bad(r, "its end does not fit what comes before");
    return KZ_OK;
}

static enum kz_code get_pools(struct reader *r, struct kz_views *views, const struct header *header)
{
    for (unsigned section = 0; section < GLOBALS_SECTION; section++) {
        struct kz_pool *pool = (struct kz_pool *)pool_of(views, section);

        if (!header->ends[section] || (uint64_t)header->ends[section] * pool->item_size > r->size)
            return bad(r, "it is too small for what it says");
        kz_pool_set_end(pool, header->ends[section]);
        for (uint32_t chunk = 0; chunk < pool->chunk_count; chunk++)
            KZ_TRY(get_block(r, section, chunk, pool->chunks[chunk], chunk_size(pool, chunk)));
    }
    return KZ_OK;
}

static enum kz_code get_globals(struct reader *r, struct kz_views *views, size_t size)
{
    char *bytes;
    enum kz_code code;

    if (size > r->size)
        return bad(r, "it is too small for what it says");
    bytes = kz_malloc(size + 1);
    code = get_block(r, GLOBALS_SECTION, 0, bytes, size);
    if (code == KZ_OK)
        code = kz_views_globals_decode(views, kz_str_n(bytes, size), r->err);
    free(bytes);
    return code;
}

static enum kz_code get_all(struct reader *r, struct kz_views *views, const struct header *header)
{
    views->seq = header->seq;
    views->lsn = header->lsn;
    views->gone_first = header->gone_first;
    views->gone_last = header->gone_last;
    views->gone_count = header->gone_count;
    views->slot_free = header->slot_free;
    views->link_free = header->link_free;
    memcpy(views->run_free, header->run_free, sizeof(views->run_free));
    KZ_TRY(get_pools(r, views, header));
    KZ_TRY(get_globals(r, views, header->globals_size));
    KZ_TRY(get_footer(r));
    return kz_views_rebuild(views) ? KZ_OK : bad(r, "its numbers point outside of it");
}

static enum kz_code load_file(struct kz_fs *fs, const char *path, const char *project,
        uint32_t dead_letters_max, struct kz_views **ret_views, struct kz_checkpoint_info *ret_info,
        struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    KZ_AUTO(kz_views_freep) struct kz_views *views = NULL;
    struct reader r = {.err = err};
    struct header header = {0};

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_READ, &file, err));
    r.file = file;
    KZ_TRY(file->ops->size(file, &r.size, err));
    KZ_TRY(get_header(&r, project, &header));
    views = kz_views_new(dead_letters_max);
    KZ_TRY(get_all(&r, views, &header));
    ret_info->mark = (struct kz_log_mark){.position = header.position, .crc = header.log_crc};
    memcpy(ret_info->mark.log_id, header.log_id, sizeof(header.log_id));
    ret_info->seq = header.seq;
    ret_info->size_bytes = r.size;
    *ret_views = kz_take(&views);
    return KZ_OK;
}

/* 0 where the file's header is no good. */
static kz_lsn position_of(struct kz_fs *fs, const char *path, const char *project)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    struct kz_err err;
    struct reader r = {.err = &err};
    struct header header = {0};

    if (fs->ops->open(fs, path, KZ_OPEN_READ, &file, &err) != KZ_OK)
        return 0;
    r.file = file;
    if (file->ops->size(file, &r.size, &err) != KZ_OK || get_header(&r, project, &header) != KZ_OK)
        return 0;
    return header.position;
}

static kz_lsn position_before(struct kz_fs *fs, const char *dir, const char *project,
        const struct names *names, size_t index, kz_lsn position)
{
    char path[PATH_SIZE_MAX];

    for (size_t i = index; i > 0; i--) {
        kz_lsn before = path_of(path, dir, names->names[i - 1], NULL) == KZ_OK
                                ? position_of(fs, path, project)
                                : 0;

        if (before)
            return before;
    }
    return position;
}

enum kz_code kz_checkpoint_load(struct kz_fs *fs, const char *dir, const char *project,
        uint32_t dead_letters_max, struct kz_views **ret_views, struct kz_checkpoint_info *ret_info,
        struct kz_err *err)
{
    struct names names = {0};
    struct kz_checkpoint_info info = {0};
    struct kz_err first = {0}, failure = {0};
    char path[PATH_SIZE_MAX];

    KZ_TRY(fs->ops->list(fs, dir, collect, &names, err));
    for (size_t i = names.count; i > 0; i--) {
        enum kz_code code;

        KZ_TRY(path_of(path, dir, names.names[i - 1], err));
        failure = (struct kz_err){0};
        code = load_file(fs, path, project, dead_letters_max, ret_views, &info, &failure);
        if (code == KZ_OK) {
            if (first.code != KZ_OK) {
                info.fell_back = true;
                (void)snprintf(info.warning, sizeof(info.warning), "%.399s", first.message);
            }
            info.position_before = position_before(
                    fs, dir, project, &names, i - 1, info.mark.position);
            *ret_info = info;
            return KZ_OK;
        }
        if (first.code == KZ_OK)
            first = failure;
        if (code == KZ_UNSUPPORTED || code == KZ_CONFLICT) {
            first = failure;
            break;
        }
    }
    if (!names.count)
        return kz_fail(err, KZ_NOT_FOUND, "there is no checkpoint in \"%s\"", dir);
    if (err)
        *err = first;
    return first.code;
}
