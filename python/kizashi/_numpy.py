"""NumPy where there is one."""

from __future__ import annotations

import os


def load_numpy():
    """The numpy module, or None where it is not installed or KZ_NO_NUMPY=1 hides it.

    A function rather than an import: the worker sets OMP_NUM_THREADS and its
    like first, and they are read once, when NumPy's libraries are loaded.
    """
    if os.environ.get("KZ_NO_NUMPY", "") not in ("", "0"):
        return None
    try:
        import numpy
    except ImportError:
        return None
    return numpy
