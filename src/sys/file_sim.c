/* The disk in memory. One file, though a long one: names, handles and what survives a power cut are one
 * state under one lock.
 *
 * Invariants:
 *  S1  `cache` of an inode is what readers see, `disk` what would survive; `cache` is `disk` with
 *      all of `writes` applied in order, unless a failed sync has thrown some of them away.
 *  S2  `names` is the name space that callers see, `disk_names` what would survive; likewise
 *      with `changes`.
 *  S3  an inode lives as long as a name (in either space), a change or a handle refers to it.
 *  S4  a handle works only in the epoch it was opened in; each power cut and crash begins a new
 * one.
 */
#include "sys/file_sim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "sys/random.h"

enum { SECTOR_BYTES = 512 };
#define FILE_MAX_BYTES ((uint64_t)1 << 30)

/* Fixed addresses, so that a map shows what is written later; pages cost nothing until touched. */
struct image {
    char *data;
    uint64_t size;
};

struct write {
    enum { WRITE_DATA, WRITE_ZEROS, WRITE_TRUNCATE } kind;
    uint64_t offset; /* TRUNCATE: the new size */
    uint64_t size;
    char *data; /* DATA only */
};

struct inode {
    unsigned refs;
    bool is_dir;
    bool locked;
    unsigned sharers; /* handles with a shared lock */
    struct image cache;
    struct image disk;
    struct write *writes;
    size_t write_count;
};

struct name {
    char *path;
    struct inode *inode;
};

struct names {
    struct name *items; /* sorted by path */
    size_t count;
};

/* One operation on a directory: `gone` loses its inode, `path` gets `inode`; either may be NULL. */
struct change {
    char *gone;
    char *path;
    struct inode *inode;
};

struct sim {
    struct kz_fs base;
    pthread_mutex_t mutex;
    struct kz_prng prng;
    struct names names;
    struct names disk_names;
    struct change *changes;
    size_t change_count;
    uint64_t epoch;
    uint64_t calls;
    uint64_t syncs;
    uint64_t fail_at; /* the value of `calls` from which on calls fail; 0: never */
    uint64_t fail_until;
    enum kz_code fail_code;
    bool fail_syncs;
    bool lie;
    uint64_t capacity;
    size_t handles;
};

struct sim_file {
    struct kz_file base;
    struct sim *sim;
    struct inode *inode;
    uint64_t epoch;
    int flags;
    bool has_lock, has_share;
};

/* -- images and inodes ---------------------------------------------------------------------- */

static void image_init(struct image *image)
{
    void *data = mmap(NULL, FILE_MAX_BYTES, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    KZ_BUG_ON(data == MAP_FAILED);
    *image = (struct image){.data = data};
}

static void image_done(struct image *image)
{
    if (image->data)
        KZ_BUG_ON(munmap(image->data, FILE_MAX_BYTES) != 0);
    *image = (struct image){0};
}

static void image_write(struct image *image, const char *data, uint64_t size, uint64_t offset)
{
    if (!image->data)
        image_init(image);
    if (data)
        memcpy(image->data + offset, data, size);
    else if (offset < image->size) /* beyond the end everything is zero */
        memset(image->data + offset, 0, KZ_MIN(size, image->size - offset));
    image->size = KZ_MAX(image->size, offset + size);
}

static void image_truncate(struct image *image, uint64_t size)
{
    if (!image->data)
        image_init(image);
    if (size < image->size)
        memset(image->data + size, 0, image->size - size);
    image->size = size;
}

static void image_apply(struct image *image, const struct write *write)
{
    if (write->kind == WRITE_TRUNCATE)
        image_truncate(image, write->offset);
    else
        image_write(image, write->data, write->size, write->offset);
}

static void inode_forget_writes(struct inode *inode)
{
    for (size_t i = 0; i < inode->write_count; i++)
        free(inode->writes[i].data);
    free(inode->writes);
    inode->writes = NULL;
    inode->write_count = 0;
}

static struct inode *inode_new(bool is_dir)
{
    struct inode *inode = kz_calloc(1, sizeof(*inode));

    inode->refs = 1;
    inode->is_dir = is_dir;
    return inode;
}

static struct inode *inode_ref(struct inode *inode)
{
    if (inode)
        inode->refs++;
    return inode;
}

static void inode_unref(struct inode *inode)
{
    if (!inode || --inode->refs)
        return;
    inode_forget_writes(inode);
    image_done(&inode->cache);
    image_done(&inode->disk);
    free(inode);
}

/* Does it now, and remembers that it is not durable yet. */
static void inode_write(struct inode *inode, struct write write)
{
    size_t n = inode->write_count;

    image_apply(&inode->cache, &write);
    if (write.kind == WRITE_DATA) {
        char *copy = kz_malloc(write.size);

        memcpy(copy, write.data, write.size);
        write.data = copy;
    }
    if ((n & (n - 1)) == 0)
        inode->writes = kz_realloc(inode->writes, (n ? n * 2 : 1) * sizeof(*inode->writes));
    inode->writes[inode->write_count++] = write;
}

/* -- names ---------------------------------------------------------------------------------- */

/* "a//./b/" -> "a/b"; the working directory is ".". */
static char *normal_path(const char *path)
{
    char *out = kz_malloc(strlen(path) + 2);
    size_t n = 0;

    if (*path == '/')
        out[n++] = '/';
    while (*path) {
        size_t part = strcspn(path, "/");

        if (part && !(part == 1 && *path == '.')) {
            if (n && out[n - 1] != '/')
                out[n++] = '/';
            memcpy(out + n, path, part);
            n += part;
        }
        path += part + (path[part] == '/');
    }
    if (n == 0)
        out[n++] = '.';
    out[n] = '\0';
    return out;
}

static bool is_root(const char *path)
{
    return strcmp(path, "/") == 0 || strcmp(path, ".") == 0;
}

/* Whether `path` lies directly in `dir`. */
static bool is_in(const char *path, const char *dir)
{
    const char *slash = strrchr(path, '/');

    if (is_root(path))
        return false;
    if (!slash)
        return strcmp(dir, ".") == 0;
    if (slash == path)
        return strcmp(dir, "/") == 0;
    return strlen(dir) == (size_t)(slash - path) && memcmp(path, dir, strlen(dir)) == 0;
}

static size_t names_find(const struct names *names, const char *path, bool *ret_found)
{
    size_t low = 0, high = names->count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (strcmp(names->items[middle].path, path) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_found = low < names->count && strcmp(names->items[low].path, path) == 0;
    return low;
}

static struct inode *names_get(const struct names *names, const char *path)
{
    bool found;
    size_t i = names_find(names, path, &found);

    return found ? names->items[i].inode : NULL;
}

static void names_remove(struct names *names, const char *path)
{
    bool found;
    size_t i = names_find(names, path, &found);

    if (!found)
        return;
    free(names->items[i].path);
    inode_unref(names->items[i].inode);
    names->count--;
    memmove(names->items + i, names->items + i + 1, (names->count - i) * sizeof(*names->items));
}

static void names_set(struct names *names, const char *path, struct inode *inode)
{
    bool found;
    size_t i = names_find(names, path, &found);

    inode_ref(inode);
    if (found) {
        inode_unref(names->items[i].inode);
        names->items[i].inode = inode;
        return;
    }
    names->items = kz_realloc(names->items, (names->count + 1) * sizeof(*names->items));
    memmove(names->items + i + 1, names->items + i, (names->count - i) * sizeof(*names->items));
    names->items[i] = (struct name){kz_strdup(path), inode};
    names->count++;
}

static void names_done(struct names *names)
{
    while (names->count)
        names_remove(names, names->items[names->count - 1].path);
    free(names->items);
    *names = (struct names){0};
}

static void names_apply(struct names *names, const struct change *change)
{
    if (change->gone)
        names_remove(names, change->gone);
    if (change->path)
        names_set(names, change->path, change->inode);
}

static void change_done(struct change *change)
{
    free(change->gone);
    free(change->path);
    inode_unref(change->inode);
}

/* Does it now, and remembers that it is not durable yet. */
static void names_change(struct sim *sim, const char *gone, const char *path, struct inode *inode)
{
    struct change change = {
            .gone = gone ? kz_strdup(gone) : NULL,
            .path = path ? kz_strdup(path) : NULL,
            .inode = inode_ref(inode),
    };

    names_apply(&sim->names, &change);
    sim->changes = kz_realloc(sim->changes, (sim->change_count + 1) * sizeof(*sim->changes));
    sim->changes[sim->change_count++] = change;
}

static bool dir_exists(const struct names *names, const char *path)
{
    const struct inode *inode;

    if (is_root(path))
        return true;
    inode = names_get(names, path);
    return inode && inode->is_dir;
}

static bool parent_exists(const struct names *names, const char *path)
{
    const char *slash = strrchr(path, '/');
    KZ_AUTO(kz_freep) char *dir = NULL;

    if (!slash || slash == path)
        return true;
    dir = kz_strndup(path, (size_t)(slash - path));
    return dir_exists(names, dir);
}

/* -- entering a call --------------------------------------------------------------------------- */

static void unlock(pthread_mutex_t **mutex)
{
    pthread_mutex_unlock(*mutex);
}

#define LOCKED(sim)                                                                                \
    KZ_AUTO(unlock) KZ_UNUSED pthread_mutex_t *lock_ = &(sim)->mutex;                              \
    pthread_mutex_lock(lock_)

static struct sim *sim_of(struct kz_fs *fs)
{
    return KZ_CONTAINER_OF(fs, struct sim, base);
}

static struct sim_file *file_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct sim_file, base);
}

/* Counts the call and fails it if that was asked for. */
static enum kz_code enter(struct sim *sim, const char *what, const char *path, struct kz_err *err)
{
    sim->calls++;
    if (sim->fail_at && sim->calls >= sim->fail_at && sim->calls <= sim->fail_until)
        return kz_fail(err, sim->fail_code, "could not %s \"%s\": simulated failure of call %llu",
                what, path, (unsigned long long)sim->calls);
    return KZ_OK;
}

static enum kz_code enter_file(struct sim_file *self, const char *what, struct kz_err *err)
{
    if (self->epoch != self->sim->epoch)
        return kz_fail(err, KZ_IO, "could not %s \"%s\": opened before the power was cut", what,
                self->base.path);
    return enter(self->sim, what, self->base.path, err);
}

/* -- files ------------------------------------------------------------------------------------- */

static void sim_close(struct kz_file *file)
{
    struct sim_file *self = file_of(file);

    {
        LOCKED(self->sim);
        if (self->has_lock && self->epoch == self->sim->epoch)
            self->inode->locked = false;
        if (self->has_share && self->epoch == self->sim->epoch)
            self->inode->sharers--;
        inode_unref(self->inode);
        self->sim->handles--;
    }
    free(self->base.path);
    free(self);
}

static enum kz_code sim_pread(
        struct kz_file *file, void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    const struct image *cache = &self->inode->cache;
    LOCKED(self->sim);

    KZ_TRY(enter_file(self, "read", err));
    if (!(self->flags & KZ_OPEN_READ))
        return kz_fail(err, KZ_IO, "could not read \"%s\": not opened for reading", file->path);
    if (offset > cache->size || size > cache->size - offset)
        return kz_fail(err, KZ_END, "could not read \"%s\": it ends at byte %llu", file->path,
                (unsigned long long)cache->size);
    if (size)
        memcpy(data, cache->data + offset, size);
    return KZ_OK;
}

/* What the files with a name hold: an unlinked one gives its room back at once. */
static uint64_t used_bytes(const struct sim *sim)
{
    uint64_t used = 0;

    for (size_t i = 0; i < sim->names.count; i++)
        used += sim->names.items[i].inode->cache.size;
    return used;
}

/* How much of [offset, offset + size) there is room for. */
static uint64_t room_for(
        const struct sim *sim, const struct inode *inode, uint64_t offset, uint64_t size)
{
    uint64_t end_max = FILE_MAX_BYTES;

    if (sim->capacity) {
        uint64_t used = used_bytes(sim);
        uint64_t left = sim->capacity > used ? sim->capacity - used : 0;

        end_max = KZ_MIN(end_max, inode->cache.size + left);
    }
    return offset >= end_max ? 0 : KZ_MIN(size, end_max - offset);
}

static enum kz_code check_writable(struct sim_file *self, const char *what, struct kz_err *err)
{
    if (self->flags & KZ_OPEN_WRITE)
        return KZ_OK;
    return kz_fail(
            err, KZ_IO, "could not %s \"%s\": not opened for writing", what, self->base.path);
}

/* pwrite and allocate: a failure, told or for want of room, leaves a part behind. */
static enum kz_code write_some(
        struct sim_file *self, const char *what, struct write write, struct kz_err *err)
{
    enum kz_code rc = enter_file(self, what, err);
    uint64_t room;

    if (self->epoch != self->sim->epoch)
        return rc;
    room = room_for(self->sim, self->inode, write.offset, write.size);
    if (rc != KZ_OK) {
        write.size = kz_prng_below(&self->sim->prng, room + 1);
    } else if (room < write.size) {
        rc = kz_fail(err, KZ_NO_SPACE, "could not %s \"%s\": the simulated disk is full", what,
                self->base.path);
        write.size = room;
    }
    if (write.size)
        inode_write(self->inode, write);
    return rc;
}

static enum kz_code sim_pwrite(
        struct kz_file *file, const void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    LOCKED(self->sim);

    KZ_TRY(check_writable(self, "write", err));
    return write_some(self, "write", (struct write){WRITE_DATA, offset, size, (char *)data}, err);
}

static enum kz_code sim_sync(struct kz_file *file, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    struct inode *inode = self->inode;
    struct sim *sim = self->sim;
    enum kz_code rc;
    LOCKED(sim);

    rc = enter_file(self, "sync", err);
    if (self->epoch != sim->epoch)
        return rc;
    sim->syncs++;
    if (rc == KZ_OK && sim->fail_syncs)
        rc = kz_fail(err, KZ_IO, "could not sync \"%s\": simulated failure", file->path);
    if (rc == KZ_OK && sim->lie)
        return KZ_OK;
    /* After a failure the kernel calls the pages clean: each write has reached the disk or never
     * will. */
    for (size_t i = 0; i < inode->write_count; i++) {
        if (rc == KZ_OK || kz_prng_below(&sim->prng, 2))
            image_apply(&inode->disk, &inode->writes[i]);
    }
    inode_forget_writes(inode);
    return rc;
}

static enum kz_code sim_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    LOCKED(self->sim);

    KZ_TRY(enter_file(self, "look at", err));
    *ret_size = self->inode->cache.size;
    return KZ_OK;
}

static enum kz_code sim_truncate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    uint64_t now;
    LOCKED(self->sim);

    KZ_TRY(check_writable(self, "truncate", err));
    KZ_TRY(enter_file(self, "truncate", err));
    now = self->inode->cache.size;
    if (size > now && room_for(self->sim, self->inode, now, size - now) < size - now)
        return kz_fail(err, KZ_NO_SPACE, "could not truncate \"%s\": the simulated disk is full",
                file->path);
    inode_write(self->inode, (struct write){WRITE_TRUNCATE, size, 0, NULL});
    return KZ_OK;
}

static enum kz_code sim_allocate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    uint64_t now;
    LOCKED(self->sim);

    KZ_TRY(check_writable(self, "allocate", err));
    now = self->inode->cache.size;
    return write_some(self, "allocate",
            (struct write){WRITE_ZEROS, now, size > now ? size - now : 0, NULL}, err);
}

static enum kz_code sim_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    LOCKED(self->sim);

    KZ_TRY(enter_file(self, "map", err));
    if (size > FILE_MAX_BYTES)
        return kz_fail(err, KZ_NO_MEMORY, "could not map \"%s\": larger than the simulated disk",
                file->path);
    if (!self->inode->cache.data)
        image_init(&self->inode->cache);
    /* Unlike the real one, this shows zeros instead of SIGBUS behind the end. */
    *ret_data = self->inode->cache.data;
    return KZ_OK;
}

static void sim_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    (void)size;
    KZ_BUG_ON(data != file_of(file)->inode->cache.data);
}

static enum kz_code sim_lock(struct kz_file *file, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    LOCKED(self->sim);

    KZ_TRY(check_writable(self, "lock", err));
    KZ_TRY(enter_file(self, "lock", err));
    if ((self->inode->locked && !self->has_lock) || self->inode->sharers)
        return kz_fail(
                err, KZ_LOCKED, "could not lock \"%s\": another process holds it", file->path);
    self->inode->locked = true;
    self->has_lock = true;
    return KZ_OK;
}

static enum kz_code sim_lock_shared(struct kz_file *file, struct kz_err *err)
{
    struct sim_file *self = file_of(file);
    LOCKED(self->sim);

    KZ_TRY(enter_file(self, "lock", err));
    if (self->inode->locked)
        return kz_fail(
                err, KZ_LOCKED, "could not lock \"%s\": another process holds it", file->path);
    self->inode->sharers += !self->has_share;
    self->has_share = true;
    return KZ_OK;
}

static const struct kz_file_ops sim_file_ops = {
        .close = sim_close,
        .pread = sim_pread,
        .pwrite = sim_pwrite,
        .sync = sim_sync,
        .size = sim_size,
        .truncate = sim_truncate,
        .allocate = sim_allocate,
        .map = sim_map,
        .unmap = sim_unmap,
        .lock = sim_lock,
        .lock_shared = sim_lock_shared,
};

/* -- the file system --------------------------------------------------------------------------- */

static enum kz_code find_or_create(
        struct sim *sim, const char *path, int flags, struct inode **ret_inode, struct kz_err *err)
{
    struct inode *inode = names_get(&sim->names, path);

    if (is_root(path) || (inode && inode->is_dir))
        return kz_fail(err, KZ_INVALID, "cannot open \"%s\": it is a directory", path);
    if (inode && (flags & KZ_OPEN_CREATE) && (flags & KZ_OPEN_EXCLUSIVE))
        return kz_fail(err, KZ_CONFLICT, "cannot create \"%s\": it is there already", path);
    if (!inode && !((flags & KZ_OPEN_CREATE) && parent_exists(&sim->names, path)))
        return kz_fail(err, KZ_NOT_FOUND, "could not %s \"%s\": No such file or directory",
                flags & KZ_OPEN_CREATE ? "create" : "open", path);
    if (!inode) {
        inode = inode_new(false);
        names_change(sim, NULL, path, inode);
    } else {
        inode_ref(inode);
    }
    if ((flags & KZ_OPEN_TRUNCATE) && inode->cache.size)
        inode_write(inode, (struct write){WRITE_TRUNCATE, 0, 0, NULL});
    *ret_inode = inode;
    return KZ_OK;
}

static enum kz_code sim_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *normal = normal_path(path);
    struct inode *inode = NULL;
    struct sim_file *self;
    LOCKED(sim);

    KZ_TRY(enter(sim, "open", path, err));
    KZ_TRY(find_or_create(sim, normal, flags, &inode, err));
    self = kz_malloc(sizeof(*self));
    *self = (struct sim_file){
            .base = {.ops = &sim_file_ops, .path = kz_strdup(path)},
            .sim = sim,
            .inode = inode,
            .epoch = sim->epoch,
            .flags = flags & KZ_OPEN_WRITE ? flags : flags | KZ_OPEN_READ,
    };
    sim->handles++;
    *ret_file = &self->base;
    return KZ_OK;
}

static enum kz_code sim_rename(
        struct kz_fs *fs, const char *from, const char *to, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *old = normal_path(from);
    KZ_AUTO(kz_freep) char *new = normal_path(to);
    struct inode *inode, *target;
    LOCKED(sim);

    KZ_TRY(enter(sim, "rename", from, err));
    inode = names_get(&sim->names, old);
    target = names_get(&sim->names, new);
    if (!inode || !parent_exists(&sim->names, new))
        return kz_fail(
                err, KZ_NOT_FOUND, "could not rename \"%s\": No such file or directory", from);
    if (inode->is_dir || (target && target->is_dir))
        return kz_fail(err, KZ_UNSUPPORTED,
                "cannot rename \"%s\": the simulated disk does not rename directories", from);
    if (inode != target)
        names_change(sim, old, new, inode);
    return KZ_OK;
}

static enum kz_code sim_unlink(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *normal = normal_path(path);
    struct inode *inode;
    LOCKED(sim);

    KZ_TRY(enter(sim, "delete", path, err));
    inode = names_get(&sim->names, normal);
    if (!inode)
        return kz_fail(
                err, KZ_NOT_FOUND, "could not delete \"%s\": No such file or directory", path);
    if (inode->is_dir)
        return kz_fail(err, KZ_INVALID, "cannot delete \"%s\": it is a directory", path);
    names_change(sim, normal, NULL, NULL);
    return KZ_OK;
}

static enum kz_code sim_mkdir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *normal = normal_path(path);
    struct inode *inode;
    LOCKED(sim);

    KZ_TRY(enter(sim, "create directory", path, err));
    if (dir_exists(&sim->names, normal))
        return KZ_OK;
    if (names_get(&sim->names, normal))
        return kz_fail(err, KZ_CONFLICT, "cannot create directory \"%s\": a file is there", path);
    if (!parent_exists(&sim->names, normal))
        return kz_fail(err, KZ_NOT_FOUND,
                "could not create directory \"%s\": No such file or directory", path);
    inode = inode_new(true);
    names_change(sim, NULL, normal, inode);
    inode_unref(inode);
    return KZ_OK;
}

static enum kz_code sim_sync_dir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *normal = normal_path(path);
    size_t kept = 0;
    LOCKED(sim);

    KZ_TRY(enter(sim, "sync", path, err));
    if (!dir_exists(&sim->names, normal))
        return kz_fail(err, KZ_NOT_FOUND, "could not sync \"%s\": no such directory", path);
    sim->syncs++;
    if (sim->fail_syncs)
        return kz_fail(err, KZ_IO, "could not sync \"%s\": simulated failure", path);
    if (sim->lie)
        return KZ_OK;
    for (size_t i = 0; i < sim->change_count; i++) {
        struct change *change = &sim->changes[i];

        if ((change->path && is_in(change->path, normal)) ||
                (change->gone && is_in(change->gone, normal))) {
            names_apply(&sim->disk_names, change);
            change_done(change);
        } else {
            sim->changes[kept++] = *change;
        }
    }
    sim->change_count = kept;
    return KZ_OK;
}

static enum kz_code sim_list(struct kz_fs *fs, const char *path,
        void (*each)(void *arg, const char *name), void *arg, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    KZ_AUTO(kz_freep) char *normal = normal_path(path);
    KZ_AUTO(kz_freep) char **found = NULL;
    size_t count = 0;

    {
        LOCKED(sim);
        KZ_TRY(enter(sim, "list", path, err));
        if (!dir_exists(&sim->names, normal))
            return kz_fail(
                    err, KZ_NOT_FOUND, "could not list \"%s\": No such file or directory", path);
        found = kz_malloc((sim->names.count + 1) * sizeof(*found));
        for (size_t i = 0; i < sim->names.count; i++) {
            const char *name = sim->names.items[i].path;
            const char *slash = strrchr(name, '/');

            if (is_in(name, normal))
                found[count++] = kz_strdup(slash ? slash + 1 : name);
        }
    }
    /* Outside of the lock: `each` may use the file system. Sorted paths of one directory are sorted
     * names. */
    for (size_t i = 0; i < count; i++) {
        each(arg, found[i]);
        free(found[i]);
    }
    return KZ_OK;
}

static enum kz_code sim_free_bytes(
        struct kz_fs *fs, const char *path, uint64_t *ret_bytes, struct kz_err *err)
{
    struct sim *sim = sim_of(fs);
    uint64_t used;
    LOCKED(sim);

    KZ_TRY(enter(sim, "look at the free space of", path, err));
    used = used_bytes(sim);
    if (!sim->capacity)
        *ret_bytes = (uint64_t)1 << 40;
    else
        *ret_bytes = sim->capacity > used ? sim->capacity - used : 0;
    return KZ_OK;
}

static const struct kz_fs_ops sim_ops = {
        .open = sim_open,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .mkdir = sim_mkdir,
        .sync_dir = sim_sync_dir,
        .list = sim_list,
        .free_bytes = sim_free_bytes,
};

/* -- the test's side --------------------------------------------------------------------------- */

struct kz_fs *kz_fs_sim_new(uint64_t seed)
{
    struct sim *sim = kz_calloc(1, sizeof(*sim));

    sim->base.ops = &sim_ops;
    pthread_mutex_init(&sim->mutex, NULL);
    kz_prng_init(&sim->prng, seed);
#ifdef KZ_FAULT_NO_FSYNC
    sim->lie = true;
#endif
    return &sim->base;
}

static void forget_changes(struct sim *sim)
{
    for (size_t i = 0; i < sim->change_count; i++)
        change_done(&sim->changes[i]);
    free(sim->changes);
    sim->changes = NULL;
    sim->change_count = 0;
}

void kz_fs_sim_free(struct kz_fs *fs)
{
    struct sim *sim;

    if (!fs)
        return;
    sim = sim_of(fs);
    KZ_BUG_ON(sim->handles != 0);
    forget_changes(sim);
    names_done(&sim->names);
    names_done(&sim->disk_names);
    pthread_mutex_destroy(&sim->mutex);
    free(sim);
}

uint64_t kz_fs_sim_calls(struct kz_fs *fs)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    return sim->calls;
}

uint64_t kz_fs_sim_syncs(struct kz_fs *fs)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    return sim->syncs;
}

static void fail_between(struct kz_fs *fs, uint64_t nth, uint64_t count, enum kz_code code)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    sim->fail_at = nth ? sim->calls + nth : 0;
    sim->fail_until = count ? sim->fail_at + count - 1 : UINT64_MAX;
    sim->fail_code = code;
}

void kz_fs_sim_fail_from(struct kz_fs *fs, uint64_t nth, enum kz_code code)
{
    fail_between(fs, nth, 0, code);
}

void kz_fs_sim_fail_once(struct kz_fs *fs, uint64_t nth, enum kz_code code)
{
    fail_between(fs, nth, 1, code);
}

void kz_fs_sim_fail_syncs(struct kz_fs *fs, bool fail)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    sim->fail_syncs = fail;
}

void kz_fs_sim_lie(struct kz_fs *fs, bool lie)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

#ifdef KZ_FAULT_NO_FSYNC
    lie = true;
#endif
    sim->lie = lie;
}

void kz_fs_sim_set_capacity(struct kz_fs *fs, uint64_t bytes)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    sim->capacity = bytes;
}

uint64_t kz_fs_sim_used_bytes(struct kz_fs *fs)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    return used_bytes(sim);
}

/* Puts each sector of a write on the disk, or not: all (one time in three), none (one in three), or
 * each as the dice fall. */
static void survive_write(struct image *disk, const struct write *write, struct kz_prng *dice)
{
    uint64_t fate = kz_prng_below(dice, 3);
    uint64_t end = write->offset + write->size;

    if (fate == 0)
        return;
    if (fate == 1 || write->kind == WRITE_TRUNCATE) {
        image_apply(disk, write);
        return;
    }
    for (uint64_t at = write->offset; at < end;) {
        uint64_t next = KZ_MIN(end, (at / SECTOR_BYTES + 1) * SECTOR_BYTES);

        if (kz_prng_below(dice, 2))
            image_write(
                    disk, write->data ? write->data + (at - write->offset) : NULL, next - at, at);
        at = next;
    }
}

/* A file as the disk has it after the power cut: an inode of its own, since handles and maps of the
 * time before still look at the old one. */
static struct inode *survive_inode(struct inode *old, struct kz_prng *dice)
{
    struct inode *inode = inode_new(old->is_dir);

    for (size_t i = 0; i < old->write_count; i++)
        survive_write(&old->disk, &old->writes[i], dice);
    inode_forget_writes(old);
    if (old->disk.size) {
        image_write(&inode->disk, old->disk.data, old->disk.size, 0);
        image_write(&inode->cache, old->disk.data, old->disk.size, 0);
    }
    return inode;
}

static void begin_epoch(struct sim *sim)
{
    sim->epoch++;
    sim->fail_at = 0;
    sim->fail_syncs = false;
}

void kz_fs_sim_power_cut(struct kz_fs *fs, uint64_t seed)
{
    struct sim *sim = sim_of(fs);
    struct names survivors = {0};
    struct kz_prng dice;
    LOCKED(sim);

    kz_prng_init(&dice, seed);
    begin_epoch(sim);
    for (size_t i = 0; i < sim->change_count; i++) {
        if (kz_prng_below(&dice, 2))
            names_apply(&sim->disk_names, &sim->changes[i]);
    }
    forget_changes(sim);
    /* In order of paths, so a directory comes before what is in it, and takes it along when lost.
     */
    for (size_t i = 0; i < sim->disk_names.count; i++) {
        const struct name *name = &sim->disk_names.items[i];
        struct inode *inode;

        if (!parent_exists(&survivors, name->path))
            continue;
        inode = survive_inode(name->inode, &dice);
        names_set(&survivors, name->path, inode);
        inode_unref(inode);
    }
    names_done(&sim->names);
    names_done(&sim->disk_names);
    sim->names = survivors;
    for (size_t i = 0; i < survivors.count; i++)
        names_set(&sim->disk_names, survivors.items[i].path, survivors.items[i].inode);
}

void kz_fs_sim_crash(struct kz_fs *fs)
{
    struct sim *sim = sim_of(fs);
    LOCKED(sim);

    begin_epoch(sim);
    for (size_t i = 0; i < sim->names.count; i++) {
        sim->names.items[i].inode->locked = false;
        sim->names.items[i].inode->sharers = 0;
    }
}
