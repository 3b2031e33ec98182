#include "app/pipeline/journal.h"

static struct kz_log_journal *of(struct kz_journal *journal)
{
    return KZ_CONTAINER_OF(journal, struct kz_log_journal, journal);
}

static enum kz_code log_append(struct kz_journal *journal, const struct kz_log_entry *entry,
        kz_lsn *ret_lsn, const struct kz_record **ret_record, struct kz_err *err)
{
    uint64_t seq = 0;

    KZ_TRY(kz_log_append(of(journal)->log, entry, ret_lsn, &seq, err));
    journal->seq_next = seq + 1;
    *ret_record = kz_log_get_staged(of(journal)->log, *ret_lsn);
    KZ_BUG_ON(!*ret_record);
    return KZ_OK;
}

static const struct kz_record *log_staged(struct kz_journal *journal, kz_lsn lsn)
{
    return kz_log_get_staged(of(journal)->log, lsn);
}

static bool is_same_event(void *arg, const struct kz_record *record)
{
    const struct kz_journal_id *id = arg;
    struct kz_event event;
    struct kz_user_key key;

    if (record->type != KZ_RECORD_EVENT || kz_event_decode(record, &event, NULL) != KZ_OK)
        return false;
    key = kz_event_key(&event);
    return key.kind == id->as_sent.kind && kz_str_eq(key.id, id->as_sent.id) &&
           kz_str_eq(event.event_id, id->event_id);
}

static enum kz_code log_find(struct kz_journal *journal, const struct kz_journal_id *id,
        uint64_t owner, int64_t since_ms, bool *ret_found, struct kz_err *err)
{
    return kz_log_find_key(
            of(journal)->log, id->key, owner, since_ms, is_same_event, (void *)id, ret_found, err);
}

static void log_prefetch(struct kz_journal *journal, uint64_t key)
{
    kz_log_prefetch_key(of(journal)->log, key);
}

static uint64_t log_room(struct kz_journal *journal)
{
    struct kz_log *log = of(journal)->log;

    return kz_log_has_staged(log) ? kz_log_room(log) : UINT64_MAX;
}

void kz_log_journal_init(struct kz_log_journal *journal, struct kz_log *log)
{
    static const struct kz_journal_ops ops = {
            .append = log_append,
            .staged = log_staged,
            .find = log_find,
            .prefetch = log_prefetch,
            .room = log_room,
    };

    *journal = (struct kz_log_journal){
            .journal = {.ops = &ops, .seq_next = kz_log_seq_last(log) + 1}, .log = log};
}
