/* What a model's version is made of: its files, its SQL with tables and engine, how it is run. */
#include "infer/infer_int.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/hash.h"

enum { DEPTH_MAX = 16, CHUNK_BYTES = 1 << 20 };

static uint64_t add_str(uint64_t hash, const char *s)
{
    return kz_hash_mix(hash, kz_hash_str(kz_str(s ? s : "")));
}

static uint64_t add_file(uint64_t hash, const char *path)
{
    FILE *file = fopen(path, "rbe");
    char *chunk = kz_malloc(CHUNK_BYTES);
    size_t n;

    while (file && (n = fread(chunk, 1, CHUNK_BYTES, file)) > 0)
        hash = kz_hash_mix(hash, kz_hash(chunk, n));
    if (file)
        fclose(file);
    free(chunk);
    return hash;
}

/* What Python and editors leave behind is not the model. */
static int is_of_model(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && strcmp(entry->d_name, "__pycache__") != 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* alphasort() follows the locale */
}

static uint64_t add_tree(uint64_t hash, const char *path, int depth)
{
    struct dirent **entries;
    struct stat st;
    int count;

    if (depth > DEPTH_MAX || stat(path, &st) != 0)
        return hash;
    if (S_ISREG(st.st_mode))
        return add_file(hash, path);
    if (!S_ISDIR(st.st_mode) || (count = scandir(path, &entries, is_of_model, by_bytes)) < 0)
        return hash;
    for (int i = 0; i < count; i++) {
        char child[4096];

        hash = add_str(hash, entries[i]->d_name);
        if (snprintf(child, sizeof(child), "%s/%s", path, entries[i]->d_name) < (int)sizeof(child))
            hash = add_tree(hash, child, depth + 1);
        free(entries[i]);
    }
    free(entries);
    return hash;
}

uint64_t kz_version_hash(const struct kz_model_def *def, uint64_t tables_hash)
{
    /* Of a model that runs elsewhere only its place is known. */
    uint64_t hash = def->path ? add_tree(1, def->path, 0)
                              : add_str(add_str(1, def->url), def->image);

    hash = add_str(hash, def->features_sql);
    hash = kz_hash_mix(hash, def->features_sql ? tables_hash : 0);
    hash = add_str(hash, def->features_sql ? kz_sql_engine() : "");
    hash = add_str(add_str(hash, def->runtime), def->config_json);
    hash = kz_hash_mix(hash, (uint64_t)def->history.window_ms);
    hash = kz_hash_mix(hash, (uint64_t)def->history.events_max << 1 | def->history.include_actions);
    hash = kz_hash_mix(hash, (uint64_t)def->output.kind << 1 | def->output.allow_nan);
    hash = kz_hash_mix(hash, (uint64_t)def->output.select);
    hash = kz_hash_mix(hash, def->output.embedding_size);
    for (size_t i = 0; i < def->output.class_count; i++)
        hash = add_str(hash, def->output.classes[i]);
    return hash;
}
