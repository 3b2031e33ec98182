/* TLS and application default credentials, as to Google: against a peer with a certificate made for
 * the test, with the key file of a service account, whose tokens gRPC signs by itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "codec/base64.h"
#include "rpc/peer_int.h"

#define ANY &kizashi__rpc__any__descriptor

static char directory[] = "/tmp/kz-tls-test-XXXXXX";
static const char *const files[] = {"key.pem", "cert.pem", "account.json"};

/* ---- a certificate and an account ------------------------------------------------------------ */

static FILE *create_file(const char *name)
{
    char path[100];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "w");
    KZ_BUG_ON(!file);
    return file;
}

static void add_extension(X509 *certificate, int id, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, id, value);

    KZ_BUG_ON(!extension || !X509_add_ext(certificate, extension, -1));
    X509_EXTENSION_free(extension);
}

static void make_certificate(EVP_PKEY *key)
{
    X509 *certificate = X509_new();
    X509_NAME *name = X509_get_subject_name(certificate);
    FILE *file;

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(
            name, "CN", MBSTRING_ASC, (const unsigned char *)"kizashi test", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(certificate, NID_subject_alt_name, "DNS:localhost");
    KZ_BUG_ON(!X509_sign(certificate, key, EVP_sha256()));
    file = create_file("cert.pem");
    KZ_BUG_ON(!PEM_write_X509(file, certificate));
    fclose(file);
    X509_free(certificate);
}

/* The file that Google gives out for a service account, with the same key. */
static void make_account(EVP_PKEY *key)
{
    FILE *file = create_file("account.json");
    BIO *memory = BIO_new(BIO_s_mem());
    char *pem;
    long size;

    KZ_BUG_ON(!PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL));
    size = BIO_get_mem_data(memory, &pem);
    fputs("{\"type\": \"service_account\", \"client_id\": \"1\", \"private_key_id\": \"k1\", "
          "\"client_email\": \"test@kizashi.example\", \"private_key\": \"",
            file);
    for (long i = 0; i < size; i++)
        if (pem[i] == '\n')
            fputs("\\n", file);
        else
            fputc(pem[i], file);
    fputs("\"}", file);
    fclose(file);
    BIO_free(memory);
}

/* Before anything is opened: gRPC reads the roots once. */
static int make_files(void **state)
{
    EVP_PKEY *key = EVP_RSA_gen(2048);
    char path[100];
    FILE *file;

    (void)state;
    KZ_BUG_ON(!key || !mkdtemp(directory));
    file = create_file("key.pem");
    KZ_BUG_ON(!PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
    fclose(file);
    make_certificate(key);
    make_account(key);
    EVP_PKEY_free(key);
    snprintf(path, sizeof(path), "%s/cert.pem", directory);
    setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", path, 1);
    snprintf(path, sizeof(path), "%s/account.json", directory);
    setenv("GOOGLE_APPLICATION_CREDENTIALS", path, 1);
    setenv("KZ_PEER_TLS", directory, 1);
    return 0;
}

static int remove_files(void **state)
{
    char path[100];

    (void)state;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
    return 0;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static enum kz_code ask(struct kz_rpc *rpc, const char *endpoint, const char *method,
        Kizashi__Rpc__Any **ret_answer, struct kz_err *err)
{
    const struct kz_rpc_target target = {.endpoint = endpoint};
    const struct kz_rpc_options options = {.method = method, .timeout_ms = 60000};
    KZ_AUTO(kz_rpc_channel_closep) struct kz_rpc_channel *channel = NULL;
    Kizashi__Rpc__Any request = KIZASHI__RPC__ANY__INIT;
    ProtobufCMessage *answer = NULL;

    KZ_TRY(kz_rpc_connect(rpc, &target, &channel, err));
    KZ_TRY(kz_rpc_call(channel, &options, &request.base, ANY, &answer, err));
    *ret_answer = (Kizashi__Rpc__Any *)answer;
    return KZ_OK;
}

/* The middle part of a JSON Web Token (RFC 7519): what is claimed. */
static void decode_claims(const char *token, struct kz_buf *out)
{
    const char *from = strchr(token, '.') + 1;

    assert_int_equal(kz_base64_decode(kz_str_n(from, (size_t)(strchr(from, '.') - from)),
                             KZ_BASE64_URL, out, NULL),
            KZ_OK);
    kz_buf_char(out, '\0');
}

static void test_a_service_account(void **state)
{
    struct peer_process peer_process = peer_start(0);
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_rpc *rpc = NULL;
    struct kz_err err = {0};
    struct kz_buf claims = {0};
    char endpoint[32];

    (void)state;
    snprintf(endpoint, sizeof(endpoint), "localhost:%d", peer_process.port);
    assert_int_equal(kz_rpc_open(&rpc, NULL), KZ_OK);
    if (ask(rpc, endpoint, "/peer/Token", &answer, &err) != KZ_OK)
        fail_msg("%s", err.message);
    assert_memory_equal(answer->type_url, "Bearer ey", 9);
    decode_claims(answer->type_url, &claims);
    assert_non_null(strstr(claims.data, "\"iss\":\"test@kizashi.example\""));
    kz_buf_done(&claims);
    kizashi__rpc__any__free_unpacked(answer, NULL);
    kz_rpc_close(rpc);
    peer_kill(&peer_process);
}

/* The certificate is for localhost only. */
static void test_a_certificate_of_somebody_else(void **state)
{
    struct peer_process peer_process = peer_start(0);
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_rpc *rpc = NULL;

    (void)state;
    assert_int_equal(kz_rpc_open(&rpc, NULL), KZ_OK);
    assert_int_equal(ask(rpc, peer_process.address, "/peer/Token", &answer, NULL), KZ_UNAVAILABLE);
    kz_rpc_close(rpc);
    peer_kill(&peer_process);
}

/* A token is no business of a server that has not shown who it is. */
static void test_no_tls_no_token(void **state)
{
    struct peer_process peer_process;
    Kizashi__Rpc__Any *answer = NULL;
    struct kz_rpc *rpc = NULL;
    char endpoint[32];

    (void)state;
    unsetenv("KZ_PEER_TLS");
    peer_process = peer_start(0);
    setenv("KZ_PEER_TLS", directory, 1);
    snprintf(endpoint, sizeof(endpoint), "localhost:%d", peer_process.port);
    assert_int_equal(kz_rpc_open(&rpc, NULL), KZ_OK);
    assert_int_equal(ask(rpc, endpoint, "/peer/Token", &answer, NULL), KZ_UNAVAILABLE);
    kz_rpc_close(rpc);
    peer_kill(&peer_process);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
            cmocka_unit_test(test_a_service_account),
            cmocka_unit_test(test_a_certificate_of_somebody_else),
            cmocka_unit_test(test_no_tls_no_token),
    };

    if (argc == 3 && strcmp(argv[1], "--peer") == 0)
        peer_main(atoi(argv[2]));
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
