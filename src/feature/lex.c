#include "feature/lex.h"

#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* SQLite's IdChar: letters, digits, '_', '$' and everything beyond ASCII. */
static bool is_ident(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
           c == '$' || (unsigned char)c >= 0x80;
}

static size_t skip_blank(struct kz_str s, size_t at)
{
    while (at < s.size) {
        if (strchr(" \t\n\r\f", s.ptr[at]) && s.ptr[at]) {
            at++;
        } else if (s.size - at >= 2 && s.ptr[at] == '-' && s.ptr[at + 1] == '-') {
            while (at < s.size && s.ptr[at] != '\n')
                at++;
        } else if (s.size - at >= 2 && s.ptr[at] == '/' && s.ptr[at + 1] == '*') {
            const char *close = memmem(s.ptr + at + 2, s.size - at - 2, "*/", 2);

            at = close ? (size_t)(close - s.ptr) + 2 : s.size;
        } else {
            break;
        }
    }
    return at;
}

/* The end of a quoted run; a doubled quote stands for itself. 0 where it never closes. */
static size_t quoted_end(struct kz_str s, size_t at)
{
    char quote = s.ptr[at] == '[' ? ']' : s.ptr[at];

    for (at++; at < s.size; at++) {
        if (s.ptr[at] != quote)
            continue;
        if (quote != ']' && at + 1 < s.size && s.ptr[at + 1] == quote)
            at++;
        else
            return at + 1;
    }
    return 0;
}

static enum kz_lex_kind number(struct kz_str s, size_t *at)
{
    enum kz_lex_kind kind = KZ_LEX_INT;
    size_t i = *at;

    if (s.ptr[i] == '0' && i + 1 < s.size && (s.ptr[i + 1] | 32) == 'x')
        kind = KZ_LEX_OTHER;
    while (i < s.size && is_digit(s.ptr[i]))
        i++;
    if (kind == KZ_LEX_INT && i < s.size && s.ptr[i] == '.') {
        kind = KZ_LEX_FLOAT;
        for (i++; i < s.size && is_digit(s.ptr[i]);)
            i++;
    }
    if (kind != KZ_LEX_OTHER && i < s.size && (s.ptr[i] | 32) == 'e') {
        size_t sign = i + 1 < s.size && (s.ptr[i + 1] == '+' || s.ptr[i + 1] == '-');

        if (i + 1 + sign < s.size && is_digit(s.ptr[i + 1 + sign])) {
            kind = KZ_LEX_FLOAT;
            for (i += 1 + sign; i < s.size && is_digit(s.ptr[i]);)
                i++;
        }
    }
    while (i < s.size && is_ident(s.ptr[i])) {
        if (kind != KZ_LEX_OTHER)
            kind = KZ_LEX_BAD;
        i++;
    }
    *at = i;
    return kind;
}

static enum kz_lex_kind scan(struct kz_str s, size_t *at)
{
    static const char *const ops[] = {"->>", "->", "<=", ">=", "<>", "!=", "==", "<<", ">>", "||"};
    size_t i = *at;
    char c = s.ptr[i];

    if ((c == 'x' || c == 'X') && i + 1 < s.size && s.ptr[i + 1] == '\'') {
        *at = quoted_end(s, i + 1);
        return *at ? KZ_LEX_OTHER : KZ_LEX_BAD;
    }
    if (is_digit(c) || (c == '.' && i + 1 < s.size && is_digit(s.ptr[i + 1])))
        return number(s, at);
    if (c == '\'' || c == '"' || c == '`' || c == '[') {
        *at = quoted_end(s, i);
        return !*at ? KZ_LEX_BAD : c == '\'' ? KZ_LEX_STRING : KZ_LEX_QUOTED;
    }
    if (c == '@' || c == ':' || c == '$' || c == '?') {
        for (i++; i < s.size && is_ident(s.ptr[i]);)
            i++;
        *at = i;
        return c != '?' && s.ptr[i - 1] == c ? KZ_LEX_BAD : KZ_LEX_PARAM;
    }
    if (is_ident(c)) {
        while (i < s.size && is_ident(s.ptr[i]))
            i++;
        *at = i;
        return KZ_LEX_WORD;
    }
    for (size_t k = 0; k < KZ_ARRAY_COUNT(ops); k++) {
        size_t n = strlen(ops[k]);

        if (s.size - i >= n && memcmp(s.ptr + i, ops[k], n) == 0) {
            *at = i + n;
            return KZ_LEX_OP;
        }
    }
    *at = i + 1;
    if (c == '(' || c == ')')
        return c == '(' ? KZ_LEX_OPEN : KZ_LEX_CLOSE;
    return c && strchr("+-*/%=<>&|~,.;", c) ? KZ_LEX_OP : KZ_LEX_BAD;
}

struct kz_lex_tokens kz_lex(struct kz_str text, struct kz_arena *arena)
{
    /* A token takes a byte or more, so this is enough. */
    struct kz_lex_token *tokens = kz_arena_must(arena, (text.size + 1) * sizeof(*tokens));
    size_t count = 0, at = 0;

    while ((at = skip_blank(text, at)) < text.size) {
        struct kz_lex_token *token = &tokens[count++];

        token->offset = at;
        token->kind = scan(text, &at);
        if (!at) /* an open quote: nothing behind it can be trusted */
            at = text.size;
        token->raw = kz_str_n(text.ptr + token->offset, at - token->offset);
    }
    tokens[count] = (struct kz_lex_token){.kind = KZ_LEX_END, .offset = text.size};
    return (struct kz_lex_tokens){tokens, count};
}

static bool same(struct kz_str raw, const char *word)
{
    return raw.size == strlen(word) && strncasecmp(raw.ptr, word, raw.size) == 0;
}

bool kz_lex_word(const struct kz_lex_token *token, const char *word)
{
    return token->kind == KZ_LEX_WORD && same(token->raw, word);
}

bool kz_lex_op(const struct kz_lex_token *token, const char *op)
{
    return token->kind == KZ_LEX_OP && kz_str_is(token->raw, op);
}

bool kz_lex_ident(const struct kz_lex_token *token, const char *name)
{
    if (token->kind == KZ_LEX_QUOTED)
        return same(kz_str_n(token->raw.ptr + 1, token->raw.size - 2), name);
    return kz_lex_word(token, name);
}

const char *kz_lex_text(const struct kz_lex_token *token, struct kz_arena *arena)
{
    char *text, *out;
    char quote;

    if (token->kind != KZ_LEX_STRING && token->kind != KZ_LEX_QUOTED)
        return kz_arena_cstr(arena, token->raw);
    quote = token->raw.ptr[token->raw.size - 1];
    text = out = kz_arena_must(arena, token->raw.size);
    for (size_t i = 1; i + 1 < token->raw.size; i++) {
        *out++ = token->raw.ptr[i];
        if (token->raw.ptr[i] == quote)
            i++;
    }
    *out = '\0';
    return text;
}

enum kz_code kz_lex_fail(struct kz_err *err, struct kz_place place, struct kz_str text,
        size_t offset, const char *fmt, ...)
{
    unsigned line = place.line ? place.line : 1;
    unsigned column = place.line && place.column ? place.column : 1;
    char message[800];
    va_list args;

    for (size_t i = 0; i < KZ_MIN(offset, text.size); i++) {
        if (text.ptr[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)text.ptr[i] & 0xc0) != 0x80) {
            column++;
        }
    }
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    return kz_fail(err, KZ_CONFIG, "%s%s%u:%u: %s", place.file ? place.file : "",
            place.file ? ":" : "", line, column, message);
}

/* ---- event names ----------------------------------------------------------------------------
 *
 * Sound because: OR binds weaker than AND, and nothing else binds weaker than AND; so what stands
 * between two ANDs of the same depth, not being the AND of a BETWEEN, is an operand that has to
 * hold. Only operands that are exactly `name = 'x'` or an IN list are read. */

static const struct kz_lex_token *closing(
        const struct kz_lex_token *open, const struct kz_lex_token *end)
{
    int depth = 0;

    for (; open < end; open++) {
        depth += (open->kind == KZ_LEX_OPEN) - (open->kind == KZ_LEX_CLOSE);
        if (depth == 0)
            return open;
    }
    return NULL;
}

/* The end of the operand that begins at `at`: the next `word` of this depth, or `end`. */
static const struct kz_lex_token *operand_end(
        const struct kz_lex_token *at, const struct kz_lex_token *end, const char *word)
{
    int depth = 0, between = 0;

    for (; at < end; at++) {
        if (at->kind == KZ_LEX_OPEN || kz_lex_word(at, "CASE"))
            depth++;
        else if (at->kind == KZ_LEX_CLOSE || kz_lex_word(at, "END"))
            depth--;
        if (depth)
            continue;
        if (kz_lex_word(at, "BETWEEN"))
            between++;
        else if (kz_lex_word(at, "AND") && between)
            between--;
        else if (kz_lex_word(at, word))
            break;
    }
    return at;
}

struct names {
    const char **at;
    size_t count;
};

static struct names names_of_operand(
        const struct kz_lex_token *at, const struct kz_lex_token *end, struct kz_arena *arena)
{
    struct names names = {NULL, 0};
    bool equal = end - at == 3 && (kz_lex_op(&at[1], "=") || kz_lex_op(&at[1], "=="));

    if (equal && kz_lex_ident(&at[2], "name") && at[0].kind == KZ_LEX_STRING) {
        names = (struct names){kz_arena_must(arena, sizeof(char *)), 1};
        names.at[0] = kz_lex_text(&at[0], arena);
    } else if (equal && kz_lex_ident(&at[0], "name") && at[2].kind == KZ_LEX_STRING) {
        names = (struct names){kz_arena_must(arena, sizeof(char *)), 1};
        names.at[0] = kz_lex_text(&at[2], arena);
    } else if (end - at >= 5 && kz_lex_ident(&at[0], "name") && kz_lex_word(&at[1], "IN") &&
               at[2].kind == KZ_LEX_OPEN && end[-1].kind == KZ_LEX_CLOSE && (end - at) % 2 == 1) {
        names.at = kz_arena_must(arena, (size_t)(end - at) * sizeof(char *));
        for (const struct kz_lex_token *t = at + 3; t < end - 1; t += 2) {
            if (t->kind != KZ_LEX_STRING || !(t + 1 == end - 1 || kz_lex_op(&t[1], ",")))
                return (struct names){NULL, 0};
            names.at[names.count++] = kz_lex_text(t, arena);
        }
    }
    return names;
}

static struct names names_of(const struct kz_lex_token *at, const struct kz_lex_token *end,
        struct kz_arena *arena, unsigned depth)
{
    struct names all = {NULL, 0};

    if (depth > 32)
        return all;
    while (end - at > 2 && at->kind == KZ_LEX_OPEN && closing(at, end) == end - 1) {
        at++;
        end--;
    }
    if (operand_end(at, end, "OR") == end) { /* a conjunction: one operand with names is enough */
        const struct kz_lex_token *stop = operand_end(at, end, "AND");

        if (stop == end)
            return names_of_operand(at, end, arena);
        for (;; at = stop + 1, stop = operand_end(at, end, "AND")) {
            struct names names = names_of(at, stop, arena, depth + 1);

            if (names.count)
                return names;
            if (stop == end)
                return all;
        }
    }
    all.at = kz_arena_must(arena, (size_t)(end - at) * sizeof(char *));
    for (;;) { /* a disjunction: every branch must have them */
        const struct kz_lex_token *stop = operand_end(at, end, "OR");
        struct names names = names_of(at, stop, arena, depth + 1);

        if (!names.count)
            return names;
        memcpy(all.at + all.count, names.at, names.count * sizeof(char *));
        all.count += names.count;
        if (stop == end)
            return all;
        at = stop + 1;
    }
}

const char *const *kz_lex_event_names(
        struct kz_lex_tokens tokens, struct kz_arena *arena, size_t *ret_count)
{
    struct names names;
    int cases = 0;
    bool understood = true;

    for (size_t i = 0; i < tokens.count; i++) {
        /* END may also be a column's name, which would upset the count of depths. */
        cases += kz_lex_word(&tokens.at[i], "CASE") - kz_lex_word(&tokens.at[i], "END");
        if (tokens.at[i].kind == KZ_LEX_BAD || cases < 0)
            understood = false;
    }
    if (!understood || cases != 0) {
        *ret_count = 0;
        return NULL;
    }
    names = names_of(tokens.at, tokens.at + tokens.count, arena, 0);
    *ret_count = names.count;
    return names.count ? names.at : NULL;
}
