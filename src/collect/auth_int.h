/* collect/auth_int.h -- keys as the store (keys.c) and the checks (auth.c) share them. */
#pragma once

#include "contract/auth.h"

enum { AUTH_MAGIC = 0x6b7a6175, HOSTS_MAX = 4 };

struct kz_auth {
    uint32_t magic;
    struct kz_fs *fs;
    char *path; /* of keys.json */
    char *lock_path;
    uint64_t file_hash; /* of what is loaded; 0 where there is no file */
    struct kz_key *keys;
    size_t key_count;
    bool ever_closed;       /* there is or was a key that is not for signing */
    char *hosts[HOSTS_MAX]; /* of the listen addresses */
    size_t host_count;
};

/* `*` stands for any run of characters, also none. */
bool auth_pattern(const char *pattern, struct kz_str text);
