/* codec/json_out.h -- writing JSON onto a buffer; commas come by themselves.
 *
 *     struct kz_json_out out = kz_json_out(&buf);
 *     kz_json_out_object(&out);
 *     kz_json_out_key(&out, "user_id");
 *     kz_json_out_str(&out, user_id);
 *     kz_json_out_object_end(&out);
 *
 * What is written is always valid UTF-8 JSON, except through kz_json_out_raw().
 *
 * Threads  one at a time.
 * Fails    never.
 */
#pragma once

#include "base/buf.h"

struct kz_json_out {
    struct kz_buf *buf;
    uint32_t depth;
    bool comma; /* a comma is due before the next key or element */
};

struct kz_json_out kz_json_out(struct kz_buf *buf);

void kz_json_out_object(struct kz_json_out *out);
void kz_json_out_object_end(struct kz_json_out *out);
void kz_json_out_array(struct kz_json_out *out);
void kz_json_out_array_end(struct kz_json_out *out);

void kz_json_out_key(struct kz_json_out *out, const char *name);
void kz_json_out_key_str(struct kz_json_out *out, struct kz_str name);

/* Bytes that are no UTF-8 become U+FFFD. */
void kz_json_out_str(struct kz_json_out *out, struct kz_str s);
/* NULL becomes null. */
void kz_json_out_cstr(struct kz_json_out *out, const char *s);
void kz_json_out_i64(struct kz_json_out *out, int64_t v);
void kz_json_out_u64(struct kz_json_out *out, uint64_t v);
/* The fewest of 15, 16 or 17 digits that read back as the same bits; always with a point or an
 * exponent, so that it stays a float (3.0); NaN and infinities become null. */
void kz_json_out_f64(struct kz_json_out *out, double v);
void kz_json_out_bool(struct kz_json_out *out, bool v);
void kz_json_out_null(struct kz_json_out *out);
/* One value that is JSON already. */
void kz_json_out_raw(struct kz_json_out *out, struct kz_str json);

/* Members in one call: key, then value. */
void kz_json_out_kv_cstr(struct kz_json_out *out, const char *name, const char *v);
void kz_json_out_kv_str(struct kz_json_out *out, const char *name, struct kz_str v);
void kz_json_out_kv_i64(struct kz_json_out *out, const char *name, int64_t v);
void kz_json_out_kv_u64(struct kz_json_out *out, const char *name, uint64_t v);
void kz_json_out_kv_f64(struct kz_json_out *out, const char *name, double v);
void kz_json_out_kv_bool(struct kz_json_out *out, const char *name, bool v);
void kz_json_out_kv_raw(struct kz_json_out *out, const char *name, struct kz_str json);

/* A quoted string, or a double, alone. */
void kz_json_quote(struct kz_buf *buf, struct kz_str s);
void kz_json_double(struct kz_buf *buf, double v);
