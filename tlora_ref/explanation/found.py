"""What explaining a model found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tlora_ref.adapter import Plan
from tlora_ref.explanation.choices import Choices, Spectra
from tlora_ref.explanation.update import Update


@dataclass(frozen=True)
class Explanation:
    """Everything that the page shows, as numbers.

    Attributes
    ----------
    plan, samples : ranks and scales with their reasons; how many samples calibrated
    spectra, choices, updates : {module: ...}; choices None where W C is zero, updates of modules with a rank alone
    history : one entry a training step: step, lr, loss, ...
    trained : what was trained, "B" or "AB"
    """

    plan: Plan
    samples: int
    spectra: dict[str, Spectra]
    choices: dict[str, Choices | None]
    updates: dict[str, Update]
    history: list[dict[str, Any]]
    trained: str

    def mean_shares(self) -> dict[str, float]:
        """{choice of A: J(A) / its bound, the mean over the modules}."""
        known = [found.share for found in self.choices.values() if found is not None]
        return {name: float(np.mean([share[name] for share in known])) for name in (known[0] if known else ())}

    def ahead(self) -> int:
        """In how many modules W C captures more of W_0 than W-SVD does."""
        known = (found.share for found in self.choices.values() if found is not None)
        return sum(share["W C"] > share["W-SVD"] for share in known)
