/* collect/collect_int.h -- one request on its way, as the files of this folder share it. */
#pragma once

#include "collect/collect.h"

enum { COLLECT_MAGIC = 0x6b7a636f, PASSAGE_MAGIC = 0x6b7a7061 };

enum endpoint_kind { ENDPOINT_EVENTS, ENDPOINT_CALL, ENDPOINT_PUSH };

struct endpoint {
    const char *path;
    enum endpoint_kind kind;
    enum kz_call call;
};

struct kz_collect {
    uint32_t magic;
    struct kz_collect_options options;
    struct kz_shaper *shaper;
    struct kz_buf answer; /* reused: answers are written one at a time */
    struct kz_buf record;
    struct kz_collect_counters counters;
};

/* A request between its arrival and its answer; lives in the request's arena. */
struct passage {
    uint32_t magic;
    struct kz_collect *collect;
    struct kz_http_request *req;
    const struct endpoint *endpoint;
    struct kz_identity identity;
    struct kz_str text;     /* the body, unpacked */
    struct kz_buf unpacked; /* where it had to be inflated or decoded */
    struct kz_buf decoded;  /* push: the message's data */
    uint64_t held_bytes;    /* of both, as counted in inflated_bytes */
    struct kz_shaped shaped;
    struct kz_submission submission;
    bool invalid;           /* the text could not be read: `verdict` is the answer ... */
    bool is_poison;         /* ... but for what came in a good envelope: that is acknowledged */
    struct kz_err *verdict; /* in the arena */
};

/* -- body.c -- */

/* Fills `text`: the body without its compression. */
enum kz_code passage_unpack(struct passage *p, struct kz_err *err);
/* The envelope's data into `text`, then shaped; what is wrong with either is `invalid`. A
 * KZ_INVALID of its own means that it is no envelope. */
enum kz_code passage_unpack_push(struct passage *p, struct kz_err *err);
/* ?wait= and ?timeout_ms= into the submission. */
enum kz_code passage_wait(struct passage *p, struct kz_err *err);
void passage_release(struct passage *p);

/* -- answer.c -- */

void passage_answer(struct passage *p);
/* The text is kept as a dead letter under `err`, which is then the answer. */
enum kz_code passage_set_invalid(struct passage *p, const struct kz_err *why, struct kz_err *err);
/* Answers at once and forgets the passage. */
void passage_refuse(struct passage *p, const struct kz_err *err);
