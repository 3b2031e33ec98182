/* app/commands.c -- the list of commands, in the order of --help. */

#include "app/command.h"

extern const struct kz_command kz_command_up;

const struct kz_command *const *kz_commands(void)
{
    static const struct kz_command *const list[] = {&kz_command_up, NULL};

    return list;
}
