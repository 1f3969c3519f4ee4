"""One side of one case in a process of its own: does the work once for every line it is sent.

`python -m tests.benchmarks.worker SIDE CASE FOLDER`, SIDE one of MODULES: "ours", "held" (ours, in bfloat16),
"recomputed" (ours, MLPs twice), "torch", "compiled" (torch's). Answers are lines of JSON: first how long getting ready
took, then the seconds, the CPU's seconds and the value of each run, and at the end of its input the peak memory.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from tlora_ref.machine import prepare

if __name__ == "__main__" and sys.argv[1] in ("ours", "held", "recomputed"):
    prepare()  # as README tells a program to, before NumPy comes

from tests.benchmarks.cases import Case

#: side -> what prepares its work, and with what.
MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("tests.benchmarks.ours", {}),
    "held": ("tests.benchmarks.ours", {"hold": "bfloat16"}),
    "recomputed": ("tests.benchmarks.ours", {"recompute": True}),
    "torch": ("tests.benchmarks.theirs", {}),
    "compiled": ("tests.benchmarks.theirs", {"compiled": True}),
}


def answer(**facts: float) -> None:
    print(json.dumps(facts), flush=True)


def main(side: str, case: str, folder: str) -> None:
    begin = time.perf_counter()
    module, options = MODULES[side]
    work = importlib.import_module(module).prepare(Case(**json.loads(case)), Path(folder), **options)
    work()  # the first run pays for pages and plans
    answer(ready=time.perf_counter() - begin)
    for _ in sys.stdin:
        begin, busy = time.perf_counter(), time.process_time()
        value = work()
        answer(seconds=time.perf_counter() - begin, cpu_seconds=time.process_time() - busy, value=value)
    answer(peak_bytes=peak_memory())


def peak_memory() -> float:
    """The largest resident memory of this process in bytes (getrusage would count its parent's before it)."""
    line = next(s for s in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if s.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
