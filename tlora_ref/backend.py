"""The one place that knows NumPy from CuPy.

Everything else computes through the array module that its arrays came from::

    xp = array_module(x)
    y = xp.exp(x)

so that the same lines run on a CPU and on a GPU. Arrays are annotated as `Array` (NumPy's type): CuPy's offer the same
interface, and no common static type exists.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from threading import Lock, Thread
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
from threadpoolctl import ThreadpoolController

from tlora_ref.errors import DeviceError, did_you_mean, reason

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")
#: What weights may be held in on a CPU. Nothing is computed in it.
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

#: Numbers in a block of `cache_blocks`: half a megabyte in float32.
CACHED = 2**17

#: Held while BLAS works with other than its own number of threads, which is one number for the whole process.
_side_by_side = Lock()
#: Whether this is one of several tasks that run side by side.
_inside: ContextVar[bool] = ContextVar("inside", default=False)

#: Array modules other than NumPy, by the top-level package of their array type: CuPy once a GPU has been asked for.
_modules: dict[str, ModuleType] = {}


def array_module(*arrays: object) -> Any:
    """The module (`numpy` or `cupy`) whose functions work on these arrays.

    Python scalars and NumPy arrays count as NumPy; one array of another module decides for that module.
    """
    for array in arrays:
        if not isinstance(array, np.ndarray):
            module = _modules.get(type(array).__module__.partition(".")[0])
            if module is not None:
                return module
    return np


@dataclass(frozen=True)
class Device:
    """Where arrays live: `name` is "cpu" or "gpu", `xp` the array module that serves it."""

    name: str
    xp: Any

    def put(self, array: Any, dtype: np.dtype[Any] | None = None) -> Array:
        """A host array (or sequence) as an array of this device, converted to `dtype` if one is given."""
        host = np.asarray(array) if dtype is None else np.asarray(array, dtype=dtype)
        return host if self.xp is np else self.xp.asarray(host)

    def at_once(self) -> int:
        """How many tasks `side_by_side` would run at once now."""
        return 1 if self.xp is not np or _inside.get() else blas_threads()

    def side_by_side(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of `tasks`: on a CPU in threads, each with one BLAS thread, as many at once as BLAS has now.
        Fewer tasks than that run in turn, each with all of BLAS's threads; so do all on a device, which one keeps busy.

        For work of which BLAS keeps only one core busy: arithmetic between products, decompositions of small matrices.
        The first error is raised when its turn comes. A task's own tasks run in turn.
        """
        at_once = 1 if len(tasks) < 2 else self.at_once()
        if at_once == 1 or len(tasks) < at_once or not _side_by_side.acquire(blocking=False):
            return [task() for task in tasks]
        try:
            with _blas().limit(limits=1):
                return _together(tasks, at_once)
        finally:
            _side_by_side.release()


def _together(tasks: Sequence[Callable[[], T]], at_once: int) -> list[T]:
    """The results of `tasks`, done by this thread and others, `at_once` in all; the first error in their order."""
    left = iter(range(len(tasks)))
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def take(cores: set[int]) -> None:
        _inside.set(True)
        _stay_on(cores)
        for i in left:  # one iterator for all threads: who comes first has the next task
            try:
                results[i] = tasks[i]()
            except BaseException as error:
                errors[i] = error
                deque(left, maxlen=0)  # nobody begins another one

    contexts = [copy_context() for _ in range(at_once)]  # np.errstate, say, holds in them too
    # new ones each time: a thread that waits is often woken on the core of who wakes it, while the other one idles
    allowed = _allowed_cores()
    own = [{core} for core in sorted(allowed)] if len(allowed) == at_once else [allowed] * at_once
    helpers = [
        Thread(target=context.run, args=(take, cores), name="side by side")
        for context, cores in zip(contexts[1:], own[1:], strict=True)
    ]
    for helper in helpers:
        helper.start()
    try:
        contexts[0].run(take, own[0])
    finally:
        _stay_on(allowed)
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[min(errors)]
    return [results[i] for i in range(len(tasks))]


def _allowed_cores() -> set[int]:
    """The cores that this thread may use; none where the system does not say (it does on Linux)."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _stay_on(cores: set[int]) -> None:
    """Have this thread use these cores alone, if they are any. Linux often wakes a thread on the core of who wakes it,
    and threads that wait for each other as often as Python's do would share that core, and the other ones idle."""
    if cores:
        with suppress(OSError):  # a container may forbid it: nothing is lost but time
            os.sched_setaffinity(0, cores)


#: What others call them; another GPU than NVIDIA's cannot be used.
DEVICES_ELSEWHERE = {"cuda": "gpu", "nvidia": "gpu", "mps": "cpu", "rocm": "cpu", "xpu": "cpu", "metal": "cpu"}


def get_device(name: str = "cpu") -> Device:
    """The device called `name`: "cpu" (NumPy) or "gpu" (CuPy).

    Raises
    ------
    DeviceError
        for another name, if CuPy is not installed, or if it finds no usable device. There is no silent fall-back.
    """
    if name == "cpu":
        return Device("cpu", np)
    if name != "gpu":
        hint = did_you_mean(str(name).partition(":")[0], ("cpu", "gpu"), DEVICES_ELSEWHERE)
        raise DeviceError(f'device "{name}" is unknown: expected "cpu" or "gpu"{hint}')
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(
            f'device "gpu" needs CuPy, which cannot be imported ({reason(error)}). Install the extra that fits your '
            "CUDA: pip install 'tlora-ref[cuda13x]' or 'tlora-ref[cuda12x]'"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f'device "gpu": CuPy is installed but finds no usable CUDA device ({reason(error)})'
        ) from error
    if count < 1:
        raise DeviceError('device "gpu": CuPy is installed but this machine has no CUDA device')
    _modules["cupy"] = cupy
    return Device("gpu", cupy)


def device_of(array: Array) -> Device:
    """The device that `array` lives on."""
    xp = array_module(array)
    return Device("cpu" if xp is np else "gpu", xp)


def to_numpy(array: Any) -> Array:
    """`array` on the host: itself if it is there already, a copy otherwise."""
    xp = array_module(array)
    return np.asarray(array) if xp is np else xp.asnumpy(array)


def widened(x: Array) -> Array:
    """x to compute with: in float32 if it is held in bfloat16, itself otherwise."""
    return x.astype(np.float32) if x.dtype == BFLOAT16 else x


def arithmetic(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that what is held in `dtype` is computed in."""
    return np.dtype(np.float32) if dtype == BFLOAT16 else dtype


def asarray(array: Any, like: Array, dtype: Any = None) -> Array:
    """A host array or sequence as an array that lives where `like` lives (dtype unchanged unless one is given)."""
    return device_of(like).put(array, dtype)


def scatter_add(target: Array, rows: Array, values: Array) -> None:
    """target[rows[i]] += values[i] for every i, repeated rows adding up. Shapes (n, ...), (k,), (k, ...).

    Rows are counted from 0, none from the end.
    """
    xp = array_module(target, values)
    if xp is np and (rows[1:] > rows[:-1]).all():  # none is repeated: many times faster
        target[rows] += values
    else:
        xp.add.at(target, rows, values)


def erf(x: Array) -> Array:
    """The error function, elementwise, in the dtype of `x`."""
    xp = array_module(x)
    library = "scipy.special" if xp is np else f"{xp.__name__}x.scipy.special"
    return importlib.import_module(library).erf(x)  # when it is wanted: importing it would double a command's start


def cache_blocks(x: Array) -> list[slice]:
    """The rows of x (n, ...) in blocks: each fits a CPU's cache with a temporary beside it, which makes arithmetic over
    large matrices several times faster. On a device there is one block: all rows."""
    rows = len(x) if array_module(x) is not np else max(1, CACHED * len(x) // max(1, x.size))
    return [slice(start, start + rows) for start in range(0, len(x), max(1, rows))]


def blas_threads() -> int:
    """How many threads a product of host arrays may use now."""
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


@cache
def _blas() -> ThreadpoolController:
    """The linear-algebra libraries that are loaded; finding them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    """`arrays` joined along `axis`, by the module they share."""
    return array_module(*arrays).concatenate(list(arrays), axis=axis)
