#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "log/dictionary.h"
#include "sys/random.h"

/* Records of users, one text each. */
struct sample {
    struct kz_buf text, records;
};

static size_t record_count(const struct sample *sample)
{
    return sample->records.size / sizeof(struct kz_dictionary_record);
}

static void add(struct sample *sample, uint64_t owner, const char *text)
{
    struct kz_dictionary_record record = {owner, sample->text.size, strlen(text)};

    kz_buf_cstr(&sample->text, text);
    kz_buf_put(&sample->records, &record, sizeof(record));
}

static void sample_done(struct sample *sample)
{
    kz_buf_done(&sample->text);
    kz_buf_done(&sample->records);
}

static void assert_content(const struct sample *sample, const char *expected)
{
    struct kz_buf out = {0};

    kz_dictionary_content(
            sample->text.data, (const void *)sample->records.data, record_count(sample), &out);
    kz_buf_char(&out, 0);
    assert_string_equal(out.data, expected);
    kz_buf_done(&out);
}

/* 32 users have the first and the last part in common; what is between is each one's own. */
static void what_32_users_share_is_in_and_what_31_share_is_not(void **state)
{
    struct sample sample = {0};
    char text[64];

    (void)state;
    for (unsigned i = 1; i <= 31; i++) {
        snprintf(text, sizeof(text), "{\"name\":\"view\"%c%c%c%c%c%c\"brand\":\"acme\"}",
                'a' + i % 26, 'A' + i, 'b' + i % 25, 'B' + i, 'c' + i % 24, 'C' + i);
        add(&sample, i, text);
    }
    assert_content(&sample, "");
    /* The same user again and again is one. */
    for (unsigned i = 0; i < 50; i++)
        add(&sample, 31, "{\"name\":\"view\"------\"brand\":\"acme\"}");
    assert_content(&sample, "");
    add(&sample, 32, "{\"name\":\"view\"++++++\"brand\":\"acme\"}");
    assert_content(&sample, "{\"name\":\"view\"\"brand\":\"acme\"}");
    sample_done(&sample);
}

/* Neither by itself nor as the begin or the end of another. */
static void a_stretch_that_is_in_is_not_taken_again(void **state)
{
    struct sample sample = {0};

    (void)state;
    for (unsigned i = 1; i <= 40; i++) {
        add(&sample, i, "abcdefghijklmnop");
        add(&sample, i, "ABCDEFGHabcdefghijklmnopIJKLMNOP");
        add(&sample, i, "bcdefghijklmn");
        add(&sample, i, "abcdefghijklmnop");
    }
    assert_content(&sample, "abcdefghijklmnopABCDEFGHabcdefghijklmnopIJKLMNOP");
    sample_done(&sample);
}

static void records_shorter_than_a_window_have_nothing(void **state)
{
    struct sample sample = {0};

    (void)state;
    for (unsigned i = 1; i <= 40; i++)
        add(&sample, i, "seven..");
    assert_content(&sample, "");
    for (unsigned i = 1; i <= 40; i++)
        add(&sample, i, "");
    assert_content(&sample, "");
    sample_done(&sample);
}

static void it_is_bounded_and_the_same_each_time(void **state)
{
    static char text[20000];
    struct sample sample = {0};
    struct kz_buf first = {0}, second = {0};
    size_t sizes[40];
    struct kz_prng prng;
    struct kz_err err;

    (void)state;
    kz_prng_init(&prng, 5);
    for (size_t i = 0; i + 1 < sizeof(text); i++)
        text[i] = (char)('a' + kz_prng_below(&prng, 26));
    for (unsigned i = 0; i < 40; i++) {
        add(&sample, i, text);
        sizes[i] = sizeof(text) - 1;
    }
    kz_dictionary_content(sample.text.data, (const void *)sample.records.data, 40, &first);
    assert_int_equal(first.size, 4096);
    assert_memory_equal(first.data, text, 4096);
    kz_buf_clear(&first);
    assert_int_equal(kz_dictionary_make(kz_buf_view(&sample.text),
                             (const void *)sample.records.data, 40, sizes, 40, 1, &first, &err),
            KZ_OK);
    assert_int_equal(kz_dictionary_make(kz_buf_view(&sample.text),
                             (const void *)sample.records.data, 40, sizes, 40, 1, &second, &err),
            KZ_OK);
    assert_in_range(first.size, 4096, KZ_DICTIONARY_BYTES_MAX);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    sample_done(&sample);
    kz_buf_done(&first);
    kz_buf_done(&second);
}

static void too_little_in_common_is_none(void **state)
{
    struct sample sample = {0};
    struct kz_buf out = {0};
    size_t sizes[40];
    struct kz_err err;

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        add(&sample, i + 1, "{\"name\":\"view\"}");
        sizes[i] = 15;
    }
    assert_int_equal(kz_dictionary_make(kz_buf_view(&sample.text),
                             (const void *)sample.records.data, 40, sizes, 40, 1, &out, &err),
            KZ_INVALID);
    assert_string_equal(err.message, "40 records have only 15 bytes in common");
    assert_int_equal(out.size, 0);
    sample_done(&sample);
    kz_buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(what_32_users_share_is_in_and_what_31_share_is_not),
            cmocka_unit_test(a_stretch_that_is_in_is_not_taken_again),
            cmocka_unit_test(records_shorter_than_a_window_have_nothing),
            cmocka_unit_test(it_is_bounded_and_the_same_each_time),
            cmocka_unit_test(too_little_in_common_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
