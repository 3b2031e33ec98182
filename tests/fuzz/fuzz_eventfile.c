/* Any bytes as a file of events, NDJSON or CSV: read as it lies, then sorted by time. The first byte
 * chooses the map. Every line that comes out is JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "app/commands/eventfile.h"
#include "codec/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t read_all(struct kz_event_file *file, bool sorted)
{
    struct kz_event_line line;
    struct kz_json_value root;
    int64_t last_ms = INT64_MIN;
    size_t count = 0;
    enum kz_code rc;
    struct kz_err err;

    while ((rc = kz_event_file_next(file, &line, &err)) != KZ_END) {
        KZ_BUG_ON(kz_event_file_position(file) > kz_event_file_size(file));
        if (rc != KZ_OK) {
            KZ_BUG_ON(rc != KZ_INVALID || !err.message[0]);
            continue;
        }
        count++;
        KZ_BUG_ON(kz_json_parse(line.json, 0, &root, NULL) != KZ_OK || root.kind != KZ_JSON_OBJECT);
        KZ_BUG_ON(sorted && line.ts_ms < last_ms);
        last_ms = line.ts_ms;
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const maps[] = {NULL, "ts=t,name=n,user_id=u", "ts=a,anonymous_id=b", "=,"};
    KZ_AUTO(kz_event_file_closep) struct kz_event_file *file = NULL;
    struct kz_err err;
    char path[64];
    size_t count;
    int fd;

    if (!size)
        return 0;
    fd = memfd_create("events", MFD_CLOEXEC);
    KZ_BUG_ON(fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1));
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (kz_event_file_open(path, maps[data[0] % KZ_ARRAY_COUNT(maps)], &file, &err) == KZ_OK) {
        count = read_all(file, false);
        if (kz_event_file_rewind(file, true, NULL, NULL, &err) == KZ_OK)
            KZ_BUG_ON(read_all(file, true) > count);
    }
    close(fd);
    return 0;
}
