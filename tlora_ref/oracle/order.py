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

#: Kind of name, as FORMAT.md writes it -> the stage that says whether it is right. What a run is made on has none.
STAGE_OF: dict[str, str] = {
    kind: stage
    for stage, kinds in {
        "loss": "sample/<n>/loss sample/<n>/logits",
        "covariance": "covariance/<m> sample/<n>/input/<m> sample/<n>/input_sum/<m> sample/<n>/tokens/<m>",
        "sensitivity": "sensitivity/<m> sample/<n>/sensitivity/<m> sample/<n>/grad_W/<m>",
        "ranks": "rank_eq6/<m> rank/<m>",
        "scales": "alpha/<m> scale/<m>",
        "A": "sigma/<m> A/<m>",
        "gradient": "train/loss train/<t>/grad_B/<m> train/<t>/grad_A/<m>",
        "adamw": "train/lr train/<t>/B/<m> train/<t>/exp_avg/<m> train/<t>/exp_avg_sq/<m> "
        "train/<t>/A/<m> train/<t>/A_exp_avg/<m> train/<t>/A_exp_avg_sq/<m>",
        "merge": "merged/<m>",
    }.items()
    for kind in kinds.split()
}
