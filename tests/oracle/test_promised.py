"""A version keeps what it promised: no name of a trace or case of the vectors is lost or changed within it."""

from __future__ import annotations

import json

from tests.oracle.promised import FILE, VECTORS, now
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.kit.vectors import PROMISE


def test_what_a_version_promised_is_there() -> None:
    promised = json.loads(FILE.read_text(encoding="utf-8"))
    for version, found in now().items():
        assert version in promised, (
            f"a new version: python -m tests.oracle.promised writes down what {version} promises"
        )
        changed = [name for name, what in promised[version].items() if found.get(name, "gone") != what]
        assert changed == [], f"{version} promised these: a change of them is a new version"
        new = sorted(set(found) - set(promised[version]))
        assert new == [], f"python -m tests.oracle.promised adds them to what {version} promises"


def test_the_vectors_say_so() -> None:
    for profile in PROFILES:
        values = json.loads((VECTORS / profile / "vectors.json").read_text(encoding="utf-8"))
        assert (values["version"], values["promise"]) == (1, PROMISE)
