#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "codec/base64.h"
#include "codec/crc32c.h"
#include "codec/crypto.h"
#include "codec/gzip.h"
#include "codec/hex.h"
#include "codec/ulid.h"
#include "codec/zstd.h"

static void crc32c_gives_the_published_values(void **state)
{
    uint8_t bytes[100];

    (void)state;
    assert_int_equal(kz_crc32c(0, "123456789", 9), 0xe3069283);
    /* RFC 3720, B.4 */
    memset(bytes, 0, 32);
    assert_int_equal(kz_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(kz_crc32c(0, bytes, 32), 0x62a8ab43);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(kz_crc32c(0, bytes, 32), 0x46dd794e);
    assert_int_equal(kz_crc32c(0, NULL, 0), 0);
    for (size_t n = 0; n < 90; n++) {
        uint32_t whole = kz_crc32c_portable(0, bytes + n % 8, n);

        assert_int_equal(kz_crc32c(0, bytes + n % 8, n), whole);
        assert_int_equal(
                kz_crc32c(kz_crc32c(0, bytes + n % 8, n / 3), bytes + n % 8 + n / 3, n - n / 3),
                whole);
    }
}

static void assert_base64(const char *data, const char *std, const char *url)
{
    struct kz_buf buf = {0};

    kz_base64_encode(kz_str(data), KZ_BASE64_STD, &buf);
    assert_true(kz_str_is(kz_buf_view(&buf), std));
    kz_buf_clear(&buf);
    kz_base64_encode(kz_str(data), KZ_BASE64_URL, &buf);
    assert_true(kz_str_is(kz_buf_view(&buf), url));
    kz_buf_clear(&buf);
    assert_int_equal(kz_base64_decode(kz_str(std), KZ_BASE64_STD, &buf, NULL), KZ_OK);
    assert_int_equal(kz_base64_decode(kz_str(url), KZ_BASE64_URL, &buf, NULL), KZ_OK);
    assert_int_equal(buf.size, 2 * strlen(data));
    if (buf.size)
        assert_memory_equal(buf.data + strlen(data), data, strlen(data));
    kz_buf_done(&buf);
}

static void base64_of_rfc_4648(void **state)
{
    static const char *const bad[] = {
            "Zg=", "Z", "Zg", "Zm9v====", "Zh==", "Zm9=", "Z*9v", "=", "Zg==Zg==", "Zm 9", "-_-_"};
    struct kz_buf buf = {0};

    (void)state;
    assert_base64("", "", "");
    assert_base64("f", "Zg==", "Zg");
    assert_base64("fo", "Zm8=", "Zm8");
    assert_base64("foo", "Zm9v", "Zm9v");
    assert_base64("foobar", "Zm9vYmFy", "Zm9vYmFy");
    assert_base64("\xfb\xff\xfe", "+//+", "-__-");
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bad); i++) {
        if (kz_base64_decode(kz_str(bad[i]), KZ_BASE64_STD, &buf, NULL) != KZ_INVALID)
            fail_msg("accepted %s", bad[i]);
        assert_int_equal(buf.size, 0);
    }
    assert_int_equal(kz_base64_decode(KZ_STR("Zg=="), KZ_BASE64_URL, &buf, NULL), KZ_OK);
    kz_buf_done(&buf);
}

static void hexadecimal(void **state)
{
    uint8_t bytes[3];
    char out[7];

    (void)state;
    assert_string_equal(kz_hex("\x00\xab\xff", 3, out), "00abff");
    assert_int_equal(kz_hex_decode(KZ_STR("00aBFf"), bytes, 3, NULL), KZ_OK);
    assert_memory_equal(bytes, "\x00\xab\xff", 3);
    assert_int_equal(kz_hex_decode(KZ_STR("00aBF"), bytes, 3, NULL), KZ_INVALID);
    assert_int_equal(kz_hex_decode(KZ_STR("00aBFg"), bytes, 3, NULL), KZ_INVALID);
}

static void gzip_is_bounded_and_strict(void **state)
{
    struct kz_buf data = {0}, packed = {0}, out = {0};
    struct kz_err err;

    (void)state;
    for (int i = 0; i < 30000; i++)
        kz_buf_printf(&data, "%d,", i % 1000);
    assert_int_equal(kz_gzip_deflate(kz_buf_view(&data), 6, &packed, &err), KZ_OK);
    assert_true(kz_gzip_is(kz_buf_view(&packed)));
    kz_buf_cstr(&out, "before");
    assert_int_equal(kz_gzip_inflate(kz_buf_view(&packed), data.size, &out, &err), KZ_OK);
    assert_int_equal(out.size, data.size + 6);
    assert_memory_equal(out.data + 6, data.data, data.size);
    out.size = 6;
    assert_int_equal(
            kz_gzip_inflate(kz_buf_view(&packed), data.size - 1, &out, &err), KZ_TOO_LARGE);
    assert_int_equal(out.size, 6);
    for (size_t n = 0; n < packed.size; n += 7)
        assert_int_equal(
                kz_gzip_inflate(kz_str_n(packed.data, n), 1 << 20, &out, &err), KZ_INVALID);
    assert_string_equal(err.message, "compressed data is cut off");
    /* Two members are one body; anything else behind is garbage. */
    assert_int_equal(kz_gzip_deflate(KZ_STR("tail"), 1, &packed, &err), KZ_OK);
    assert_int_equal(kz_gzip_inflate(kz_buf_view(&packed), 1 << 20, &out, &err), KZ_OK);
    assert_int_equal(out.size, 6 + data.size + 4);
    kz_buf_cstr(&packed, "x");
    assert_int_equal(kz_gzip_inflate(kz_buf_view(&packed), 1 << 20, &out, &err), KZ_INVALID);
    assert_string_equal(err.message, "garbage behind the compressed data");
    packed.data[packed.size / 2] ^= 0x55;
    assert_int_equal(kz_gzip_inflate(kz_buf_view(&packed), 1 << 20, &out, &err), KZ_INVALID);
    assert_int_equal(kz_gzip_inflate(KZ_STR("not gzip at all"), 100, &out, &err), KZ_INVALID);
    kz_buf_done(&data);
    kz_buf_done(&packed);
    kz_buf_done(&out);
}

/* Two handles have it: one of its own, and one that is lent it prepared. */
static void zstd_with_a_dictionary(void **state)
{
    struct kz_buf samples = {0}, dictionary = {0}, frame = {0}, out = {0};
    struct kz_zstd *plain = kz_zstd_new(KZ_STR_NULL, 3, 0), *taught;
    struct kz_zstd_dictionary *prepared;
    static size_t sizes[2000];
    struct kz_str text = KZ_STR("{\"user_id\":\"u77\",\"name\":\"view\",\"price\":1077}");
    struct kz_buf content = {0};
    size_t plain_size;
    struct kz_err err;

    (void)state;
    for (int i = 0; i < 2000; i++) {
        size_t before = samples.size;

        kz_buf_printf(&samples, "{\"user_id\":\"u%d\",\"name\":\"%s\",\"price\":%d}",
                i * 7919 % 1000, i % 3 ? "view" : "cart", i * 31);
        sizes[i] = samples.size - before;
    }
    for (int i = 0; i < 12; i++)
        kz_buf_cstr(&content, "\"name\":\"view\",\"price\":{\"user_id\":\"u");
    assert_int_equal(kz_zstd_make_dictionary(kz_buf_view(&content), kz_buf_view(&samples), sizes,
                             2000, 3, 4096, &dictionary, &err),
            KZ_OK);
    assert_in_range(dictionary.size, content.size, 1024);
    assert_null(memmem(dictionary.data, dictionary.size, "cart", 4)); /* of the samples nothing */
    assert_int_equal(kz_zstd_make_dictionary(KZ_STR_NULL, kz_buf_view(&samples), sizes, 2000, 3,
                             4096, &dictionary, &err),
            KZ_INVALID);
    assert_int_equal(kz_zstd_make_dictionary(kz_buf_view(&content), KZ_STR("x"), sizes, 0, 3, 4096,
                             &dictionary, &err),
            KZ_INVALID);
    taught = kz_zstd_new(kz_buf_view(&dictionary), 3, 300);
    prepared = kz_zstd_dictionary_new(kz_buf_view(&dictionary));
    assert_non_null(taught);
    assert_non_null(prepared);
    assert_int_equal(kz_zstd_compress(plain, text, &frame, &err), KZ_OK);
    plain_size = frame.size;
    kz_buf_clear(&frame);
    assert_int_equal(kz_zstd_compress(taught, text, &frame, &err), KZ_OK);
    assert_in_range(frame.size, 1, plain_size - 10);
    assert_int_equal(kz_zstd_decompress(taught, kz_buf_view(&frame), text.size, &out, &err), KZ_OK);
    assert_true(kz_str_eq(kz_buf_view(&out), text));
    kz_buf_clear(&out);
    assert_int_equal(
            kz_zstd_decompress_with(plain, prepared, kz_buf_view(&frame), text.size, &out, &err),
            KZ_OK);
    assert_true(kz_str_eq(kz_buf_view(&out), text));
    assert_int_equal(kz_zstd_decompress(taught, kz_buf_view(&frame), text.size - 1, &out, &err),
            KZ_TOO_LARGE);
    assert_int_equal(kz_zstd_decompress(plain, kz_buf_view(&frame), 1000, &out, &err), KZ_CORRUPT);
    assert_int_equal(kz_zstd_decompress(plain, KZ_STR("nonsense"), 1000, &out, &err), KZ_CORRUPT);
    assert_int_equal(
            kz_zstd_decompress(taught, kz_str_n(frame.data, frame.size - 1), 1000, &out, &err),
            KZ_CORRUPT);
    assert_int_equal(out.size, text.size);
    dictionary.data[8] ^= 0x55; /* the literals' statistics */
    assert_null(kz_zstd_dictionary_new(kz_buf_view(&dictionary)));
    kz_zstd_dictionary_free(prepared);
    kz_zstd_dictionary_free(NULL);
    kz_zstd_free(plain);
    kz_zstd_free(taught);
    kz_buf_done(&content);
    kz_buf_done(&samples);
    kz_buf_done(&dictionary);
    kz_buf_done(&frame);
    kz_buf_done(&out);
}

static void digests_are_the_published_ones(void **state)
{
    uint8_t digest[KZ_SHA256_BYTES];
    char text[2 * KZ_SHA256_BYTES + 1];

    (void)state;
    kz_sha256(KZ_STR("abc"), digest);
    assert_string_equal(kz_hex(digest, sizeof(digest), text),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    kz_sha256(KZ_STR_NULL, digest);
    assert_string_equal(kz_hex(digest, sizeof(digest), text),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    /* RFC 4231, test case 2 */
    kz_hmac_sha256(KZ_STR("Jefe"), KZ_STR("what do ya want for nothing?"), digest);
    assert_string_equal(kz_hex(digest, sizeof(digest), text),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    assert_true(kz_equal_secret(KZ_STR("same"), KZ_STR("same")));
    assert_false(kz_equal_secret(KZ_STR("same"), KZ_STR("samE")));
    assert_false(kz_equal_secret(KZ_STR("same"), KZ_STR("sam")));
    assert_true(kz_equal_secret(KZ_STR_NULL, KZ_STR("")));
}

static void identifiers_have_their_form_and_sort_by_time(void **state)
{
    uint8_t ones[16], zeros[16] = {0};
    char ulid[KZ_ULID_BYTES];

    (void)state;
    memset(ones, 0xff, sizeof(ones));
    /* The specification's example of the time part. */
    kz_ulid(1469918176385, zeros, ulid);
    assert_string_equal(ulid, "01aryz6s410000000000000000");
    assert_int_equal(strlen(kz_ulid(1469918176386, ones, ulid)), 26);
    assert_string_equal(ulid + 10, "zzzzzzzzzzzzzzzz");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(crc32c_gives_the_published_values),
            cmocka_unit_test(base64_of_rfc_4648),
            cmocka_unit_test(hexadecimal),
            cmocka_unit_test(gzip_is_bounded_and_strict),
            cmocka_unit_test(zstd_with_a_dictionary),
            cmocka_unit_test(digests_are_the_published_ones),
            cmocka_unit_test(identifiers_have_their_form_and_sort_by_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
