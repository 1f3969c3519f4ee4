"""Golden traces of both profiles: every kind of quantity, two steps, clipped."""

from __future__ import annotations

from pathlib import Path

import pytest

import tlora_ref as tr
from tests.oracle.altered import EVERYTHING, MODEL, SAMPLES, SETTINGS
from tlora_ref.method.switches import PROFILES


@pytest.fixture(scope="session", params=sorted(PROFILES))
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / request.param
    run = {"profile": request.param, "r_init": 2, "alpha": 3.0, "steps": 2, "settings": SETTINGS}
    tr.trace(MODEL, SAMPLES, folder, stages=EVERYTHING, **run)
    return folder
