/* Local time against known transitions and, where it is installed, zdump(8). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codec/timefmt.h"
#include "contract/tz.h"

static int32_t offset(struct kz_zones *zones, const char *name, const char *utc)
{
    const struct kz_zone *zone;
    int64_t ms;

    assert_int_equal(kz_zones_get(zones, kz_str(name), &zone, NULL), KZ_OK);
    assert_int_equal(kz_time_parse(kz_str(utc), &ms, NULL), KZ_OK);
    return kz_zone_offset_s(zone, ms / 1000 - (ms % 1000 < 0));
}

static void test_known_transitions(void **state)
{
    static const struct {
        const char *zone, *utc;
        int32_t offset_s;
    } cases[] = {
            {"UTC", "2019-11-13T00:00:00Z", 0},
            {"Asia/Tokyo", "2019-11-13T00:00:00Z", 9 * 3600},
            {"Asia/Tokyo", "1948-05-01T14:59:59Z", 9 * 3600}, /* summer time under the occupation */
            {"Asia/Tokyo", "1948-05-01T15:00:00Z", 10 * 3600},
            {"America/New_York", "2019-03-10T06:59:59Z", -5 * 3600},
            {"America/New_York", "2019-03-10T07:00:00Z", -4 * 3600},
            {"America/New_York", "2019-11-03T05:59:59Z", -4 * 3600},
            {"America/New_York", "2019-11-03T06:00:00Z", -5 * 3600},
            {"Asia/Kolkata", "2026-01-01T00:00:00Z", 19800},
            {"Asia/Kathmandu", "2026-01-01T00:00:00Z", 20700},
            {"Australia/Lord_Howe", "2026-01-15T00:00:00Z", 11 * 3600},
            {"Australia/Lord_Howe", "2026-07-15T00:00:00Z", 37800},
            {"Pacific/Apia", "2011-12-30T09:59:59Z", -10 * 3600}, /* the day that was left out */
            {"Pacific/Apia", "2011-12-30T10:00:00Z", 14 * 3600},
            {"Europe/Dublin", "2026-01-15T00:00:00Z", 0},
            {"Europe/Dublin", "2026-07-15T00:00:00Z", 3600},
            /* behind the last transition of any file: by its rule */
            {"Europe/Berlin", "2090-03-26T00:59:59Z", 3600},
            {"Europe/Berlin", "2090-03-26T01:00:00Z", 7200},
            {"Europe/Berlin", "2090-10-29T00:59:59Z", 7200},
            {"Europe/Berlin", "2090-10-29T01:00:00Z", 3600},
            {"Australia/Sydney", "2090-01-01T00:00:00Z", 11 * 3600},
            {"Australia/Sydney", "2090-07-01T00:00:00Z", 10 * 3600},
            {"Etc/GMT+9", "2090-07-01T00:00:00Z", -9 * 3600},
    };
    struct kz_zones zones = {0};

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(cases); i++) {
        int32_t got = offset(&zones, cases[i].zone, cases[i].utc);

        if (got != cases[i].offset_s)
            fail_msg("%s at %s: %d, not %d", cases[i].zone, cases[i].utc, got, cases[i].offset_s);
    }
    kz_zones_done(&zones);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"", "Nowhere", "../../etc/passwd", "/etc/passwd",
            "Asia/../UTC", "Asia/", "Asia", "asia/tokyo", "posixrules", "Asia/Tokyo/x", "tzdata.zi",
            "UTC\n",
            "Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct kz_zones zones = {0};
    const struct kz_zone *zone;
    struct kz_err err;

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++)
        assert_int_equal(kz_zones_get(&zones, kz_str(bad[i]), &zone, &err), KZ_NOT_FOUND);
    assert_int_equal(kz_zones_get(&zones, kz_str_n("UTC\0x", 5), &zone, &err), KZ_NOT_FOUND);
    assert_null(zones.head);
}

static void test_broken_files(void **state)
{
    struct kz_zone *zone;
    char bytes[2000];
    size_t size;
    FILE *file = fopen("/usr/share/zoneinfo/Asia/Tokyo", "rb");

    (void)state;
    if (!file)
        skip();
    size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    for (size_t cut = 0; cut < size; cut++) {
        if (kz_zone_parse(kz_str_n(bytes, cut), &zone, NULL) == KZ_OK)
            free(zone); /* only the rule was lost */
        else
            assert_true(cut < size - 2);
    }
    for (size_t i = 0; i < size; i++) {
        char saved = bytes[i];

        bytes[i] = (char)0xff;
        if (kz_zone_parse(kz_str_n(bytes, size), &zone, NULL) == KZ_OK) {
            (void)kz_zone_offset_s(zone, 1573603500);
            free(zone);
        }
        bytes[i] = saved;
    }
}

/* Every transition that zdump knows of, a second before and at it. */
static void test_agrees_with_zdump(void **state)
{
    static const char *const names[] = {"Asia/Tokyo", "America/New_York", "Europe/London",
            "Africa/Casablanca", "America/Sao_Paulo", "Pacific/Apia", "Asia/Tehran",
            "Antarctica/Troll", "America/St_Johns"};
    struct kz_zones zones = {0};
    size_t checked = 0;

    (void)state;
    if (access("/usr/bin/zdump", X_OK) != 0)
        skip();
    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++) {
        char command[128], line[256];
        FILE *out;

        snprintf(command, sizeof(command), "/usr/bin/zdump -v -c 1900,2100 %s", names[i]);
        out = popen(command, "r");
        assert_non_null(out);
        while (fgets(line, sizeof(line), out)) {
            static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
            int day, h, m, s, year, gmtoff;
            char month[4], utc[64];
            const char *tail = strstr(line, "gmtoff=");

            if (sscanf(line, "%*s %*s %3s %d %d:%d:%d %d UT", month, &day, &h, &m, &s, &year) !=
                            6 ||
                    !tail || sscanf(tail, "gmtoff=%d", &gmtoff) != 1 || year < 1900 || year > 2100)
                continue;
            snprintf(utc, sizeof(utc), "%04d-%02d-%02dT%02d:%02d:%02dZ", year,
                    (int)(strstr(months, month) - months) / 3 + 1, day, h, m, s);
            if (offset(&zones, names[i], utc) != gmtoff)
                fail_msg("%s at %s: %d, zdump says %d", names[i], utc,
                        offset(&zones, names[i], utc), gmtoff);
            checked++;
        }
        pclose(out);
    }
    assert_true(checked > 1000);
    kz_zones_done(&zones);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_known_transitions),
            cmocka_unit_test(test_names),
            cmocka_unit_test(test_broken_files),
            cmocka_unit_test(test_agrees_with_zdump),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
