"""Mistakes that go one way, in a low precision: the share of a golden quantity, or of a part of it, by which it is off.

Bounds on entries, and on their root mean square, must allow for all of the noise. Along one direction little of it is
left: C that is a hundredth too large on its diagonal alone is seen, where no entry is off by more than rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.oracle.stages.bounds import rms
from tlora_ref.oracle.stages.network import FEW, UNIT16, Network
from tlora_ref.oracle.traces.noise import RELATIVE, SHARE, SUM
from tlora_ref.oracle.traces.shares import OFF, parts_of, share, share_of_sum
from tlora_ref.oracle.verdict import Verdict

#: The share of a part may be this many times what it would be if all noise that was measured went that way; those of
#: right runs in bfloat16 and float16 (twelve networks of eight tiny models) were at most 1.0 times as large.
ONE = 2.5
#: The mean over all modules may be this many times the root mean square of the shares that were measured; the same runs
#: were at most 1.8 times as far.
ALL = 3.5
#: Less than this many roundings are held against neither. A norm's factor that is stored is off by up to a half of one,
#: and C by its square; tokens of one length are all rounded alike, so that no number of tokens averages it out. Right
#: runs with norms in the storage, of widths to 576, were not beyond 0.5 of the bound.
ALIKE = 0.75
#: The sum of several numbers may be this many times as far as that of the runs that were measured, or as the errors of
#: each, if independent, would carry it; the same runs were at most 1.9 times as far.
SUMMED = 4.0
#: One part of a matrix is off alone if the other is off by no more than this share of that, and of its bound.
ALONE = 0.3


def judge_part(network: Network, what: str, key: str, got: Array, golden: Array) -> list[Verdict]:
    """The share by which each part of one matrix (d, d) is off; nothing in a higher precision, or without noise.

    what : the quantity, as noise and reports name it
    """
    relative = network.in_bfloat16(RELATIVE.format(what))
    if key not in relative or golden.size < FEW:
        return []
    size, unit, found = float(np.linalg.norm(golden)), network.unit / UNIT16, []
    for name, part in parts_of(golden).items():
        # the noise has the norm relative * |golden|: of it no more than all can go along the part
        noise = max(ONE * relative[key] * size / float(np.linalg.norm(part)), ALIKE * UNIT16)
        allowed = noise * unit + network.kept(got)
        found.append(_verdict(what, f"share of what is {name}", share(got - golden, part), allowed))
    return _blamed(found)


def judge_parts(network: Network, what: str, pairs: Mapping[str, tuple[Array, Array]]) -> list[Verdict]:
    """{module: (got, golden)}: the mean over all modules of the share by which each part is off."""
    found = []
    for name in dict.fromkeys(name for _, golden in pairs.values() for name in parts_of(golden)):
        measured = network.in_bfloat16(SHARE.format(what, name))
        keys = [key for key in pairs if key in measured and pairs[key][1].size >= FEW]
        if len(keys) < 2:
            continue
        noise = rms(np.array([measured[key] for key in keys]))
        kept = max(network.kept(pairs[key][0]) for key in keys)
        off = [share(got - golden, parts_of(golden)[name]) for got, golden in (pairs[key] for key in keys)]
        allowed = max(ALL * noise, ALIKE * UNIT16) * network.unit / UNIT16 + kept
        found.append(_verdict(what, f"share of what is {name}, mean of all modules", float(np.mean(off)), allowed))
    return _blamed(found)


def _blamed(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """With the cause where one part of a matrix is off, and nothing says so of the other."""
    if len(verdicts) != 2 or all(v.passed for v in verdicts):
        return list(verdicts)
    wrong, right = sorted(verdicts, key=lambda v: v.passed)
    if right.error > ALONE * min(right.allowed, wrong.error):
        return list(verdicts)
    more = float(wrong.got or 0.0) > 1.0
    if OFF in wrong.what:
        text = "C is too large off its diagonal alone" if more else "C is shrunk towards its diagonal"
    else:
        text = "C is damped: its diagonal alone is too large" if more else "C is too small on its diagonal alone"
    return [v if v is right else v.blamed([(text, right.error / wrong.error)]) for v in verdicts]


def judge_sum(network: Network, what: str, quantity: str, pairs: Mapping[str, tuple[Array, Array]]) -> list[Verdict]:
    """{key: (got, golden)} of a quantity of single numbers: by how much their sum is off."""
    measured = network.in_bfloat16(SHARE.format(quantity, SUM))
    relative = network.in_bfloat16(RELATIVE.format(quantity))
    keys = [key for key in pairs if key in relative]
    if SUM not in measured or len(keys) < 2:
        return []
    got, golden = (np.array([float(pairs[key][i]) for key in keys]) for i in (0, 1))
    apart = float(np.linalg.norm([relative[key] * x for key, x in zip(keys, golden, strict=True)]))
    noise = max(measured[SUM], apart / (float(np.abs(golden).sum()) or 1.0))
    allowed = SUMMED * noise * network.unit / UNIT16 + network.kept(got)
    return [_verdict(quantity, what, share_of_sum(got, golden), allowed)]


def _verdict(stage: str, what: str, off: float, allowed: float) -> Verdict:
    return Verdict(stage, what, abs(off) <= allowed, abs(off), allowed, None, 1.0 + off, 1.0, detects=allowed)
