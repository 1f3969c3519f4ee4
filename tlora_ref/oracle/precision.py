"""In which precision a candidate works, told apart: how it stores, how it multiplies, how it sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Precision:
    """Relative spacings (2^-(bits of the mantissa)) of what a candidate does.

    Attributes
    ----------
    name : "float64", "float32", "tf32", "bfloat16" or "float16"
    storage : of the arrays it keeps and hands out; `dtype` is their NumPy dtype
    product : to which the factors of a product are rounded first (0: not at all)
    accumulation : of its sums
    """

    name: str
    dtype: np.dtype[Any]
    storage: float
    product: float
    accumulation: float

    @property
    def tiny(self) -> float:
        """The smallest normal number of the storage: below it relative bounds end."""
        return 2.0**-14 if self.name == "float16" else 2.0**-1022 if self.name == "float64" else 2.0**-126

    def rounded(self, x: Array) -> Array:
        """`x` rounded to the storage, in float64 again."""
        return np.asarray(x).astype(self.dtype).astype(np.float64)

    def spacing(self, x: Array, storage: float | None = None) -> Array:
        """How far the numbers of the storage are apart at `x`; `storage` is its relative spacing, if another's."""
        size = np.maximum(np.abs(x), self.tiny)
        return np.asarray((self.storage if storage is None else storage) * np.exp2(np.floor(np.log2(size))))

    @staticmethod
    def of(name: str) -> Precision:
        """The precision of that name; ConfigError for another."""
        if name not in _PRECISIONS:
            hint = did_you_mean(name, _PRECISIONS, _ELSEWHERE)
            raise ConfigError(f'dtype "{name}" is unknown: expected {", ".join(_PRECISIONS)}{hint}')
        return _PRECISIONS[name]


#: What others call them.
_ELSEWHERE = {
    **{"fp64": "float64", "double": "float64", "f64": "float64", "fp32": "float32", "float": "float32"},
    **{"f32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "f16": "float16"},
}
_PRECISIONS = {
    "float64": Precision("float64", np.dtype(np.float64), 2.0**-52, 0.0, 2.0**-52),
    "float32": Precision("float32", np.dtype(np.float32), 2.0**-23, 0.0, 2.0**-23),
    "tf32": Precision("tf32", np.dtype(np.float32), 2.0**-23, 2.0**-10, 2.0**-23),
    "bfloat16": Precision("bfloat16", np.dtype(bfloat16), 2.0**-7, 0.0, 2.0**-23),
    "float16": Precision("float16", np.dtype(np.float16), 2.0**-10, 0.0, 2.0**-23),
}
