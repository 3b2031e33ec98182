/* The table: whether it is there, and making it. */
#include <stdio.h>

#include "backends/bigtable/bigtable_int.h"

#define ADMIN(name) Google__Bigtable__Admin__V2__##name

/* What is under a total cap is taken away by those who reserve; what is left behind by an action
 * that is gone goes by age, past any window there can be. */
#define TOTALS_RETENTION_MS (400 * INT64_C(86400000))

#define X(letter, what) FAMILY_##letter,
enum family { KZ_BT_FAMILIES(X) FAMILY_COUNT };
#undef X
#define X(letter, what) {#letter, what},
static const struct {
    const char *name, *what;
} families[] = {KZ_BT_FAMILIES(X)};
#undef X

/* A family's rule, and the messages it is made of: versions alone, or versions and age. */
struct rule {
    ADMIN(ColumnFamily) family;
    ADMIN(GcRule) rule, versions, age;
    ADMIN(GcRule) * parts[2];
    ADMIN(GcRule__Union) both;
    ADMIN(GcRule__Duration) duration;
    int64_t age_ms; /* 0: none */
};

static int64_t age_ms(const struct kz_bt *bt, enum family family)
{
    switch (family) {
    case FAMILY_s:
        return bt->state_retention_ms;
    case FAMILY_e:
    case FAMILY_p:
        return bt->retention_ms;
    case FAMILY_t:
        return TOTALS_RETENTION_MS;
    case FAMILY_w:
    case FAMILY_COUNT:
        break;
    }
    return 0;
}

static void make_rule(const struct kz_bt *bt, enum family family, struct rule *r)
{
    google__bigtable__admin__v2__column_family__init(&r->family);
    google__bigtable__admin__v2__gc_rule__init(&r->rule);
    google__bigtable__admin__v2__gc_rule__init(&r->versions);
    google__bigtable__admin__v2__gc_rule__init(&r->age);
    google__bigtable__admin__v2__gc_rule__union__init(&r->both);
    google__bigtable__admin__v2__gc_rule__duration__init(&r->duration);
    r->age_ms = age_ms(bt, family);
    r->versions.rule_case = GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_MAX_NUM_VERSIONS;
    r->versions.max_num_versions = 1;
    r->duration.seconds = r->age_ms / 1000;
    r->duration.nanos = (int32_t)(r->age_ms % 1000) * 1000000;
    r->age.rule_case = GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_MAX_AGE;
    r->age.max_age = &r->duration;
    r->parts[0] = &r->versions;
    r->parts[1] = &r->age;
    r->both.rules = r->parts;
    r->both.n_rules = 2;
    r->rule.rule_case = GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_UNION;
    r->rule.union_ = &r->both;
    r->family.gc_rule = r->age_ms ? &r->rule : &r->versions;
}

/* Whether the service holds the rule we want, as it gives it back. */
static bool is_rule(const ADMIN(ColumnFamily) * there, const struct rule *r)
{
    const ADMIN(GcRule) *rule = there ? there->gc_rule : NULL;
    bool versions = false, age = false;

    if (!rule)
        return false;
    if (rule->rule_case == GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_MAX_NUM_VERSIONS)
        return !r->age_ms && rule->max_num_versions == 1;
    if (!r->age_ms || rule->rule_case != GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_UNION ||
            rule->union_->n_rules != 2)
        return false;
    for (size_t i = 0; i < 2; i++) {
        const ADMIN(GcRule) *part = rule->union_->rules[i];

        versions |= part->rule_case ==
                            GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_MAX_NUM_VERSIONS &&
                    part->max_num_versions == 1;
        age |= part->rule_case == GOOGLE__BIGTABLE__ADMIN__V2__GC_RULE__RULE_MAX_AGE &&
               part->max_age->seconds == r->duration.seconds &&
               part->max_age->nanos == r->duration.nanos;
    }
    return versions && age;
}

static const ADMIN(ColumnFamily) * find_family(const ADMIN(Table) * table, const char *name)
{
    for (size_t i = 0; i < table->n_column_families; i++)
        if (strcmp(table->column_families[i]->key, name) == 0)
            return table->column_families[i]->value;
    return NULL;
}

static enum kz_code call(struct kz_bt *bt, const char *method, const char *routing, bool idempotent,
        const ProtobufCMessage *request, ADMIN(Table) * *ret_table, struct kz_err *err)
{
    const struct kz_rpc_options options = {
            .method = method,
            .timeout_ms = KZ_MAX(bt->timeout_ms, (int64_t)60000), /* making a table takes a while */
            .idempotent = idempotent,
            .routing = routing,
            .resource = bt->instance_name,
    };
    ProtobufCMessage *answer = NULL;

    KZ_TRY(kz_rpc_call(bt->admin, &options, request,
            &google__bigtable__admin__v2__table__descriptor, &answer, err));
    *ret_table = (ADMIN(Table) *)answer;
    return KZ_OK;
}

static void free_table(ADMIN(Table) * table)
{
    if (table)
        google__bigtable__admin__v2__table__free_unpacked(table, NULL);
}

static enum kz_code get(struct kz_bt *bt, ADMIN(Table) * *ret_table, struct kz_err *err)
{
    ADMIN(GetTableRequest) request = GOOGLE__BIGTABLE__ADMIN__V2__GET_TABLE_REQUEST__INIT;

    request.name = bt->table_name;
    request.view = GOOGLE__BIGTABLE__ADMIN__V2__TABLE__VIEW__SCHEMA_VIEW;
    return call(bt, "/google.bigtable.admin.v2.BigtableTableAdmin/GetTable", bt->table_routing,
            true, &request.base, ret_table, err);
}

enum kz_code kz_bt_check(struct kz_predictions *p, struct kz_err *err)
{
    struct kz_bt *bt = kz_bt_of(p);
    ADMIN(Table) *table = NULL;
    enum kz_code rc = get(bt, &table, err);

    for (size_t i = 0; i < FAMILY_COUNT && rc == KZ_OK; i++)
        if (!find_family(table, families[i].name))
            rc = kz_fail(err, KZ_NOT_FOUND, "column family \"%s\" (%s) is missing",
                    families[i].name, families[i].what);
    free_table(table);
    return rc == KZ_OK ? KZ_OK : kz_bt_failed(bt, rc, err);
}

static void tell(void (*say)(void *arg, const char *line), void *arg, const char *fmt, ...)
        KZ_PRINTF(3, 4);
static void tell(void (*say)(void *arg, const char *line), void *arg, const char *fmt, ...)
{
    char line[256];
    va_list args;

    if (!say)
        return;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    say(arg, line);
}

static enum kz_code create_table(struct kz_bt *bt, struct kz_err *err)
{
    ADMIN(CreateTableRequest) request = GOOGLE__BIGTABLE__ADMIN__V2__CREATE_TABLE_REQUEST__INIT;
    ADMIN(Table) table = GOOGLE__BIGTABLE__ADMIN__V2__TABLE__INIT, *made = NULL;
    ADMIN(Table__Family) entries[FAMILY_COUNT], *list[FAMILY_COUNT];
    struct rule rules[FAMILY_COUNT];
    enum kz_code rc;

    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        make_rule(bt, (enum family)i, &rules[i]);
        google__bigtable__admin__v2__table__family__init(&entries[i]);
        entries[i].key = (char *)(uintptr_t)families[i].name;
        entries[i].value = &rules[i].family;
        list[i] = &entries[i];
    }
    table.column_families = list;
    table.n_column_families = FAMILY_COUNT;
    request.parent = bt->instance_name;
    request.table_id = bt->table;
    request.table = &table;
    rc = call(bt, "/google.bigtable.admin.v2.BigtableTableAdmin/CreateTable", bt->instance_routing,
            false, &request.base, &made, err);
    free_table(made);
    return rc;
}

/* Adds families that are missing and mends rules that are others, as a change of retention makes
 * them. */
static enum kz_code mend(struct kz_bt *bt, const ADMIN(Table) * table,
        void (*say)(void *arg, const char *line), void *arg, struct kz_err *err)
{
    ADMIN(ModifyColumnFamiliesRequest)
    request = GOOGLE__BIGTABLE__ADMIN__V2__MODIFY_COLUMN_FAMILIES_REQUEST__INIT;
    ADMIN(ModifyColumnFamiliesRequest__Modification) items[FAMILY_COUNT], *list[FAMILY_COUNT];
    struct rule rules[FAMILY_COUNT];
    ADMIN(Table) *mended = NULL;
    size_t count = 0;
    enum kz_code rc;

    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        const ADMIN(ColumnFamily) *there = find_family(table, families[i].name);

        make_rule(bt, (enum family)i, &rules[i]);
        if (is_rule(there, &rules[i]))
            continue;
        google__bigtable__admin__v2__modify_column_families_request__modification__init(
                &items[count]);
        items[count].id = (char *)(uintptr_t)families[i].name;
        items[count].mod_case =
                there ? GOOGLE__BIGTABLE__ADMIN__V2__MODIFY_COLUMN_FAMILIES_REQUEST__MODIFICATION__MOD_UPDATE
                      : GOOGLE__BIGTABLE__ADMIN__V2__MODIFY_COLUMN_FAMILIES_REQUEST__MODIFICATION__MOD_CREATE;
        items[count].create = &rules[i].family; /* the same place as `update` */
        list[count] = &items[count];
        count++;
    }
    if (!count)
        return KZ_OK;
    request.name = bt->table_name;
    request.modifications = list;
    request.n_modifications = count;
    rc = call(bt, "/google.bigtable.admin.v2.BigtableTableAdmin/ModifyColumnFamilies",
            bt->table_routing, false, &request.base, &mended, err);
    free_table(mended);
    for (size_t i = 0; i < count && rc == KZ_OK; i++)
        tell(say, arg, "Bigtable table %s: column family %s %s", bt->table, items[i].id,
                find_family(table, items[i].id) ? "keeps for another time now" : "added");
    return rc;
}

enum kz_code kz_bt_create(struct kz_predictions *p, void (*say)(void *arg, const char *line),
        void *arg, struct kz_err *err)
{
    struct kz_bt *bt = kz_bt_of(p);
    ADMIN(Table) *table = NULL;
    enum kz_code rc = get(bt, &table, err);

    if (rc == KZ_NOT_FOUND) {
        rc = create_table(bt, err);
        if (rc == KZ_OK)
            tell(say, arg, "Bigtable table %s created in instance %s", bt->table, bt->instance);
        else if (kz_rpc_status() == KZ_RPC_ALREADY_EXISTS) /* somebody else was quicker */
            rc = get(bt, &table, err);
    }
    if (rc == KZ_OK && table)
        rc = mend(bt, table, say, arg, err);
    free_table(table);
    return rc == KZ_OK ? KZ_OK : kz_bt_failed(bt, rc, err);
}
