"""What the library bears.

python -m tests.faults fuzz --minutes 10 --seed 1     every kind of file that it reads, damaged
python -m tests.faults kill --times 200 --seed 1      every command that writes, killed at any moment
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.fuzz import fuzz
from tests.faults.kill import COMMANDS, kill
from tests.faults.subjects import SUBJECTS


def main() -> int:
    """Run a harness; the exit status is 1 if it found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    harnesses = parser.add_subparsers(dest="harness", required=True)
    damaged = harnesses.add_parser("fuzz", help="damage every kind of file that the library reads")
    damaged.add_argument("--minutes", type=float, default=10.0)
    damaged.add_argument("--seed", type=int, default=1)
    damaged.add_argument("--only", nargs="*", default=sorted(SUBJECTS), help="subjects, by the start of their names")
    damaged.add_argument("--keep", type=Path, help="a folder for what showed a fault")
    killed = harnesses.add_parser("kill", help="end every command that writes at a random moment")
    killed.add_argument("--times", type=int, default=200)
    killed.add_argument("--seed", type=int, default=1)
    killed.add_argument("--only", nargs="*", default=sorted(COMMANDS), help="commands")
    given = parser.parse_args()
    return (fuzzed if given.harness == "fuzz" else survived)(given)


def survived(given: argparse.Namespace) -> int:
    """`kill`."""
    with tempfile.TemporaryDirectory() as scratch:
        found = kill(given.times, given.seed, given.only, Path(scratch))
    print("\n".join([*found, f"seed {given.seed}: {given.times} kills, {len(found)} faults"]))
    return 1 if found else 0


def fuzzed(given: argparse.Namespace) -> int:
    """`fuzz`."""
    names = [name for name in SUBJECTS if any(name.startswith(start) for start in given.only)]
    memory = Path("/dev/shm")  # files there cost no disk, and every input is a folder of its own
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as scratch:
        tally = fuzz(60 * given.minutes, given.seed, names, Path(scratch), given.keep)
    for name in names:
        print(f"{name:<28}{tally.inputs[name]:>8} inputs{tally.refused[name]:>8} refused")
    print(f"seed {given.seed}: {tally.line()}")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
