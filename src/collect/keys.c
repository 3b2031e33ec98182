/* The store of keys: one JSON file, replaced as a whole under a lock. */
#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "codec/hex.h"
#include "codec/json.h"
#include "codec/json_out.h"
#include "codec/utf8.h"
#include "collect/auth_int.h"
#include "sys/random.h"

enum { FORMAT = 1, FILE_MAX_BYTES = 8 << 20, TEXT_SIZE_MAX = 256 };

static const struct {
    const char *name;
    char letter;
} kinds[] = {
        [KZ_KEY_WRITE] = {"write", 'w'},
        [KZ_KEY_READ] = {"read", 'r'},
        [KZ_KEY_ADMIN] = {"admin", 'a'},
        [KZ_KEY_SIGNING] = {"signing", 's'},
};

const char *kz_key_kind_name(enum kz_key_kind kind)
{
    KZ_BUG_ON(kind < KZ_KEY_WRITE || kind > KZ_KEY_SIGNING);
    return kinds[kind].name;
}

bool kz_key_kind_parse(struct kz_str text, enum kz_key_kind *ret)
{
    for (size_t i = KZ_KEY_WRITE; i < KZ_ARRAY_COUNT(kinds); i++) {
        if (kz_str_is(text, kinds[i].name)) {
            *ret = (enum kz_key_kind)i;
            return true;
        }
    }
    return false;
}

/* -- memory ----------------------------------------------------------------------------------- */

static void list_done(char **list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(list[i]);
    free(list);
}

static void keys_free(struct kz_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        list_done(keys[i].events, keys[i].event_count);
        list_done(keys[i].origins, keys[i].origin_count);
    }
    free(keys);
}

static char **list_copy(const char *const *list, size_t count)
{
    char **copy = count ? kz_calloc(count, sizeof(*copy)) : NULL;

    for (size_t i = 0; i < count; i++)
        copy[i] = kz_strdup(list[i]);
    return copy;
}

/* -- reading ---------------------------------------------------------------------------------- */

static enum kz_code bad_key(size_t index, const char *what, struct kz_err *err)
{
    return kz_fail(err, KZ_CORRUPT, "key %zu: %s", index + 1, what);
}

/* A string member that fits into `size` bytes with its NUL. An absent one leaves "". */
static bool read_text(struct kz_json_value object, const char *name, struct kz_arena *arena,
        char *out, size_t size)
{
    struct kz_json_value value = kz_json_get(object, name);
    struct kz_str text;

    out[0] = '\0';
    if (value.kind == KZ_JSON_NONE)
        return true;
    if (kz_json_str(value, arena, &text, NULL) != KZ_OK || text.size >= size ||
            memchr(text.ptr, '\0', text.size))
        return false;
    memcpy(out, text.ptr, text.size);
    out[text.size] = '\0';
    return true;
}

static bool read_list(struct kz_json_value object, const char *name, struct kz_arena *arena,
        char ***ret_list, size_t *ret_count)
{
    struct kz_json_walk walk = kz_json_walk(kz_json_get(object, name));
    struct kz_json_value value;
    char *list[KZ_KEY_LIST_MAX];
    struct kz_str text;
    size_t count = 0;
    bool ok = true;

    while (ok && kz_json_walk_element(&walk, &value)) {
        ok = count < KZ_KEY_LIST_MAX && kz_json_str(value, arena, &text, NULL) == KZ_OK &&
             text.size <= TEXT_SIZE_MAX;
        if (ok)
            list[count++] = kz_strndup(text.ptr, text.size);
    }
    if (count) {
        *ret_list = kz_calloc(count, sizeof(**ret_list));
        memcpy(*ret_list, list, count * sizeof(*list));
    }
    *ret_count = count;
    return ok;
}

static bool read_i64(struct kz_json_value object, const char *name, int64_t *ret)
{
    struct kz_json_value value = kz_json_get(object, name);

    *ret = 0;
    return value.kind == KZ_JSON_NONE || (kz_json_i64(value, ret, NULL) == KZ_OK && *ret >= 0);
}

static enum kz_code read_key(struct kz_json_value value, size_t index, struct kz_arena *arena,
        struct kz_key *key, struct kz_err *err)
{
    char kind[16], digest[2 * KZ_SHA256_BYTES + 1];
    int64_t rate;

    if (value.kind != KZ_JSON_OBJECT)
        return bad_key(index, "no object", err);
    if (!read_text(value, "id", arena, key->id, sizeof(key->id)) || !key->id[0])
        return bad_key(index, "bad id", err);
    if (!read_text(value, "name", arena, key->name, sizeof(key->name)) || !key->name[0])
        return bad_key(index, "bad name", err);
    if (!read_text(value, "kind", arena, kind, sizeof(kind)) ||
            !kz_key_kind_parse(kz_str(kind), &key->kind))
        return bad_key(index, "bad kind", err);
    if (!read_text(value, "sha256", arena, digest, sizeof(digest)) ||
            kz_hex_decode(kz_str(digest), key->digest, sizeof(key->digest), NULL) != KZ_OK)
        return bad_key(index, "bad sha256", err);
    if (!read_text(value, "secret", arena, key->secret, sizeof(key->secret)) ||
            (key->kind == KZ_KEY_SIGNING) != (key->secret[0] != '\0'))
        return bad_key(index, "bad secret", err);
    if (!read_list(value, "events", arena, &key->events, &key->event_count))
        return bad_key(index, "bad events", err);
    if (!read_list(value, "origins", arena, &key->origins, &key->origin_count))
        return bad_key(index, "bad origins", err);
    if (!read_i64(value, "rate", &rate) || rate > UINT32_MAX)
        return bad_key(index, "bad rate", err);
    if (!read_i64(value, "created_at", &key->created_at_ms) ||
            !read_i64(value, "revoked_at", &key->revoked_at_ms))
        return bad_key(index, "bad time", err);
    key->rate = (uint32_t)rate;
    key->tokens = key->rate;
    return KZ_OK;
}

static enum kz_code parse_keys(struct kz_str text, struct kz_arena *arena, struct kz_key **ret_keys,
        size_t *ret_count, struct kz_err *err)
{
    struct kz_json_value root, value;
    struct kz_json_walk walk;
    struct kz_key *keys;
    int64_t format;
    size_t count = 0;
    enum kz_code rc = KZ_OK;

    if (kz_json_parse(text, 0, &root, err) != KZ_OK)
        return kz_fail(err, KZ_CORRUPT, "no valid JSON");
    if (kz_json_i64(kz_json_get(root, "format"), &format, NULL) != KZ_OK || format != FORMAT)
        return kz_fail(err, KZ_CORRUPT, "its format is not %d", FORMAT);
    if (kz_json_get(root, "keys").kind != KZ_JSON_ARRAY)
        return kz_fail(err, KZ_CORRUPT, "\"keys\" is no array");
    keys = kz_calloc(KZ_KEYS_MAX, sizeof(*keys));
    walk = kz_json_walk(kz_json_get(root, "keys"));
    while (rc == KZ_OK && kz_json_walk_element(&walk, &value)) {
        if (count == KZ_KEYS_MAX)
            rc = kz_fail(err, KZ_CORRUPT, "more than %d keys", KZ_KEYS_MAX);
        else
            rc = read_key(value, count, arena, &keys[count], err), count++;
    }
    if (rc != KZ_OK) {
        keys_free(keys, count);
        return rc;
    }
    *ret_keys = keys;
    *ret_count = count;
    return KZ_OK;
}

/* What is spent of a rate stays spent. */
static void adopt(struct kz_auth *auth, struct kz_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < auth->key_count; j++) {
            if (strcmp(keys[i].id, auth->keys[j].id) == 0) {
                keys[i].tokens = auth->keys[j].tokens;
                keys[i].filled_us = auth->keys[j].filled_us;
            }
        }
        auth->ever_closed |= keys[i].kind != KZ_KEY_SIGNING;
    }
    keys_free(auth->keys, auth->key_count);
    auth->keys = keys;
    auth->key_count = count;
}

enum kz_code kz_auth_reload(struct kz_auth *auth, struct kz_err *err)
{
    KZ_AUTO(kz_freep) char *data = NULL;
    struct kz_key *keys = NULL;
    struct kz_arena arena;
    struct kz_err why;
    size_t size, count = 0;
    enum kz_code rc = kz_fs_read_all(auth->fs, auth->path, FILE_MAX_BYTES, &data, &size, &why);
    uint64_t hash;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    if (rc == KZ_NOT_FOUND && !auth->file_hash)
        return KZ_OK;
    if (rc != KZ_OK) {
        if (err)
            *err = why;
        return rc;
    }
    hash = kz_hash(data, size) | 1;
    if (hash == auth->file_hash)
        return KZ_OK;
    kz_arena_init(&arena, 0);
    rc = parse_keys(kz_str_n(data, size), &arena, &keys, &count, err);
    kz_arena_done(&arena);
    if (rc != KZ_OK) {
        (void)kz_wrap(err, "could not read \"%s\"", auth->path);
        (void)kz_hint(err, "restore the file, or move it away and create the keys anew");
        return rc;
    }
    adopt(auth, keys, count);
    auth->file_hash = hash;
    return KZ_OK;
}

enum kz_code kz_auth_open(
        struct kz_fs *fs, const char *data_dir, struct kz_auth **ret_auth, struct kz_err *err)
{
    KZ_AUTO(kz_auth_closep) struct kz_auth *auth = kz_calloc(1, sizeof(*auth));
    size_t size = strlen(data_dir) + sizeof("/keys.json");

    auth->magic = AUTH_MAGIC;
    auth->fs = fs;
    auth->path = kz_malloc(size);
    snprintf(auth->path, size, "%s/keys.json", data_dir);
    auth->lock_path = kz_malloc(size);
    snprintf(auth->lock_path, size, "%s/keys.lock", data_dir);
    KZ_TRY(kz_auth_reload(auth, err));
    *ret_auth = kz_take(&auth);
    return KZ_OK;
}

void kz_auth_close(struct kz_auth *auth)
{
    if (!auth)
        return;
    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    auth->magic = 0;
    keys_free(auth->keys, auth->key_count);
    for (size_t i = 0; i < auth->host_count; i++)
        free(auth->hosts[i]);
    free(auth->path);
    free(auth->lock_path);
    free(auth);
}

size_t kz_auth_key_count(const struct kz_auth *auth)
{
    return auth->key_count;
}

const struct kz_key *kz_auth_key_at(const struct kz_auth *auth, size_t index)
{
    KZ_BUG_ON(index >= auth->key_count);
    return &auth->keys[index];
}

/* -- writing ---------------------------------------------------------------------------------- */

static void write_list(struct kz_json_out *out, const char *name, char *const *list, size_t count)
{
    if (!count)
        return;
    kz_json_out_key(out, name);
    kz_json_out_array(out);
    for (size_t i = 0; i < count; i++)
        kz_json_out_cstr(out, list[i]);
    kz_json_out_array_end(out);
}

static void write_key(struct kz_json_out *out, const struct kz_key *key)
{
    char digest[2 * KZ_SHA256_BYTES + 1];

    kz_json_out_object(out);
    kz_json_out_kv_cstr(out, "id", key->id);
    kz_json_out_kv_cstr(out, "name", key->name);
    kz_json_out_kv_cstr(out, "kind", kz_key_kind_name(key->kind));
    kz_json_out_kv_cstr(out, "sha256", kz_hex(key->digest, sizeof(key->digest), digest));
    if (key->secret[0])
        kz_json_out_kv_cstr(out, "secret", key->secret);
    write_list(out, "events", key->events, key->event_count);
    write_list(out, "origins", key->origins, key->origin_count);
    if (key->rate)
        kz_json_out_kv_u64(out, "rate", key->rate);
    kz_json_out_kv_i64(out, "created_at", key->created_at_ms);
    if (key->revoked_at_ms)
        kz_json_out_kv_i64(out, "revoked_at", key->revoked_at_ms);
    kz_json_out_object_end(out);
}

static enum kz_code save(struct kz_auth *auth, struct kz_err *err)
{
    struct kz_buf buf = {0};
    struct kz_json_out out = kz_json_out(&buf);
    enum kz_code rc;

    kz_json_out_object(&out);
    kz_json_out_kv_u64(&out, "format", FORMAT);
    kz_json_out_key(&out, "keys");
    kz_json_out_array(&out);
    for (size_t i = 0; i < auth->key_count; i++)
        write_key(&out, &auth->keys[i]);
    kz_json_out_array_end(&out);
    kz_json_out_object_end(&out);
    kz_buf_char(&buf, '\n');
    rc = kz_fs_replace(auth->fs, auth->path, buf.data, buf.size, err);
    if (rc == KZ_OK)
        auth->file_hash = kz_hash(buf.data, buf.size) | 1;
    kz_buf_done(&buf);
    return rc;
}

/* Nobody else writes while the lock is held, and what they wrote before is loaded. */
static enum kz_code begin_change(
        struct kz_auth *auth, struct kz_file **ret_lock, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;

    KZ_TRY(auth->fs->ops->open(
            auth->fs, auth->lock_path, KZ_OPEN_READ | KZ_OPEN_WRITE | KZ_OPEN_CREATE, &lock, err));
    KZ_TRY(lock->ops->lock(lock, err));
    KZ_TRY(kz_auth_reload(auth, err));
    *ret_lock = kz_take(&lock);
    return KZ_OK;
}

static void random_text(char *out, size_t size)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567"; /* RFC 4648, section 6 */
    uint8_t bytes[64];

    KZ_BUG_ON(size > sizeof(bytes));
    kz_random_bytes(bytes, size);
    for (size_t i = 0; i < size; i++)
        out[i] = alphabet[bytes[i] & 31];
    out[size] = '\0';
}

static bool is_plain(struct kz_str text)
{
    for (size_t i = 0; i < text.size; i++)
        if ((unsigned char)text.ptr[i] <= ' ' || text.ptr[i] == 0x7f)
            return false;
    return kz_utf8_check(text, NULL);
}

static enum kz_code check_list(
        const char *what, const char *const *list, size_t count, bool blanks, struct kz_err *err)
{
    if (count > KZ_KEY_LIST_MAX)
        return kz_fail(
                err, KZ_INVALID, "%zu %ss, a key has at most %d", count, what, KZ_KEY_LIST_MAX);
    for (size_t i = 0; i < count; i++) {
        struct kz_str text = kz_str(list[i]);

        if (!text.size || text.size > KZ_NAME_SIZE_MAX || !kz_utf8_check(text, NULL) ||
                (!blanks && !is_plain(text)))
            return kz_fail(err, KZ_INVALID, "the %s \"%s\" is none", what, list[i]);
    }
    return KZ_OK;
}

static enum kz_code check_spec(
        const struct kz_auth *auth, const struct kz_key_spec *spec, struct kz_err *err)
{
    struct kz_str name = kz_str(spec->name);

    if (!name.size || name.size > KZ_KEY_NAME_SIZE_MAX || !is_plain(name))
        return kz_fail(err, KZ_INVALID,
                "a key's name has 1 to %d bytes without blanks, unlike \"%s\"",
                KZ_KEY_NAME_SIZE_MAX, spec->name ? spec->name : "");
    KZ_TRY(check_list("event name", spec->events, spec->event_count, true, err));
    KZ_TRY(check_list("origin", spec->origins, spec->origin_count, false, err));
    for (size_t i = 0; i < spec->origin_count; i++) {
        const char *host = strstr(spec->origins[i], "://");

        if (strcmp(spec->origins[i], "*") != 0 && (!host || strchr(host + 3, '/'))) {
            (void)kz_fail(err, KZ_INVALID, "the origin \"%s\" is none", spec->origins[i]);
            return kz_hint(err, "write scheme and host without a path: https://shop.example");
        }
    }
    if (auth->key_count == KZ_KEYS_MAX)
        return kz_fail(err, KZ_LIMIT, "there are %d keys, the most there may be", KZ_KEYS_MAX);
    for (size_t i = 0; i < auth->key_count; i++)
        if (!auth->keys[i].revoked_at_ms && strcmp(auth->keys[i].name, spec->name) == 0)
            return kz_fail(err, KZ_CONFLICT, "there is a key named \"%s\" already", spec->name);
    return KZ_OK;
}

enum kz_code kz_auth_create(struct kz_auth *auth, const struct kz_key_spec *spec, int64_t now_ms,
        char ret_secret[KZ_SECRET_BYTES], const struct kz_key **ret_key, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;
    char secret[KZ_SECRET_BYTES];
    struct kz_key *key;
    enum kz_code rc;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    KZ_TRY(begin_change(auth, &lock, err));
    KZ_TRY(check_spec(auth, spec, err));
    if (!auth->keys)
        auth->keys = kz_calloc(KZ_KEYS_MAX, sizeof(*auth->keys));
    key = &auth->keys[auth->key_count];
    *key = (struct kz_key){
            .kind = spec->kind,
            .events = list_copy(spec->events, spec->event_count),
            .event_count = spec->event_count,
            .origins = list_copy(spec->origins, spec->origin_count),
            .origin_count = spec->origin_count,
            .rate = spec->rate,
            .tokens = spec->rate,
            .created_at_ms = now_ms,
    };
    snprintf(key->name, sizeof(key->name), "%s", spec->name);
    memcpy(key->id, "k_", 2);
    random_text(key->id + 2, sizeof(key->id) - 3);
    snprintf(secret, sizeof(secret), "kz_%c_", kinds[spec->kind].letter);
    random_text(secret + 5, sizeof(secret) - 6);
    kz_sha256(kz_str(secret), key->digest);
    if (spec->kind == KZ_KEY_SIGNING)
        memcpy(key->secret, secret, sizeof(secret));
    auth->key_count++;
    rc = save(auth, err);
    if (rc != KZ_OK) {
        auth->key_count--;
        list_done(key->events, key->event_count);
        list_done(key->origins, key->origin_count);
        return rc;
    }
    auth->ever_closed |= spec->kind != KZ_KEY_SIGNING;
    memcpy(ret_secret, secret, sizeof(secret));
    if (ret_key)
        *ret_key = key;
    return KZ_OK;
}

enum kz_code kz_auth_revoke(
        struct kz_auth *auth, const char *id_or_name, int64_t now_ms, struct kz_err *err)
{
    KZ_AUTO(kz_file_closep) struct kz_file *lock = NULL;

    KZ_CHECK_MAGIC(auth, AUTH_MAGIC);
    KZ_TRY(begin_change(auth, &lock, err));
    for (size_t i = 0; i < auth->key_count; i++) {
        struct kz_key *key = &auth->keys[i];
        enum kz_code rc;

        if (key->revoked_at_ms ||
                (strcmp(key->id, id_or_name) != 0 && strcmp(key->name, id_or_name) != 0))
            continue;
        key->revoked_at_ms = KZ_MAX(now_ms, 1);
        rc = save(auth, err);
        if (rc != KZ_OK)
            key->revoked_at_ms = 0;
        return rc;
    }
    return kz_fail(err, KZ_NOT_FOUND, "there is no valid key \"%s\"", id_or_name);
}
