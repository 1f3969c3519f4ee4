"""The kill harness: every command that writes, ended at a random moment by SIGKILL or SIGTERM, and run again.

Whatever the moment: each file that is there is whole (an old one or a new one), the next run ends in the same bits as
one that nobody disturbed, and nothing temporary is left behind it.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

import tlora_ref as tr
from tests.faults.subject import words
from tests.tiny import tiny_llama, tiny_samples

ROOT = Path(__file__).resolve().parents[2]
#: Facts of a run that another run of the same command may not repeat; with --resume its own words differ.
SECONDS = ("seconds", "tokens_per_second", "date", "time", "created", "peak_bytes", "command")


@dataclass(frozen=True)
class Command:
    """Its arguments with {m}, {d}, {a}, {p}, {s}, {g} and {out} for the model, the data, a sound adapter, prompts, a
    study, a trace and the folder it writes.

    `again` is the flag by which it writes over what is there; where it was killed after its `state` was saved, it
    resumes, by the flag `resume`. `module` is what is run, with the arguments of the command line.
    """

    arguments: str
    again: str = "--overwrite"
    resume: str | None = None
    state: str = "training_state.safetensors"
    module: str = "tlora_ref"


TRAIN = "train {m} --data {d} --out {out} --rank 4 --samples 4 --steps 12 --batch-size 2 --save-every 1"
COMMANDS = {
    "init": Command("init {m} --data {d} --out {out} --rank 4 --samples 4"),
    "init-resumed": Command(
        "init {m} --data {d} --out {out} --rank 4 --samples 24",
        resume="--resume",
        state="calibration.safetensors",
        module="tests.faults.slow_calibration",
    ),
    "train": Command(TRAIN, resume="--resume"),
    "train-keep-last": Command(f"{TRAIN} --keep-last 2", resume="--resume"),
    "merge": Command("merge {m} --adapter {a} --out {out}"),
    "trace": Command("trace {m} --data {d} --out {out} --rank 2 --samples 2 --steps 1"),
    "export": Command("export {a} --to mlx --model {m} --out {out}"),
    "generate": Command("generate {m} --prompts {p} --out {out}/said.jsonl --max-new-tokens 4"),
    "study": Command("study {s} --out {out}", again=""),
    "explain": Command("explain {m} --data {d} --out {out}/page.html --samples 2 --rank 2"),
    "verify": Command("verify {g} {g} --report {out}/report.json", again=""),
}
STUDY = """models: {tiny: model}
tasks: {words: data}
variants: [LoRA, TLoRA]
ranks: [2]
samples: [2]
learning_rates: [1.0e-2]
seeds: [1]
steps: 2
batch_size: 2
"""


@dataclass
class Bench:
    """A folder with a model, data and an adapter, and what each command leaves there undisturbed."""

    folder: Path
    reference: dict[str, dict[str, bytes]]
    seconds: dict[str, float]
    made: set[str] = field(default_factory=set)

    @classmethod
    def set_up(cls, folder: Path, names: list[str]) -> Bench:
        tr.save_model(tiny_llama(dtype="float32"), folder / "model")
        words(folder / "model")
        rows = "\n".join(map(json.dumps, tiny_samples(24)))
        (folder / "data.jsonl").write_text(rows)
        (folder / "data").mkdir()
        for split in ("train", "valid", "test"):
            (folder / "data" / f"{split}.jsonl").write_text(rows)
        (folder / "study.yaml").write_text(STUDY)
        (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) for i in range(6)))
        bench = cls(folder, {}, {})
        assert bench.run("init", folder / "adapter").wait() == 0
        assert bench.run("trace", folder / "golden").wait() == 0
        bench.made = {path.name for path in folder.iterdir()}
        for name in names:
            (folder / "out").mkdir()
            started = time.monotonic()
            assert bench.run(name, folder / "out").wait() == 0, f"{name} fails undisturbed"
            bench.seconds[name] = time.monotonic() - started
            bench.reference[name] = contents(folder / "out")
            shutil.rmtree(folder / "out")
        return bench

    def command(self, name: str, out: Path, how: str | None = None) -> list[str]:
        """The words of a command that writes into `out`, after which it is written over or gone on with by `how`."""
        names = {"m": "model", "d": "data.jsonl", "a": "adapter"}
        names |= {"p": "prompts.jsonl", "s": "study.yaml", "g": "golden"}
        places = {letter: self.folder / file for letter, file in names.items()}
        words = [*COMMANDS[name].arguments.split(), *(COMMANDS[name].again if how is None else how).split()]
        return [sys.executable, "-m", COMMANDS[name].module, *(word.format(out=out, **places) for word in words)]

    def run(self, name: str, out: Path, how: str | None = None) -> subprocess.Popen[bytes]:
        """It is started."""
        command = self.command(name, out, how)
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, env=environment)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, JSON without what a clock says."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, data = path.relative_to(folder).as_posix(), path.read_bytes()
            found[name] = timeless(data) if path.suffix in (".json", ".jsonl") else data
            if path.name == "config.yaml":
                found[name] = re.sub(rb"(?m)^overwrite: .*\n", b"", data)
    return found


def timeless(data: bytes) -> bytes:
    """JSON, or JSON Lines, without the entries that SECONDS names."""

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {key: strip(entry) for key, entry in value.items() if key not in SECONDS}
        return [strip(entry) for entry in value] if isinstance(value, list) else value

    try:
        return json.dumps(strip(json.loads(data))).encode()
    except json.JSONDecodeError:
        return "\n".join(json.dumps(strip(json.loads(line))) for line in data.splitlines()).encode()


def damaged(folder: Path) -> list[str]:
    """Files that are neither old nor new: they cannot be read to their end."""
    found = []
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") or part.endswith(".partial") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as file:
                    for name in file.keys():  # noqa: SIM118
                        file.get_tensor(name)
            elif path.suffix in (".json", ".jsonl"):
                timeless(path.read_bytes())
        except Exception as error:  # whatever a reader makes of half a file
            found.append(f"{path.name}: {error}")
    return found


def killed_once(bench: Bench, name: str, rng: random.Random) -> list[str]:
    """One kill, perhaps a second one, and the run after them: what is wrong."""
    out, command = bench.folder / "out", COMMANDS[name]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    complaints, how = [], command.again
    for _ in range(rng.choice((1, 1, 2))):
        ending = rng.choice((signal.SIGKILL, signal.SIGTERM))
        process = bench.run(name, out, how)
        time.sleep(rng.uniform(0.1, 1.0) * bench.seconds[name])
        process.send_signal(ending)
        process.wait()
        complaints += damaged(out)
        stopped = command.resume is not None and (out / command.state).exists()
        how = command.resume if stopped else command.again
    if bench.run(name, out, how).wait() != 0:
        return [*complaints, f"the run after the kill fails ({how})"]
    found, expected = contents(out), bench.reference[name]
    names = sorted(found.keys() ^ expected.keys())
    complaints += [f"{entry}: {'left behind' if entry in found else 'missing'}" for entry in names]
    complaints += [
        f"{entry}: other bits" for entry in found.keys() & expected.keys() if found[entry] != expected[entry]
    ]
    left = [path.name for path in bench.folder.iterdir() if path.name not in bench.made | {"out"}]
    return complaints + [f"{entry}: left beside" for entry in left]


def kill(times: int, seed: int, names: list[str], scratch: Path) -> list[str]:
    """So many kills, the commands in turn: what was wrong, each with its number."""
    rng, bench = random.Random(seed), Bench.set_up(scratch, names)
    found = []
    for number in range(times):
        name = names[number % len(names)]
        complaints = killed_once(bench, name, rng)
        found += [f"kill {number}, {name}: {entry}" for entry in complaints]
        print(f"kill {number + 1} of {times}: {name}: {'; '.join(complaints) or 'right'}", flush=True)
    return found
