/* Any bytes as a project's kizashi.yaml: a project, or problems with their places. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/tmp/kz-fuzz-config-XXXXXX";

static void put(const char *name, const void *data, size_t size)
{
    char path[128];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    KZ_BUG_ON(fd < 0 || write(fd, data, size) != (ssize_t)size);
    close(fd);
}

static void clean_up(void)
{
    static const char *const names[] = {
            "/kizashi.yaml", "/f.sql", "/t.csv", "/m/model.py", "/m", ""};
    char path[128];

    for (size_t i = 0; i < KZ_ARRAY_COUNT(names); i++) {
        (void)snprintf(path, sizeof(path), "%s%s", directory, names[i]);
        (void)remove(path);
    }
}

/* The files that the seeds name. */
static void set_up(void)
{
    char path[128];

    KZ_BUG_ON(!mkdtemp(directory));
    (void)atexit(clean_up);
    (void)snprintf(path, sizeof(path), "%s/m", directory);
    KZ_BUG_ON(mkdir(path, 0700) != 0);
    put("m/model.py", "", 0);
    put("f.sql", "SELECT count(*) AS n FROM events", 32);
    put("t.csv", "a,b\n1,2\n", 8);
}

static void on_problem(void *arg, const struct kz_err *err)
{
    size_t *count = arg;

    (*count)++;
    KZ_BUG_ON(err->code == KZ_OK || !err->message[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    KZ_AUTO(kz_config_freep) struct kz_config *config = NULL;
    size_t reported = 0, problems = 0;
    struct kz_err err;

    if (directory[sizeof(directory) - 2] == 'X')
        set_up();
    put("kizashi.yaml", data, size);
    if (kz_config_read(directory, NULL, on_problem, &reported, &config, &problems, &err) != KZ_OK) {
        KZ_BUG_ON(config || !err.message[0]);
        return 0;
    }
    KZ_BUG_ON(problems != reported || (!problems && !kz_config_project(config)->name));
    return 0;
}
