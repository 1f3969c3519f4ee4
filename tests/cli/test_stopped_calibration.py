"""`init` and `train` stopped while they calibrate, and going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.cli.test_train import contents, train
from tlora_ref.calibration import calibrate

FILE = "calibration.safetensors"


def stopped_by(samples: int) -> Callable[..., Any]:
    """`calibrate`, ended by Ctrl-C after so many samples."""

    def stopped(*arguments: Any, **options: Any) -> Any:
        def progress(done: int, total: int) -> None:
            if done == samples:
                raise KeyboardInterrupt

        return calibrate(*arguments, **{**options, "progress": progress})

    return stopped


def test_train_goes_on_with_its_calibration(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--samples", 6, "--steps", 3)
    assert run(*train(folder, "whole", *words))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("tlora_ref.pipeline.adapters.calibrate", stopped_by(4))
        status, _, error = run(*train(folder, "a", *words))
    assert status == 130 and f"the calibration so far is in {folder / 'a' / FILE}" in error
    assert error.splitlines()[-1].endswith("--resume")
    status, _, error = run(*train(folder, "a", *words))
    assert status == 2 and "--resume" in error
    status, _, error = run(*train(folder, "a", *words, "--target", "v_proj", "--resume"))
    assert status == 2 and "another calibration" in error and (folder / "a" / FILE).exists()
    status, said, _ = run(*train(folder, "a", *words, "--resume"))
    assert status == 0 and "calibrating on 6 samples: 4 of 6" not in said
    one, other = (contents(folder / name) for name in ("a", "whole"))
    assert {path.relative_to(folder / "a") for path in one} == {path.relative_to(folder / "whole") for path in other}
    weights = Path("adapter") / "adapter_model.safetensors"
    assert one[folder / "a" / weights] == other[folder / "whole" / weights]


def test_a_run_stopped_before_its_first_step_keeps_its_calibration(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    assert run(*train(folder, "whole", "--steps", 3))[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(tr, "evaluate", stop)
        status, _, error = run(*train(folder, "a", "--steps", 3))
    assert status == 130 and "no step was made" in error
    with monkeypatch.context() as patch:
        patch.setattr("tlora_ref.pipeline.adapters.calibrate", None)  # not called again
        status, said, _ = run(*train(folder, "a", "--steps", 3, "--resume"))
    assert status == 0 and "held-out loss before" in said
    one, other = ((folder / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("a", "whole"))
    assert one == other


def test_init_goes_on_with_its_calibration(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("init", folder / "model", "--data", folder / "data", "--samples", 6, "--rank", 2)
    assert run(*common, "--out", folder / "whole")[0] == 0
    status, _, error = run(*common, "--out", folder / "whole", "--resume")
    assert status == 2 and "no calibration to resume" in error and (folder / "whole" / "tlora.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("tlora_ref.pipeline.adapters.calibrate", stopped_by(2))
        status, _, error = run(*common, "--out", folder / "a")
    assert status == 130 and "calibration so far" in error
    assert [path.name for path in (folder / "a").iterdir()] == [FILE]
    status, _, error = run(*common, "--out", folder / "a")
    assert status == 2 and "--resume" in error
    assert run(*common, "--out", folder / "a", "--resume")[0] == 0
    said = [(folder / name / "config.yaml").read_text().replace("/whole", "/a") for name in ("a", "whole")]
    assert said[0] == said[1] and "resume" not in said[0]
    names = [sorted(path.name for path in (folder / name).iterdir()) for name in ("a", "whole")]
    assert names[0] == names[1]
    one, other = ((folder / name / "adapter_model.safetensors").read_bytes() for name in ("a", "whole"))
    assert one == other
