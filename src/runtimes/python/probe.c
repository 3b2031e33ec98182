#include "runtimes/python/python_int.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef KZ_PYTHON_DIR
#define KZ_PYTHON_DIR ""
#endif

enum { PROBE_TIMEOUT_MS = 20000 };

/* Lines: the real interpreter (a shim costs 0.1 s a start), its version, NumPy's or nothing, then
 * "ok" and the package's version, or why it cannot be imported. */
static const char program[] =
        "import sys\n"
        "print(sys.executable)\n"
        "print('%d.%d.%d' % sys.version_info[:3])\n"
        "try:\n"
        "    import numpy; print(numpy.__version__)\n"
        "except Exception: print('')\n"
        "if sys.version_info < (3, 8):\n"
        "    print('Python 3.8 or newer is needed')\n"
        "else:\n"
        "    try:\n"
        "        import kizashi, kizashi.worker; print('ok'); print(kizashi.__version__)\n"
        "    except Exception as exc: print('%s: %s' % (type(exc).__name__, exc))\n";

static bool has_package(const char *dir)
{
    char path[600];

    snprintf(path, sizeof(path), "%s/kizashi/worker.py", dir);
    return dir[0] && access(path, R_OK) == 0;
}

/* The package of this very build comes first, so that it and the host speak the same protocol. */
static bool find_package(char *out, size_t size)
{
    const char *set = getenv("KIZASHI_PYTHONPATH");
    char binary[400], *slash;
    ssize_t n;

    if (set) {
        snprintf(out, size, "%s", set);
        return has_package(out);
    }
    n = readlink("/proc/self/exe", binary, sizeof(binary) - 1);
    binary[n > 0 ? n : 0] = '\0';
    slash = strrchr(binary, '/');
    if (slash) {
        *slash = '\0';
        snprintf(out, size, "%s/../python", binary);
        if (has_package(out))
            return true;
        snprintf(out, size, "%s/../share/kizashi/python", binary);
        if (has_package(out))
            return true;
    }
    snprintf(out, size, "%s", KZ_PYTHON_DIR);
    if (has_package(out))
        return true;
    snprintf(out, size, "/usr/share/kizashi/python");
    return has_package(out);
}

static void copy_line(char *out, size_t size, struct kz_str *text)
{
    const char *end = memchr(text->ptr ? text->ptr : "", '\n', text->size);
    size_t n = end ? (size_t)(end - text->ptr) : text->size;

    snprintf(out, size, "%.*s", (int)n, text->ptr ? text->ptr : "");
    text->ptr += end ? n + 1 : n;
    text->size -= end ? n + 1 : n;
}

/* Asks one interpreter; `found` and `problem` say how it went. */
static void ask(const char *interpreter, const char *chosen_by, struct kz_python *p)
{
    struct kz_buf out = {0};
    struct kz_err err;
    struct kz_str text;
    char verdict[300];

    snprintf(p->interpreter, sizeof(p->interpreter), "%s", interpreter);
    snprintf(p->chosen_by, sizeof(p->chosen_by), "%s", chosen_by);
    p->found = false;
    if (kz_py_run(interpreter, p->package, program, PROBE_TIMEOUT_MS, &out, &err) != KZ_OK) {
        snprintf(p->problem, sizeof(p->problem), "%.390s", err.message);
        kz_buf_done(&out);
        return;
    }
    text = kz_buf_view(&out);
    copy_line(p->interpreter, sizeof(p->interpreter), &text);
    copy_line(p->version, sizeof(p->version), &text);
    copy_line(p->numpy, sizeof(p->numpy), &text);
    copy_line(verdict, sizeof(verdict), &text);
    copy_line(p->kizashi, sizeof(p->kizashi), &text);
    p->found = strcmp(verdict, "ok") == 0 && p->interpreter[0];
    p->problem[0] = '\0';
    if (!p->found)
        snprintf(p->problem, sizeof(p->problem), "\"%s\" cannot run models: %.290s", interpreter,
                verdict);
    kz_buf_done(&out);
}

/* PATH's python3 has the first word; one with NumPy has the last. */
static void choose(struct kz_python *p)
{
    struct kz_python other = *p;

    ask("python3", "PATH", p);
    if (p->found && p->numpy[0])
        return;
    if (access("/usr/bin/python3", X_OK) == 0)
        ask("/usr/bin/python3", "/usr/bin", &other);
    if (other.found && (other.numpy[0] || !p->found)) {
        if (p->found)
            snprintf(other.problem, sizeof(other.problem),
                    "PATH's python3 (%.200s) has no NumPy, so /usr/bin/python3 is used",
                    p->interpreter);
        *p = other;
    } else if (p->found) {
        snprintf(p->problem, sizeof(p->problem),
                "without NumPy models get lists instead of arrays: install python3-numpy");
    }
}

static void probe(const struct kz_project *project, struct kz_python *p)
{
    char venv[500];

    *p = (struct kz_python){0};
    if (!find_package(p->package, sizeof(p->package))) {
        snprintf(p->problem, sizeof(p->problem),
                "the Python package kizashi was not found (looked at KIZASHI_PYTHONPATH, beside the "
                "binary, \"%s\" and /usr/share/kizashi/python): set KIZASHI_PYTHONPATH",
                KZ_PYTHON_DIR);
        return;
    }
    if (project && project->limits.python) {
        ask(project->limits.python, "limits.python", p);
        return;
    }
    if (project) {
        snprintf(venv, sizeof(venv), "%s/.venv/bin/python3", project->dir);
        if (access(venv, X_OK) == 0) {
            ask(venv, "DIR/.venv", p);
            return;
        }
    }
    choose(p);
}

/* The one mutable static here: what the machine's interpreter is does not change under us, and each
 * replica's start would otherwise pay for asking. Keyed by what the choice depends on. */
static struct {
    pthread_mutex_t lock;
    bool known;
    char key[1200];
    struct kz_python python;
} remembered = {.lock = PTHREAD_MUTEX_INITIALIZER};

void kz_python_probe(const struct kz_project *project, struct kz_python *ret_python)
{
    const char *configured = project && project->limits.python ? project->limits.python : "";
    const char *package = getenv("KIZASHI_PYTHONPATH");
    char key[sizeof(remembered.key)];

    snprintf(key, sizeof(key), "%.390s|%.390s|%.390s", configured, project ? project->dir : "",
            package ? package : "");
    pthread_mutex_lock(&remembered.lock);
    if (!remembered.known || !remembered.python.found || strcmp(key, remembered.key) != 0) {
        probe(project, &remembered.python);
        memcpy(remembered.key, key, sizeof(key));
        remembered.known = true;
    }
    *ret_python = remembered.python;
    pthread_mutex_unlock(&remembered.lock);
}
