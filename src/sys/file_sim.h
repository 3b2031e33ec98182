/* sys/file_sim.h -- a disk in memory that fails and loses power when told to; for tests.
 *
 * What it promises is the least that POSIX and a disk of 512-byte sectors promise, not what a
 * particular file system is kind enough to do:
 *   - a write is durable only after a sync of that file that began after it and succeeded;
 *   - until then each of its sectors reaches the disk or not, on its own and in any order;
 *   - a name (create, rename, unlink, mkdir) is durable only after sync_dir of its directory; until
 *     then each such operation is kept or lost on its own, a rename as a whole;
 *   - after a failed sync, writes that were waiting may never become durable, although they can be
 *     read and although the next sync succeeds.
 *
 * Owner    the test; every file must be closed before kz_fs_sim_free().
 * Threads  any; one lock inside.
 * Fails    as told; and KZ_IO from handles opened before a power cut.
 */
#pragma once

#include "sys/file.h"

/* The same seed and the same calls give the same disk. Only "/" and "." exist. A file holds at
 * most 1 GiB. */
struct kz_fs *kz_fs_sim_new(uint64_t seed);
void kz_fs_sim_free(struct kz_fs *fs);
KZ_DEFINE_FREEP(struct kz_fs, kz_fs_sim_free)

/* Calls so far of everything that can fail (so not close and unmap), and syncs among them. */
uint64_t kz_fs_sim_calls(struct kz_fs *fs);
uint64_t kz_fs_sim_syncs(struct kz_fs *fs);

/* The `nth` call from now (1: the next) and all after it fail with `code`; a pwrite or allocate
 * that fails so may have written a part. 0: no more failures. */
void kz_fs_sim_fail_from(struct kz_fs *fs, uint64_t nth, enum kz_code code);
/* The same, but only that one call fails. */
void kz_fs_sim_fail_once(struct kz_fs *fs, uint64_t nth, enum kz_code code);
/* Every sync fails with KZ_IO until switched off; the rest works. */
void kz_fs_sim_fail_syncs(struct kz_fs *fs, bool fail);
/* Every sync and sync_dir says OK and does nothing, to show that a test would notice; always on in
 * a build with KZ_FAULT_NO_FSYNC. */
void kz_fs_sim_lie(struct kz_fs *fs, bool lie);
/* The files together hold at most `bytes` (0: no limit): what would grow further gets KZ_NO_SPACE.
 */
void kz_fs_sim_set_capacity(struct kz_fs *fs, uint64_t bytes);
uint64_t kz_fs_sim_used_bytes(struct kz_fs *fs);

/* The power goes and comes back: what was not durable is kept, dropped or torn as `seed` says, all
 * handles are dead (close them), all locks are gone, told failures are forgotten. Then open again.
 */
void kz_fs_sim_power_cut(struct kz_fs *fs, uint64_t seed);
/* The process dies (kill -9) and the machine lives on: handles are dead, nothing written is lost.
 */
void kz_fs_sim_crash(struct kz_fs *fs);
