/* app/main.c -- kizashi, the command. */

#include <signal.h>
#include <sys/stat.h>

#include "app/commands/command.h"

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    umask(077); /* what is kept here is about people; keys.json holds secrets */
    return kz_command_main(argc, argv);
}
