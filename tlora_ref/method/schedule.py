"""Learning rates over a run, with the conventions of transformers' schedules."""

from __future__ import annotations

import math

from tlora_ref.errors import ConfigError

RESTARTS = "cosine_with_restarts"
SCHEDULES = ("cosine", RESTARTS, "linear", "constant")


def warmup_steps(total: int, ratio: float) -> int:
    """ceil(total * ratio), as transformers counts them; ConfigError unless the ratio lies in [0, 1]."""
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError(f"warmup_ratio is {ratio}: expected a fraction of the run, from 0 to 1")
    return math.ceil(total * ratio)


def learning_rate(
    step: int,
    total: int,
    peak: float,
    *,
    schedule: str = "cosine",
    warmup_ratio: float = 0.03,
    warmup: int | None = None,
    min_lr: float = 0.0,
    cycles: int = 1,
) -> float:
    """The learning rate of optimizer step `step` (0 for the first) of `total`.

    It rises linearly from 0 over the warm-up (so the first warm-up step has rate 0), then falls at `total` to `min_lr`
    along half a cosine ("cosine"), to 0 along `cycles` such halves one after the other ("cosine_with_restarts") or a
    line ("linear"), or stays ("constant").

    Parameters
    ----------
    warmup : steps of the warm-up; None for `warmup_ratio` of the run
    min_lr, cycles : as transformers has them: `min_lr` for "cosine" alone, `cycles` for "cosine_with_restarts"

    Raises
    ------
    ConfigError
        for another schedule, or a ratio outside [0, 1].
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f'schedule "{schedule}" is unknown: expected {", ".join(SCHEDULES)}')
    warmup = warmup_steps(total, warmup_ratio) if warmup is None else warmup
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return min_lr + (peak - min_lr) * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if schedule == RESTARTS:
        turn = (cycles * progress) % 1.0
        return 0.0 if progress >= 1.0 else peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * turn)))
    if schedule == "linear":
        return peak * max(0.0, (total - step) / max(1, total - warmup))
    return peak
