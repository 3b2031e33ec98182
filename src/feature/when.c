#include "feature/when.h"

#include <math.h>

#include "feature/columns.h"

enum { DEPTH_MAX = 64 };

enum op {
    OP_CONST,
    OP_COLUMN,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IS,
    OP_IS_NOT,
    OP_BETWEEN,
    OP_IN,
    OP_NOT,
    OP_AND,
    OP_OR,
};

/* What a node's value can be, besides NULL. */
enum class { CLASS_NULL, CLASS_NUMBER, CLASS_TEXT };

struct kz_when {
    enum op op;
    enum class class;
    bool is_true_false; /* TRUE or FALSE was written: IS means something else with it */
    bool is_real_column;
    unsigned column;
    struct kz_value value;
    const struct kz_lex_token *literal; /* CONST: a number as written, without sign */
    struct kz_when *a, *b, *c;
    size_t count; /* IN: of `items` */
    const struct kz_value *items;
};

/* ---- columns of an event
 * -------------------------------------------------------------------------- */

static struct kz_value of_int(int64_t v)
{
    return (struct kz_value){.type = KZ_TYPE_INT, .integer = v};
}

static struct kz_value of_text(struct kz_str s)
{
    return (struct kz_value){.type = KZ_TYPE_TEXT, .text = s};
}

struct kz_value kz_event_value(
        const struct kz_project *project, const struct kz_event *event, unsigned index)
{
    (void)project;
    switch (index) {
    case KZ_EVENTS_SEQ:
        return of_int((int64_t)event->seq);
    case KZ_EVENTS_EVENT_ID:
        return of_text(event->event_id);
    case KZ_EVENTS_USER_ID:
        return of_text(event->user_id.size ? event->user_id : event->anonymous_id);
    case KZ_EVENTS_NAME:
        return of_text(event->name);
    case KZ_EVENTS_TS:
        return of_int(event->ts_ms);
    case KZ_EVENTS_CLIENT_TS:
        return event->client_ts_ms ? of_int(event->client_ts_ms)
                                   : (struct kz_value){.type = KZ_TYPE_NULL};
    case KZ_EVENTS_RECEIVED_AT:
        return of_int(event->received_at_ms);
    case KZ_EVENTS_SESSION:
        return of_int((int64_t)event->session);
    case KZ_EVENTS_PROPS:
        return of_text(event->props.size ? event->props : KZ_STR("{}"));
    }
    index -= KZ_EVENTS_FIXED;
    if (index < event->column_count)
        return event->columns[index];
    return (struct kz_value){.type = KZ_TYPE_NULL};
}

int kz_event_value_find(const struct kz_project *project, const struct kz_lex_token *ident)
{
    for (int i = KZ_EVENTS_EVENT_ID; i < KZ_EVENTS_FIXED; i++)
        if (kz_lex_ident(ident, kz_events_column_names[i]))
            return i;
    for (size_t i = 0; i < project->events.column_count; i++)
        if (kz_lex_ident(ident, project->events.columns[i].name))
            return KZ_EVENTS_FIXED + (int)i;
    return -1;
}

static enum kz_type column_type(const struct kz_project *project, unsigned index)
{
    return index < KZ_EVENTS_FIXED ? kz_events_column_types[index]
                                   : project->events.columns[index - KZ_EVENTS_FIXED].type;
}

/* ---- parser
 * ----------------------------------------------------------------------------------------
 *
 * Precedences are SQLite's (parse.y). A NULL node means "not understood" and travels up. */

enum precedence { P_OR = 1, P_AND, P_NOT, P_EQ, P_LT, P_ADD, P_MUL, P_UNARY };

struct parser {
    sqlite3 *db;
    const struct kz_project *project;
    const struct kz_lex_token *at;
    struct kz_arena *arena;
    unsigned depth;
};

static struct kz_when *parse(struct parser *p, enum precedence min);

static struct kz_when *node(struct parser *p, enum op op, struct kz_when *a, struct kz_when *b)
{
    struct kz_when *n = kz_arena_zero(p->arena, sizeof(*n));

    n->op = op;
    n->class = CLASS_NUMBER;
    n->a = a;
    n->b = b;
    return n;
}

static struct kz_when *constant(struct parser *p, struct kz_value value)
{
    struct kz_when *n = node(p, OP_CONST, NULL, NULL);

    n->value = value;
    n->class = value.type == KZ_TYPE_NULL   ? CLASS_NULL
               : value.type == KZ_TYPE_TEXT ? CLASS_TEXT
                                            : CLASS_NUMBER;
    return n;
}

/* SQLite's own reading of a number, rounding and overflow included. */
static struct kz_when *number(struct parser *p, const struct kz_lex_token *token, bool negative)
{
    char *select = kz_arena_printf(
            p->arena, "SELECT %s" KZ_STR_FMT, negative ? "-" : "", KZ_STR_ARG(token->raw));
    struct kz_when *n = NULL;
    sqlite3_stmt *stmt = NULL;

    if (sqlite3_prepare_v2(p->db, select, -1, &stmt, NULL) == SQLITE_OK &&
            sqlite3_step(stmt) == SQLITE_ROW) {
        if (sqlite3_column_type(stmt, 0) == SQLITE_INTEGER)
            n = constant(p, of_int(sqlite3_column_int64(stmt, 0)));
        else if (sqlite3_column_type(stmt, 0) == SQLITE_FLOAT)
            n = constant(p, (struct kz_value){
                                    .type = KZ_TYPE_FLOAT, .real = sqlite3_column_double(stmt, 0)});
    }
    sqlite3_finalize(stmt);
    return n;
}

static struct kz_when *word(struct parser *p, const struct kz_lex_token *token)
{
    int column = kz_event_value_find(p->project, token);
    struct kz_when *n;

    if (column >= 0) {
        enum kz_type type = column_type(p->project, (unsigned)column);

        n = node(p, OP_COLUMN, NULL, NULL);
        n->column = (unsigned)column;
        n->class = type == KZ_TYPE_TEXT ? CLASS_TEXT : CLASS_NUMBER;
        n->is_real_column = type == KZ_TYPE_FLOAT;
        return type == KZ_TYPE_NULL ? NULL : n;
    }
    if (kz_lex_word(token, "NULL"))
        return constant(p, (struct kz_value){.type = KZ_TYPE_NULL});
    if (kz_lex_word(token, "TRUE") || kz_lex_word(token, "FALSE")) {
        n = constant(p, of_int(kz_lex_word(token, "TRUE")));
        n->is_true_false = true;
        return n;
    }
    return NULL;
}

static struct kz_when *prefix(struct parser *p)
{
    const struct kz_lex_token *token = p->at++;
    struct kz_when *n;

    if (kz_lex_word(token, "NOT")) {
        n = parse(p, P_NOT);
        return n && n->class != CLASS_TEXT ? node(p, OP_NOT, n, NULL) : NULL;
    }
    if (kz_lex_op(token, "-")) {
        n = parse(p, P_UNARY);
        if (n && n->literal) /* -9223372036854775808 has no positive */
            return number(p, n->literal, true);
        return n && n->class != CLASS_TEXT ? node(p, OP_SUB, constant(p, of_int(0)), n) : NULL;
    }
    if (token->kind == KZ_LEX_OPEN) {
        n = parse(p, P_OR);
        return n && p->at++->kind == KZ_LEX_CLOSE ? n : NULL;
    }
    if (token->kind == KZ_LEX_INT || token->kind == KZ_LEX_FLOAT) {
        n = number(p, token, false);
        if (n)
            n->literal = token;
        return n;
    }
    if (token->kind == KZ_LEX_STRING)
        return constant(p, of_text(kz_str(kz_lex_text(token, p->arena))));
    if (token->kind == KZ_LEX_WORD || token->kind == KZ_LEX_QUOTED)
        return word(p, token);
    return NULL;
}

/* Whether comparing the two involves no affinity: same class, or one is NULL. */
static bool comparable(const struct kz_when *a, const struct kz_when *b)
{
    return a && b && (a->class == b->class || a->class == CLASS_NULL || b->class == CLASS_NULL);
}

static struct kz_when *negate(struct parser *p, struct kz_when *n, bool negative)
{
    return n && negative ? node(p, OP_NOT, n, NULL) : n;
}

static struct kz_when *between(struct parser *p, struct kz_when *left)
{
    struct kz_when *n = node(p, OP_BETWEEN, left, NULL);

    n->b = parse(p, P_NOT);
    if (!n->b || !kz_lex_word(p->at++, "AND"))
        return NULL;
    n->c = parse(p, P_LT);
    return comparable(left, n->b) && comparable(left, n->c) ? n : NULL;
}

/* A list of literals. A REAL column's list is converted to REAL by SQLite, which matters for
 * integers that no double can hold. */
static struct kz_when *in(struct parser *p, struct kz_when *left)
{
    struct kz_when *n = node(p, OP_IN, left, NULL);
    const struct kz_lex_token *token = p->at;
    struct kz_value *items;
    size_t commas = 0;

    if (p->at++->kind != KZ_LEX_OPEN || left->class == CLASS_NULL)
        return NULL;
    for (; token->kind != KZ_LEX_CLOSE && token->kind != KZ_LEX_END; token++)
        commas += kz_lex_op(token, ",");
    items = kz_arena_must(p->arena, (commas + 1) * sizeof(*items));
    for (;;) {
        struct kz_when *item = parse(p, P_OR);

        if (!item || item->op != OP_CONST || !comparable(left, item) || n->count > commas)
            return NULL;
        if (left->is_real_column && item->value.type == KZ_TYPE_INT &&
                (item->value.integer > (1LL << 53) || item->value.integer < -(1LL << 53)))
            return NULL;
        items[n->count++] = item->value;
        if (p->at->kind == KZ_LEX_CLOSE)
            break;
        if (!kz_lex_op(p->at++, ","))
            return NULL;
    }
    p->at++;
    n->items = items;
    return n;
}

static struct kz_when *is(struct parser *p, struct kz_when *left)
{
    bool negative = kz_lex_word(p->at, "NOT");
    struct kz_when *right;

    p->at += negative;
    right = parse(p, P_LT);
    if (!comparable(left, right) || right->is_true_false)
        return NULL;
    return node(p, negative ? OP_IS_NOT : OP_IS, left, right);
}

struct infix {
    const char *text;
    enum precedence precedence;
    enum op op;
};

static const struct infix infixes[] = {
        {"=", P_EQ, OP_EQ},
        {"==", P_EQ, OP_EQ},
        {"<>", P_EQ, OP_NE},
        {"!=", P_EQ, OP_NE},
        {"<", P_LT, OP_LT},
        {"<=", P_LT, OP_LE},
        {">", P_LT, OP_GT},
        {">=", P_LT, OP_GE},
        {"+", P_ADD, OP_ADD},
        {"-", P_ADD, OP_SUB},
        {"*", P_MUL, OP_MUL},
        {"/", P_MUL, OP_DIV},
};

/* Operators that are words; *ret_stop where none of them follows. */
static struct kz_when *word_infix(
        struct parser *p, struct kz_when *left, enum precedence min, bool *ret_stop)
{
    const struct kz_lex_token *token = p->at;
    bool negative = kz_lex_word(token, "NOT");

    *ret_stop = false;
    if (kz_lex_word(token, "OR") || kz_lex_word(token, "AND")) {
        bool is_or = kz_lex_word(token, "OR");
        struct kz_when *right;

        if ((*ret_stop = min > (is_or ? P_OR : P_AND)))
            return left;
        p->at++;
        right = parse(p, is_or ? P_AND : P_NOT);
        if (!right || right->class == CLASS_TEXT || left->class == CLASS_TEXT)
            return NULL;
        return node(p, is_or ? OP_OR : OP_AND, left, right);
    }
    if (kz_lex_word(&token[negative], "BETWEEN") || kz_lex_word(&token[negative], "IN") ||
            (!negative && kz_lex_word(token, "IS"))) {
        if ((*ret_stop = min > P_EQ))
            return left;
        p->at += negative + 1;
        if (kz_lex_word(&token[negative], "BETWEEN"))
            return negate(p, between(p, left), negative);
        if (kz_lex_word(&token[negative], "IN"))
            return negate(p, in(p, left), negative);
        return is(p, left);
    }
    *ret_stop = token->kind == KZ_LEX_CLOSE || token->kind == KZ_LEX_END || kz_lex_op(token, ",");
    return *ret_stop ? left : NULL;
}

static struct kz_when *infix(
        struct parser *p, struct kz_when *left, enum precedence min, bool *ret_stop)
{
    for (size_t i = 0; i < KZ_ARRAY_COUNT(infixes); i++) {
        const struct infix *known = &infixes[i];
        struct kz_when *right;

        if (!kz_lex_op(p->at, known->text))
            continue;
        if ((*ret_stop = min > known->precedence))
            return left;
        p->at++;
        right = parse(p, known->precedence + 1);
        if (!right)
            return NULL;
        if (known->precedence >= P_ADD ? left->class == CLASS_TEXT || right->class == CLASS_TEXT
                                       : !comparable(left, right))
            return NULL;
        return node(p, known->op, left, right);
    }
    return word_infix(p, left, min, ret_stop);
}

static struct kz_when *parse(struct parser *p, enum precedence min)
{
    struct kz_when *left;
    bool stop = false;

    if (p->depth >= DEPTH_MAX || p->at->kind == KZ_LEX_END)
        return NULL;
    p->depth++;
    left = prefix(p);
    while (left && !stop)
        left = infix(p, left, min, &stop);
    p->depth--;
    return left;
}

struct kz_when *kz_when_compile(sqlite3 *db, const struct kz_project *project,
        struct kz_lex_tokens tokens, struct kz_arena *arena)
{
    struct parser p = {.db = db, .project = project, .at = tokens.at, .arena = arena};
    struct kz_when *root = parse(&p, P_OR);

    return root && p.at->kind == KZ_LEX_END && root->class != CLASS_TEXT ? root : NULL;
}

/* ---- evaluation
 * ------------------------------------------------------------------------------------ */

struct eval {
    const struct kz_project *project;
    const struct kz_event *event;
    bool odd; /* a value was not of its column's type */
};

static const struct kz_value null = {.type = KZ_TYPE_NULL};

/* NaN does not exist in SQLite: it is NULL. */
static struct kz_value of_real(double v)
{
    return isnan(v) ? null : (struct kz_value){.type = KZ_TYPE_FLOAT, .real = v};
}

static struct kz_value load(struct eval *eval, unsigned column)
{
    struct kz_value value = kz_event_value(eval->project, eval->event, column);
    enum kz_type type = column_type(eval->project, column);

    if (value.type == KZ_TYPE_NULL)
        return null;
    if (value.type == KZ_TYPE_BOOL)
        value.type = KZ_TYPE_INT;
    if (type == KZ_TYPE_FLOAT && value.type == KZ_TYPE_INT)
        return of_real((double)value.integer);
    if (value.type == KZ_TYPE_FLOAT && isnan(value.real))
        return null;
    if (value.type != (type == KZ_TYPE_BOOL ? KZ_TYPE_INT : type)) {
        eval->odd = true;
        return null;
    }
    return value;
}

static double real_of(struct kz_value v)
{
    return v.type == KZ_TYPE_INT ? (double)v.integer : v.real;
}

/* Exact, also where the integer has no double: as sqlite3IntFloatCompare(). */
static int compare_int_real(int64_t i, double r)
{
    int64_t whole;
    double back;

    if (r < -0x1p63)
        return 1;
    if (r >= 0x1p63)
        return -1;
    whole = (int64_t)r;
    if (i != whole)
        return i < whole ? -1 : 1;
    back = (double)i;
    return back < r ? -1 : back > r;
}

/* Of two values of one class, neither NULL. */
static int compare(struct kz_value a, struct kz_value b)
{
    if (a.type == KZ_TYPE_TEXT) {
        size_t shorter = KZ_MIN(a.text.size, b.text.size);
        int order = shorter ? memcmp(a.text.ptr, b.text.ptr, shorter) : 0;

        return order ? order : (a.text.size > b.text.size) - (a.text.size < b.text.size);
    }
    if (a.type == KZ_TYPE_INT && b.type == KZ_TYPE_INT)
        return (a.integer > b.integer) - (a.integer < b.integer);
    if (a.type == KZ_TYPE_INT)
        return compare_int_real(a.integer, b.real);
    if (b.type == KZ_TYPE_INT)
        return -compare_int_real(b.integer, a.real);
    return (a.real > b.real) - (a.real < b.real);
}

static struct kz_value arithmetic(enum op op, struct kz_value a, struct kz_value b)
{
    double x, y;

    if (a.type == KZ_TYPE_NULL || b.type == KZ_TYPE_NULL)
        return null;
    if (a.type == KZ_TYPE_INT && b.type == KZ_TYPE_INT) {
        int64_t r = 0;
        bool overflow = false;

        switch (op) {
        case OP_ADD:
            overflow = __builtin_add_overflow(a.integer, b.integer, &r);
            break;
        case OP_SUB:
            overflow = __builtin_sub_overflow(a.integer, b.integer, &r);
            break;
        case OP_MUL:
            overflow = __builtin_mul_overflow(a.integer, b.integer, &r);
            break;
        default:
            if (b.integer == 0)
                return null;
            overflow = a.integer == INT64_MIN && b.integer == -1;
            r = overflow ? 0 : a.integer / b.integer;
        }
        if (!overflow)
            return of_int(r);
    }
    x = real_of(a);
    y = real_of(b);
    switch (op) {
    case OP_ADD:
        return of_real(x + y);
    case OP_SUB:
        return of_real(x - y);
    case OP_MUL:
        return of_real(x * y);
    default:
        return y == 0 ? null : of_real(x / y);
    }
}

static bool holds(enum op op, int order)
{
    switch (op) {
    case OP_EQ:
        return order == 0;
    case OP_NE:
        return order != 0;
    case OP_LT:
        return order < 0;
    case OP_LE:
        return order <= 0;
    case OP_GT:
        return order > 0;
    default:
        return order >= 0;
    }
}

/* Three-valued logic: -1 is NULL. */
static int truth(struct kz_value v)
{
    if (v.type == KZ_TYPE_NULL)
        return -1;
    return v.type == KZ_TYPE_INT ? v.integer != 0 : v.real != 0.0;
}

static struct kz_value of_truth(int t)
{
    return t < 0 ? null : of_int(t);
}

static int and (int a, int b)
{
    if (a == 0 || b == 0)
        return 0;
    return a < 0 || b < 0 ? -1 : 1;
}

static int test(enum op op, struct kz_value a, struct kz_value b)
{
    if (a.type == KZ_TYPE_NULL || b.type == KZ_TYPE_NULL)
        return -1;
    return holds(op, compare(a, b));
}

static int in_items(const struct kz_when *n, struct kz_value v)
{
    bool unknown = false;

    if (v.type == KZ_TYPE_NULL)
        return -1;
    for (size_t i = 0; i < n->count; i++) {
        if (n->items[i].type == KZ_TYPE_NULL)
            unknown = true;
        else if (compare(v, n->items[i]) == 0)
            return 1;
    }
    return unknown ? -1 : 0;
}

static bool same(struct kz_value a, struct kz_value b)
{
    if (a.type == KZ_TYPE_NULL || b.type == KZ_TYPE_NULL)
        return a.type == b.type;
    return compare(a, b) == 0;
}

static struct kz_value value_of(struct eval *eval, const struct kz_when *n)
{
    struct kz_value a;
    int t;

    switch (n->op) {
    case OP_CONST:
        return n->value;
    case OP_COLUMN:
        return load(eval, n->column);
    case OP_NOT:
        t = truth(value_of(eval, n->a));
        return of_truth(t < 0 ? t : !t);
    case OP_AND:
        t = truth(value_of(eval, n->a));
        return of_truth(t == 0 ? 0 : and(t, truth(value_of(eval, n->b))));
    case OP_OR:
        t = truth(value_of(eval, n->a));
        if (t != 1) {
            int u = truth(value_of(eval, n->b));

            t = u == 1 ? 1 : t < 0 || u < 0 ? -1 : 0;
        }
        return of_truth(t);
    case OP_BETWEEN:
        a = value_of(eval, n->a);
        return of_truth(
                and(test(OP_GE, a, value_of(eval, n->b)), test(OP_LE, a, value_of(eval, n->c))));
    case OP_IN:
        return of_truth(in_items(n, value_of(eval, n->a)));
    case OP_IS:
    case OP_IS_NOT:
        return of_int(same(value_of(eval, n->a), value_of(eval, n->b)) == (n->op == OP_IS));
    case OP_ADD:
    case OP_SUB:
    case OP_MUL:
    case OP_DIV:
        a = value_of(eval, n->a);
        return arithmetic(n->op, a, value_of(eval, n->b));
    default:
        a = value_of(eval, n->a);
        return of_truth(test(n->op, a, value_of(eval, n->b)));
    }
}

bool kz_when_true(const struct kz_when *when, const struct kz_project *project,
        const struct kz_event *event, bool *ret_true)
{
    struct eval eval = {.project = project, .event = event};
    int t = truth(value_of(&eval, when));

    if (eval.odd)
        return false;
    *ret_true = t == 1;
    return true;
}
