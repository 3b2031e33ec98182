/* codec/quantity.h -- Kubernetes quantities: 500m 512Mi 200Gi 1.5 1e3
 * (kubernetes.io, "Resource Management for Pods", and apimachinery's resource.Quantity).
 *
 * Suffixes n u m, k M G T P E, Ki Mi Gi Ti Pi Ei, or e3/E3. What does not come out whole is
 * rounded up, as Kubernetes does. Never negative here.
 *
 * Threads  pure functions.
 * Fails    KZ_INVALID, quoting the text; also where it does not fit.
 */
#pragma once

#include "base/err.h"

/* In whole units: bytes. */
KZ_MUST_USE enum kz_code kz_quantity_bytes(
        struct kz_str text, uint64_t *ret_bytes, struct kz_err *err);
/* In thousandths: CPU. "500m" -> 500, "2" -> 2000. */
KZ_MUST_USE enum kz_code kz_quantity_milli(
        struct kz_str text, uint64_t *ret_milli, struct kz_err *err);
