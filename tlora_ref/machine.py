"""What a process asks of its machine before it computes: the matrix-product kernel, short waits, memory that stays.

The kernel. On a CPU with AVX-512 the AVX-512 kernel of OpenBLAS is up to twice as fast as the AVX2 one; but not where
the CPU executes 512 bits in two halves, as AMD's Zen 4 does: there neither is much faster, and OpenBLAS is left alone
(told to take the AVX2 kernel there, that of NumPy 2.5's wheel crashes in eigh). OpenBLAS looks at the CPU itself, but
an old one does not know every new CPU. What an environment variable tells it, it takes: once, when NumPy is imported.
So this module imports nothing that imports NumPy.

The waits. OpenBLAS's threads wait for the next product with their eyes open, a tenth of a second long, and take turns
on their core with whoever computes there: a quarter of the time of attention by heads. A shorter wait ends in sleep.

The memory. The C library returns what is freed to the system at once, and the system then hands out the next array page
by page: a quarter of the time of a calibration, whose activations come and go with every sample.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

#: What OpenBLAS reads.
KERNEL_VARIABLE = "OPENBLAS_CORETYPE"
#: The AVX-512 kernel that every such CPU executes, the instruction sets it is made of, and the kernels it is part of.
AVX512_KERNEL = "SkylakeX"
AVX512_FLAGS = frozenset({"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"})
AVX512_KERNELS = frozenset({AVX512_KERNEL, "Cooperlake", "SapphireRapids"})
#: The CPUs (vendor, family) that gain nothing by it though they have AVX-512: Zen 4.
HALVED_AVX512 = frozenset({("AuthenticAMD", "25")})
#: Another: its threads wait 2 to this many ticks of the clock for work before they sleep (28, left to itself).
WAIT_VARIABLE, WAIT = "OPENBLAS_THREAD_TIMEOUT", "24"
#: For glibc's mallopt: never shrink the heap (M_TRIM_THRESHOLD), take arrays up to 1 GiB from it (M_MMAP_THRESHOLD),
#: have one for all threads (M_ARENA_MAX).
KEEP = ((-1, -1), (-3, 2**30), (-8, 1))
CPU_FACTS = Path("/proc/cpuinfo")
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def cpu_flags(facts: Path = CPU_FACTS) -> frozenset[str]:
    """The instruction sets that every core has, as Linux lists them; empty where that cannot be read."""
    cores = [frozenset(values.split()) for values in _told(facts, "flags")]
    return frozenset.intersection(*cores) if cores else frozenset()


def _told(facts: Path, name: str) -> list[str]:
    """What Linux says of every core under that name; empty where that cannot be read."""
    try:
        lines = facts.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def faster_kernel(facts: Path = CPU_FACTS) -> str | None:
    """The kernel to ask for on this machine; None where OpenBLAS's own choice is right, or nothing is known."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not cpu_flags(facts) >= AVX512_FLAGS:
        return None
    cpus = set(zip(_told(facts, "vendor_id"), _told(facts, "cpu family"), strict=False))
    return None if cpus and cpus <= HALVED_AVX512 else AVX512_KERNEL


def prepare() -> None:
    """To be called before NumPy is imported, as the command line does. Without it nothing is lost but time."""
    choose_kernel()
    os.environ.setdefault(WAIT_VARIABLE, WAIT)
    keep_freed_memory()


def choose_kernel(facts: Path = CPU_FACTS) -> None:
    """Ask for the faster kernel, unless the user asked for one or NumPy is there already."""
    if KERNEL_VARIABLE not in os.environ and "numpy" not in sys.modules:
        kernel = faster_kernel(facts)
        if kernel is not None:
            os.environ[KERNEL_VARIABLE] = kernel


def keep_freed_memory() -> bool:
    """Have this process keep freed memory for its next arrays. False where the C library is not glibc, or refuses."""
    if sys.platform != "linux":  # macOS has no mallopt, and Windows no C library of the process to ask
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(what, value) for what, value in KEEP)


def memory(limit: Path = MEMORY_LIMIT) -> int | None:
    """Bytes of memory that this process may use: the machine's, or its container's limit. None where nothing tells."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
    try:
        allowed = limit.read_text(encoding="ascii").strip()
    except OSError:
        return there
    return min(there, int(allowed)) if allowed.isdigit() else there


def linear_algebra() -> dict[str, Any]:
    """NumPy's BLAS as it works now: library, version, kernel, threads. NumPy must have been imported; {} if unknown."""
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    found.sort(key=lambda library: "numpy" not in library["filepath"])  # SciPy's wheel brings one of its own
    if not found:
        return {}
    blas = found[0]
    return {
        "library": blas["internal_api"],
        "version": blas["version"],
        "kernel": blas.get("architecture"),
        "threads": blas["num_threads"],
    }


def kernel_hint(facts: Path = CPU_FACTS) -> str | None:
    """What to do where OpenBLAS works with a slower kernel than this CPU has; None where all is well."""
    blas, faster = linear_algebra(), faster_kernel(facts)
    if faster is None or blas.get("library") != "openblas" or blas.get("kernel") in AVX512_KERNELS:
        return None
    told = os.environ.get(KERNEL_VARIABLE)
    remedy = f"set {KERNEL_VARIABLE}={faster} before Python starts"
    if told is not None and told != faster:
        remedy = f"{KERNEL_VARIABLE} is {told}: unset it, or {remedy}"
    return f"OpenBLAS works with its {blas.get('kernel')} kernel; this CPU's AVX-512 is up to twice as fast. {remedy}"
