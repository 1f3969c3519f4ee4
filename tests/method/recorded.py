"""The recorded cases of tests/data/traces (format: FORMAT.md there), as the tests of the method read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

TRACES = Path(__file__).resolve().parents[1] / "data" / "traces"
CASES = ("a_llama_gqa", "d_qwen2", "g_t5_gated")


@dataclass(frozen=True)
class Recorded:
    """One case. `truth` is also what `tlora_ref.initialize` asks of a model (weight) and of statistics."""

    settings: dict[str, Any]
    modules: list[str]
    truth: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    def weight(self, module: str) -> np.ndarray:
        return self.weights[f"{module}.weight"].astype(np.float64)

    def scalar(self, name: str, module: str) -> Any:
        return self.truth[f"{name}/{module}"].item()

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {m: self.weight(m).shape for m in self.modules}

    def inputs(self, module: str) -> list[np.ndarray]:
        """Inputs (T_n, d_in) of the recorded token count, column sums and X^T X.

        Line 9 sees nothing else of X. With 1 the ones vector: X = 1 c^T / T + Q K^T, Q^T Q = I and Q^T 1 = 0, has the
        column sums c and X^T X = c c^T / T + K K^T; K comes from the eigenvectors of the rest.
        """
        made = []
        for n, tokens in enumerate(self.truth[f"stats.tokens/{module}"]):
            gram, c = self.truth[f"stats.gram/{module}"][n], self.truth[f"stats.colsum/{module}"][n]
            values, vectors = np.linalg.eigh(gram - np.outer(c, c) / tokens)
            k = min(len(values), int(tokens) - 1)
            K = vectors[:, -k:] * np.sqrt(np.maximum(values[-k:], 0.0))
            ones_first = np.column_stack([np.ones(tokens), np.eye(tokens)[:, : int(tokens) - 1]])
            Q = np.linalg.qr(ones_first)[0][:, 1 : k + 1]
            made.append(np.outer(np.ones(tokens), c) / tokens + Q @ K.T)
        return made


@cache
def recorded(case: str) -> Recorded:
    folder = TRACES / case
    summary = json.loads((folder / "truth.json").read_text())
    weights = load_file(folder / "checkpoint" / "model.safetensors")
    return Recorded(summary["settings"], summary["module_order"], load_file(folder / "truth.safetensors"), weights)
