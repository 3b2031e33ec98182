/* The gRPC library, loaded when it is needed. */
#include <dlfcn.h>
#include <stdio.h>

#include "base/diag.h"
#include "rpc/rpc_int.h"

/* Set once, constant from then on. gRPC cannot be unloaded safely (its threads may still return
 * into it), so it stays. */
static struct {
    pthread_once_t once;
    bool loaded;
    char problem[300];
    struct kz_grpc functions;
} library = {.once = PTHREAD_ONCE_INIT};

/* An edge logs, gRPC does not: what matters comes back as the status of a call. */
static void on_log(gpr_log_func_args *args)
{
    if (args->severity != GPR_LOG_SEVERITY_ERROR)
        return;
    kz_diag_debug("grpc", "file=%s line=%d message=\"%s\"", args->file, args->line, args->message);
}

static bool find(void *handle, const char *name, void *ret_function)
{
    void *address = dlsym(handle, name);

    if (!address) {
        snprintf(library.problem, sizeof(library.problem), "%s has no %s", KZ_GRPC_LIBRARY, name);
        return false;
    }
    memcpy(ret_function, &address, sizeof(address));
    return true;
}

static void load(void)
{
    void *handle = dlopen(KZ_GRPC_LIBRARY, RTLD_NOW | RTLD_LOCAL);

    if (!handle) {
        snprintf(library.problem, sizeof(library.problem), "%s", dlerror());
        return;
    }
#define X(function)                                                                                \
    if (!find(handle, #function, &library.functions.function))                                     \
        return;
    KZ_GRPC_FUNCTIONS(X)
#undef X
    library.functions.gpr_set_log_function(on_log);
    library.loaded = true;
}

enum kz_code kz_grpc_load(const struct kz_grpc **ret_grpc, struct kz_err *err)
{
    KZ_BUG_ON(pthread_once(&library.once, load) != 0);
    if (!library.loaded) {
        kz_fail(err, KZ_UNSUPPORTED, "the gRPC library cannot be loaded: %s", library.problem);
        kz_hint(err, "install the package that has %s (Debian: apt-get install %s)",
                KZ_GRPC_LIBRARY, KZ_GRPC_PACKAGE);
        return KZ_UNSUPPORTED;
    }
    *ret_grpc = &library.functions;
    return KZ_OK;
}
