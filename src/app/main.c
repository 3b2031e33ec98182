/* app/main.c -- kizashi, the command. */

#include <signal.h>

#include "app/command.h"

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    return kz_command_main(argc, argv);
}
