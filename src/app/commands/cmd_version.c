/* app/commands/cmd_version.c -- `kizashi version`. */

#include <curl/curl.h>
#include <stdio.h>
#include <uv.h>
#include <yaml.h>
#include <zlib.h>
#include <zstd.h>

#include "app/commands/command.h"
#include "app/commands/version.h"
#include "contract/sql.h"
#include "history/checkpoint.h"
#include "runtimes/python/python.h"

static const char *build_options(void)
{
#if defined(KZ_FAULT_NO_FSYNC)
    return "FAULT: NO FSYNC (a test build, never for data)";
#elif defined(__SANITIZE_ADDRESS__)
    return "address sanitizer";
#elif defined(__SANITIZE_THREAD__)
    return "thread sanitizer";
#elif defined(__OPTIMIZE__)
    return "optimised";
#else
    return "not optimised";
#endif
}

static void print_engines(void)
{
    struct kz_python python;
    const curl_version_info_data *curl = curl_version_info(CURLVERSION_NOW);

    printf("build       %s, %s\n", KZ_BUILD, build_options());
    printf("sql         %s\n", kz_sql_engine());
    printf("libuv       %s\n", uv_version_string());
    printf("zstd        %s\n", ZSTD_versionString());
    printf("zlib        %s\n", zlibVersion());
    printf("libyaml     %s\n", yaml_get_version_string());
    printf("curl        %s (%s)\n", curl->version,
            curl->ssl_version ? curl->ssl_version : "no TLS");
    printf("checkpoints version %d\n", KZ_CHECKPOINT_VERSION);
    kz_python_probe(NULL, &python);
    if (!python.found) {
        printf("python      none: %s\n", python.problem);
        return;
    }
    printf("python      %s, %s (by %s)\n", python.version, python.interpreter, python.chosen_by);
    printf("  kizashi   %s, %s\n", python.kizashi, python.package);
    printf("  numpy     %s\n", python.numpy[0] ? python.numpy : "none: models do without");
}

static int run(const struct kz_args *args)
{
    printf("kizashi %s\n", KZ_VERSION);
    if (kz_args_flag(args, "v"))
        print_engines();
    return KZ_EXIT_DONE;
}

const struct kz_command kz_command_version = {
        .name = "version",
        .arguments = "",
        .argument_max = 0,
        .summary = "Prints the version; with -v that of everything it is built on.",
        .example = "kizashi version -v",
        .options = {{"v", NULL, NULL, "the engines, too: SQLite, libuv, zstd, curl, Python"}},
        .run = run,
};
