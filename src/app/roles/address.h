/* app/roles/address.h -- addresses (and seqs) of records in a shared store.
 *
 *     63       21       16                0
 *     | ms      | count  | hash of the owner |
 *
 * An address follows from the owner's own records alone: from the time of what caused the record,
 * and from the address before. So whoever takes the same events of a user in the same order, once
 * or again after a crash, comes to the same addresses; and addresses of different users compare
 * nearly as time does. Unique within an owner (it only grows); of two owners they are mostly
 * different, but whoever needs a name that is unique for all mixes in the owner.
 */
#pragma once

#include "contract/store.h"

enum { KZ_ADDRESS_COUNT_SHIFT = 16 };
_Static_assert(
        (int)KZ_STORE_LSN_SHIFT == KZ_ADDRESS_COUNT_SHIFT + 5, "32 records of a user in a ms");

/* The least address of that time; of events before 1970 and after 2109 there are none. */
static inline kz_lsn kz_address_of_ms(int64_t ms)
{
    const int64_t last_ms = ((int64_t)1 << (63 - KZ_STORE_LSN_SHIFT)) - 2;

    return kz_store_lsn(ms < 1 ? 1 : ms > last_ms ? last_ms : ms);
}

/* The next address of `owner`, greater than `last` (0: there is none). */
static inline kz_lsn kz_address_next(int64_t ms, uint64_t owner, kz_lsn last)
{
    const kz_lsn step = (kz_lsn)1 << KZ_ADDRESS_COUNT_SHIFT;
    kz_lsn low = (owner ^ owner >> 16 ^ owner >> 32 ^ owner >> 48) & (step - 1);
    kz_lsn lsn = kz_address_of_ms(ms) | low;

    if (lsn <= last)
        lsn = ((last & ~(step - 1)) | low) <= last ? ((last & ~(step - 1)) | low) + step
                                                   : ((last & ~(step - 1)) | low);
    return lsn;
}
