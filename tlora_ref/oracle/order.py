"""The stages of a run, in its order: where the paper has each, and which mistakes reach it from before."""

from __future__ import annotations

#: Stage -> (where the paper has it, the stages whose mistakes reach it), in the order of a run.
ORDER: dict[str, tuple[str, tuple[str, ...]]] = {
    "loss": ("Alg. 1, line 8 (the loss of Eq. 5)", ()),
    "covariance": ("Alg. 1, line 9", ()),
    "sensitivity": ("Eq. 5", ("loss",)),
    "ranks": ("Eq. 6", ("loss", "sensitivity")),
    "scales": ("Eq. 7", ("loss", "sensitivity")),
    "A": ("Eq. 4", ("loss", "sensitivity", "covariance", "ranks")),
    "gradient": ("Eq. 2", ("loss", "sensitivity", "covariance", "ranks", "scales", "A")),
    "adamw": ("AdamW", ("loss", "sensitivity", "covariance", "ranks", "scales", "A", "gradient")),
    "merge": ("Eq. 1", ("loss", "sensitivity", "covariance", "ranks", "scales", "A", "gradient", "adamw")),
}
