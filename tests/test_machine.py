"""The BLAS kernel, chosen from planted CPU facts before NumPy is there and named in what is written; kept memory."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama
from tlora_ref import machine
from tlora_ref.checkpoint import load
from tlora_ref.provenance import provenance

AVX512 = "avx512f avx512cd avx512dq avx512bw avx512vl"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU flags are read where Linux keeps them")


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plants /proc/cpuinfo of a machine whose cores have these flags."""
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")

    def plant(*cores: str, cpu: tuple[str, int] = ("GenuineIntel", 6)) -> Path:
        told = f"vendor_id\t: {cpu[0]}\ncpu family\t: {cpu[1]}\nmodel\t\t: 17\n"
        text = "".join(f"processor\t: {i}\n{told}flags\t\t: fpu sse {c}\n\n" for i, c in enumerate(cores))
        (tmp_path / "cpuinfo").write_text(text)
        return tmp_path / "cpuinfo"

    return plant


def test_avx512_wants_every_flag_on_every_core(facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.faster_kernel(facts(AVX512, AVX512 + " avx512_bf16")) == "SkylakeX"
    for flag in AVX512.split():
        assert machine.faster_kernel(facts(AVX512, AVX512.replace(flag, ""))) is None
    assert machine.faster_kernel(tmp_path / "none") is None
    assert machine.faster_kernel(facts()) is None
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert machine.faster_kernel(facts(AVX512)) is None


def test_zen_4_is_left_to_openblas_and_not_told_otherwise(facts, monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor, family, kernel in (("AuthenticAMD", 25, None), ("AuthenticAMD", 26, "SkylakeX")):
        assert machine.faster_kernel(facts(AVX512, AVX512, cpu=(vendor, family))) == kernel
    assert machine.faster_kernel(facts(AVX512, cpu=("GenuineIntel", 25))) == "SkylakeX"
    assert machine.faster_kernel(facts("avx2", cpu=("AuthenticAMD", 25))) is None
    for kernel in ("Haswell", "SkylakeX"):
        blas = {"library": "openblas", "kernel": kernel}
        monkeypatch.setattr(machine, "linear_algebra", lambda blas=blas: blas)
        assert machine.kernel_hint(facts(AVX512, cpu=("AuthenticAMD", 25))) is None


def test_the_choice_leaves_a_users_own_and_a_loaded_numpy_alone(facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machine.KERNEL_VARIABLE, raising=False)
    machine.choose_kernel(facts(AVX512))  # NumPy is loaded: too late
    assert machine.KERNEL_VARIABLE not in os.environ
    monkeypatch.delitem(sys.modules, "numpy")
    machine.choose_kernel(facts("avx2"))
    assert machine.KERNEL_VARIABLE not in os.environ
    machine.choose_kernel(facts(AVX512))
    assert os.environ[machine.KERNEL_VARIABLE] == "SkylakeX"
    monkeypatch.setenv(machine.KERNEL_VARIABLE, "Haswell")
    machine.choose_kernel(facts(AVX512))
    assert os.environ[machine.KERNEL_VARIABLE] == "Haswell"


def python(*arguments: str, **environment: str) -> str:
    ours = (machine.KERNEL_VARIABLE, machine.WAIT_VARIABLE)
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True).stdout


def test_the_command_asks_for_the_kernel_before_numpy_comes() -> None:
    assert python("-c", "import sys, tlora_ref, tlora_ref.__main__; print('numpy' in sys.modules)") == "False\n"
    program = "import os, sys; from tlora_ref.__main__ import main; sys.argv = ['tlora-ref', '--version']\n"
    program += "try: main()\nexcept SystemExit: print(os.environ.get('OPENBLAS_CORETYPE'))"
    assert python("-c", program).splitlines()[-1] == str(machine.faster_kernel())
    if machine.linear_algebra().get("library") == "openblas":
        assert "kernel Haswell" in python("-m", "tlora_ref", "--version", OPENBLAS_CORETYPE="Haswell")


def test_threads_of_blas_soon_sleep() -> None:
    """They would keep a core busy for another tenth of a second. A user's own wait is left alone."""
    blas = machine.linear_algebra()
    if blas.get("library") != "openblas" or blas["threads"] < 2:
        pytest.skip("no threads of OpenBLAS")
    program = (
        "import time; from tlora_ref.machine import prepare; prepare()\n"
        "import numpy as np\n"
        "x = np.ones((512, 512)); x @ x; begin = time.process_time(); time.sleep(0.5)\n"
        "print(time.process_time() - begin)"
    )
    assert float(python("-c", program)) < 0.03
    program = "import os; from tlora_ref import machine; machine.prepare(); print(os.environ[machine.WAIT_VARIABLE])"
    assert python("-c", program, OPENBLAS_THREAD_TIMEOUT="28") == "28\n"


def test_freed_memory_is_kept_for_the_next_arrays() -> None:
    if "glibc" not in platform.libc_ver():
        pytest.skip("another C library")
    program = (
        "import sys, resource; from tlora_ref.machine import keep_freed_memory; kept = keep_freed_memory()\n"
        "import numpy as np\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3):\n"
        "    before = faults(); arrays = [np.ones(400_000) for _ in range(40)]; del arrays; found = faults() - before\n"
        "print(kept, found)"
    )
    kept, faults = python("-c", program).split()
    assert kept == "True"
    assert int(faults) < 0.05 * 40 * 400_000 * 8 / 4096  # pages of these arrays


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_commands_start_on_another_system(system: str) -> None:
    """What Windows does with `ctypes.CDLL(None)`: a TypeError, before any command has started."""
    program = (
        "import ctypes, sys\n"
        "def refuse(name): raise TypeError('LoadLibrary() argument 1 must be str, not None')\n"
        "from tlora_ref import machine\n"
        f"there = type('S', (), dict(vars(sys), platform={system!r}))\n"
        "real, machine.ctypes.CDLL, machine.sys = ctypes.CDLL, refuse, there\n"
        "assert machine.keep_freed_memory() is False and machine.faster_kernel() is None\n"
        "machine.prepare(); machine.ctypes.CDLL = real\n"
        "from tlora_ref.__main__ import main; sys.argv = ['tlora-ref', '--version']; main()"
    )
    assert python("-c", program).startswith("tlora_ref ")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_of_few_characters_gets_escapes(encoding: str) -> None:
    program = (
        "import sys, types; from tlora_ref import __main__ as start\n"
        "said = types.ModuleType('said'); said.main = lambda: print('\\u2581 \\U0001f600')\n"
        "sys.modules['tlora_ref.cli.main'] = said; start.main()"
    )
    given = os.environ | {"PYTHONIOENCODING": encoding}
    printed = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, check=True).stdout
    text = "\u2581 \U0001f600" if encoding == "utf-8" else r"\u2581 \U0001f600"
    assert printed.decode(encoding).strip() == text


def test_a_slow_kernel_is_named_once_a_model_is_large(facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blas = {"library": "openblas", "version": "1", "kernel": "Haswell", "threads": 2}
    monkeypatch.setattr(machine, "linear_algebra", lambda: blas)
    monkeypatch.delenv(machine.KERNEL_VARIABLE, raising=False)
    assert machine.kernel_hint(facts("avx2")) is None
    hint = machine.kernel_hint(facts(AVX512))
    assert hint is not None and "set OPENBLAS_CORETYPE=SkylakeX" in hint and "unset" not in hint
    monkeypatch.setenv(machine.KERNEL_VARIABLE, "Haswell")
    assert "OPENBLAS_CORETYPE is Haswell: unset it" in str(machine.kernel_hint(facts(AVX512)))
    for fine in ({"kernel": "SkylakeX"}, {"kernel": "SapphireRapids"}, {"library": "mkl"}):
        monkeypatch.setattr(machine, "linear_algebra", lambda fine=fine: blas | fine)
        assert machine.kernel_hint(facts(AVX512)) is None

    tr.save_model(tiny_llama(), tmp_path / "m")
    monkeypatch.setattr(load, "kernel_hint", lambda: "slow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tr.load_model(tmp_path / "m")
    monkeypatch.setattr(load, "LARGE", 100)
    with pytest.warns(UserWarning, match="slow"):
        tr.load_model(tmp_path / "m")


def test_every_artefact_names_the_kernel(tmp_path: Path) -> None:
    blas = provenance()["blas"]
    assert set(blas) in (set(), {"library", "version", "kernel", "threads"})
    model = tiny_llama()
    samples = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}]
    stats = tr.calibrate(model, samples)
    stats.save(tmp_path / "stats.safetensors")
    plan = tr.allocate(stats.sensitivity, stats.shapes, 2, 2.0)
    tr.save_peft(tr.initialize(model, stats, plan), tmp_path / "adapter")
    tr.trace(model, samples, tmp_path / "trace", r_init=2, steps=1)
    header = (tmp_path / "stats.safetensors").read_bytes()[8:]
    metadata = json.JSONDecoder().raw_decode(header.decode("utf-8", "ignore"))[0]["__metadata__"]
    found = [
        json.loads(metadata["tlora_ref.calibration"])["provenance"],
        json.loads((tmp_path / "adapter" / "tlora.json").read_text())["versions"],
        json.loads((tmp_path / "trace" / "manifest.json").read_text())["versions"],
    ]
    assert [facts["blas"] for facts in found] == [blas] * 3
    assert all(facts["numpy"] == np.__version__ and facts["tlora_ref"] == tr.__version__ for facts in found)


def test_the_stub_names_what_is_there() -> None:
    assert sorted(tr.__all__) == sorted(dir(tr)) and all(getattr(tr, name) is not None for name in tr.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = tr.nothing  # type: ignore[attr-defined]


def test_memory_is_the_machine_s_or_the_container_s_limit(tmp_path: Path) -> None:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    there = int(facts["MemTotal"].removesuffix("kB")) * 1024
    assert machine.memory(tmp_path / "none") == pytest.approx(there, rel=0.01)
    for text, expected in (("max\n", there), ("1000000\n", 1_000_000), (f"{2 * there}\n", there)):
        (tmp_path / "limit").write_text(text)
        assert machine.memory(tmp_path / "limit") == pytest.approx(expected, rel=0.01)
