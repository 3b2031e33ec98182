/* contract/auth.h -- who may do what: keys, origins, rates and signed user tokens.
 *
 * Keys lie in `keys.json` of the data directory: id, name, kind, SHA-256 of the secret, and what
 * the key may do. A secret (kz_w_ and 32 characters of base 32, 160 bits) is shown once, when it is
 * made. A signing key's secret is stored itself, since an HMAC is checked with it.
 *
 * Open mode: as long as there has never been a write, read or admin key, everything is open to
 * callers on this machine, whose Host and Origin must be this machine too, so that neither a web
 * page nor a rebound name gets in. Revoking the last key does not bring it back.
 *
 * A kind includes those before it: an admin key may read, a read key may write.
 *
 * Owner    whoever opened it. Keys and identities are borrowed until the next create, revoke or
 *          reload.
 * Threads  one; other processes by the file, which is replaced whole under a lock.
 * Fails    KZ_UNAUTHENTICATED, KZ_FORBIDDEN, KZ_LIMIT with a hint; KZ_CORRUPT for a broken file.
 */
#pragma once

#include "codec/crypto.h"
#include "sys/file.h"
#include "sys/http.h"
#include "contract/record.h"

struct kz_auth;

/* What a key permits; each of the first three also what those before it do. */
enum kz_key_kind { KZ_KEY_WRITE = 1, KZ_KEY_READ, KZ_KEY_ADMIN, KZ_KEY_SIGNING };
const char *kz_key_kind_name(enum kz_key_kind kind); /* "write", "read", "admin", "signing" */
/* False, and nothing is set: it is none of these words. */
bool kz_key_kind_parse(struct kz_str text, enum kz_key_kind *ret);

enum {
    KZ_SECRET_BYTES = 38, /* "kz_w_", 32 characters, NUL */
    KZ_KEY_ID_BYTES = 13, /* "k_", 10 characters, NUL */
    KZ_KEY_NAME_SIZE_MAX = 64,
    KZ_KEY_LIST_MAX = 64, /* event names, origins */
    KZ_KEYS_MAX = 1000,
    KZ_ANONYMOUS_PROOF_SIZE = 22, /* characters that can hold 128 random bits */
    KZ_CORS_HEADERS_MAX = 3,
};

/* A key as the store has it; owned by it and good until the next reload, create or revoke. */
struct kz_key {
    char id[KZ_KEY_ID_BYTES];
    char name[KZ_KEY_NAME_SIZE_MAX + 1];
    enum kz_key_kind kind;
    char **events; /* names it may send, with * for any run of characters; none: all */
    size_t event_count;
    char **origins; /* "https://shop.example", or with *; none: see kz_auth_check() */
    size_t origin_count;
    uint32_t rate; /* events a second, and as many at once; 0: no limit */
    int64_t created_at_ms;
    int64_t revoked_at_ms; /* 0: it is valid */
    uint8_t digest[KZ_SHA256_BYTES];
    char secret[KZ_SECRET_BYTES]; /* signing keys only, else empty */
    double tokens;                /* of the rate, in this process */
    int64_t filled_us;            /* monotonic; when `tokens` was right */
};

/* ---- the store --------------------------------------------------------------------------------
 */

/* No file is no key. */
KZ_MUST_USE enum kz_code kz_auth_open(
        struct kz_fs *fs, const char *data_dir, struct kz_auth **ret_auth, struct kz_err *err);
void kz_auth_close(struct kz_auth *auth); /* takes NULL */
KZ_DEFINE_FREEP(struct kz_auth, kz_auth_close)
/* Reads the file again where another process has changed it; cheap, call it every second. What was
 * loaded stays in force where that fails. */
KZ_MUST_USE enum kz_code kz_auth_reload(struct kz_auth *auth, struct kz_err *err);

/* What a new key is to be; everything is copied. */
struct kz_key_spec {
    const char *name; /* unique among valid keys */
    enum kz_key_kind kind;
    const char *const *events;
    size_t event_count;
    const char *const *origins;
    size_t origin_count;
    uint32_t rate;
};
/* Durable when it returns. */
KZ_MUST_USE enum kz_code kz_auth_create(struct kz_auth *auth, const struct kz_key_spec *spec,
        int64_t now_ms, char ret_secret[KZ_SECRET_BYTES], const struct kz_key **ret_key,
        struct kz_err *err);
/* By id or name. KZ_NOT_FOUND, also where it is revoked already. */
KZ_MUST_USE enum kz_code kz_auth_revoke(
        struct kz_auth *auth, const char *id_or_name, int64_t now_ms, struct kz_err *err);
/* All keys in the order they were made, revoked ones, too; `index` < count. */
size_t kz_auth_key_count(const struct kz_auth *auth);
const struct kz_key *kz_auth_key_at(const struct kz_auth *auth, size_t index);

/* Whether there never was a key but for signing: then callers on this machine need none. */
bool kz_auth_is_open(const struct kz_auth *auth);
/* Whether the process may listen on `address`: KZ_CONFIG where it is reachable from elsewhere and
 * there are no keys. Its host then counts as this machine's name in open mode. */
KZ_MUST_USE enum kz_code kz_auth_listen(
        struct kz_auth *auth, const char *address, struct kz_err *err);

/* ---- a request --------------------------------------------------------------------------------
 */

/* What a request asks for. */
enum kz_auth_need {
    KZ_NEED_WRITE, /* send events */
    KZ_NEED_TAG,   /* what a page reads with its write key: actions of a proven user */
    KZ_NEED_READ,
    KZ_NEED_ADMIN,
};

enum kz_auth_flags {
    KZ_AUTH_QUERY_KEY =
            1, /* ?key= counts, for write keys: EventSource and Pub/Sub set no headers */
};

/* Who sent a request; the key is borrowed from the store, so not kept beyond the loop turn. */
struct kz_identity {
    const struct kz_key *key;           /* NULL: a local caller in open mode */
    char who[KZ_KEY_NAME_SIZE_MAX + 1]; /* the key's name, or "local": for the audit */
};

/* Who sends `req`, and whether they may. The key is taken from Authorization (Bearer, or Basic with
 * the key as user name), then `body_key` (Segment's writeKey; write keys only), then ?key=. A
 * request with an Origin must come from one of the key's origins; a key without any takes all for
 * write, and only this server's own pages for read and admin. */
KZ_MUST_USE enum kz_code kz_auth_check(struct kz_auth *auth, struct kz_http_request *req,
        enum kz_auth_need need, unsigned flags, struct kz_str body_key,
        struct kz_identity *ret_identity, struct kz_err *err);
/* Before the body is there: KZ_OK where no header names a key. Needs no arena. */
KZ_MUST_USE enum kz_code kz_auth_admit(
        struct kz_auth *auth, const struct kz_http_request *req, struct kz_err *err);

/* Whether the key takes events of this name; one without a list takes all. */
bool kz_auth_may_send(const struct kz_identity *identity, struct kz_str event_name);
/* Takes `count` events from the key's rate. KZ_LIMIT: nothing is taken; the hint says when to come
 * back. */
KZ_MUST_USE enum kz_code kz_auth_spend(struct kz_auth *auth, const struct kz_identity *identity,
        uint64_t count, int64_t mono_us, struct kz_err *err);
/* Whether the caller may read what is for `user`: a read or admin key, a visitor by holding an
 * unguessable anonymous_id, a user by a token of a signing key:
 * base64url(user_id) "." expiry in unix seconds "." hex HMAC-SHA256(secret, all before this dot).
 */
KZ_MUST_USE enum kz_code kz_auth_user(const struct kz_auth *auth,
        const struct kz_identity *identity, struct kz_user_key user, struct kz_str token,
        int64_t now_ms, struct kz_err *err);

/* ---- CORS and refusals ------------------------------------------------------------------------
 */

/* Headers that let the sending page read the answer: 0 of them where it may not or there is none.
 */
size_t kz_auth_cors(const struct kz_auth *auth, const struct kz_http_request *req,
        struct kz_http_header ret_headers[KZ_CORS_HEADERS_MAX]);
/* Answers an OPTIONS request. */
void kz_auth_preflight(const struct kz_auth *auth, struct kz_http_request *req);
/* Answers with `err`'s status, the CORS headers, and WWW-Authenticate with 401. */
void kz_auth_refuse(
        const struct kz_auth *auth, struct kz_http_request *req, const struct kz_err *err);
