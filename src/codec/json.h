/* codec/json.h -- the strict scanner of intake JSON (RFC 8259), without allocation.
 *
 * Two steps. The parser (struct kz_json) reads foreign text and is strict: grammar, UTF-8 without
 * overlong forms or surrogates, paired \u escapes, no control characters in strings, nesting up to
 * a limit, nothing behind the value. It gives values as spans of the text. The walk (struct
 * kz_json_walk) goes through a value that the parser has passed; it cannot fail and is cheap.
 *
 *     struct kz_json_value root, key, value;
 *     KZ_TRY(kz_json_parse(body, 0, &root, err));
 *     struct kz_json_walk walk = kz_json_walk(root);
 *     while (kz_json_walk_member(&walk, &key, &value))
 *         if (kz_json_is(key, "user_id"))
 *             KZ_TRY(kz_json_str(value, arena, &user_id, err));
 *
 * To read in one pass, or one element at a time, use kz_json_open() and kz_json_member() or
 * kz_json_element() on the parser itself.
 *
 * Not checked: member names may repeat. kz_json_get() and kz_json_get_path() give the first of
 * them, because SQLite's ->> does, and a typed column must say the same as SQL over `props`.
 *
 * Owner    spans borrow the text.
 * Threads  one parser, one thread.
 * Fails    KZ_INVALID: "unexpected '}' at byte 17, expected a value". Bytes count from 0.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum { KZ_JSON_DEPTH_DEFAULT = 32, KZ_JSON_DEPTH_MAX = 1024 };

enum kz_json_kind {
    KZ_JSON_NONE, /* no value: a path that leads nowhere */
    KZ_JSON_NULL,
    KZ_JSON_FALSE,
    KZ_JSON_TRUE,
    KZ_JSON_INT,   /* written without fraction and exponent; of any size */
    KZ_JSON_FLOAT, /* written with one of them */
    KZ_JSON_STRING,
    KZ_JSON_ARRAY,
    KZ_JSON_OBJECT,
};

struct kz_json_value {
    struct kz_str raw; /* as written: strings with their quotes, no white space around */
    enum kz_json_kind kind;
    bool escaped; /* a string with at least one backslash in it */
};

/* "an object", "a string", ...: for messages. */
const char *kz_json_kind_name(enum kz_json_kind kind);

/* -- strict parser ------------------------------------------------------------------------- */

struct kz_json {
    const char *start;
    const char *at;
    const char *end;
    uint32_t depth;
    uint32_t depth_max;
    bool first; /* just behind an opening bracket */
};

/* `depth_max` 0: KZ_JSON_DEPTH_DEFAULT. `{}` has depth 1. */
void kz_json_init(struct kz_json *json, struct kz_str text, uint32_t depth_max);

/* The next whole value, validated to its end. Behind a key, at the top, or as an element. */
KZ_MUST_USE enum kz_code kz_json_value(
        struct kz_json *json, struct kz_json_value *ret_value, struct kz_err *err);
/* Enters the next value, which must be of `kind` (KZ_JSON_OBJECT or KZ_JSON_ARRAY). Then call
 * kz_json_member() or kz_json_key(), or kz_json_element() or kz_json_more(), until *ret_more is
 * false: this leaves it again. */
KZ_MUST_USE enum kz_code kz_json_open(
        struct kz_json *json, enum kz_json_kind kind, struct kz_err *err);
/* The next member's key; its value is to be read by kz_json_value() or kz_json_open(). */
KZ_MUST_USE enum kz_code kz_json_key(
        struct kz_json *json, bool *ret_more, struct kz_json_value *ret_key, struct kz_err *err);
/* Whether the array has one more element, to be read by kz_json_value() or kz_json_open(). */
KZ_MUST_USE enum kz_code kz_json_more(struct kz_json *json, bool *ret_more, struct kz_err *err);
/* The two above with the value read whole. */
KZ_MUST_USE enum kz_code kz_json_member(struct kz_json *json, bool *ret_more,
        struct kz_json_value *ret_key, struct kz_json_value *ret_value, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_json_element(
        struct kz_json *json, bool *ret_more, struct kz_json_value *ret_value, struct kz_err *err);
/* Fails where anything but white space follows. */
KZ_MUST_USE enum kz_code kz_json_end(struct kz_json *json, struct kz_err *err);

/* One value and nothing behind it. */
KZ_MUST_USE enum kz_code kz_json_parse(
        struct kz_str text, uint32_t depth_max, struct kz_json_value *ret_root, struct kz_err *err);

/* -- walking what has been validated ---------------------------------------------------------
 *
 * Text that was never validated gives nonsense here, but never reads outside of it. */

struct kz_json_walk {
    const char *at;
    const char *end;
};

/* What kz_json_value() said of text stored since then: {raw, kind, escaped}. Text with a broken
 * beginning gives KZ_JSON_NONE. */
struct kz_json_value kz_json_trusted(struct kz_str text);

/* Over an object or array; over anything else there is nothing. */
struct kz_json_walk kz_json_walk(struct kz_json_value value);
bool kz_json_walk_member(
        struct kz_json_walk *walk, struct kz_json_value *ret_key, struct kz_json_value *ret_value);
bool kz_json_walk_element(struct kz_json_walk *walk, struct kz_json_value *ret_value);

/* The object's member, the first of that name; kind KZ_JSON_NONE where there is none. */
struct kz_json_value kz_json_get(struct kz_json_value object, const char *name);
/* `path` as SQLite writes it: $ then any of .name  ."any name"  ['any name']  [0]; names are
 * compared with what the text's escapes stand for. KZ_JSON_NONE where it leads nowhere. */
struct kz_json_value kz_json_get_path(struct kz_json_value root, struct kz_str path);
/* Whether `path` is written well; for configuration. */
KZ_MUST_USE enum kz_code kz_json_path_check(struct kz_str path, struct kz_err *err);

/* -- what a value means --------------------------------------------------------------------- */

/* The string (or key) is exactly this text, escapes resolved. False for other kinds. */
bool kz_json_is(struct kz_json_value string, const char *text);
bool kz_json_is_str(struct kz_json_value string, struct kz_str text);
/* A string's text: borrowed from the input where it has no escapes, else unescaped into `arena`.
 * KZ_INVALID for another kind, KZ_TOO_LARGE where the arena is full. May hold \0. */
KZ_MUST_USE enum kz_code kz_json_str(struct kz_json_value string, struct kz_arena *arena,
        struct kz_str *ret_str, struct kz_err *err);
/* The same, appended to a buffer; `string` must be of kind KZ_JSON_STRING. */
void kz_json_unescape(struct kz_json_value string, struct kz_buf *buf);

/* A number, exactly: `i64` where it is written as an integer and fits, else the nearest double
 * (ties to even). `f64` is set in both cases. */
struct kz_json_number {
    bool is_int;
    int64_t i64;
    double f64;
};

/* KZ_INVALID for another kind, and for a number beyond the range of double. */
KZ_MUST_USE enum kz_code kz_json_number(
        struct kz_json_value value, struct kz_json_number *ret_number, struct kz_err *err);
/* An integer, also one written 5.0 or 5e3; KZ_INVALID for anything else. */
KZ_MUST_USE enum kz_code kz_json_i64(struct kz_json_value value, int64_t *ret, struct kz_err *err);
KZ_MUST_USE enum kz_code kz_json_f64(struct kz_json_value value, double *ret, struct kz_err *err);

/* -- text ------------------------------------------------------------------------------------ */

/* Appends validated text without insignificant white space. */
void kz_json_compact(struct kz_str text, struct kz_buf *buf);

/* Lines of NDJSON: LF or CRLF, the last one with or without; blank lines are skipped but counted.
 */
struct kz_lines {
    struct kz_str rest;
    uint64_t line; /* of what was given last, from 1 */
};

struct kz_lines kz_lines(struct kz_str text);
bool kz_lines_next(struct kz_lines *lines, struct kz_str *ret_line);
