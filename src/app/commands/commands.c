/* app/commands/commands.c -- the list of commands, in the order of --help. */

#include "app/commands/command.h"

extern const struct kz_command kz_command_actions_pause;
extern const struct kz_command kz_command_actions_resume;
extern const struct kz_command kz_command_backup;
extern const struct kz_command kz_command_bench;
extern const struct kz_command kz_command_check;
extern const struct kz_command kz_command_deadletters_drop;
extern const struct kz_command kz_command_deadletters_list;
extern const struct kz_command kz_command_deadletters_retry;
extern const struct kz_command kz_command_deadletters_show;
extern const struct kz_command kz_command_demo;
extern const struct kz_command kz_command_dump;
extern const struct kz_command kz_command_export;
extern const struct kz_command kz_command_features;
extern const struct kz_command kz_command_fsck;
extern const struct kz_command kz_command_gcp_init;
extern const struct kz_command kz_command_gcp_migrate;
extern const struct kz_command kz_command_import;
extern const struct kz_command kz_command_init;
extern const struct kz_command kz_command_keys_create;
extern const struct kz_command kz_command_keys_list;
extern const struct kz_command kz_command_keys_revoke;
extern const struct kz_command kz_command_manifests;
extern const struct kz_command kz_command_models_pause;
extern const struct kz_command kz_command_models_resume;
extern const struct kz_command kz_command_models_unfence;
extern const struct kz_command kz_command_replay;
extern const struct kz_command kz_command_requests_drop;
extern const struct kz_command kz_command_restore;
extern const struct kz_command kz_command_send;
extern const struct kz_command kz_command_sql;
extern const struct kz_command kz_command_status;
extern const struct kz_command kz_command_test;
extern const struct kz_command kz_command_top;
extern const struct kz_command kz_command_up;
extern const struct kz_command kz_command_version;

const struct kz_command *const *kz_commands(void)
{
    static const struct kz_command *const list[] = {
            &kz_command_init,
            &kz_command_check,
            &kz_command_test,
            &kz_command_up,
            &kz_command_demo,
            &kz_command_send,
            &kz_command_replay,
            &kz_command_import,
            &kz_command_sql,
            &kz_command_features,
            &kz_command_status,
            &kz_command_top,
            &kz_command_models_pause,
            &kz_command_models_resume,
            &kz_command_models_unfence,
            &kz_command_actions_pause,
            &kz_command_actions_resume,
            &kz_command_requests_drop,
            &kz_command_deadletters_list,
            &kz_command_deadletters_show,
            &kz_command_deadletters_retry,
            &kz_command_deadletters_drop,
            &kz_command_keys_create,
            &kz_command_keys_list,
            &kz_command_keys_revoke,
            &kz_command_manifests,
            &kz_command_gcp_init,
            &kz_command_gcp_migrate,
            &kz_command_backup,
            &kz_command_restore,
            &kz_command_export,
            &kz_command_fsck,
            &kz_command_dump,
            &kz_command_bench,
            &kz_command_version,
            NULL,
    };

    return list;
}
