#include "contract/bus.h"

#include "codec/utf8.h"

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

/* Pub/Sub refuses a whole request for one message in it, so such a message must not get that far.
 */
static enum kz_code check_attribute(const struct kz_attribute *attribute, struct kz_err *err)
{
    enum { NAME_MAX_BYTES = 256, VALUE_MAX_BYTES = 1024 };
    struct kz_str shown = kz_utf8_cut(attribute->name, 100);

    if (!kz_utf8_check(attribute->name, NULL) || !kz_utf8_check(attribute->value, NULL))
        return kz_fail(err, KZ_INVALID, "an attribute that is not UTF-8");
    if (!attribute->name.size || attribute->name.size > NAME_MAX_BYTES ||
            attribute->value.size > VALUE_MAX_BYTES)
        return kz_fail(err, KZ_INVALID,
                "attribute \"" KZ_STR_FMT "\" needs a name of 1 to %d bytes and a value of at most "
                "%d",
                KZ_STR_ARG(shown), NAME_MAX_BYTES, VALUE_MAX_BYTES);
    if (kz_str_starts(attribute->name, "goog"))
        return kz_fail(err, KZ_INVALID, "attribute \"" KZ_STR_FMT "\": \"goog\" is Google's",
                KZ_STR_ARG(shown));
    return KZ_OK;
}

/* The limits are Pub/Sub's (cloud.google.com/pubsub/quotas, "resource limits"). */
enum kz_code kz_bus_messages_check(
        const struct kz_bus_message *messages, size_t count, struct kz_err *err)
{
    enum { KEY_MAX_BYTES = 1024 };

    for (size_t i = 0; i < count; i++) {
        const struct kz_bus_message *m = &messages[i];

        if (m->data.size > KZ_BUS_MESSAGE_SIZE_MAX)
            return kz_fail(err, KZ_TOO_LARGE, "a message of %zu bytes, at most %d can be published",
                    m->data.size, KZ_BUS_MESSAGE_SIZE_MAX);
        if (!m->data.size && !m->attribute_count)
            return kz_fail(err, KZ_INVALID, "a message with neither data nor attributes");
        if (m->key.size > KEY_MAX_BYTES || !kz_utf8_check(m->key, NULL))
            return kz_fail(err, KZ_INVALID,
                    "an ordering key of %zu bytes, it has to be UTF-8 of at most %d", m->key.size,
                    KEY_MAX_BYTES);
        if (m->attribute_count > KZ_ATTRIBUTES_MAX)
            return kz_fail(err, KZ_INVALID, "a message with %zu attributes, at most %d can be",
                    m->attribute_count, KZ_ATTRIBUTES_MAX);
        for (size_t a = 0; a < m->attribute_count; a++)
            KZ_TRY(check_attribute(&m->attributes[a], err));
    }
    return KZ_OK;
}
