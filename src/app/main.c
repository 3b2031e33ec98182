/* app/main.c -- kizashi, the command. */

#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>

#include "app/commands/command.h"

int main(int argc, char **argv)
{
    /* glibc raises the size from which memory is mapped with each such piece that is freed, and then
     * keeps what a checkpoint's views took (54 MB with a million users). Set, it stays. */
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 32 << 20);
    signal(SIGPIPE, SIG_IGN);
    umask(077); /* what is kept here is about people; keys.json holds secrets */
    return kz_command_main(argc, argv);
}
