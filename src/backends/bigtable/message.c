/* The parts of requests. */
#include <stdlib.h>

#include "backends/bigtable/bigtable_int.h"
#include "sys/clock.h"

#define CASE(what) GOOGLE__BIGTABLE__V2__ROW_FILTER__FILTER_##what

static ProtobufCBinaryData binary(struct kz_str s)
{
    return (ProtobufCBinaryData){s.size, (uint8_t *)(uintptr_t)s.ptr};
}

static KZ_BT_FILTER *next(struct kz_bt_filters *f)
{
    KZ_BT_FILTER *filter = &f->items[f->count++];

    KZ_BUG_ON(f->count > KZ_BT_FILTERS_MAX);
    google__bigtable__v2__row_filter__init(filter);
    return filter;
}

KZ_BT_FILTER *kz_bt_family(struct kz_bt_filters *f, const char *regex)
{
    KZ_BT_FILTER *filter = next(f);

    filter->filter_case = CASE(FAMILY_NAME_REGEX_FILTER);
    filter->family_name_regex_filter = (char *)(uintptr_t)regex;
    return filter;
}

KZ_BT_FILTER *kz_bt_qualifier(struct kz_bt_filters *f, struct kz_str regex)
{
    KZ_BT_FILTER *filter = next(f);

    filter->filter_case = CASE(COLUMN_QUALIFIER_REGEX_FILTER);
    filter->column_qualifier_regex_filter = binary(regex);
    return filter;
}

KZ_BT_FILTER *kz_bt_columns(
        struct kz_bt_filters *f, const char *family, struct kz_str from, struct kz_str until)
{
    Google__Bigtable__V2__ColumnRange *range = &f->columns[f->column_count++];
    KZ_BT_FILTER *filter = next(f);

    KZ_BUG_ON(f->column_count > KZ_ARRAY_COUNT(f->columns));
    google__bigtable__v2__column_range__init(range);
    range->family_name = (char *)(uintptr_t)family;
    range->start_qualifier_case =
            GOOGLE__BIGTABLE__V2__COLUMN_RANGE__START_QUALIFIER_START_QUALIFIER_CLOSED;
    range->start_qualifier_closed = binary(from);
    range->end_qualifier_case =
            GOOGLE__BIGTABLE__V2__COLUMN_RANGE__END_QUALIFIER_END_QUALIFIER_CLOSED;
    range->end_qualifier_closed = binary(until);
    filter->filter_case = CASE(COLUMN_RANGE_FILTER);
    filter->column_range_filter = range;
    return filter;
}

KZ_BT_FILTER *kz_bt_values(struct kz_bt_filters *f, struct kz_str from, struct kz_str until)
{
    Google__Bigtable__V2__ValueRange *range = &f->values[f->value_count++];
    KZ_BT_FILTER *filter = next(f);

    KZ_BUG_ON(f->value_count > KZ_ARRAY_COUNT(f->values));
    google__bigtable__v2__value_range__init(range);
    if (from.size) {
        range->start_value_case = GOOGLE__BIGTABLE__V2__VALUE_RANGE__START_VALUE_START_VALUE_CLOSED;
        range->start_value_closed = binary(from);
    }
    if (until.size) {
        range->end_value_case = GOOGLE__BIGTABLE__V2__VALUE_RANGE__END_VALUE_END_VALUE_OPEN;
        range->end_value_open = binary(until);
    }
    filter->filter_case = CASE(VALUE_RANGE_FILTER);
    filter->value_range_filter = range;
    return filter;
}

KZ_BT_FILTER *kz_bt_newest(struct kz_bt_filters *f)
{
    KZ_BT_FILTER *filter = next(f);

    filter->filter_case = CASE(CELLS_PER_COLUMN_LIMIT_FILTER);
    filter->cells_per_column_limit_filter = 1;
    return filter;
}

KZ_BT_FILTER *kz_bt_limit(struct kz_bt_filters *f, uint32_t cells_max)
{
    KZ_BT_FILTER *filter = next(f);

    filter->filter_case = CASE(CELLS_PER_ROW_LIMIT_FILTER);
    filter->cells_per_row_limit_filter = (int32_t)KZ_MIN(cells_max, (uint32_t)INT32_MAX);
    return filter;
}

KZ_BT_FILTER *kz_bt_strip(struct kz_bt_filters *f)
{
    KZ_BT_FILTER *filter = next(f);

    filter->filter_case = CASE(STRIP_VALUE_TRANSFORMER);
    filter->strip_value_transformer = true;
    return filter;
}

static size_t gather(KZ_BT_FILTER **parts, KZ_BT_FILTER *first, va_list more)
{
    size_t count = 0;

    for (KZ_BT_FILTER *part = first; part; part = va_arg(more, KZ_BT_FILTER *)) {
        KZ_BUG_ON(count == KZ_BT_FILTER_PARTS_MAX);
        parts[count++] = part;
    }
    return count;
}

KZ_BT_FILTER *kz_bt_chain(struct kz_bt_filters *f, KZ_BT_FILTER *first, ...)
{
    __typeof__(&f->lists[0]) list = &f->lists[f->list_count++];
    KZ_BT_FILTER *filter = next(f);
    va_list more;

    KZ_BUG_ON(f->list_count > KZ_ARRAY_COUNT(f->lists));
    google__bigtable__v2__row_filter__chain__init(&list->chain);
    va_start(more, first);
    list->chain.n_filters = gather(list->parts, first, more);
    va_end(more);
    list->chain.filters = list->parts;
    filter->filter_case = CASE(CHAIN);
    filter->chain = &list->chain;
    return filter;
}

KZ_BT_FILTER *kz_bt_interleave(struct kz_bt_filters *f, KZ_BT_FILTER *first, ...)
{
    __typeof__(&f->lists[0]) list = &f->lists[f->list_count++];
    KZ_BT_FILTER *filter = next(f);
    va_list more;

    KZ_BUG_ON(f->list_count > KZ_ARRAY_COUNT(f->lists));
    google__bigtable__v2__row_filter__interleave__init(&list->interleave);
    va_start(more, first);
    list->interleave.n_filters = gather(list->parts, first, more);
    va_end(more);
    list->interleave.filters = list->parts;
    filter->filter_case = CASE(INTERLEAVE);
    filter->interleave = &list->interleave;
    return filter;
}

/* ---- mutations ------------------------------------------------------------------------------- */

struct kz_bt_changes kz_bt_changes(size_t max)
{
    struct kz_bt_changes changes = {.max = max};

    changes.items = kz_malloc(max * sizeof(*changes.items));
    changes.list = kz_malloc(max * sizeof(*changes.list));
    return changes;
}

void kz_bt_changes_done(struct kz_bt_changes *changes)
{
    free(changes->items);
    free(changes->list);
}

static struct kz_bt_change *next_change(struct kz_bt_changes *changes)
{
    struct kz_bt_change *change = &changes->items[changes->count];

    KZ_BUG_ON(changes->count == changes->max);
    google__bigtable__v2__mutation__init(&change->mutation);
    changes->list[changes->count++] = &change->mutation;
    return change;
}

void kz_bt_set(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier,
        struct kz_str value)
{
    struct kz_bt_change *change = next_change(changes);

    google__bigtable__v2__mutation__set_cell__init(&change->set);
    change->set.family_name = (char *)(uintptr_t)family;
    change->set.column_qualifier = binary(qualifier);
    change->set.timestamp_micros = kz_clock_ms() *
                                   1000; /* the service takes whole milliseconds only */
    change->set.value = binary(value);
    change->mutation.mutation_case = GOOGLE__BIGTABLE__V2__MUTATION__MUTATION_SET_CELL;
    change->mutation.set_cell = &change->set;
}

void kz_bt_remove(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier)
{
    struct kz_bt_change *change = next_change(changes);

    google__bigtable__v2__mutation__delete_from_column__init(&change->remove);
    change->remove.family_name = (char *)(uintptr_t)family;
    change->remove.column_qualifier = binary(qualifier);
    change->mutation.mutation_case = GOOGLE__BIGTABLE__V2__MUTATION__MUTATION_DELETE_FROM_COLUMN;
    change->mutation.delete_from_column = &change->remove;
}

void kz_bt_replace(struct kz_bt_changes *changes, const char *family, struct kz_str qualifier,
        struct kz_str value)
{
    kz_bt_remove(changes, family, qualifier);
    kz_bt_set(changes, family, qualifier, value);
}

void kz_bt_remove_row(struct kz_bt_changes *changes)
{
    struct kz_bt_change *change = next_change(changes);

    google__bigtable__v2__mutation__delete_from_row__init(&change->remove_row);
    change->mutation.mutation_case = GOOGLE__BIGTABLE__V2__MUTATION__MUTATION_DELETE_FROM_ROW;
    change->mutation.delete_from_row = &change->remove_row;
}
