"""A candidate that holds only merged weights, or only its last B: right ones, wrong ones, and what cannot be told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, Array, changed, skipped
from tests.oracle.false_alarms import Otherwise, stored_in_bfloat16
from tests.oracle.wrong_runs import record
from tests.tiny import tiny_llama
from tlora_ref.checkpoint import save_model, save_peft
from tlora_ref.cli.main import main
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.oracle.stages.whole_run import longest
from tlora_ref.oracle.traces import Trace
from tlora_ref.training import TrainSettings

STEPS = 3
SETTINGS = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0, max_grad_norm=None)
RUN = {"r_init": 2, "alpha": 3.0, "steps": STEPS}
MERGED, LAST = ("merged/",), (f"train/{STEPS}/B/",)
WITH_A = (*LAST, "A/")


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "golden"
    tr.trace(MODEL, SAMPLES, folder, settings=SETTINGS, **RUN)
    return folder


@pytest.fixture(scope="module")
def right(gold: Path) -> dict[str, Path]:
    """Right runs: in other arithmetic and with other signs of A's rows, in float32, and stored in bfloat16."""
    folders = {dtype: gold.parent / dtype for dtype in ("float64", "float32", "bfloat16")}
    record(MODEL, SAMPLES, gold, folders["float64"], Otherwise(np.random.default_rng(1)))
    single = type(MODEL)(MODEL.config, {n: x.astype("float32") for n, x in MODEL.tensors.items()})
    tr.trace(single, SAMPLES, folders["float32"], settings=SETTINGS, **RUN)
    stored_in_bfloat16(gold, folders["bfloat16"])
    return folders


def only(run: Path, gold: Path, folder: Path, kinds: tuple[str, ...], dtype: str = "float64") -> Path:
    """These kinds of a run alone, that says it is golden's."""
    made = changed(run, folder, lambda t: {k: v for k, v in t.items() if k.startswith(kinds)})
    said = json.loads((gold / "manifest.json").read_text()) | {"dtype": dtype, "noise": {}}
    (folder / "manifest.json").write_text(json.dumps(said))
    return made


@pytest.mark.parametrize("kinds", [MERGED, LAST, WITH_A, (*MERGED, "A/")])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_what_is_right_is_never_wrong(
    gold: Path, right: dict[str, Path], tmp_path: Path, dtype: str, kinds: tuple[str, ...]
) -> None:
    candidate = only(right[dtype], gold, tmp_path / "c", kinds, dtype)
    stage = "merge" if "merged/" in kinds else "adamw"
    for checkpoint in (None, MODEL):
        report = tr.compare(gold, candidate, checkpoint=checkpoint)
        assert not report.of("fail") and not report.of("cascade"), str(report)
        if dtype == "float64" or (dtype == "float32" and "A/" in kinds):
            judged = [f for f in report.of("pass") if f.stage == stage]
            assert len(judged) == len(Trace(gold).modules("A"))
            assert report.coverage[stage] == ("full" if stage == "merge" else "part")
        assert "not judged (" in report.headline or report.headline == "nothing could be checked"


@pytest.mark.parametrize(
    "changes", [{"lr": 1.01e-2}, {"weight_decay": 0.0}, {"betas": (0.9, 0.99)}, {"schedule": "linear"}]
)
def test_a_run_with_another_setting_is_wrong_by_what_it_leaves(
    gold: Path, tmp_path: Path, changes: Mapping[str, object]
) -> None:
    tr.trace(MODEL, SAMPLES, tmp_path / "run", settings=replace(SETTINGS, **changes), **RUN)
    for kinds, stage in ((MERGED, "merge"), (LAST, "adamw"), (WITH_A, "adamw")):
        candidate = only(tmp_path / "run", gold, tmp_path / f"{len(kinds)}{stage}", kinds)
        for checkpoint in (None, MODEL):
            assert tr.compare(gold, candidate, checkpoint=checkpoint).first_failing == stage


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_wrong_merges_and_a_missing_step_are_wrong(
    gold: Path, right: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    trace = Trace(right[dtype])
    modules = trace.modules("A")
    A, B, W, scale, early = (
        {m: np.asarray(trace.get(name.format(m))) for m in modules}
        for name in ("A/{}", f"train/{STEPS}/B/{{}}", "merged/{}", "scale/{}", f"train/{STEPS - 1}/B/{{}}")
    )
    W0 = {m: W[m] - scale[m] * B[m] @ A[m] for m in modules}
    square = [m for m in modules if W[m].shape[0] == W[m].shape[1]]
    wrong: dict[str, dict[str, Array]] = {
        "the scale alpha / r is left out": {f"merged/{m}": W0[m] + B[m] @ A[m] for m in modules},
        "the adapter is not merged": {f"merged/{m}": W0[m] for m in modules},
        "the whole weight is transposed": {f"merged/{m}": W[m].T for m in square},
        "the update is transposed": {f"merged/{m}": W0[m] + scale[m] * (B[m] @ A[m]).T for m in square},
        "it is merged a step early": {f"merged/{m}": W0[m] + scale[m] * early[m] @ A[m] for m in modules},
        "it is B of the step before: the last step is missing": {f"train/{STEPS}/B/{m}": early[m] for m in modules},
        "B is not trained": {f"train/{STEPS}/B/{m}": 0.0 * B[m] for m in modules},
    }
    for number, (cause, tensors) in enumerate(wrong.items()):
        held = tensors | {f"A/{m}": A[m] for m in modules}
        candidate = only(changed(gold, tmp_path / f"r{number}", lambda t, x=held: x), gold, tmp_path / str(number),
                         ("",), dtype)  # fmt: skip
        for checkpoint in (None, MODEL):
            report = tr.compare(gold, candidate, checkpoint=checkpoint)
            assert report.first_failing == ("merge" if "merged" in next(iter(tensors)) else "adamw"), cause
            if dtype == "float64":  # in float32 the noise of the whole run hides what it looks like
                assert cause in str(report.cause)


def test_what_golden_cannot_tell_is_said(gold: Path, right: dict[str, Path], tmp_path: Path) -> None:
    """Another setting that the candidate admits, another A: its own steps would be needed."""
    candidate = only(right["float64"], gold, tmp_path / "lr", (*MERGED, *LAST))
    said = json.loads((candidate / "manifest.json").read_text())
    (candidate / "manifest.json").write_text(json.dumps(said | {"train": said["train"] | {"lr": 2e-2}}))
    report = tr.compare(gold, candidate)
    assert not report.judged and "trained with lr 0.02 (golden 0.01)" in str(report)
    mixed = np.array([[0.6, 0.8], [-0.8, 0.6]])
    candidate = changed(
        only(right["float64"], gold, tmp_path / "a", WITH_A), tmp_path / "rotated",
        lambda t: {k: mixed @ v if k.startswith("A/") and len(v) == 2 else v for k, v in t.items()},
    )  # fmt: skip
    report = tr.compare(gold, candidate)
    assert report.first_failing == "A" and report.coverage["adamw"] == "none"
    assert "its rows are free: the steps must be recorded" in str(report)


@pytest.mark.parametrize("step", [1, 2, 7])
def test_no_gradients_make_a_longer_update(step: int) -> None:
    """The bound is reached, by the gradients that Cauchy and Schwarz name."""
    betas = (0.9, 0.999)
    back = np.arange(step)[::-1]
    first, second = ((1.0 - b) * b**back / (1.0 - b**step) for b in betas)
    rng = np.random.default_rng(0)
    gradients = np.vstack([first / second, rng.normal(size=(50, step))])
    found = gradients @ first / np.sqrt(gradients**2 @ second)
    assert max(np.abs(found)) == pytest.approx(longest(betas, step), rel=1e-12)


def adapter_of(gold: Path, factor: float = 1.0) -> tr.Adapter:
    trace = Trace(gold)
    A, B = ({m: trace.get(name.format(m)) for m in trace.modules("A")} for name in ("A/{}", f"train/{STEPS}/B/{{}}"))
    return tr.Adapter(A, {m: factor * B[m] for m in B}, {m: float(trace.get(f"scale/{m}")) for m in A})


def facts_of(gold: Path, **changes: object) -> dict[str, object]:
    """What `train` notes of a run in tlora.json."""
    manifest = Trace(gold).manifest
    return {"settings": {**manifest.train, **changes}, "samples_sha256": manifest.data["samples_sha256"]}


def test_an_adapter_whose_run_is_not_known_is_not_judged_unless_the_user_says_so(gold: Path, tmp_path: Path) -> None:
    for name, factor in (("right", 1.0), ("wrong", 1.05), ("initialised", 0.0)):
        save_peft(adapter_of(gold, factor), tmp_path / name)
        unknown = tr.compare(gold, tmp_path / name)
        assert unknown.passed and unknown.coverage["adamw"] == "none", str(unknown)
        assert ("say --same-run" in skipped(unknown, "adamw")) is ("say --same-run" in str(unknown)) is (factor > 0.0)
        report = tr.compare(gold, tmp_path / name, same_run=True)
        assert report.passed is (name != "wrong"), str(report)
        assert report.coverage["adamw"] == ("none" if name == "initialised" else "part")


def test_an_adapter_is_judged_by_golden_where_its_facts_say_that_it_is_that_run(gold: Path, tmp_path: Path) -> None:
    for number, (facts, coverage, said) in enumerate(
        (
            (facts_of(gold), "part", "held against golden's"),
            (facts_of(gold, lr=2e-2), "none", "trained with lr 0.02 (golden 0.01)"),
            (facts_of(gold, steps=None, epochs=3.0), "none", "trained with steps None (golden 3)"),
            (facts_of(gold, seed=7), "none", "trained with seed 7"),
            (facts_of(gold) | {"samples_sha256": "0" * 64}, "none", "samples are others than the golden run's"),
            (facts_of(gold) | {"samples_sha256": None}, "none", "its samples are not known: say --same-run"),
            ({"settings": {"lr": 1e-2}}, "none", "its settings are not known (schedule"),
            ({"settings": {"speed": 3}}, "none", "its settings are not known (lr"),
            ({"settings": [1]}, "none", "its settings are not known (lr"),
        )
    ):
        save_peft(adapter_of(gold, 1.05), tmp_path / str(number), facts=facts)
        report = tr.compare(gold, tmp_path / str(number))
        assert report.coverage["adamw"] == coverage and said in skipped(report, "adamw"), str(report)
        assert report.passed is (coverage == "none")
        if "trained with" in said or "others" in said:
            with pytest.raises(ConfigError, match="the candidate's run is not the golden one"):
                tr.compare(gold, tmp_path / str(number), same_run=True)


def test_ranks_of_other_samples_are_told_as_such(gold: Path, tmp_path: Path) -> None:
    """Where the run's digest says so; a run of golden's samples with such ranks has no known cause."""
    trace = Trace(gold)
    first = trace.modules("A")[0]
    adapter = adapter_of(gold)
    adapter.A[first], adapter.B[first] = adapter.A[first][:-1], adapter.B[first][:, :-1]
    for digest, cause in (("0" * 64, "its samples are others than the golden run's, by their digests"), (None, None)):
        save_peft(adapter, tmp_path / "adapter", facts=facts_of(gold) | {"samples_sha256": digest}, overwrite=True)
        report = tr.compare(gold, tmp_path / "adapter")
        assert report.first_failing == "ranks" and report.cause == cause, str(report)


def test_a_trace_that_does_not_say_its_settings_is_not_judged(
    gold: Path, right: dict[str, Path], tmp_path: Path
) -> None:
    for kinds, stage in ((MERGED, "merge"), (WITH_A, "adamw")):
        candidate = only(right["float64"], gold, tmp_path / stage, kinds)
        said = json.loads((candidate / "manifest.json").read_text())
        (candidate / "manifest.json").write_text(json.dumps(said | {"train": {}}))
        report = tr.compare(gold, candidate, checkpoint=MODEL)
        assert report.coverage[stage] == "none" and "its settings are not known" in skipped(report, stage)
        assert tr.compare(gold, candidate, checkpoint=MODEL, same_run=True).coverage[stage] != "none"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_folder_of_a_merged_model_is_a_candidate(gold: Path, tmp_path: Path, dtype: str) -> None:
    for name, factor in (("right", 1.0), ("wrong", 2.0)):
        adapter = adapter_of(gold, factor)
        tensors = {f"{m}.weight": adapter.merged_weight(m, MODEL.weight(m)) for m in adapter.A}
        save_model(type(MODEL)(MODEL.config, MODEL.tensors | tensors), tmp_path / name, dtype)
        unknown = tr.compare(gold, tmp_path / name, checkpoint=MODEL)
        assert not unknown.judged and "its settings are not known" in str(unknown)
        report = tr.compare(gold, tmp_path / name, checkpoint=MODEL, same_run=True, dtype=dtype)
        if dtype == "bfloat16":  # the noise of a run in bfloat16 is as large as the update
            adapted = [f for f in report.judged if f.module in adapter.A]
            assert not adapted and "is as large as the update" in skipped(report, "merge")
        else:
            assert report.first_failing == (None if name == "right" else "merge"), str(report)
    other = type(MODEL)(MODEL.config, MODEL.tensors | {"model.norm.weight": MODEL.tensors["model.norm.weight"] * 1.5})
    save_model(other, tmp_path / "other", dtype)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is another in the merged model"):
        tr.compare(gold, tmp_path / "other", checkpoint=MODEL, same_run=True)
    save_model(tiny_llama(hidden_size=8), tmp_path / "smaller", dtype)
    with pytest.raises(CheckpointError, match=r"is \(.*\) in the merged model"):
        tr.compare(gold, tmp_path / "smaller", checkpoint=MODEL)


def test_the_flag_says_that_it_is_the_same_run(gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_peft(adapter_of(gold, 1.05), tmp_path / "wrong")
    save_peft(adapter_of(gold), tmp_path / "other", facts=facts_of(gold, lr=2e-2))
    for name, flags, status, said in (
        ("wrong", [], 0, "say --same-run (same_run=True) if it is of the golden run's samples and settings"),
        ("wrong", ["--same-run"], 1, "the first failing stage is adamw"),
        (
            "other",
            ["--same-run"],
            2,
            "the candidate's run is not the golden one: it was trained with lr 0.02 (golden 0.01)",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(gold), str(tmp_path / name), *flags])
        shown = capsys.readouterr()
        assert (stopped.value.code or 0) == status and said in " ".join((shown.out + shown.err).split())
