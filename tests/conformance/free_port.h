/* tests/conformance/free_port.h -- a port of loopback for an emulator of one test's own.
 *
 * It is below those that the kernel gives to whoever names none (32768 and more on Linux): nobody's
 * connection takes it while the emulator is away, and who looks for the emulator does not meet
 * itself, as a connection to a port that is given to that connection does.
 */
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "sys/random.h"

static int free_port(void)
{
    enum { FIRST = 20000, COUNT = 12000, TRIES_MAX = 1000 };

    for (int tries = 0; tries < TRIES_MAX; tries++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        uint16_t number;
        bool is_free;

        kz_random_bytes(&number, sizeof(number));
        at.sin_port = htons((uint16_t)(FIRST + number % COUNT));
        KZ_BUG_ON(fd < 0);
        is_free = bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0;
        close(fd);
        if (is_free)
            return ntohs(at.sin_port);
    }
    KZ_BUG_ON(true);
    return -1;
}
