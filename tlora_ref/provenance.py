"""What made an artefact: versions, linear algebra, machine. Every file this library writes for keeping says it."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tlora_ref.machine import KERNEL_VARIABLE, linear_algebra

#: Packages whose versions are recorded.
PACKAGES = ("tlora-ref", "numpy", "scipy", "safetensors", "ml_dtypes")
#: What the user may have said about the linear algebra.
ENVIRONMENT = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", KERNEL_VARIABLE)


def provenance() -> dict[str, Any]:
    """The versions, the BLAS library with its kernel and threads, and the machine: what bit-identity depends on."""
    return {
        **{package.replace("-", "_"): _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "blas": linear_algebra(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "platform": sys.platform,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout without installing
        return None
