/* app/commands/replay.h -- `kizashi replay` has two halves: a project on virtual time (cmd_replay.c), and a
 * running system over HTTP.
 */
#pragma once

#include "app/commands/command.h"

/* `replay FILE --url URL`; a run() of the command table. */
int kz_replay_url(const struct kz_args *args);
