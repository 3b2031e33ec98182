/* What a failure means. */
#include "backends/bigtable/bigtable_int.h"

/* By the server's status where the code alone does not tell what is to be done. */
static void add_remedy(const struct kz_bt *bt, enum kz_code code, struct kz_err *err)
{
    if (code == KZ_NOT_FOUND)
        kz_hint(err,
                "`kizashi gcp init DIR` creates the table; the instance is created with gcloud "
                "bigtable instances create");
    else if (code == KZ_FORBIDDEN)
        kz_hint(err,
                "grant roles/bigtable.user on instance %s to the service account; "
                "roles/bigtable.admin "
                "to whoever runs kizashi gcp init",
                bt->instance);
    else if (code == KZ_CONFIG)
        kz_hint(err,
                "the app profile must route to a single cluster and permit single-row "
                "transactions: "
                "gcloud bigtable app-profiles update %s --instance=%s --route-to=CLUSTER "
                "--transactional-writes",
                bt->app_profile[0] ? bt->app_profile : "default", bt->instance);
}

enum kz_code kz_bt_failed(struct kz_bt *bt, enum kz_code code, struct kz_err *err)
{
    struct kz_err local = {0};

    /* To whoever calls us a conflict is somebody else's change of what they have read. */
    if (code == KZ_CONFLICT)
        code = kz_rpc_status() == KZ_RPC_FAILED_PRECONDITION ? KZ_CONFIG : KZ_UNAVAILABLE;
    if (!err)
        err = &local;
    err->code = code;
    kz_wrap(err, "table \"%s\" of Bigtable instance \"%s\" in project \"%s\"", bt->table,
            bt->instance, bt->project);
    add_remedy(bt, code, err);
    kz_rpc_health_failed(&bt->health, code, err->message);
    return code;
}
