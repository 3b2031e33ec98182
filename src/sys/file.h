/* sys/file.h -- every file Kizashi keeps is reached through this small table.
 *
 * The real one (kz_fs_posix) is thin; the simulated one (sys/file_sim.h) holds files in memory,
 * makes the n-th call fail, and cuts the power: what was not synced is dropped, torn or reordered.
 * So no module that stores data calls open(2) itself.
 *
 * Owner    kz_fs is borrowed by whoever opened through it; files are closed by their opener.
 * Threads  kz_fs calls from any thread; one kz_file: pread/map from any, the rest from one at a
 *          time, sync may run beside pwrite.
 * Fails    KZ_IO, KZ_NO_SPACE, KZ_NOT_FOUND, KZ_LOCKED; messages name the path.
 */
#pragma once

#include "base/err.h"

struct kz_file;
struct kz_fs;

enum kz_open_flags {
    KZ_OPEN_READ = 1,
    KZ_OPEN_WRITE = 2,
    KZ_OPEN_CREATE = 4,
    KZ_OPEN_EXCLUSIVE = 8, /* with CREATE: fails with KZ_CONFLICT where the file is there */
    KZ_OPEN_TRUNCATE = 16,
};

struct kz_fs_ops {
    enum kz_code (*open)(struct kz_fs *fs, const char *path, int flags, struct kz_file **ret_file,
            struct kz_err *err);
    enum kz_code (*rename)(struct kz_fs *fs, const char *from, const char *to, struct kz_err *err);
    enum kz_code (*unlink)(struct kz_fs *fs, const char *path, struct kz_err *err);
    enum kz_code (*mkdir)(
            struct kz_fs *fs, const char *path, struct kz_err *err); /* there already: OK */
    /* Makes creations, renames and unlinks in `path` durable. */
    enum kz_code (*sync_dir)(struct kz_fs *fs, const char *path, struct kz_err *err);
    /* Calls `each` with every entry's name (no "." and ".."), sorted by byte value. */
    enum kz_code (*list)(struct kz_fs *fs, const char *path,
            void (*each)(void *arg, const char *name), void *arg, struct kz_err *err);
    enum kz_code (*free_bytes)(
            struct kz_fs *fs, const char *path, uint64_t *ret_bytes, struct kz_err *err);
};

struct kz_file_ops {
    void (*close)(struct kz_file *file);
    /* Reads exactly `size` bytes, or fails; KZ_END where the file is shorter. */
    enum kz_code (*pread)(
            struct kz_file *file, void *data, size_t size, uint64_t offset, struct kz_err *err);
    enum kz_code (*pwrite)(struct kz_file *file, const void *data, size_t size, uint64_t offset,
            struct kz_err *err);
    /* Data and size durable (fdatasync). After a failure the file's contents are unknown. */
    enum kz_code (*sync)(struct kz_file *file, struct kz_err *err);
    enum kz_code (*size)(struct kz_file *file, uint64_t *ret_size, struct kz_err *err);
    enum kz_code (*truncate)(struct kz_file *file, uint64_t size, struct kz_err *err);
    /* Reserves and zero-fills up to `size`, so that a later write needs no new blocks. */
    enum kz_code (*allocate)(struct kz_file *file, uint64_t size, struct kz_err *err);
    /* A read-only view of [0, size) that shows later pwrites; valid until unmap or close. */
    enum kz_code (*map)(
            struct kz_file *file, uint64_t size, const void **ret_data, struct kz_err *err);
    void (*unmap)(struct kz_file *file, const void *data, uint64_t size);
    /* An exclusive lock for as long as the file, opened for writing, is open; KZ_LOCKED where
     * somebody has it. */
    enum kz_code (*lock)(struct kz_file *file, struct kz_err *err);
    /* A lock that others may have as well, but nobody beside one by lock(): for as long as the file,
     * opened for reading, is open. KZ_LOCKED where somebody has the other kind. */
    enum kz_code (*lock_shared)(struct kz_file *file, struct kz_err *err);
};

struct kz_fs {
    const struct kz_fs_ops *ops;
};

struct kz_file {
    const struct kz_file_ops *ops;
    char *path; /* owned; for messages */
};

/* The file system of this machine; lives as long as the process. */
struct kz_fs *kz_fs_posix(void);

/* Writing much while others wait for their syncs of little: each step is synced by itself, and in a
 * background thread followed by a pause as long as that took, so that half of the disk's time is
 * theirs and nobody waits behind more than a step. */
struct kz_trickle {
    struct kz_file *file; /* borrowed */
    uint64_t unsynced_bytes;
};
enum { KZ_TRICKLE_BYTES = 1 << 20 };
/* To be called after each write, with its size. */
KZ_MUST_USE enum kz_code kz_trickle(
        struct kz_trickle *trickle, size_t written_bytes, struct kz_err *err);

void kz_file_close(struct kz_file *file);
/* lock(), waiting up to two seconds: right after a kill -9 what is left of the killed process (memory
 * that is being torn down) has its locks for as long as that takes to die. */
KZ_MUST_USE enum kz_code kz_file_lock(struct kz_file *file, struct kz_err *err);
/* Who has a lock, for people: written into the file by whoever got it, read by whoever did not. Best
 * effort both (a full disk must not keep anybody from starting). "process 123" or "another process". */
void kz_file_lock_sign(struct kz_file *file);
void kz_file_lock_holder(struct kz_file *file, char ret_name[40]);
KZ_DEFINE_FREEP(struct kz_file, kz_file_close)

/* Whole-file helpers over any kz_fs. kz_fs_replace() writes a temporary file, syncs it, renames it
 * over `path` and syncs the directory: after a crash either the old or the new contents are there.
 */
enum kz_code kz_fs_read_all(struct kz_fs *fs, const char *path, size_t size_max_bytes,
        char **ret_data, size_t *ret_size, struct kz_err *err);
enum kz_code kz_fs_replace(
        struct kz_fs *fs, const char *path, const void *data, size_t size, struct kz_err *err);
bool kz_fs_exists(struct kz_fs *fs, const char *path);
/* Where `rc` is KZ_IO since `dir` may not be written by this process: says in the hint whose it is, or
 * that its disk is read-only. Gives `rc` back. */
enum kz_code kz_fs_hint_access(
        struct kz_fs *fs, const char *dir, enum kz_code rc, struct kz_err *err);
