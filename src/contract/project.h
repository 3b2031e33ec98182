/* contract/project.h -- a project as its kizashi.yaml says, checked and with defaults filled in.
 *
 * Owner    made and freed by app/config; read-only for everyone else, from any thread.
 * Units    durations in milliseconds, sizes in bytes.
 */
#pragma once

#include "contract/event.h"

struct kz_place { /* where in a file; line and column from 1, 0 unknown */
    const char *file;
    unsigned line;
    unsigned column;
};

struct kz_column_def {
    const char *name;
    const char *path; /* JSON path below props: "$.price" */
    enum kz_type type;
    struct kz_place place;
};

struct kz_table_def { /* a reference table: from a CSV file, or materialised from SQL */
    const char *name;
    const char *file;              /* absolute path, or NULL */
    const char *sql;               /* or NULL */
    const char *key;               /* indexed column, or NULL */
    struct kz_column_def *columns; /* declared types; others in a file are TEXT */
    size_t column_count;
    struct kz_place place;
};

struct kz_history_def {
    int64_t window_ms;   /* 0: no bound but retention */
    uint32_t events_max; /* newest that many */
    bool include_actions;
};

struct kz_trigger_def {
    const char *name;
    const char *when;    /* SQL over the event's columns; NULL with count */
    int64_t debounce_ms; /* 0 none */
    int64_t delay_ms;    /* 0 none */
    const char *unless;  /* SQL over a later event's columns, or NULL */
    const char *having;  /* SQL over the history, or NULL */
    struct {
        const char *of; /* NULL: no count */
        int64_t within_ms;
        uint32_t reaches;
        int64_t rearm_ms;
    } count;
    int64_t max_age_ms; /* 0 never expires */
    bool include_actions;
    struct kz_history_def history; /* what having sees */
    struct kz_place place, when_place, unless_place, having_place, count_place;
};

enum kz_output_kind { KZ_OUTPUT_PLAIN, KZ_OUTPUT_SELECT, KZ_OUTPUT_CLASSES, KZ_OUTPUT_EMBEDDING };

struct kz_model_def {
    const char *name;
    const char **triggers; /* names of rules */
    size_t trigger_count;
    const char *after;         /* name of another model, or NULL */
    const char *after_when;    /* SQL over that model's prediction */
    const char *runtime;       /* "python", ... */
    const char *path;          /* absolute; NULL for http */
    const char *url;           /* runtime http: where it answers, "http://host:port" */
    const char *image;         /* runtime http: the container it comes in (manifests), or NULL */
    const char *features_path; /* absolute, or NULL: raw history */
    char *features_sql;        /* the file's text, or NULL */
    const char *label_path;
    int64_t horizon_ms;
    int64_t valid_for_ms;
    struct kz_history_def history;
    struct {
        enum kz_output_kind kind;
        int select; /* index of the output that is the score */
        const char **classes;
        size_t class_count;
        uint32_t embedding_size;
        bool expose;
        bool allow_nan;
    } output;
    struct {
        uint32_t size_max;
        int64_t wait_us; /* accepted, without an effect */
    } batch;
    struct {
        uint32_t min, max;
    } replicas;
    struct {
        uint32_t cpu_milli;
        uint64_t memory_bytes; /* 0: no limit */
    } resources;
    int64_t timeout_ms;
    uint32_t queue_max;      /* requests waiting in the process; more stay pending in the log */
    const char *config_json; /* ctx.config, "{}" at least */
    struct kz_place place, features_place;
};

enum kz_action_mode { KZ_MODE_OFF, KZ_MODE_SHADOW, KZ_MODE_ON };
enum kz_deliver_kind { KZ_DELIVER_WEB = 1, KZ_DELIVER_WEBHOOK, KZ_DELIVER_PUBSUB };

struct kz_cap_def {
    uint32_t max;
    bool per_user;    /* else in total */
    int64_t every_ms; /* sliding; 0: by calendar day in tz */
    const char *tz;   /* IANA name, "UTC" by default */
    struct kz_place tz_place;
};

struct kz_action_def {
    const char *name;
    enum kz_action_mode mode;
    const char *when;   /* SQL; <model>.score, <model>.output */
    const char *having; /* SQL over the history, or NULL */
    struct {
        bool set;
        uint8_t weekdays;             /* bit 0 Monday ... bit 6 Sunday */
        int start_minute, end_minute; /* of the local day; end exclusive, may be before start */
        const char *tz;
        struct kz_place tz_place;
    } schedule;
    double holdout; /* 0..1 */
    struct kz_cap_def *caps;
    size_t cap_count;
    struct {
        const char *event; /* NULL: none */
        int64_t within_ms;
        const char *value; /* column */
    } goal;
    struct {
        enum kz_deliver_kind kind;
        const char *payload_json; /* what is given to the page or posted */
        const char *url;          /* webhook */
        const char *secret;       /* webhook: HMAC key, or NULL */
        int64_t timeout_ms;
        uint32_t attempts_max;
        int64_t valid_for_ms;
    } deliver;
    struct kz_place place, when_place, having_place;
};

/* Where a deployment of roles keeps what it shares. */
enum kz_backend {
    KZ_BACKEND_EMBEDDED, /* one process with its own log: nothing is shared */
    KZ_BACKEND_MEMORY,   /* in one process that has all roles */
    KZ_BACKEND_GCP,      /* Pub/Sub, Spanner, Bigtable */
};

struct kz_backends_def {
    enum kz_backend bus, history, predictions; /* all EMBEDDED, or none */
    struct {
        const char *project; /* of Google Cloud; NULL: neither here nor in GOOGLE_CLOUD_PROJECT */
        const char *prefix;  /* of the names of topics, subscriptions and tables; "" none */
        const char *spanner_instance, *spanner_database;
        const char *bigtable_instance;
        const char *bigtable_app_profile; /* NULL: the instance's default */
        struct { /* who may POST /v1/pubsub/push; audience NULL: whoever holds a key, else email is
                  * there, too */
            const char *audience, *email;
            const char *jwks; /* URL or file of the signer's public keys; NULL: Google's */
        } push;
    } gcp;
    struct kz_place place; /* of the section; line 0: there is none */
};

struct kz_project {
    const char *name;
    const char *dir;  /* absolute */
    const char *file; /* kizashi.yaml, as named in messages */
    struct {
        struct kz_column_def *columns;
        size_t column_count;
        uint32_t columns_id; /* fingerprint of names, paths and types */
        int64_t max_ahead_ms, max_behind_ms;
        int64_t dedupe_ms;
        int64_t session_gap_ms;
        int64_t retention_age_ms;      /* 0 no bound */
        uint64_t retention_size_bytes; /* 0 no bound */
    } events;
    struct kz_table_def *tables;
    size_t table_count;
    struct kz_trigger_def *triggers;
    size_t trigger_count;
    struct kz_model_def *models;
    size_t model_count;
    struct kz_action_def *actions;
    size_t action_count;
    struct { /* limits and paths of the process; each a row of docs/configuration.md */
        uint64_t segment_size_bytes;
        uint64_t checkpoint_bytes;     /* of log between two checkpoints, at least */
        uint64_t dedupe_memory_bytes;  /* of the filter over keys of events */
        uint64_t history_memory_bytes; /* of histories that models were asked about */
        uint64_t reserve_bytes;        /* disk kept for results, checkpoints and erasure */
        uint32_t pending_max;          /* requests pending before intake is refused */
        const char *python;            /* interpreter, or NULL: found */
        uint32_t dead_letters_max;
    } limits;
    struct kz_backends_def backends;
};

/* By name, borrowed from the project; NULL where there is none. */
const struct kz_model_def *kz_project_model(const struct kz_project *project, struct kz_str name);
const struct kz_trigger_def *kz_project_trigger(
        const struct kz_project *project, struct kz_str name);
const struct kz_action_def *kz_project_action(const struct kz_project *project, struct kz_str name);

/* Says that there is none of that name, and in the hint which there are: KZ_NOT_FOUND. */
enum kz_code kz_project_no_model(
        const struct kz_project *project, struct kz_str name, struct kz_err *err);
enum kz_code kz_project_no_action(
        const struct kz_project *project, struct kz_str name, struct kz_err *err);
