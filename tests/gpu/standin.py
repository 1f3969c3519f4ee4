# ruff: noqa: SIM905 (a list of names is read as words)
"""A strict stand-in for CuPy: NumPy inside, a device's manners outside.

Its arrays refuse to become NumPy arrays on the sly, refuse to be mixed with NumPy arrays in arithmetic, in indices, in
arguments, and know no function that CuPy lacks. What a real device does by waiting (a number on the host, a copy back)
is counted. Where CuPy is the more lenient, this is the stricter: NumPy's own functions do not work on it at all.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special

from tests.gpu import sycl

#: Functions of NumPy that CuPy has too, of those that arithmetic on models can want: held against CuPy 14.2's own list.
FUNCTIONS = set(
    """
    abs absolute add all allclose amax amin any arange arccos arcsin arctan argmax argmin argsort around array_equal
    atleast_1d atleast_2d bincount broadcast_arrays broadcast_to ceil clip column_stack concatenate copysign cos cosh
    count_nonzero cumprod cumsum deg2rad diag diagonal diff digitize divide dot dstack einsum empty empty_like equal exp
    exp2 expand_dims expm1 eye flip floor floor_divide fmax fmin full full_like greater greater_equal hstack hypot
    identity imag inner interp invert isclose isfinite isin isinf isnan kron ldexp less less_equal linspace log log10
    log1p log2 logaddexp logical_and logical_not logical_or matmul max maximum mean median meshgrid min minimum mod
    moveaxis multiply nan_to_num nanmax nanmin nansum negative nonzero not_equal ones ones_like outer pad
    power prod ptp rad2deg ravel real reciprocal remainder repeat reshape result_type rint roll rot90 round searchsorted
    sign signbit sin sinh sort split sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan tanh
    tensordot tile trace transpose tri tril tril_indices triu triu_indices true_divide trunc unique var vdot
    vstack where zeros zeros_like
    """.split()
)
LINALG = set("cholesky det eigh eigvalsh inv lstsq matrix_power matrix_rank norm pinv qr slogdet solve svd".split())
#: Types, constants and questions about types: the same objects as NumPy's.
SHARED = set(
    """
    bool_ complex128 complex64 dtype e finfo float16 float32 float64 floating iinfo inf int32 int64 int8 integer
    issubdtype nan newaxis number pi promote_types uint8
    """.split()
)
METHODS = """
    all any argmax argmin argsort astype clip conj copy cumsum diagonal dot max mean min nonzero prod ravel repeat
    reshape round sort squeeze std sum swapaxes take trace transpose var view
    """.split()
BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lt le gt ge eq ne".split()
UNARY = "neg pos abs invert".split()


#: Options that NumPy's functions take and CuPy's do not.
LACKING = {"initial", "where", "mode", "subok", "hermitian"}
#: What CuPy takes all the same, by function.
TAKEN = {"qr": {"mode"}}


class Mixed(TypeError):
    """Host and device arrays in one operation, or a device array used as if it lay on the host."""


@dataclass(frozen=True)
class Call:
    """A kind of call: the function as CuPy names it ("linalg.svd", "ndarray.sum"), how many arguments stood without a
    name, the names of the others, and the arrays' dtypes as NumPy's letters."""

    name: str
    positional: int
    options: tuple[str, ...]
    dtypes: str


class Counter:
    """How often the host waited for the device; while `made` is a list, (dtype, shape) of every array made; while
    `calls` is a set, every kind of call."""

    waits = 0
    made: list[tuple[np.dtype, tuple[int, ...]]] | None = None
    calls: set[Call] | None = None

    @classmethod
    def note(cls, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if cls.calls is not None:
            dtypes = "".join(a.dtype.char for a in arguments if isinstance(a, DeviceArray | np.generic))
            cls.calls.add(Call(name, len(arguments), tuple(sorted(options)), dtypes))


def unwrapped(value: Any, what: str) -> Any:
    """The NumPy arrays inside; Mixed if one lies on the host."""
    if isinstance(value, DeviceArray):
        return value.inside
    if isinstance(value, np.ndarray):
        raise Mixed(f"{what}: a NumPy array among device arrays")
    if isinstance(value, tuple | list):
        return type(value)(unwrapped(entry, what) for entry in value)
    if isinstance(value, slice):
        return slice(*(unwrapped(part, what) for part in (value.start, value.stop, value.step)))
    return value


def wrapped(value: Any) -> Any:
    """Arrays and NumPy scalars as device arrays (without axes, for a scalar)."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(np.asarray(value))
    if isinstance(value, tuple):
        made = tuple(map(wrapped, value))
        return type(value)(*made) if hasattr(value, "_fields") else made
    return [wrapped(entry) for entry in value] if isinstance(value, list) else value


def on_device(function: Callable[..., Any], name: str, home: str | None = "cupy") -> Callable[..., Any]:
    """A NumPy function as the device has it in the module `home`; the caller notes the call where that is None."""
    qualified = f"{home}.{name}".removeprefix("cupy.")

    def call(*arguments: Any, **options: Any) -> Any:
        if home is not None:
            Counter.note(qualified, arguments, options)
        lacking = sorted((LACKING - TAKEN.get(name, set())) & set(options))
        if lacking:
            raise TypeError(f"{name}: CuPy has no option {', '.join(lacking)}")
        given = options.get("out")
        result = function(
            *(unwrapped(a, name) for a in arguments), **{k: unwrapped(v, name) for k, v in options.items()}
        )
        return given if isinstance(given, DeviceArray) else wrapped(result)

    return call


class DeviceArray:
    """An array that behaves as if it lay elsewhere."""

    __module__ = "cupy.standin"  # by this the library's backend knows the array module
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, inside: np.ndarray) -> None:
        self.inside = inside
        if Counter.made is not None:
            Counter.made.append((inside.dtype, inside.shape))

    shape = property(lambda self: self.inside.shape)
    dtype = property(lambda self: self.inside.dtype)
    ndim = property(lambda self: self.inside.ndim)
    size = property(lambda self: self.inside.size)
    nbytes = property(lambda self: self.inside.nbytes)
    itemsize = property(lambda self: self.inside.itemsize)
    flags = property(lambda self: self.inside.flags)
    T = property(lambda self: DeviceArray(self.inside.T))
    real = property(lambda self: DeviceArray(self.inside.real))
    imag = property(lambda self: DeviceArray(self.inside.imag))

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise Mixed("implicit conversion of a device array to a NumPy array")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise Mixed(f"numpy.{function.__name__} on a device array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or not all(isinstance(x, DeviceArray | np.generic) for x in inputs) or len(inputs) != 2:
            raise Mixed(f"numpy.{ufunc.__name__} on a device array")
        return on_device(ufunc, ufunc.__name__)(*inputs, **options)  # a NumPy number and a device array: CuPy takes it

    def __len__(self) -> int:
        return len(self.inside)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (DeviceArray(np.asarray(row)) for row in self.inside)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(np.asarray(self.inside[unwrapped(key, "an index")]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.inside[unwrapped(key, "an index")] = unwrapped(value, "an assignment")

    def get(self) -> np.ndarray:
        Counter.waits += 1
        return self.inside.copy()

    def item(self, *index: int) -> Any:
        Counter.waits += 1
        return self.inside.item(*index)

    def tolist(self) -> Any:
        Counter.waits += 1
        return self.inside.tolist()

    def fill(self, value: Any) -> None:
        self.inside.fill(unwrapped(value, "fill"))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        Counter.waits += 1
        return bool(self.inside)

    def __index__(self) -> int:
        return operator.index(self.item())


def _equip() -> None:
    """Operators and methods, each by NumPy's own behind the checks."""

    def method(name: str) -> Callable[..., Any]:
        def call(self: DeviceArray, *arguments: Any, **options: Any) -> Any:
            home, plain = ("operator", name.strip("_")) if name.startswith("__") else ("ndarray", name)
            Counter.note(f"{home}.{plain}", (self, *arguments), options)
            return on_device(getattr(self.inside, name), name, None)(*arguments, **options)

        return call

    def binary(name: str, function: Callable[..., Any], turned: bool) -> Callable[..., Any]:
        def call(self: DeviceArray, other: Any) -> Any:
            Counter.note(f"operator.{name}", (other, self) if turned else (self, other), {})
            mine, theirs = self.inside, unwrapped(other, name)
            return wrapped(function(theirs, mine) if turned else function(mine, theirs))

        return call

    def in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: DeviceArray, other: Any) -> DeviceArray:
            Counter.note(f"operator.{name}", (self, other), {})
            self.inside = function(self.inside, unwrapped(other, name))
            return self

        return call

    for name in METHODS:
        setattr(DeviceArray, name, method(name))
    for name in UNARY:
        setattr(DeviceArray, f"__{name}__", method(f"__{name}__"))
    for name in BINARY:
        function = getattr(operator, f"__{name}__")
        setattr(DeviceArray, f"__{name}__", binary(name, function, False))
        setattr(DeviceArray, f"__r{name}__", binary(name, function, True))
        if hasattr(operator, f"__i{name}__"):
            setattr(DeviceArray, f"__i{name}__", in_place(name, getattr(operator, f"__i{name}__")))


_equip()


class _Ufunc:
    """A universal function with `at`, which CuPy has for add alone of those used here."""

    def __init__(self, ufunc: Any, name: str, home: str) -> None:
        self.call = on_device(ufunc, name, home)
        if name == "add":
            self.at = on_device(ufunc.at, "add.at")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.call(*arguments, **options)


class FakeModule(ModuleType):
    """A module that has what CuPy has, and says so of what it lacks."""

    def __init__(self, name: str, known: set[str], numpy: Any) -> None:
        super().__init__(name)
        self.known, self.numpy = known, numpy

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in SHARED:
            return getattr(np, name)
        if name not in self.known:
            raise AttributeError(f"CuPy has no {self.__name__}.{name} (or the stand-in does not list it)")
        function = getattr(self.numpy, name)
        made = _Ufunc if isinstance(function, np.ufunc) else on_device
        return made(function, name, self.__name__)


def _transferred(array: Any, dtype: Any = None, **_: Any) -> DeviceArray:
    """A host array copied to the device, or a device array as it is."""
    if isinstance(array, DeviceArray):
        return array if dtype is None or array.dtype == dtype else array.astype(dtype)
    return DeviceArray(np.array(array, dtype=dtype))


def _asnumpy(array: Any, *_: Any, **__: Any) -> np.ndarray:
    return array.get() if isinstance(array, DeviceArray) else np.asarray(array)


def make() -> dict[str, ModuleType]:
    """`cupy` and what hangs below it, for sys.modules."""
    cupy = FakeModule("cupy", FUNCTIONS, np)
    cupy.ndarray = DeviceArray  # type: ignore[attr-defined]
    cupy.array = cupy.asarray = cupy.ascontiguousarray = _transferred  # type: ignore[attr-defined]
    cupy.asnumpy = _asnumpy  # type: ignore[attr-defined]
    cupy.linalg = FakeModule("cupy.linalg", LINALG, np.linalg)  # type: ignore[attr-defined]
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    cupy.cuda = SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    special = FakeModule("cupyx.scipy.special", {"erf", "expit"}, scipy.special)
    return {
        "cupy": cupy,
        "cupyx": ModuleType("cupyx"),
        "cupyx.scipy": ModuleType("cupyx.scipy"),
        special.__name__: special,
    }


#: With TLORA_BACKEND=cupy the same tests run on the real thing, with dpnp on Intel's.
BACKEND = os.environ.get("TLORA_BACKEND", "standin")
REAL = BACKEND != "standin"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in in CuPy's place: `device="gpu"` takes it through the library's own backend, unchanged."""
    from tlora_ref import backend

    if BACKEND == "cupy":
        yield backend.get_device("gpu").xp
        return
    modules = sycl.make() if BACKEND == "dpnp" else make()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "_modules", {"dpnp": modules["cupy"]} if BACKEND == "dpnp" else {})
    Counter.waits, Counter.made = 0, None
    yield modules["cupy"]
