/* runtimes/python/python.h -- models in Python: a supervised process a replica, spoken to over a
 * socketpair in frames (docs/worker-protocol.md).
 *
 * Owner    infer owns replicas; a process outlives its replica only until it is reaped.
 * Threads  a replica belongs to the thread of its loop; kz_python_probe() from any.
 * Fails    KZ_CONFIG where there is no usable interpreter or package; all else comes by callback.
 */
#pragma once

#include "contract/infer.h"

extern const struct kz_runtime_ops kz_runtime_python;

struct kz_python {
    bool found;
    char interpreter[512]; /* the real one: sys.executable */
    char chosen_by[64];    /* "limits.python", "DIR/.venv", "PATH", "/usr/bin" */
    char package[512];     /* directory with the package kizashi, leads PYTHONPATH */
    char version[32];
    char numpy[32]; /* empty where there is none */
    char kizashi[32];
    char problem[400]; /* why not found, with what to do; or a remark where found */
};

/* What models of `project` (NULL: of no project in particular) run with. Asks the interpreter once
 * for each project directory, about 0.1 s, and remembers the answer. */
void kz_python_probe(const struct kz_project *project, struct kz_python *ret_python);
