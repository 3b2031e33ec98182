/* app/commands/cmd_keys.c -- who may do what: keys made, listed and revoked in the data directory. A running
 * `up` reads them again by itself. */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/commands/command.h"
#include "base/arena.h"
#include "codec/json_out.h"
#include "codec/timefmt.h"
#include "contract/auth.h"
#include "sys/clock.h"

/* `create` says whether a data directory that is not there yet is made. */
static enum kz_code open_keys(
        const struct kz_args *args, bool create, struct kz_auth **ret_auth, struct kz_err *err)
{
    const char *dir = args->arguments[0];
    char data[PATH_MAX], file[PATH_MAX];

    kz_command_data(args, dir, data, sizeof(data));
    snprintf(file, sizeof(file), "%s/kizashi.yaml", dir);
    if (access(file, F_OK) != 0) {
        (void)kz_fail(err, KZ_NOT_FOUND, "there is no project at \"%s\"", dir);
        return kz_hint(err, "it has a kizashi.yaml; `kizashi init %s` makes one", dir);
    }
    if (create)
        KZ_TRY(kz_fs_posix()->ops->mkdir(kz_fs_posix(), data, err));
    return kz_auth_open(kz_fs_posix(), data, ret_auth, err);
}

/* Takes "a,b,c" apart, in the arena. */
static size_t split(const char *text, struct kz_arena *arena, const char **out, size_t max)
{
    size_t count = 0;

    while (text && *text) {
        size_t size = strcspn(text, ",");

        if (size && count < max)
            out[count++] = kz_arena_cstr(arena, kz_str_n(text, size));
        text += size + (text[size] == ',');
    }
    return count;
}

static bool is_taken(const struct kz_auth *auth, const char *name)
{
    for (size_t i = 0; i < kz_auth_key_count(auth); i++) {
        const struct kz_key *key = kz_auth_key_at(auth, i);

        if (!key->revoked_at_ms && strcmp(key->name, name) == 0)
            return true;
    }
    return false;
}

/* The kind, and a number where there is one already: read, read-2. */
static const char *free_name(const struct kz_auth *auth, const char *kind, char out[32])
{
    snprintf(out, 32, "%s", kind);
    for (unsigned n = 2; is_taken(auth, out) && n < KZ_KEYS_MAX; n++)
        snprintf(out, 32, "%s-%u", kind, n);
    return out;
}

/* ---- printing ------------------------------------------------------------------------------------- */

static void put_list(struct kz_json_out *out, const char *name, char *const *list, size_t count)
{
    kz_json_out_key(out, name);
    kz_json_out_array(out);
    for (size_t i = 0; i < count; i++)
        kz_json_out_cstr(out, list[i]);
    kz_json_out_array_end(out);
}

static void put_key(struct kz_json_out *out, const struct kz_key *key, const char *secret)
{
    kz_json_out_object(out);
    kz_json_out_kv_cstr(out, "id", key->id);
    kz_json_out_kv_cstr(out, "name", key->name);
    kz_json_out_kv_cstr(out, "kind", kz_key_kind_name(key->kind));
    if (secret)
        kz_json_out_kv_cstr(out, "secret", secret);
    put_list(out, "events", key->events, key->event_count);
    put_list(out, "origins", key->origins, key->origin_count);
    kz_json_out_kv_u64(out, "rate", key->rate);
    kz_json_out_kv_i64(out, "created_at", key->created_at_ms);
    if (key->revoked_at_ms)
        kz_json_out_kv_i64(out, "revoked_at", key->revoked_at_ms);
    kz_json_out_object_end(out);
}

static void print_limits(const struct kz_key *key)
{
    for (size_t i = 0; i < key->event_count; i++)
        printf("%s%s", i ? "," : " events=", key->events[i]);
    for (size_t i = 0; i < key->origin_count; i++)
        printf("%s%s", i ? "," : " origins=", key->origins[i]);
    if (key->rate)
        printf(" rate=%u/s", key->rate);
    if (key->revoked_at_ms) {
        char when[KZ_TIME_BYTES];

        printf(" revoked %s", kz_time_format(key->revoked_at_ms, when));
    }
}

/* ---- create --------------------------------------------------------------------------------------- */

static void print_new(const struct kz_args *args, const struct kz_key *key, const char *secret)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);

    if (kz_args_flag(args, "json")) {
        put_key(&out, key, secret);
        printf("%.*s\n", (int)buf.size, buf.data);
    } else {
        printf("%s\n", secret);
        fprintf(stderr,
                "%s key \"%s\" (%s). It is shown only now; send it as "
                "\"Authorization: Bearer KEY\".\n"
                "An `up` that is running takes it within two seconds.\n",
                kz_key_kind_name(key->kind), key->name, key->id);
    }
    kz_buf_done(&buf);
}

static int run_create(const struct kz_args *args)
{
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    const char *kind = kz_args_get(args, "kind"), *events[KZ_KEY_LIST_MAX + 1],
               *origins[KZ_KEY_LIST_MAX + 1];
    struct kz_key_spec spec = {.name = kz_args_get(args, "name"),
            .events = events,
            .origins = origins,
            .rate = (uint32_t)kz_args_int(args, "rate", 0, UINT32_MAX)};
    char secret[KZ_SECRET_BYTES], name[32];
    const struct kz_key *key;
    struct kz_arena arena;
    struct kz_err err = {0};
    enum kz_code rc;

    if (!kz_key_kind_parse(kz_str(kind), &spec.kind))
        return kz_command_usage(
                args, "--kind is \"%s\", it has to be write, read, admin or signing", kind);
    kz_arena_init(&arena, 0);
    spec.event_count = split(kz_args_get(args, "events"), &arena, events, KZ_ARRAY_COUNT(events));
    spec.origin_count = split(
            kz_args_get(args, "origins"), &arena, origins, KZ_ARRAY_COUNT(origins));
    rc = open_keys(args, true, &auth, &err);
    if (rc == KZ_OK && !spec.name)
        spec.name = free_name(auth, kind, name);
    if (rc == KZ_OK)
        rc = kz_auth_create(auth, &spec, kz_clock_ms(), secret, &key, &err);
    if (rc == KZ_OK)
        print_new(args, key, secret);
    kz_arena_done(&arena);
    return rc == KZ_OK ? KZ_EXIT_DONE : kz_command_fail(&err);
}

const struct kz_command kz_command_keys_create = {
        .name = "keys create",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Makes a key; its secret is printed once and only its hash is kept.",
        .details =
                "write is public and may ship in pages: it sends the events allowed to it. read reads\n"
                "predictions, admin does everything, signing signs tokens that prove who a user is.\n"
                "As soon as there is a key, callers need one; a running `up` notices by itself.",
        .example = "kizashi keys create shop --kind write --name page --events 'view,cart' "
                   "--origins https://shop.example",
        .options =
                {
                        {"kind", "KIND", "write", "write, read, admin or signing"},
                        {"name", "NAME", NULL, "what to call it; the kind where there is none"},
                        {"events", "A,B", NULL,
                                "write: event names it may send, * for any characters"},
                        {"origins", "A,B", NULL, "web origins it may be used from"},
                        {"rate", "COUNT", "0", "events a second, 0 for no limit"},
                        {"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                        {"json", NULL, NULL, "the key as JSON"},
                },
        .run = run_create,
};

/* ---- list ----------------------------------------------------------------------------------------- */

static void list_json(const struct kz_auth *auth)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);

    kz_json_out_object(&out);
    kz_json_out_key(&out, "keys");
    kz_json_out_array(&out);
    for (size_t i = 0; i < kz_auth_key_count(auth); i++)
        put_key(&out, kz_auth_key_at(auth, i), NULL);
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    printf("%.*s\n", (int)buf.size, buf.data);
    kz_buf_done(&buf);
}

static int run_list(const struct kz_args *args)
{
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    struct kz_err err = {0};
    char when[KZ_TIME_BYTES];

    if (open_keys(args, false, &auth, &err) != KZ_OK)
        return kz_command_fail(&err);
    if (kz_args_flag(args, "json")) {
        list_json(auth);
        return KZ_EXIT_DONE;
    }
    if (!kz_auth_key_count(auth))
        printf("there are no keys: everything is open to callers on this machine\n");
    for (size_t i = 0; i < kz_auth_key_count(auth); i++) {
        const struct kz_key *key = kz_auth_key_at(auth, i);

        printf("%s  %-7s  %-16s  %s", key->id, kz_key_kind_name(key->kind), key->name,
                kz_time_format(key->created_at_ms, when));
        print_limits(key);
        printf("\n");
    }
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_keys_list = {
        .name = "keys list",
        .arguments = "DIR",
        .argument_min = 1,
        .argument_max = 1,
        .summary = "Lists the keys, revoked ones too; never their secrets.",
        .options = {{"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"},
                {"json", NULL, NULL, "as JSON"}},
        .run = run_list,
};

/* ---- revoke --------------------------------------------------------------------------------------- */

static int run_revoke(const struct kz_args *args)
{
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = NULL;
    struct kz_err err = {0};

    if (open_keys(args, false, &auth, &err) != KZ_OK ||
            kz_auth_revoke(auth, args->arguments[1], kz_clock_ms(), &err) != KZ_OK)
        return kz_command_fail(&err);
    printf("revoked \"%s\"; a running `up` refuses it within a second or two\n",
            args->arguments[1]);
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_keys_revoke = {
        .name = "keys revoke",
        .arguments = "DIR KEY",
        .argument_min = 2,
        .argument_max = 2,
        .summary = "Revokes a key, by its id or name; for good.",
        .example = "kizashi keys revoke shop page",
        .options = {{"data", "PATH", NULL, "where the data is, instead of DIR/.kizashi"}},
        .run = run_revoke,
};
