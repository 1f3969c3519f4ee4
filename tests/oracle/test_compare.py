"""A comparison as a whole: incomplete traces, what is judged and what is said not to be, other models, the report."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, SAMPLES, Array, Change, changed, kind, replaced, skipped, without
from tests.tiny import tiny_llama
from tlora_ref.cli.main import main
from tlora_ref.errors import CheckpointError, ConfigError, ShapeError, TLoRAError
from tlora_ref.oracle.order import ORDER, STAGE_OF
from tlora_ref.oracle.traces import Trace, TraceWriter
from tlora_ref.oracle.traces.names import MODULE_SHAPES, SAMPLE_SHAPES, STEP_SHAPES, kind_of
from tlora_ref.training import TrainSettings

#: The name of a matrix that a module with a rank has, without the module.
MATRIX = re.compile(r"^(A|train/\d+/B)/")


@pytest.mark.parametrize("seed", range(25))
def test_a_right_candidate_that_recorded_less_is_never_wrong(golden: Path, tmp_path: Path, seed: int) -> None:
    """Nor is a golden trace that holds less: what cannot be checked is skipped, whatever is missing."""
    rng = random.Random(seed)

    def fewer(tensors: dict[str, Array]) -> Mapping[str, Array]:
        if rng.random() < 0.5:
            share = rng.random()
            gone = {k for k in tensors if rng.random() >= share}
            # a matrix that is missing where other modules have theirs is a mistake
            gone -= {k for k in gone if MATRIX.match(k) and MATRIX.sub("rank/", k) not in gone}
            return {k: v for k, v in tensors.items() if k not in gone}
        kinds = sorted(set(map(kind, tensors)))
        out = set(rng.sample(kinds, rng.randint(1, len(kinds) - 1)))
        return {k: v for k, v in tensors.items() if kind(k) not in out}

    candidate = changed(golden, tmp_path / "c", fewer)
    other = changed(golden, tmp_path / "g", fewer) if rng.random() < 0.4 else golden
    try:
        report = tr.compare(other, candidate, checkpoint=MODEL if rng.random() < 0.6 else None)
    except CheckpointError as refusal:  # a golden trace may lack what makes it one
        assert other != golden and re.search(r"the golden trace has no|g: the trace holds no", str(refusal))
        return
    assert not report.of("fail") and not report.of("cascade")
    assert report.passed == bool(report.of("pass"))


def every_kind(folder: Path) -> dict[str, str]:
    """One name of every kind that a trace holds, by its kind; of training, of the second step."""
    names = [name for name in Trace(folder).names() if not name.startswith("train/1/")]
    return {re.sub(r"^(sample|train)/\d+/", r"\1/n/", kind(name)): name for name in reversed(names)}


def test_everything_that_is_recorded_is_judged_or_said_not_to_be(golden: Path, tmp_path: Path) -> None:
    """A wrong number anywhere makes the candidate wrong or bad input: nothing recorded is looked over."""
    for number, name in enumerate(every_kind(golden).values()):

        def wrong(tensors: dict[str, Array], name: str = name) -> dict[str, Array]:
            value = np.array(tensors[name])
            first = (0,) * value.ndim
            value[first] = value[first] + 1 if value.dtype.kind == "i" else value[first] * 1.5 + 0.1
            return {**tensors, name: value}

        try:
            report = tr.compare(golden, changed(golden, tmp_path / str(number), wrong), checkpoint=MODEL)
        except TLoRAError:  # other samples, or a rank that is not that of A
            assert re.search(r"input_ids|labels|attention_mask|rank/", name)
            continue
        assert not report.passed, name
    assert tr.compare(golden, golden, checkpoint=MODEL).unjudged == []


def test_what_is_recorded_and_cannot_be_judged_is_named(golden: Path) -> None:
    """Without the weights there is nothing to hold singular values against."""
    assert set(tr.compare(golden, golden).unjudged) == {"sigma/<m>"}


def test_what_is_not_recorded_is_named(golden: Path, tmp_path: Path) -> None:
    module = next(iter(MODEL.shapes()))
    gone = rf"train/loss|train/2/.*|sample/1/sensitivity/{module}|sample/0/(?!loss).*"
    report = tr.compare(golden, changed(golden, tmp_path / "c", without(gone)), checkpoint=MODEL)
    modules, adapted = len(MODEL.shapes()), len(Trace(golden).modules("A"))
    assert report.passed
    assert report.unrecorded["train/loss"] == "1 of 1" and "train/lr" not in report.unrecorded
    assert report.unrecorded["train/<t>/B/<m>"] == f"{adapted} of {2 * adapted}"
    assert report.unrecorded["sample/<n>/sensitivity/<m>"] == f"{modules + 1} of {3 * modules}"
    assert report.unrecorded["sample/<n>/input_ids"] == "1 of 3" and "sample/<n>/loss" not in report.unrecorded


def test_other_weights_are_not_the_checkpoint(golden: Path) -> None:
    other = tiny_llama(seed=3)
    tr.compare(golden, golden, checkpoint=other)
    name = "model.layers.1.mlp.up_proj.weight"
    other.tensors[name] = other.tensors[name] * 1.001
    with pytest.raises(CheckpointError, match="not those that the golden trace was recorded with"):
        tr.compare(golden, golden, checkpoint=other)


@pytest.mark.parametrize("width", [8, 32])
def test_another_checkpoint_is_refused(golden: Path, width: int) -> None:
    with pytest.raises(CheckpointError, match=r"q_proj is \(.*\) in the checkpoint, \(16, 16\) in the trace"):
        tr.compare(golden, golden, checkpoint=tiny_llama(hidden_size=width))


def test_tolerances_widen_and_narrow_the_bounds_of_a_stage(golden: Path, tmp_path: Path) -> None:
    module = next(iter(Trace(golden).shapes))
    mine = [f for f in tr.compare(golden, golden).findings if f.module == module and f.against == "golden"]
    (bound,) = [f.verdict.allowed for f in mine if f.verdict and f.verdict.what == "entries"]
    nudge = np.zeros(Trace(golden).get(f"covariance/{module}").shape)
    nudge[0, 0] = 3.0 * bound
    candidate = changed(golden, tmp_path / "c", lambda t: without(r"sample/.*")(
        t | {f"covariance/{module}": t[f"covariance/{module}"] + nudge}))  # fmt: skip
    for factor, passes in ((1.0, False), (2.0, False), (4.0, True), (0.1, False)):
        found = tr.compare(golden, candidate, tolerances={"covariance": factor}).findings
        mine = [f.verdict for f in found if f.stage == "covariance" and f.module == module and f.verdict]
        (verdict,) = [v for v in mine if v.what == "entries"]
        assert verdict.passed is passes and verdict.allowed == pytest.approx(factor * bound, rel=1e-6)


def test_the_report_says_where_its_bounds_come_from(golden: Path, tmp_path: Path) -> None:
    assert "own deviation in float32" in tr.compare(golden, golden).tolerances["the whole network"]
    bare = changed(golden, tmp_path / "c", lambda t: t)
    manifest = json.loads((bare / "manifest.json").read_text())
    (bare / "manifest.json").write_text(json.dumps({**manifest, "noise": {}}))
    assert "measured no noise" in tr.compare(bare, golden).tolerances["the whole network"]


def test_the_report_reads_as_json(golden: Path) -> None:
    values = json.loads(json.dumps(tr.compare(golden, golden).to_dict()))
    assert values["passed"] and values["counts"]["fail"] == values["counts"]["cascade"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("train/lr", lambda t, k: t[k][:1]), "train/lr has 1 entries, but step 2 is recorded"),
        (replaced("train/loss", lambda t, k: t[k][None]), "expected 1 axes"),
        (replaced("sample/0/loss", lambda t, k: t[k][None, None]), "expected 0 axes"),
        (replaced(r"train/1/B/.*q_proj", lambda t, k: t[k][:, :-1]), "they must agree"),
        (replaced(r"rank/.*v_proj", lambda t, k: t[k] + 1), "they must agree"),
    ],
)
def test_what_does_not_fit_together_is_bad_input(golden: Path, tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        tr.compare(golden, changed(golden, tmp_path / "c", change), checkpoint=MODEL)


def test_a_trace_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    for settings, said in (
        (TrainSettings(grad_accumulation=2), "grad_accumulation"),
        (TrainSettings(also=("lm_head.weight",)), "lm_head.weight"),
        (TrainSettings(packing=64), "one row a sample"),
    ):
        with pytest.raises(ConfigError, match=said):
            tr.trace(MODEL, SAMPLES, tmp_path / "t", settings=settings)
    assert not (tmp_path / "t").exists()


def test_a_number_may_be_an_array_of_one(golden: Path, tmp_path: Path) -> None:
    """Frameworks that have no numbers, and files that have no tensors without axes, write (1,)."""

    def arrays(tensors: dict[str, Array]) -> dict[str, Array]:
        return {name: x.reshape(1) if x.shape == () else x for name, x in tensors.items()}

    candidate = changed(golden, tmp_path / "c", arrays)
    assert (
        tr.compare(golden, candidate, checkpoint=MODEL).to_dict() | {"about": {}}
        == tr.compare(golden, golden, checkpoint=MODEL).to_dict() | {"about": {}}  # digests of other files
    )
    assert Trace(candidate).get("sample/0/loss").shape == ()
    writer = TraceWriter(Trace(golden).manifest)
    writer.add("sample/0/loss", np.ones(1))
    assert writer.tensors["sample/0/loss"].shape == ()
    for odd in (np.ones(2), np.ones((1, 1))):
        with pytest.raises(ShapeError):
            writer.add("sample/1/loss", odd)


def test_the_verdict_says_what_was_not_judged(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tr.compare(golden, golden, checkpoint=MODEL)
    assert whole.headline == "right in 9 of 9 stages" and set(whole.coverage.values()) == {"full"}
    candidate = changed(golden, tmp_path / "c", without(r"sample/1/loss|merged/.*|sigma/.*"))
    report = tr.compare(golden, candidate)
    assert report.passed
    assert report.headline == "right in 6 of 9 stages; 2 in part (loss, gradient); 1 not judged (merge)"
    for require, lacking in ((["merge"], ["merge"]), (["loss"], ["loss"]), (["all"], ["loss", "gradient", "merge"])):
        report = tr.compare(golden, candidate, require=require)
        assert not report.passed and report.lacking == lacking and report.first_failing is None
        assert report.headline.endswith(f"required, and not judged in full: {', '.join(lacking)}")
    assert tr.compare(golden, candidate, require=["A", "ranks"]).passed
    assert tr.compare(golden, golden, checkpoint=MODEL, require=["all"]).passed
    with pytest.raises(ConfigError, match="require init: expected all, or some of loss"):
        tr.compare(golden, golden, require=["init"])
    for flags, status in (([], 0), (["--require", "covariance"], 0), (["--require", "all"], 1)):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(golden), str(candidate), *flags])
        assert (stopped.value.code or 0) == status
        assert ("required, and not judged" in capsys.readouterr().out) is bool(status)


def test_steps_that_are_not_recorded_are_not_judged_in_full(golden: Path, tmp_path: Path) -> None:
    """The first step alone is right; the verdict does not say so of the second."""
    candidate = changed(golden, tmp_path / "c", without("train/2/.*|merged/.*"))
    report = tr.compare(golden, candidate, checkpoint=MODEL, require=["adamw"])
    assert report.headline == (
        "right in 6 of 9 stages; 2 in part (gradient, adamw); 1 not judged (merge); "
        "required, and not judged in full: adamw"
    )
    assert not report.passed and "1 of 2 steps not recorded (first 2)" in skipped(report, "adamw")


def test_the_smallest_error_that_is_seen_is_told(golden: Path, tmp_path: Path) -> None:
    """An error of all of a quantity is wrong just above what the report tells of its stage, and right below."""
    plain = tr.compare(golden, golden, checkpoint=MODEL)
    assert set(plain.detects) == set(ORDER) and plain.detects["ranks"] == (0.0, 0.0)
    assert "smallest relative error that is seen" in str(plain) and "ranks exact" in str(plain)
    assert json.loads(json.dumps(plain.to_dict()))["detects"]["merge"] == list(plain.detects["merge"])
    low = {"checkpoint": MODEL, "dtype": "bfloat16"}
    for kinds, stage in (("covariance/.*", "covariance"), (r"sample/\d+/loss", "loss")):
        assert 1e-3 < tr.compare(golden, golden, **low).detects[stage][0] < 0.5  # type: ignore[arg-type]
        for factor, passes in ((0.9, True), (1.1, False)):
            share = 1.0 + factor * plain.detects[stage][0]
            change = replaced(kinds, lambda t, k, x=share: np.asarray(t[k] * x))
            candidate = changed(
                golden, tmp_path / f"{stage}{factor}", lambda t, c=change: without(r"sample/\d/input/.*")(c(t))
            )
            wrong = [f for f in tr.compare(golden, candidate).of("fail") if f.stage == stage]
            assert (not wrong) is passes, (stage, factor)


def test_what_is_no_number_is_wrong_at_its_stage(golden: Path, tmp_path: Path) -> None:
    """A NaN or an infinity anywhere is a verdict, and makes nothing else wrong by itself."""
    for number, (what, name) in enumerate(every_kind(golden).items()):
        if Trace(golden).get(name).dtype.kind != "f":
            continue

        def broken(tensors: dict[str, Array], name: str = name, number: int = number) -> dict[str, Array]:
            value = np.array(tensors[name])
            value.flat[-1] = (np.nan, np.inf)[number % 2]
            return {**tensors, name: value}

        candidate = changed(golden, tmp_path / str(number), broken)
        for checkpoint in (MODEL, None):
            report = tr.compare(golden, candidate, checkpoint=checkpoint)
            wrong = report.of("fail")
            assert report.first_failing == STAGE_OF[kind_of(name)], what
            assert re.search(r"holds (nan|inf) at \[", str(wrong[0].verdict.cause))
            assert {f.stage for f in wrong} <= {report.first_failing, "adamw"}, [f.line() for f in wrong]
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        tr.compare(candidate, golden)


def test_every_kind_of_number_has_its_stage() -> None:
    names = [f"{name}/m" for name in MODULE_SHAPES if name != "weight"] + [
        f"sample/0/{name}/m" for name in SAMPLE_SHAPES
    ]
    names += [f"train/1/{name}/m" for name in STEP_SHAPES] + [
        "train/loss",
        "train/lr",
        "sample/0/loss",
        "sample/0/logits",
    ]
    assert {kind_of(name) for name in names} == set(STAGE_OF) and set(STAGE_OF.values()) == set(ORDER)


def test_a_negative_score_is_a_finding(golden: Path, tmp_path: Path) -> None:
    """It has no shares: the ranks and scales are held against the golden ones, and follow from it."""
    for change in (lambda t, k: -t[k], lambda t, k: 0.0 * t[k]):
        candidate = changed(golden, tmp_path / str(id(change)), replaced("sensitivity/.*", change))
        report = tr.compare(golden, candidate, checkpoint=MODEL)
        assert report.first_failing == "sensitivity" and {f.stage for f in report.of("fail")} == {"sensitivity"}


def test_tolerances_are_positive_factors_of_stages(golden: Path) -> None:
    with pytest.raises(ConfigError, match=r"^tolerances for pace, speed: expected some of loss"):
        tr.compare(golden, golden, tolerances={"speed": 2.0, "loss": 2.0, "pace": 2.0})
    for factor in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"^the tolerance factor of loss is .*: expected a positive, finite"):
            tr.compare(golden, golden, tolerances={"merge": 2.0, "loss": factor})


def test_what_is_wrong_as_float64_may_be_right_as_float32(golden: Path, tmp_path: Path) -> None:
    def made(name: str, change: Change) -> Path:
        return changed(golden, tmp_path / name, lambda t: {k: v for k, v in change(t).items() if k.startswith("cov")})

    close = made("close", replaced("cov.*", lambda t, k: t[k] * (1 + 1e-9)))
    for candidate, dtype, said in (
        (close, None, (False, True)),
        (close, "float32", (True, False)),
        (made("right", lambda t: t), None, (True, False)),
        (made("far", replaced("cov.*", lambda t, k: t[k] + 0.3 * np.roll(t[k], 1))), None, (False, False)),
        (made("known", replaced("cov.*", lambda t, k: t[k] * len(SAMPLES))), None, (False, False)),
    ):
        report = tr.compare(golden, candidate, dtype=dtype)
        assert (report.passed, report.right_as_float32) == said, candidate.name
        assert candidate.name != "known" or "not divided by N" in str(report.cause)
