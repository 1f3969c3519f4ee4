"""Which matrix-product kernel of OpenBLAS to use: chosen from the CPU's flags, before NumPy is imported.

The OpenBLAS in NumPy's wheels takes its AVX2 kernel on AMD's CPUs with AVX-512, where its AVX-512 kernel is up to twice
as fast. The choice is an environment variable that OpenBLAS reads once, when NumPy is first imported; so this module
imports nothing but the standard library.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

#: What OpenBLAS reads.
KERNEL_VARIABLE = "OPENBLAS_CORETYPE"
#: The AVX-512 kernel, and the instruction sets that it executes.
AVX512_KERNEL = "SkylakeX"
AVX512_FLAGS = frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl"})
CPU_FACTS = Path("/proc/cpuinfo")


def cpu_flags(facts: Path = CPU_FACTS) -> frozenset[str]:
    """The instruction sets that every core has, as Linux lists them; empty where that cannot be read."""
    try:
        lines = facts.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    cores = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return frozenset.intersection(*cores) if cores else frozenset()


def faster_kernel(facts: Path = CPU_FACTS) -> str | None:
    """The kernel to ask for on this machine; None where OpenBLAS's own choice is right, or nothing is known."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not cpu_flags(facts) >= AVX512_FLAGS:
        return None
    return AVX512_KERNEL


def choose_kernel() -> str | None:
    """Ask for the faster kernel unless the user asked for one, or NumPy is there already: what was asked for."""
    if KERNEL_VARIABLE not in os.environ and "numpy" not in sys.modules:
        kernel = faster_kernel()
        if kernel is not None:
            os.environ[KERNEL_VARIABLE] = kernel
    return os.environ.get(KERNEL_VARIABLE)
