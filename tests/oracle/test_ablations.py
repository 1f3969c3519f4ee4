"""Golden traces of the ablations: every row of Table 4, W-SVD, and plain LoRA with what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle import lora_runs
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import save_model
from tlora_ref.cli.main import main
from tlora_ref.errors import ConfigError
from tlora_ref.oracle.traces import Manifest, Trace

MODEL, SAMPLES = tiny_llama(seed=3), tiny_samples(3, seed=4)
TRAINED = tr.resolve("paper", freeze_A=False)
LORA: dict[str, Any] = {"init": "random", "adapt_rank": False, "adapt_scale": False, "profile": TRAINED}
#: Table 4, with what the paper does not say about +RA's scale, and Table 12's W-SVD.
ROWS: dict[str, dict[str, Any]] = {
    "LoRA": LORA,
    "+RA": {**LORA, "adapt_rank": True},
    "+RA, alpha/r_i": {**LORA, "adapt_rank": True, "uniform_scale": "alpha/r_i"},
    "+SA": {**LORA, "adapt_scale": True},
    "+RA+SA": {"init": "random", "profile": TRAINED},
    "+Init": {"adapt_rank": False, "adapt_scale": False},
    "+Init+RA": {"adapt_scale": False},
    "+Init+SA": {"adapt_rank": False},
    "TLoRA": {},
    "W-SVD": {"init": "w-svd", "adapt_rank": False, "adapt_scale": False},
}


def traced(folder: Path, **how: Any) -> Path:
    tr.trace(MODEL, SAMPLES, folder, r_init=3, alpha=6.0, steps=3, noise=False, **how)
    return folder


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_traced_and_verifies_against_itself(row: str, tmp_path: Path) -> None:
    how = ROWS[row]
    trace = Trace(traced(tmp_path / "g", **how))
    ranks = {m: int(trace.get(f"rank/{m}")) for m in trace.shapes}
    assert (set(ranks.values()) == {3}) == (not how.get("adapt_rank", True))
    if not how.get("adapt_scale", True):
        over = how.get("uniform_scale", "alpha/r_init") == "alpha/r_i"
        assert all(trace.get(f"scale/{m}") == 6.0 / (max(ranks[m], 1) if over else 3) for m in trace.shapes)
    assert trace.has(f"train/3/A/{next(iter(trace.shapes))}") == (how.get("profile") is TRAINED)
    report = tr.compare(tmp_path / "g", tmp_path / "g", checkpoint=MODEL, require=["all"])
    assert report.passed, report.lines()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced(tmp_path_factory.mktemp("lora") / "g", **LORA)


def uniform(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return lambda module, A: rng.uniform(-1, 1, A.shape) / A.shape[1] ** 0.5


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_an_independent_run_is_right_from_the_same_A_and_from_another(
    golden: Path, tmp_path: Path, seed: int | None
) -> None:
    lora_runs.record(golden, tmp_path / "c", MODEL, **({} if seed is None else {"draw": uniform(seed)}))
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL, require=["ranks", "scales", "A", "gradient", "merge"])
    assert report.passed, report.lines()
    notes = [f.why for f in report.of("note")]
    assert any("another draw" in note for note in notes) == (seed is not None)


def normal(module: str, A: np.ndarray) -> np.ndarray:
    return np.random.default_rng(sum(module.encode())).normal(size=A.shape) / len(A)


def kaiming(module: str, A: np.ndarray) -> np.ndarray:
    return 6.0**0.5 * uniform(sum(module.encode()))(module, A)


def orthonormal(module: str, A: np.ndarray) -> np.ndarray:
    return np.linalg.svd(A)[2][: len(A)]


@dataclass(frozen=True)
class Mistake:
    """A plain LoRA with one mistake: where it must be found, and a piece of the cause that must be named."""

    how: dict[str, Any]
    stage: str
    cause: str | None = None


MISTAKES: dict[str, Mistake] = {
    "another rank": Mistake({"rank": lambda r: r - 1, "scale": 2.0}, "ranks"),
    "rsLoRA": Mistake({"scale": 6.0 / 3**0.5}, "scales", "rsLoRA"),
    "alpha for the scale": Mistake({"scale": 6.0}, "scales", "not divided by the rank"),
    "no scale": Mistake({"scale": 1.0}, "scales", "no scale"),
    "normal A": Mistake({"draw": normal}, "A", "normal"),
    "Kaiming with a = 0": Mistake({"draw": kaiming}, "A", "a = 0"),
    "A orthonormal": Mistake({"draw": orthonormal}, "A", "orthonormal"),
    "A zero": Mistake({"draw": lambda m, A: 0.0 * A}, "A", "changed places"),
    "another draw, too small": Mistake({"draw": lambda m, A: 0.8 * uniform(5)(m, A)}, "A"),
    "the golden A, off by a little": Mistake({"draw": lambda m, A: A * (1 + 1e-6)}, "A"),
    "gradient of A unscaled": Mistake({"gradient": lambda k, g, s: g / s if k == "A" else g}, "gradient", "left out"),
    "gradient of A of the wrong sign": Mistake({"gradient": lambda k, g, s: -g if k == "A" else g}, "gradient", "sign"),
    "A not decayed": Mistake({"slip": lambda k: {"no_decay": k == "A"}}, "adamw", "not decayed"),
    "A without bias correction": Mistake({"slip": lambda k: {"no_m": k == "A", "no_v": k == "A"}}, "adamw", "no bias"),
    "LoRA+: B sixteen times as fast": Mistake({"rate": lambda k: 16.0 if k == "B" else 1.0}, "adamw"),
    "A frozen": Mistake({"frozen": True}, "gradient", "A was frozen"),
    "merged with the first A": Mistake({"merge_first_A": True}, "merge"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_plain_lora_is_caught_where_it_is_made(name: str, golden: Path, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    lora_runs.record(golden, tmp_path / "c", MODEL, **mistake.how)
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL)
    assert not report.passed and report.first_failing == mistake.stage, report.lines()
    assert mistake.cause is None or mistake.cause in str(report.cause), report.cause


@pytest.mark.parametrize(
    ("mine", "golden_how", "stage", "cause"),
    [
        ({"adapt_rank": True}, {"adapt_rank": False}, "ranks", "Eq. 6"),
        ({"adapt_scale": True}, {"adapt_scale": False}, "scales", "Eq. 7"),
        ({"init": "wc-svd"}, {"init": "w-svd"}, "A", "from W C"),
        ({"init": "w-svd"}, {"init": "wc-svd"}, "A", "W-SVD"),
        ({"uniform_scale": "alpha/r_i"}, {"uniform_scale": "alpha/r_init"}, "scales", "alpha/r_i"),
    ],
)
def test_one_ablation_is_not_taken_for_another(
    mine: dict[str, Any], golden_how: dict[str, Any], stage: str, cause: str, tmp_path: Path
) -> None:
    base = {"adapt_scale": False} if "uniform_scale" in mine else {}
    gold, other = traced(tmp_path / "g", **base, **golden_how), traced(tmp_path / "c", **base, **mine)
    with pytest.raises(ConfigError, match=next(iter(mine))):
        tr.compare(gold, other)
    (other / "manifest.json").write_bytes((gold / "manifest.json").read_bytes())  # it says that it is the same
    report = tr.compare(gold, other, checkpoint=MODEL)
    assert report.first_failing == stage and cause in str(report.cause), report.lines()


def test_a_manifest_of_no_known_ablation_is_refused() -> None:
    modules = [{"name": "m", "d_out": 2, "d_in": 2}]
    for name in ("init", "uniform_scale"):
        with pytest.raises(ConfigError, match=f"{name} is 'gaussian', expected one of"):
            Manifest(modules=modules, r_init=1, alpha=1.0, **{name: "gaussian"})  # type: ignore[arg-type]


def test_the_command_traces_plain_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(MODEL, tmp_path / "model", "float64")
    (tmp_path / "rows.jsonl").write_text("\n".join(str(s).replace("'", '"') for s in tiny_samples(4, seed=3)))
    words = f"trace {tmp_path}/model --data {tmp_path}/rows.jsonl --rank 3 --alpha 6 --steps 2 --samples 2 --no-noise"
    flags = "--init random --uniform-rank --uniform-scale --switch freeze_A=false"
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), *flags.split(), "--out", str(tmp_path / "g")])
    assert stopped.value.code == 0, capsys.readouterr().err
    trace = Trace(tmp_path / "g")
    said = trace.manifest
    assert (said.init, said.adapt_rank, said.adapt_scale, said.resolved().freeze_A) == ("random", False, False, False)
    assert all(trace.get(f"scale/{m}") == 2.0 and trace.has(f"train/2/A/{m}") for m in trace.shapes)
