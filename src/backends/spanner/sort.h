/* backends/spanner/sort.h -- records in the order of their addresses, more of them than memory
 * holds: sorted runs go into a file of temporary name (in TMPDIR, else /tmp) and are merged.
 *
 * Threads  one at a time.
 * Fails    KZ_IO, KZ_NO_SPACE of that file.
 */
#pragma once

#include "contract/record.h"

struct kz_sp_sort;

struct kz_sp_sort *kz_sp_sort_new(size_t memory_max_bytes);
void kz_sp_sort_free(struct kz_sp_sort *sort);
KZ_DEFINE_FREEP(struct kz_sp_sort, kz_sp_sort_free)
/* Copies the record. */
KZ_MUST_USE enum kz_code kz_sp_sort_add(
        struct kz_sp_sort *sort, kz_lsn lsn, const struct kz_record *record, struct kz_err *err);
/* By address, then owner; once, and nothing is added behind it. A code other than KZ_OK from `each`
 * ends it and is returned. */
KZ_MUST_USE enum kz_code kz_sp_sort_each(struct kz_sp_sort *sort,
        enum kz_code (*each)(void *arg, kz_lsn lsn, const struct kz_record *record), void *arg,
        struct kz_err *err);
