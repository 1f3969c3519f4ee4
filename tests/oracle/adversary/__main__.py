"""How much the oracle sees of a population of mistakes, and how often it calls right runs wrong.

    python -m tests.oracle.adversary                    # everything: some minutes
    python -m tests.oracle.adversary --every 10         # each tenth mistake
    python -m tests.oracle.adversary --kind loop --precision bfloat16 --way with --list
    python -m tests.oracle.adversary --right 300        # right runs instead, and the shapes of real models

runs every mistake through `verify` with the checkpoint and without, and through `check` where a single function can
have it; prints the table, and with --list every mistake that was let pass, blamed on another stage, or given a wrong
cause.
Needs torch; where JAX is installed, its loss is among the right runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tests.oracle.adversary.false_alarms import SHAPES, real_runs, tiny_runs
from tests.oracle.adversary.population import (
    BELOW,
    CHECK,
    MISTAKES,
    PRECISIONS,
    WAYS,
    WITH,
    WITHOUT,
    Outcome,
    measured,
    read,
)

KINDS = ("model", "data", "method", "loop")
JUDGES = {WITH: "verify", WITHOUT: "verify, no checkpoint", CHECK: "check"}


def visible(outcome: Outcome) -> bool:
    """Whether the mistake is above the rounding of the run's precision."""
    return outcome.mistake.name not in BELOW.get(outcome.precision, set())


def share(outcomes: Sequence[Outcome], name: str) -> str:
    return f"{sum(getattr(o, name) for o in outcomes)}/{len(outcomes)}"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """One row a judge and precision; what cannot be seen in a precision is not counted.

    "or told": of those that were let pass, those whose verdict says that their stage was not judged in full.
    """
    head = f"{'caught':>8} {'or told':>8} {'stage first':>12} {'cause named':>12} {'right':>8}"
    lines = [f"{'judge':26} {'precision':10} {head}"]
    for way in WAYS:
        for precision in PRECISIONS:
            found = [o for o in outcomes if o.precision == precision and o.way == way and visible(o)]
            if not found:
                continue
            caught = [o for o in found if o.caught]
            named = [o for o in caught if o.named]
            let_pass = [o for o in found if not o.caught]
            columns = (
                (found, "caught", 8),
                (let_pass, "told", 8),
                (caught, "stage_right", 12),
                (caught, "named", 12),
                (named, "cause_right", 8),
            )
            said = " ".join(f"{share(group, name):>{width}}" for group, name, width in columns)
            lines.append(f"{JUDGES[way]:26} {precision:10} {said}")
    return lines


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    """What is short of the best verdict, a line each."""
    lines = []
    for o in outcomes:
        where = f"{o.precision}, {JUDGES[o.way]}: {o.mistake.kind}, {o.mistake.name}"
        if not visible(o):
            continue
        if o.refused:
            lines.append(f"NO VERDICT    {where}: {o.refused}")
        elif not o.caught:
            lines.append(f"LET PASS      {where} (planted in {o.planted}{', not judged in full' if o.told else ''})")
        elif not o.stage_right:
            lines.append(f"OTHER STAGE   {where}: {o.first_failing}, planted in {o.planted}")
        if o.caught and o.named and not o.cause_right:
            lines.append(f"WRONG CAUSE   {where}: {o.cause}")
    return lines


def false_alarms(runs: int, first: int, precisions: Sequence[str], real: bool) -> int:
    """Prints how many right runs are called wrong, and each of them."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(tiny_runs(runs, Path(folder), precisions, first))
        found += list(real_runs(SHAPES, Path(folder), precisions)) if real else []
    for judged in found:
        if judged.alarm:
            lines = [finding.line()[:200] for report in judged.reports for finding in report.of("fail")]
            print(f"FALSE ALARM   {judged.name}: {len(lines)} findings", *lines[:2], sep="\n    ")
    alarms = sum(judged.alarm for judged in found)
    print(f"{alarms} false alarms in {len(found)} right runs")
    return 1 if alarms else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--every", type=int, default=1, help="each n-th mistake alone")
    parser.add_argument("--match", default="", help="mistakes with this in their name alone")
    parser.add_argument("--way", choices=WAYS, action="append", help="verify with or without the checkpoint, or check")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="verdicts, a line each: a run that is stopped goes on"
    )
    parser.add_argument("--list", action="store_true", help="name what is short of the best verdict")
    parser.add_argument("--right", type=int, metavar="RUNS", help="right runs of tiny models, and of real shapes")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="with --right: of the first tiny model")
    parser.add_argument("--tiny", action="store_true", help="with --right: leave the real shapes out")
    given = parser.parse_args(arguments)
    if given.right is not None:
        return false_alarms(given.right, given.first, given.precision or PRECISIONS, not given.tiny)
    chosen = [m for m in MISTAKES if m.kind in (given.kind or KINDS) and given.match in m.name][:: given.every]
    precisions, ways = given.precision or PRECISIONS, given.way or WAYS
    kept = read(given.keep) if given.keep else []
    asked = set(product([m.name for m in chosen], precisions, ways))
    found = list({outcome.key: outcome for outcome in kept if outcome.key in asked}.values())
    with tempfile.TemporaryDirectory() as folder:
        for outcome in measured(chosen, precisions, Path(folder), ways, {outcome.key for outcome in found}):
            found.append(outcome)
            if given.keep:
                with given.keep.open("a", encoding="utf-8") as file:
                    print(outcome.to_json(), file=file)
    print(f"{len(chosen)} mistakes: {', '.join(f'{sum(m.kind == k for m in chosen)} of the {k}' for k in KINDS)}")
    print(*table(found), *(failures(found) if given.list else []), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
