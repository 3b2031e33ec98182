/* rpc/rpc_rig.h -- for this folder's tests: a peer that fails as told, a channel to it, and calls. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "rpc/peer_int.h"

#define ANY &kizashi__rpc__any__descriptor

/* For what has to happen, and what would show that it hangs: a busy machine takes its time. */
enum { WAIT_MS = 60000 };

struct fixture {
    struct kz_rpc *rpc;
    struct peer_process peer;
    struct kz_rpc_channel *channel;
};

static inline int set_up(void **state)
{
    struct fixture *f = kz_calloc(1, sizeof(*f));
    struct kz_rpc_target target = {0};

    f->peer = peer_start(0);
    assert_int_equal(kz_rpc_open(&f->rpc, NULL), KZ_OK);
    target.emulator = f->peer.address;
    assert_int_equal(kz_rpc_connect(f->rpc, &target, &f->channel, NULL), KZ_OK);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;

    kz_rpc_channel_close(f->channel);
    kz_rpc_close(f->rpc);
    peer_kill(&f->peer);
    free(f);
    return 0;
}

static inline struct kz_rpc_stats stats_of(struct fixture *f)
{
    struct kz_rpc_stats stats;

    kz_rpc_stats(f->rpc, &stats);
    return stats;
}

static inline Kizashi__Rpc__Any any(const char *type_url, const char *value)
{
    Kizashi__Rpc__Any message = KIZASHI__RPC__ANY__INIT;

    message.type_url = (char *)type_url;
    message.value = (ProtobufCBinaryData){strlen(value), (uint8_t *)value};
    return message;
}

static inline enum kz_code call(struct kz_rpc_channel *channel,
        const struct kz_rpc_options *options, const char *type_url, const char *value,
        Kizashi__Rpc__Any **ret_answer, struct kz_err *err)
{
    Kizashi__Rpc__Any request = any(type_url, value);
    ProtobufCMessage *answer = NULL;
    enum kz_code rc = kz_rpc_call(channel, options, &request.base, ANY, &answer, err);

    if (rc == KZ_OK)
        *ret_answer = (Kizashi__Rpc__Any *)answer;
    return rc;
}

/* The answer's type_url, which must be `expected`. */
static inline void expect(struct kz_rpc_channel *channel, const struct kz_rpc_options *options,
        const char *type_url, const char *value, const char *expected)
{
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_err err = {0};

    if (call(channel, options, type_url, value, &answer, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_string_equal(answer->type_url, expected);
    kizashi__rpc__any__free_unpacked(answer, NULL);
}

#define WITH_PEER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
