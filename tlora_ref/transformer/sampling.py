"""From logits to the next token: repetition penalty, temperature, top-k, top-p, min-p, draw; in transformers' order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. ConfigError for a setting that makes no sense.

    Attributes
    ----------
    temperature : 0 for the largest logit; the settings below it, but the penalty, then do nothing
    top_k : the k likeliest tokens alone, and those as likely as the last of them (Fan et al., arXiv 1805.04833); None
        for all
    top_p : in (0, 1]: the fewest likeliest tokens whose probabilities reach it (Holtzman et al., arXiv 1904.09751)
    min_p : in [0, 1]: tokens at least so probable, relative to the likeliest (Nguyen et al., arXiv 2407.01082)
    repetition_penalty : above 0: logits of tokens that the sequence has, the prompt included, are divided by it where
        positive, else multiplied (Keskar et al., arXiv 1909.05858); 1 for none
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        faults = {
            f"temperature {self.temperature}: expected 0 or more": not 0 <= self.temperature < math.inf,
            f"top_k {self.top_k}: expected 1 or more": self.top_k is not None and self.top_k < 1,
            f"top_p {self.top_p}: expected above 0, at most 1": not 0 < self.top_p <= 1,
            f"min_p {self.min_p}: expected 0 to 1": not 0 <= self.min_p <= 1,
            f"repetition_penalty {self.repetition_penalty}: expected above 0": not 0
            < self.repetition_penalty
            < math.inf,
        }
        wrong = [text for text, is_so in faults.items() if is_so]
        if wrong:
            raise ConfigError(f"generate: {'; '.join(wrong)}")

    def next_token(self, logits: Array, before: Sequence[int], rng: np.random.Generator) -> int:
        """One token from host logits (vocab,), after the tokens `before` it (the prompt's too, padding left out)."""
        if self.repetition_penalty != 1.0:
            logits = penalised(logits, before, self.repetition_penalty)
        if self.temperature == 0.0:
            return int(logits.argmax())
        tokens, p = self.candidates(logits)
        return int(rng.choice(tokens, p=p))

    def candidates(self, logits: Array) -> tuple[Array, Array]:
        """The tokens that can be drawn from host logits (vocab,), the likeliest first, and their probabilities."""
        with np.errstate(over="ignore"):  # however cold it is, the largest is exp(0) and others reach exp(-inf)
            p = np.exp((logits - logits.max()).astype(np.float64) / self.temperature)
        order = np.argsort(-p, kind="stable")
        if self.top_k is not None and self.top_k < len(p):
            last = np.partition(logits, -self.top_k)[-self.top_k]
            order = order[logits[order] >= last]
            p[logits < last] = 0.0
        p /= p.sum()
        before = np.cumsum(p[order]) - p[order]  # probability of all more likely tokens
        nucleus = order[(before < self.top_p) & (p[order] >= self.min_p * p[order[0]])]
        return nucleus, p[nucleus] / p[nucleus].sum()


def penalised(logits: Array, seen: Sequence[int], penalty: float) -> Array:
    """Logits (vocab,) with those of `seen` tokens made less likely, each once."""
    at = np.unique(np.asarray(seen, dtype=np.int64))
    changed = logits.copy()
    changed[at] = np.where(logits[at] < 0, logits[at] * penalty, logits[at] / penalty)
    return changed
