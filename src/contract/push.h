/* contract/push.h -- who may push messages to us: a token of OpenID Connect, signed by Google for
 * the service account of the push subscription ("authentication for push subscriptions" in
 * Pub/Sub's documentation).
 *
 * Checked are the signature, issuer, audience, times, and the account's verified address. The
 * signer's keys are fetched by a thread, again before they expire, and when a token names a key
 * that is not among them. While there are none, nobody gets in.
 *
 * Owner    whoever opened it.
 * Threads  kz_push_auth_check() any; it does not block.
 * Fails    check: KZ_UNAUTHENTICATED (no token, or one that proves nothing), KZ_FORBIDDEN (it is not
 *          for us, or not of the account), KZ_UNAVAILABLE (no keys yet: come back).
 */
#pragma once

#include "contract/project.h"

struct kz_push_auth;

/* Where Google publishes the keys it signs with (developers.google.com/identity, "OpenID Connect").
 */
#define KZ_PUSH_KEYS_URL "https://www.googleapis.com/oauth2/v3/certs"

struct kz_push_auth_options {
    const char *audience;
    const char *email; /* the service account: anybody can have a token made for any audience */
    const char *keys;  /* https://..., http:// on this machine only, or a file; NULL: Google's */
    int64_t asked_ms;  /* between two fetches for tokens with unknown keys, at least; 0: 30 s */
};

/* Strings are copied. KZ_CONFIG where audience or email is missing, or `keys` would be fetched over
 * a network in the clear. Fetches with the first moment, in a thread. */
KZ_MUST_USE enum kz_code kz_push_auth_open(const struct kz_push_auth_options *options,
        struct kz_push_auth **ret_auth, struct kz_err *err);
/* As the project's backends.gcp.push has it; gives NULL where it says nothing: then pushes need a
 * key. */
KZ_MUST_USE enum kz_code kz_push_auth_open_project(
        const struct kz_project *project, struct kz_push_auth **ret_auth, struct kz_err *err);
/* Waits for a fetch that is under way; takes NULL. */
void kz_push_auth_close(struct kz_push_auth *auth);
KZ_DEFINE_FREEP(struct kz_push_auth, kz_push_auth_close)

/* `authorization` is the request's header, empty where it has none. KZ_UNAUTHENTICATED, KZ_FORBIDDEN;
 * KZ_UNAVAILABLE while the signer's keys are not here. */
KZ_MUST_USE enum kz_code kz_push_auth_check(
        struct kz_push_auth *auth, struct kz_str authorization, int64_t now_ms, struct kz_err *err);
