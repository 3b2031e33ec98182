/* runtimes/http/http.h -- models that are already running somewhere and speak the Open Inference
 * Protocol v2 over HTTP (KServe's V2 REST).
 *
 * Owner    infer owns replicas: a replica is one kept connection, so one batch at a time.
 * Threads  a replica belongs to the thread of its loop; names are looked up in libuv's pool.
 * Fails    KZ_CONFIG for a url that is none, KZ_TOO_LARGE for a batch; all else comes by callback.
 */
#pragma once

#include "contract/infer.h"

extern const struct kz_runtime_ops kz_runtime_http;
