/* feature/lex.h -- SQL cut into tokens as SQLite cuts it, for what we have to know before SQLite
 * sees a text: parameters, literals given to our functions, the event names a rule demands.
 *
 * Owner    tokens borrow the text.
 * Threads  pure functions.
 */
#pragma once

#include "base/arena.h"
#include "contract/project.h"

enum kz_lex_kind {
    KZ_LEX_END,
    KZ_LEX_WORD,   /* keyword or bare identifier */
    KZ_LEX_QUOTED, /* "identifier", [identifier] or `identifier` */
    KZ_LEX_STRING,
    KZ_LEX_INT, /* decimal digits only */
    KZ_LEX_FLOAT,
    KZ_LEX_PARAM, /* @x, :x, $x, ?, ?1 */
    KZ_LEX_OPEN,
    KZ_LEX_CLOSE,
    KZ_LEX_OP,    /* any operator, comma, dot, semicolon */
    KZ_LEX_OTHER, /* blob and hexadecimal literals */
    KZ_LEX_BAD,   /* no token, or a quote that never closes */
};

struct kz_lex_token {
    enum kz_lex_kind kind;
    struct kz_str raw;
    size_t offset;
};

struct kz_lex_tokens {
    const struct kz_lex_token *at; /* `count` of them, then one KZ_LEX_END */
    size_t count;
};

/* All tokens of `text` but comments. */
struct kz_lex_tokens kz_lex(struct kz_str text, struct kz_arena *arena);

/* Keyword, whatever its case. */
bool kz_lex_word(const struct kz_lex_token *token, const char *word);
bool kz_lex_op(const struct kz_lex_token *token, const char *op);
/* An identifier, bare or quoted, whatever its case. */
bool kz_lex_ident(const struct kz_lex_token *token, const char *name);
/* What a string or identifier stands for, quotes taken off. */
const char *kz_lex_text(const struct kz_lex_token *token, struct kz_arena *arena);

/* Describes a fault at `offset` of the text that begins at `place`, as KZ_CONFIG
 * "file:line:column: ...". Columns count characters from 1. */
enum kz_code kz_lex_fail(struct kz_err *err, struct kz_place place, struct kz_str text,
        size_t offset, const char *fmt, ...) KZ_PRINTF(5, 6);

/* Event names that an expression demands in every way it can hold, by `name = 'x'` or
 * `name IN ('x', ...)` as whole operands of AND, or in each branch of an OR. NULL and 0: any name,
 * which is also the answer whenever the shape is not understood. */
const char *const *kz_lex_event_names(
        struct kz_lex_tokens tokens, struct kz_arena *arena, size_t *ret_count);
