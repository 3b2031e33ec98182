#include "sys/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "sys/clock.h"
#include "sys/thread.h"

enum {
    /* Read or written by one call of the system. A kernel that is not preempted gives the core to nobody
     * within one, and new pages may cost a virtual machine 4 us each and more: 1 MiB at once kept the
     * threads that somebody waits for from the core for 2 to 3 ms. */
    TURN_BYTES = 64 << 10,
    FILE_MODE = 0640,
    DIR_MODE = 0750,
    LOCK_WAIT_MS = 2000
};

struct posix_file {
    struct kz_file base;
    int fd;
};

static int fd_of(struct kz_file *file)
{
    return KZ_CONTAINER_OF(file, struct posix_file, base)->fd;
}

/* kz_fail_errno() with the codes that callers of a file system tell apart. */
static enum kz_code fail_path(struct kz_err *err, const char *what, const char *path)
{
    int saved = errno;

    if (saved == ENOENT)
        return kz_fail(err, KZ_NOT_FOUND, "could not %s \"%s\": %s", what, path, strerror(saved));
    if (saved == EISDIR)
        return kz_fail(err, KZ_INVALID, "cannot %s \"%s\": it is a directory", what, path);
    errno = saved;
    return kz_fail_errno(err, "could not %s \"%s\"", what, path);
}

static void posix_close(struct kz_file *file)
{
    struct posix_file *self = KZ_CONTAINER_OF(file, struct posix_file, base);

    /* What had to be durable was synced; nothing here waits for close. */
    (void)close(self->fd);
    free(self->base.path);
    free(self);
}

static enum kz_code posix_pread(
        struct kz_file *file, void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    char *at = data;

    while (size) {
        ssize_t n = pread(fd_of(file), at, KZ_MIN(size, (size_t)TURN_BYTES), (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_path(err, "read", file->path);
        if (n == 0)
            return kz_fail(err, KZ_END, "could not read \"%s\": it ends at byte %llu", file->path,
                    (unsigned long long)offset);
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return KZ_OK;
}

static enum kz_code posix_pwrite(
        struct kz_file *file, const void *data, size_t size, uint64_t offset, struct kz_err *err)
{
    const char *at = data;

    while (size) {
        ssize_t n = pwrite(fd_of(file), at, KZ_MIN(size, (size_t)TURN_BYTES), (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_path(err, "write", file->path);
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return KZ_OK;
}

static enum kz_code sync_fd(int fd, bool data_only, const char *path, struct kz_err *err)
{
#ifdef KZ_FAULT_NO_FSYNC
    (void)fd, (void)data_only, (void)path, (void)err;
    return KZ_OK;
#else
    int rc;

    do {
        rc = data_only ? fdatasync(fd) : fsync(fd);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? fail_path(err, "sync", path) : KZ_OK;
#endif
}

static enum kz_code posix_sync(struct kz_file *file, struct kz_err *err)
{
    return sync_fd(fd_of(file), true, file->path, err);
}

static enum kz_code posix_size(struct kz_file *file, uint64_t *ret_size, struct kz_err *err)
{
    struct stat st;

    if (fstat(fd_of(file), &st) < 0)
        return fail_path(err, "look at", file->path);
    *ret_size = (uint64_t)st.st_size;
    return KZ_OK;
}

static enum kz_code posix_truncate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    int rc;

    do {
        rc = ftruncate(fd_of(file), (off_t)size);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? fail_path(err, "truncate", file->path) : KZ_OK;
}

static enum kz_code posix_allocate(struct kz_file *file, uint64_t size, struct kz_err *err)
{
    static const char zeros[TURN_BYTES];
    uint64_t at;
    int rc;

    KZ_TRY(posix_size(file, &at, err));
    if (at >= size)
        return KZ_OK;
    do {
        rc = fallocate(fd_of(file), FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)(size - at));
    } while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_path(err, "allocate", file->path);
    /* Reserved blocks are "unwritten" until something is written to them, and turning them into
     * written ones is a change of metadata that every later fdatasync would pay for. */
    while (at < size) {
        size_t n = (size_t)KZ_MIN(size - at, (uint64_t)TURN_BYTES);

        KZ_TRY(posix_pwrite(file, zeros, n, at, err));
        at += n;
    }
    return KZ_OK;
}

static enum kz_code posix_map(
        struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err)
{
    void *data;

    if (size == 0) {
        *ret_data = "";
        return KZ_OK;
    }
    data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd_of(file), 0);
    if (data == MAP_FAILED)
        return fail_path(err, "map", file->path);
    *ret_data = data;
    return KZ_OK;
}

static void posix_unmap(struct kz_file *file, const void *data, uint64_t size)
{
    (void)file;
    if (size)
        KZ_BUG_ON(munmap((void *)data, size) != 0);
}

static enum kz_code lock_whole(struct kz_file *file, short type, struct kz_err *err)
{
    /* An open-file-description lock: unlike a process's lock, closing some other handle of the same
     * file does not drop it, and a second open in this process is refused as well. */
    struct flock whole = {.l_type = type, .l_whence = SEEK_SET};
    int rc;

    do {
        rc = fcntl(fd_of(file), F_OFD_SETLK, &whole);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0 && (errno == EAGAIN || errno == EACCES))
        return kz_fail(
                err, KZ_LOCKED, "could not lock \"%s\": another process holds it", file->path);
    return rc < 0 ? fail_path(err, "lock", file->path) : KZ_OK;
}

static enum kz_code posix_lock(struct kz_file *file, struct kz_err *err)
{
    return lock_whole(file, F_WRLCK, err);
}

static enum kz_code posix_lock_shared(struct kz_file *file, struct kz_err *err)
{
    return lock_whole(file, F_RDLCK, err);
}

static const struct kz_file_ops posix_file_ops = {
        .close = posix_close,
        .pread = posix_pread,
        .pwrite = posix_pwrite,
        .sync = posix_sync,
        .size = posix_size,
        .truncate = posix_truncate,
        .allocate = posix_allocate,
        .map = posix_map,
        .unmap = posix_unmap,
        .lock = posix_lock,
        .lock_shared = posix_lock_shared,
};

static int open_fd(const char *path, int flags)
{
    int fd;

    do {
        fd = open(path, flags | O_CLOEXEC, FILE_MODE);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static enum kz_code posix_open(struct kz_fs *fs, const char *path, int flags,
        struct kz_file **ret_file, struct kz_err *err)
{
    int how = !(flags & KZ_OPEN_WRITE) ? O_RDONLY : flags & KZ_OPEN_READ ? O_RDWR : O_WRONLY;
    struct posix_file *self;
    struct stat st;
    int fd;

    (void)fs;
    if (flags & KZ_OPEN_CREATE)
        how |= O_CREAT;
    if (flags & KZ_OPEN_EXCLUSIVE)
        how |= O_EXCL;
    if (flags & KZ_OPEN_TRUNCATE)
        how |= O_TRUNC;
    /* Without O_NONBLOCK a FIFO in a file's place would hold us up for ever. */
    fd = open_fd(path, how | O_NONBLOCK);
    if (fd < 0 && errno == EEXIST)
        return kz_fail(err, KZ_CONFLICT, "cannot create \"%s\": it is there already", path);
    if (fd < 0)
        return fail_path(err, flags & KZ_OPEN_CREATE ? "create" : "open", path);
    if (fstat(fd, &st) != 0) {
        enum kz_code rc = fail_path(err, "open", path);

        close(fd);
        return rc;
    }
    if (S_ISDIR(st.st_mode)) {
        close(fd);
        errno = EISDIR;
        return fail_path(err, "open", path);
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return kz_fail(err, KZ_INVALID, "cannot open \"%s\": it is no regular file", path);
    }
    self = kz_malloc(sizeof(*self));
    *self = (struct posix_file){
            .base = {.ops = &posix_file_ops, .path = kz_strdup(path)}, .fd = fd};
    *ret_file = &self->base;
    return KZ_OK;
}

static enum kz_code posix_rename(
        struct kz_fs *fs, const char *from, const char *to, struct kz_err *err)
{
    (void)fs;
    return rename(from, to) < 0 ? fail_path(err, "rename", from) : KZ_OK;
}

static enum kz_code posix_unlink(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    (void)fs;
    return unlink(path) < 0 ? fail_path(err, "delete", path) : KZ_OK;
}

static enum kz_code posix_mkdir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    struct stat st;

    (void)fs;
    if (mkdir(path, DIR_MODE) == 0)
        return KZ_OK;
    if (errno != EEXIST)
        return fail_path(err, "create directory", path);
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return kz_fail(err, KZ_CONFLICT, "cannot create directory \"%s\": a file is there", path);
    return KZ_OK;
}

static enum kz_code posix_sync_dir(struct kz_fs *fs, const char *path, struct kz_err *err)
{
    enum kz_code rc;
    int fd = open_fd(path, O_RDONLY | O_DIRECTORY);

    (void)fs;
    if (fd < 0)
        return fail_path(err, "open directory", path);
    rc = sync_fd(fd, false, path, err);
    close(fd);
    return rc;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum kz_code posix_list(struct kz_fs *fs, const char *path,
        void (*each)(void *arg, const char *name), void *arg, struct kz_err *err)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char **names = NULL;
    size_t count = 0;
    int failure;

    (void)fs;
    if (!dir)
        return fail_path(err, "list", path);
    while (errno = 0, (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if ((count & (count - 1)) == 0)
            names = kz_realloc(names, (count ? count * 2 : 1) * sizeof(*names));
        names[count++] = kz_strdup(entry->d_name);
    }
    failure = errno;
    closedir(dir);
    if (count)
        qsort(names, count, sizeof(*names), by_bytes);
    for (size_t i = 0; i < count; i++) {
        if (!failure)
            each(arg, names[i]);
        free(names[i]);
    }
    free(names);
    errno = failure;
    return failure ? fail_path(err, "list", path) : KZ_OK;
}

static enum kz_code posix_free_bytes(
        struct kz_fs *fs, const char *path, uint64_t *ret_bytes, struct kz_err *err)
{
    struct statvfs st;
    int rc;

    (void)fs;
    do {
        rc = statvfs(path, &st);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return fail_path(err, "look at the free space of", path);
    *ret_bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return KZ_OK;
}

static const struct kz_fs_ops posix_ops = {
        .open = posix_open,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .mkdir = posix_mkdir,
        .sync_dir = posix_sync_dir,
        .list = posix_list,
        .free_bytes = posix_free_bytes,
};

struct kz_fs *kz_fs_posix(void)
{
    static struct kz_fs fs = {.ops = &posix_ops};

    return &fs;
}

void kz_file_close(struct kz_file *file)
{
    if (file)
        file->ops->close(file);
}

enum kz_code kz_file_lock(struct kz_file *file, struct kz_err *err)
{
    int64_t until_ms = kz_mono_ms() + LOCK_WAIT_MS;
    enum kz_code rc;

    while ((rc = file->ops->lock(file, err)) == KZ_LOCKED && kz_mono_ms() < until_ms)
        (void)usleep(10000); /* cut short is fine: the clock is looked at */
    return rc;
}

void kz_file_lock_sign(struct kz_file *file)
{
    char text[16];
    int size = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    if (file->ops->pwrite(file, text, (size_t)size, 0, NULL) == KZ_OK)
        (void)file->ops->truncate(file, (uint64_t)size, NULL); /* a longer pid was there before */
}

void kz_file_lock_holder(struct kz_file *file, char ret_name[40])
{
    char text[16] = "";
    uint64_t size = 0;

    if (file->ops->size(file, &size, NULL) == KZ_OK && size < sizeof(text) &&
            file->ops->pread(file, text, size, 0, NULL) != KZ_OK)
        text[0] = '\0';
    text[strspn(text, "0123456789")] = '\0';
    if (text[0])
        snprintf(ret_name, 40, "process %s", text);
    else
        snprintf(ret_name, 40, "another process");
}

enum kz_code kz_fs_read_all(struct kz_fs *fs, const char *path, size_t size_max_bytes,
        char **ret_data, size_t *ret_size, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;
    KZ_AUTO(kz_freep) char *data = NULL;
    uint64_t size = 0;

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_READ, &file, err));
    KZ_TRY(file->ops->size(file, &size, err));
    if (size > size_max_bytes)
        return kz_fail(err, KZ_TOO_LARGE, "cannot read \"%s\": it has %llu bytes, the limit is %zu",
                path, (unsigned long long)size, size_max_bytes);
    data = kz_malloc(size + 1);
    KZ_TRY(file->ops->pread(file, data, size, 0, err));
    data[size] = '\0'; /* behind the contents, so that text can be read as a C string */
    *ret_data = kz_take(&data);
    *ret_size = size;
    return KZ_OK;
}

enum kz_code kz_trickle(struct kz_trickle *trickle, size_t written_bytes, struct kz_err *err)
{
    enum { PAUSE_MAX_US = 20000 };
    int64_t began_us;

    trickle->unsynced_bytes += written_bytes;
    if (trickle->unsynced_bytes < KZ_TRICKLE_BYTES)
        return KZ_OK;
    began_us = kz_mono_us();
    KZ_TRY(trickle->file->ops->sync(trickle->file, err));
    trickle->unsynced_bytes = 0;
    if (kz_thread_is_background())
        usleep((useconds_t)KZ_MIN(kz_mono_us() - began_us, (int64_t)PAUSE_MAX_US));
    return KZ_OK;
}

static enum kz_code write_new(
        struct kz_fs *fs, const char *path, const void *data, size_t size, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;

    KZ_TRY(fs->ops->open(fs, path, KZ_OPEN_WRITE | KZ_OPEN_CREATE | KZ_OPEN_TRUNCATE, &file, err));
    KZ_TRY(file->ops->pwrite(file, data, size, 0, err));
    return file->ops->sync(file, err);
}

enum kz_code kz_fs_replace(
        struct kz_fs *fs, const char *path, const void *data, size_t size, struct kz_err *err)
{
    const char *slash = strrchr(path, '/');
    KZ_AUTO(kz_freep) char *temporary = kz_malloc(strlen(path) + sizeof(".tmp"));
    KZ_AUTO(kz_freep)
    char *dir = !slash          ? kz_strdup(".")
                : slash == path ? kz_strdup("/")
                                : kz_strndup(path, (size_t)(slash - path));
    enum kz_code rc;

    sprintf(temporary, "%s.tmp", path);
    rc = write_new(fs, temporary, data, size, err);
    if (rc == KZ_OK)
        rc = fs->ops->rename(fs, temporary, path, err);
    if (rc != KZ_OK) {
        /* A leftover harms nobody: the next replacement truncates it. */
        (void)fs->ops->unlink(fs, temporary, NULL);
        return rc;
    }
    return fs->ops->sync_dir(fs, dir, err);
}

bool kz_fs_exists(struct kz_fs *fs, const char *path)
{
    KZ_AUTO(kz_file_closep) struct kz_file *file = NULL;

    /* What cannot be opened for another reason is there: whoever would create it must not. */
    return fs->ops->open(fs, path, KZ_OPEN_READ, &file, NULL) != KZ_NOT_FOUND;
}

enum kz_code kz_fs_hint_access(
        struct kz_fs *fs, const char *dir, enum kz_code rc, struct kz_err *err)
{
    struct stat st;
    bool read_only;

    if (rc != KZ_IO || fs != kz_fs_posix() || access(dir, W_OK | X_OK) == 0)
        return rc;
    read_only = errno == EROFS;
    if (stat(dir, &st) != 0)
        return rc;
    if (read_only)
        return kz_hint(err, "its disk is mounted read-only");
    return kz_hint(err,
            "it belongs to user %u and this process runs as %u: start it as that user, or give "
            "another place with --data",
            (unsigned)st.st_uid, (unsigned)geteuid());
}
