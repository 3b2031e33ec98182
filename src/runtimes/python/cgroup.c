/* Limits by control group, version 2 or 1, where we may write: a directory a replica below our own
 * group. Whatever fails here only means that the group is not made, and rlimits hold instead. */
#include "runtimes/python/python_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/sys/fs/cgroup"
#define PREFIX "kizashi-"

static bool write_file(const char *dir, const char *name, const char *text)
{
    char path[400];
    int fd;
    bool done;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

static bool write_u64(const char *dir, const char *name, uint64_t value)
{
    char text[32];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    return write_file(dir, name, text);
}

static bool read_file(const char *dir, const char *name, char *out, size_t size)
{
    char path[400];
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "%s%s%s", dir, name[0] ? "/" : "", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, out, size - 1);
    close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* Our own group for a v1 controller, or of v2 with NULL: the third field of /proc/self/cgroup. */
static bool own_group(const char *controller, char *out, size_t size)
{
    char text[4096], *line, *save = NULL;

    if (!read_file("/proc/self/cgroup", "", text, sizeof(text)))
        return false;
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        char *name, *rest = NULL;

        if (!path)
            continue;
        *path++ = '\0';
        names++;
        if (!controller && !names[0]) {
            snprintf(out, size, "%s", strcmp(path, "/") == 0 ? "" : path);
            return true;
        }
        for (name = strtok_r(names, ",", &rest); controller && name;
                name = strtok_r(NULL, ",", &rest))
            if (strcmp(name, controller) == 0) {
                snprintf(out, size, "%s", strcmp(path, "/") == 0 ? "" : path);
                return true;
            }
    }
    return false;
}

/* Groups of a process that was killed before it could remove them. */
static void sweep(const char *parent)
{
    DIR *dir = opendir(parent);
    struct dirent *entry;
    char path[600];

    while (dir && (entry = readdir(dir))) {
        int pid = strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0
                          ? atoi(entry->d_name + strlen(PREFIX))
                          : 0;

        if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH) {
            snprintf(path, sizeof(path), "%s/%s", parent, entry->d_name);
            (void)rmdir(path); /* one with processes in it stays */
        }
    }
    if (dir)
        closedir(dir);
}

static bool make(const char *base, const char *own, pid_t worker, char *out, size_t size)
{
    char parent[200];

    if (snprintf(parent, sizeof(parent), "%s%s", base, own) >= (int)sizeof(parent))
        return false;
    snprintf(out, size, "%s/" PREFIX "%d-%d", parent, (int)getpid(), (int)worker);
    if (mkdir(out, 0755) == 0)
        return true;
    out[0] = '\0';
    return false;
}

static void drop(char *dir)
{
    if (dir[0])
        (void)rmdir(dir);
    dir[0] = '\0';
}

static bool set_cpu(struct cgroup *group, uint32_t cpu_milli)
{
    char text[64];

    if (!group->v2)
        return write_u64(group->cpu, "cpu.cfs_period_us", 100000) &&
               write_u64(group->cpu, "cpu.cfs_quota_us", (uint64_t)cpu_milli * 100);
    snprintf(text, sizeof(text), "%llu 100000", (unsigned long long)cpu_milli * 100);
    return write_file(group->cpu, "cpu.max", text);
}

static bool enter_v2(struct cgroup *group, const struct kz_model_def *model, pid_t pid)
{
    static const char *const bases[] = {ROOT, ROOT "/unified"};
    char own[160], parent[400];

    if (!own_group(NULL, own, sizeof(own)))
        return false;
    for (size_t i = 0; i < KZ_ARRAY_COUNT(bases); i++) {
        char controllers[256];

        snprintf(parent, sizeof(parent), "%s%s", bases[i], own);
        if (!read_file(parent, "cgroup.controllers", controllers, sizeof(controllers)) ||
                !strstr(controllers, "memory"))
            continue;
        sweep(parent);
        (void)write_file(parent, "cgroup.subtree_control", "+memory"); /* may be on already */
        (void)write_file(parent, "cgroup.subtree_control", "+cpu");
        if (!make(bases[i], own, pid, group->memory, sizeof(group->memory)))
            return false;
        group->v2 = true;
        memcpy(group->cpu, group->memory, sizeof(group->cpu));
        if (write_u64(group->memory, "memory.max", model->resources.memory_bytes) &&
                write_u64(group->memory, "cgroup.procs", (uint64_t)pid)) {
            (void)write_file(group->memory, "memory.swap.max", "0");
            if (model->resources.cpu_milli)
                (void)set_cpu(group, model->resources.cpu_milli);
            return true;
        }
        drop(group->memory);
        group->cpu[0] = '\0';
        return false;
    }
    return false;
}

static bool enter_v1(struct cgroup *group, const struct kz_model_def *model, pid_t pid)
{
    char own[160];
    bool limited = false;

    group->v2 = false;
    if (model->resources.memory_bytes && own_group("memory", own, sizeof(own))) {
        char parent[400];

        snprintf(parent, sizeof(parent), ROOT "/memory%s", own);
        sweep(parent);
        if (make(ROOT "/memory", own, pid, group->memory, sizeof(group->memory))) {
            limited = write_u64(group->memory, "memory.limit_in_bytes",
                              model->resources.memory_bytes) &&
                      write_u64(group->memory, "cgroup.procs", (uint64_t)pid);
            if (!limited)
                drop(group->memory);
        }
    }
    if (model->resources.cpu_milli && own_group("cpu", own, sizeof(own))) {
        char parent[400];

        snprintf(parent, sizeof(parent), ROOT "/cpu%s", own);
        sweep(parent);
        if (make(ROOT "/cpu", own, pid, group->cpu, sizeof(group->cpu)) &&
                (!set_cpu(group, model->resources.cpu_milli) ||
                        !write_u64(group->cpu, "cgroup.procs", (uint64_t)pid)))
            drop(group->cpu);
    }
    return limited;
}

bool kz_py_cgroup_enter(struct cgroup *group, const struct kz_model_def *model, pid_t pid)
{
    *group = (struct cgroup){0};
    if (!model->resources.memory_bytes && !model->resources.cpu_milli)
        return false;
    return (model->resources.memory_bytes && enter_v2(group, model, pid)) ||
           enter_v1(group, model, pid);
}

bool kz_py_cgroup_was_oom(const struct cgroup *group)
{
    char text[512];
    const char *at;

    if (!group->memory[0] ||
            !read_file(group->memory, group->v2 ? "memory.events" : "memory.oom_control", text,
                    sizeof(text)))
        return false;
    /* "oom_kill 1"; v1 also has "oom_kill_disable 0". */
    at = strstr(text, "oom_kill ");
    return at && atoi(at + strlen("oom_kill ")) > 0;
}

bool kz_py_cgroup_remove(struct cgroup *group)
{
    char *dirs[] = {group->memory, group->cpu};

    for (size_t i = 0; i < KZ_ARRAY_COUNT(dirs); i++)
        if (dirs[i][0] && (rmdir(dirs[i]) == 0 || errno != EBUSY))
            dirs[i][0] = '\0';
    return !group->memory[0] && !group->cpu[0];
}
