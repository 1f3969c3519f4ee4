"""What AdamW's stage says of a run: of other settings, and of a B whose making is not recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tlora_ref.oracle.reports.finding import FAIL, GOLDEN, NOTE, PASS, SKIP, Finding
from tlora_ref.oracle.stages import adamw
from tlora_ref.oracle.stages.whole_run import UNTRAINED
from tlora_ref.oracle.traces.manifest import completed
from tlora_ref.oracle.verdict import Verdict


class Steps(set[str]):
    """Of a trace, which names it holds."""

    has, get = set.__contains__, lambda self, name: name

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        parts = [name.split("/") for name in self]
        return sorted({int(p[1]) for p in parts if p[0] == prefix and p[2] == suffix})

    def modules(self, prefix: str) -> list[str]:
        return sorted(name.removeprefix(f"{prefix}/") for name in self if name.startswith(f"{prefix}/"))


def sides(candidate: Steps | None = None, **said: Any) -> Any:
    return SimpleNamespace(
        candidate=candidate or Steps(),
        finding=lambda stage, against, m, v: Finding(stage, against, m, v, PASS if v.passed else FAIL),
        skipped=lambda stage, m, why: Finding(stage, "", m, None, SKIP, why),
        noted=lambda stage, why, m=None: Finding(stage, "", m, None, NOTE, why),
        **said,
    )


def test_other_settings_than_golden_s_are_named() -> None:
    golden = {"lr": 0.5, "steps": 3}
    mine = completed(golden)
    run = SimpleNamespace(manifest=SimpleNamespace(train=golden))
    assert mine and adamw._other_settings(sides(golden=run, train=mine)) == []
    (note,) = adamw._other_settings(sides(golden=run, train={**mine, "lr": 0.25, "eps": 1e-3}))
    assert note.why.startswith("trained with ") and note.why.endswith(": judged by its own settings")
    assert "lr 0.25 (golden 0.5)" in note.why and "eps 0.001 (golden " in note.why and "beta" not in note.why
    none = SimpleNamespace(manifest=SimpleNamespace(train={}))
    assert adamw._other_settings(sides(golden=none, train=mine)) == []


@pytest.mark.parametrize(
    ("passed", "unseen", "detects", "said"),
    [
        (True, [UNTRAINED], 0.25, [(SKIP, "B of step 3: the noise of the whole run is as large as B: 0.25 of it")]),
        (True, [UNTRAINED], None, [(SKIP, "B of step 3: the noise of the whole run is as large as B")]),
        (True, ["another"], 0.25, [(PASS, ""), (NOTE, "B of step 3: not told from B of the step before")]),
        (True, [], 0.25, [(PASS, "")]),
        (False, [UNTRAINED], 0.25, [(FAIL, ""), (NOTE, "B of step 3: not told from B of the step before")]),
        (False, [], None, [(FAIL, "")]),
    ],
)
def test_what_the_noise_of_a_run_hides_is_said(
    monkeypatch: pytest.MonkeyPatch, passed: bool, unseen: list[str], detects: float | None, said: list[tuple[str, str]]
) -> None:
    def judged(sides: Any, step: int, m: str, got: str, right: str) -> tuple[Verdict, list[str]]:
        assert (step, m, got, right) == (3, "m", "train/3/B/m", "right")
        return Verdict("adamw", "B", passed, detects=detects), unseen

    monkeypatch.setattr(adamw, "judge_B", judged)
    found = adamw._alone(sides(Steps({"train/3/B/m"})), 3, "m", "right")  # type: ignore[arg-type]
    assert [(f.status, f.why) for f in found] == said and {f.module for f in found} == {"m"}
    assert all((f.step, f.against) == (3, GOLDEN) for f in found if f.verdict)


def names(step: int, m: str, *kinds: str) -> set[str]:
    return {f"train/{step}/{kind}/{m}" for kind in kinds}


def test_a_B_is_held_against_golden_s_where_its_making_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    right: dict[int, Any] = {1: {"m": "m of 1", "n": "n of 1"}, 3: {"m": "m of 3"}, 4: "not known"}
    monkeypatch.setattr(adamw, "trained", lambda sides, step: right[step])
    monkeypatch.setattr(adamw, "_alone", lambda sides, step, m, value: [(step, m, value)])
    whole = ("B", "exp_avg", "exp_avg_sq")
    held = names(1, "m", *whole, "grad_B") | names(1, "n", *whole)  # the first step of n without its gradient
    held |= names(2, "m", *whole, "grad_B")  # from the first step, all of it
    held |= names(3, "m", "B", "grad_B")
    held |= names(4, "n", "B")
    found = adamw._by_golden(sides(Steps(held)))
    assert [f for f in found if isinstance(f, tuple)] == [(1, "n", "n of 1")]
    skipped = [f.why for f in found if isinstance(f, Finding)]
    assert [why.split(": ")[0] for why in skipped] == ["B of step 1", "B of step 4"]
    assert "held against golden's" in skipped[0] and skipped[1] == "B of step 4: not known"
    for lacking in ("B", "exp_avg", "exp_avg_sq"):  # before the third step
        fewer = Steps(held - names(2, "m", lacking) - names(4, "n", "B"))
        assert (3, "m", "m of 3") in adamw._by_golden(sides(fewer))
    # a module of which golden knows nothing is not judged
    assert [f for f in adamw._by_golden(sides(Steps(names(3, "n", "B")))) if isinstance(f, tuple)] == []
