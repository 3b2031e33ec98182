#include "contract/bus.h"

static const struct {
    const char *suffix, *what;
} topics[] = {
#define X(name, suffix, what) [KZ_TOPIC_##name] = {suffix, what},
        KZ_TOPICS(X)
#undef X
};

const char *kz_topic_suffix(enum kz_topic topic)
{
    KZ_BUG_ON((size_t)topic >= KZ_ARRAY_COUNT(topics));
    return topics[topic].suffix;
}

const char *kz_topic_what(enum kz_topic topic)
{
    KZ_BUG_ON((size_t)topic >= KZ_ARRAY_COUNT(topics));
    return topics[topic].what;
}

struct kz_bus_pull_options kz_bus_pull_options(const struct kz_bus_pull_options *options)
{
    struct kz_bus_pull_options filled = *options;

    if (!filled.messages_max)
        filled.messages_max = 1000;
    if (!filled.bytes_max)
        filled.bytes_max = 64 << 20;
    if (!filled.lease_ms)
        filled.lease_ms = 60000;
    filled.lease_ms = KZ_MAX(filled.lease_ms, (int64_t)10000);
    return filled;
}

enum kz_code kz_bus_messages_check(
        const struct kz_bus_message *messages, size_t count, struct kz_err *err)
{
    /* Pub/Sub's limits: cloud.google.com/pubsub/quotas, "resource limits". */
    enum { KEY_MAX = 1024, NAME_MAX_BYTES = 256, VALUE_MAX_BYTES = 1024 };

    for (size_t i = 0; i < count; i++) {
        const struct kz_bus_message *m = &messages[i];

        if (m->data.size > KZ_BUS_MESSAGE_SIZE_MAX)
            return kz_fail(err, KZ_TOO_LARGE, "a message of %zu bytes, at most %d can be published",
                    m->data.size, KZ_BUS_MESSAGE_SIZE_MAX);
        if (!m->data.size && !m->attribute_count)
            return kz_fail(err, KZ_INVALID, "a message with neither data nor attributes");
        if (m->key.size > KEY_MAX)
            return kz_fail(err, KZ_INVALID, "an ordering key of %zu bytes, at most %d can be",
                    m->key.size, KEY_MAX);
        if (m->attribute_count > KZ_ATTRIBUTES_MAX)
            return kz_fail(err, KZ_INVALID, "a message with %zu attributes, at most %d can be",
                    m->attribute_count, KZ_ATTRIBUTES_MAX);
        for (size_t a = 0; a < m->attribute_count; a++)
            if (!m->attributes[a].name.size || m->attributes[a].name.size > NAME_MAX_BYTES ||
                    m->attributes[a].value.size > VALUE_MAX_BYTES)
                return kz_fail(err, KZ_INVALID,
                        "attribute \"" KZ_STR_FMT "\" needs a name of 1 to %d bytes and a value of "
                        "at most %d",
                        KZ_STR_ARG(kz_str_n(m->attributes[a].name.ptr,
                                KZ_MIN(m->attributes[a].name.size, 100u))),
                        NAME_MAX_BYTES, VALUE_MAX_BYTES);
    }
    return KZ_OK;
}
