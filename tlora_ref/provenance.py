"""What made an artefact: versions, linear algebra, machine. Every file this library writes for keeping says it."""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from tlora_ref.machine import KERNEL_VARIABLE, linear_algebra
from tlora_ref.version import __version__

#: Packages whose versions are recorded.
PACKAGES = ("numpy", "scipy", "safetensors", "ml_dtypes")
#: What the user may have said about the linear algebra.
ENVIRONMENT = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", KERNEL_VARIABLE)


def provenance() -> dict[str, Any]:
    """The versions, the BLAS library with its kernel and threads, and the machine: what bit-identity depends on."""
    import_module("numpy")  # the library that is asked about itself
    return {
        "tlora_ref": __version__,
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "blas": linear_algebra(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "platform": sys.platform,
    }
