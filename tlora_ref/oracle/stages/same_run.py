"""Whether the candidate's run is the golden one: what decides B is its settings and the samples of every step.

They are known where the candidate's manifest says them (of an adapter that this library trained, `tlora.json`), or it
recorded its batches, or the user says so.
"""

from __future__ import annotations

import numpy as np

from tlora_ref.oracle.traces.manifest import completed
from tlora_ref.oracle.traces.reader import Trace
from tlora_ref.oracle.verdict import OTHER_SAMPLES

#: What must be said of a run for its settings to be known; the others are then as usual.
SETTINGS = ("lr", "schedule", "warmup_ratio", "steps", "betas", "eps", "weight_decay", "max_grad_norm")
#: What only decides which samples a step has: nothing, where these are recorded.
ORDER = ("batch_size", "grad_accumulation", "group_by_length", "packing", "seed")
#: How a user says that it is.
SAY = "--same-run (same_run=True)"


def contradiction(golden: Trace, candidate: Trace) -> str | None:
    """Why the candidate's run is another than the golden one; None where nothing that it says is against it."""
    said, own = completed(golden.manifest.train), completed(golden.manifest.train, candidate.manifest.train)
    free = {"epochs", *(ORDER if _batches_recorded(golden, candidate) else ())}  # the steps are counted
    odd = [f"{name} {own[name]} (golden {said[name]})" for name in said if name not in free and own[name] != said[name]]
    if odd:
        return f"it was trained with {', '.join(odd)}"
    if other_samples(golden, candidate):
        return OTHER_SAMPLES
    for t in candidate.numbered("train", "input_ids"):
        name = f"train/{t}/input_ids"
        if golden.has(name) and not np.array_equal(golden.get(name), candidate.get(name)):
            return f"step {t} is made on other samples, or rows in another order, than the golden run's"
    return None


def other_samples(golden: Trace, candidate: Trace) -> bool:
    """Whether both say what samples they are of, and these differ."""
    said = [trace.manifest.data.get("samples_sha256") for trace in (golden, candidate)]
    return all(isinstance(digest, str) for digest in said) and said[0] != said[1]


def unsaid(golden: Trace, candidate: Trace) -> str | None:
    """What the candidate does not say of its run; None where it is known to be the golden one."""
    train, data, manifest = candidate.manifest.train, candidate.manifest.data, candidate.manifest
    lacking = [name for name in SETTINGS if name not in train]
    if lacking:
        return f"its settings are not known ({', '.join(lacking)})"
    told = manifest.samples == golden.manifest.samples and manifest.seed == golden.manifest.seed
    if not told and "samples_sha256" not in data and not _batches_recorded(golden, candidate):
        return "its samples are not known"
    return None


def _batches_recorded(golden: Trace, candidate: Trace) -> bool:
    steps = golden.numbered("train", "input_ids")
    return bool(steps) and set(steps) <= set(candidate.numbered("train", "input_ids"))
