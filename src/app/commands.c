/* app/commands.c -- the list of commands, in the order of --help. */

#include "app/command.h"

extern const struct kz_command kz_command_check;
extern const struct kz_command kz_command_import;
extern const struct kz_command kz_command_init;
extern const struct kz_command kz_command_replay;
extern const struct kz_command kz_command_test;
extern const struct kz_command kz_command_up;
extern const struct kz_command kz_command_version;

const struct kz_command *const *kz_commands(void)
{
    static const struct kz_command *const list[] = {
            &kz_command_init,
            &kz_command_check,
            &kz_command_test,
            &kz_command_up,
            &kz_command_replay,
            &kz_command_import,
            &kz_command_version,
            NULL,
    };

    return list;
}
