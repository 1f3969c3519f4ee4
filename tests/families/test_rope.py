"""Rotary embedding: what each rope type does to the frequencies, and every parameter that is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.families.common import check_cache, check_finite_differences, padded_batch, tiny
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.rope import Rope, rotary_tables
from tlora_ref.transformer.settings import Settings

D = 8  # rotary channels
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "short_factor": [1, 2, 3, 4],
    "long_factor": [5, 6, 7, 8],
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}


def read(kind: str, parameters: dict[str, Any], **values: Any) -> Rope:
    config = {
        "rope_theta": 100.0,
        "max_position_embeddings": 256,
        "rope_scaling": {"type": kind, **parameters},
        **values,
    }
    return Rope.read(Settings(config, "llama"), D)


def frequencies(rope: Rope, length: int = 2) -> tuple[np.ndarray, float]:
    """(D / 2,) frequencies and the factor of cos and sin, as the tables of a sequence of `length` show them."""
    cos, sin = rotary_tables(rope, D, np.arange(length)[None], np.zeros(1))
    turned = np.arctan2(sin[0, 1, 0], cos[0, 1, 0])  # by position 1
    return turned, float(cos[0, 0, 0, 0])  # at position 0 the cosine is 1


DEFAULT = np.array([100.0 ** (-2 * i / D) for i in range(D // 2)])


def test_default() -> None:
    cos, sin = rotary_tables(read("default", {}), D, np.array([[0, 3, 50]]), np.zeros(1))
    assert cos.shape == sin.shape == (1, 3, 1, 4)
    for t, position in enumerate((0, 3, 50)):
        for i in range(4):
            turned = complex(math.cos(position * 100.0 ** (-i / 4)), math.sin(position * 100.0 ** (-i / 4)))
            assert complex(cos[0, t, 0, i], sin[0, t, 0, i]) == pytest.approx(turned, abs=1e-14)


def test_tables_take_the_dtype_of_the_model_but_not_its_precision() -> None:
    # An angle of 10^6 radians in float32 would be wrong by percents: only the result is rounded.
    cos, _ = rotary_tables(Rope(), 2, np.array([[10**6]]), np.zeros(1, dtype=np.float32))
    assert cos.dtype == np.float32
    assert float(cos[0, 0, 0, 0]) == pytest.approx(math.cos(1e6), abs=1e-7)


def test_linear_interpolates_positions() -> None:
    found, factor = frequencies(read("linear", {"factor": 4.0}))
    np.testing.assert_allclose(found, DEFAULT / 4, rtol=1e-14)
    assert factor == 1.0


@pytest.mark.parametrize("length", [2, 256])
def test_dynamic_is_the_default_within_the_models_length(length: int) -> None:
    np.testing.assert_allclose(frequencies(read("dynamic", {"factor": 2.0}), length)[0], DEFAULT, rtol=1e-14)


def test_dynamic_divides_the_lowest_frequency_by_the_growth() -> None:
    # NTK: the highest frequency stays, the lowest is divided by factor * length / max - (factor - 1).
    found, _ = frequencies(read("dynamic", {"factor": 2.0}), 512)
    assert found[0] == pytest.approx(DEFAULT[0], rel=1e-14)
    assert DEFAULT[-1] / found[-1] == pytest.approx(2.0 * 512 / 256 - 1.0, rel=1e-12)


def test_llama3_keeps_short_wavelengths_and_divides_long_ones() -> None:
    found, factor = frequencies(read("llama3", LLAMA3))
    turns = 64 * DEFAULT / (2 * math.pi)  # 10.2, 3.2, 1.02, 0.32 within the trained length
    assert found[0] == pytest.approx(DEFAULT[0], rel=1e-14)
    assert found[3] == pytest.approx(DEFAULT[3] / 8, rel=1e-14)
    for i in (1, 2):
        share = (turns[i] - 1.0) / 3.0
        assert found[i] == pytest.approx((share + (1 - share) / 8) * DEFAULT[i], rel=1e-14)
    assert factor == 1.0


def test_yarn_blends_between_two_channels() -> None:
    found, factor = frequencies(read("yarn", {**YARN, "beta_fast": 4.0, "beta_slow": 1.0}))
    # The channel with b turns in 64 positions: D ln(64 / (2 pi b)) / (2 ln 100) = 0.81 (b 4), 2.02 (b 1): from 0 to 3.
    np.testing.assert_allclose(found / DEFAULT, [1 - share * 0.75 for share in (0, 1 / 3, 2 / 3, 1)], rtol=1e-12)
    assert factor == pytest.approx(0.1 * math.log(4.0) + 1.0, rel=1e-14)


def test_yarn_factors() -> None:
    assert frequencies(read("yarn", {**YARN, "attention_factor": 1.5}))[1] == 1.5
    both = {"mscale": 2.0, "mscale_all_dim": 0.5}
    expected = (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1)
    assert frequencies(read("yarn", {**YARN, **both}))[1] == pytest.approx(expected, rel=1e-14)
    assert frequencies(read("yarn", {**YARN, "factor": 0.5}))[1] == 1.0
    implied = read("yarn", {"original_max_position_embeddings": 64})  # factor 256 / 64
    np.testing.assert_array_equal(frequencies(implied)[0], frequencies(read("yarn", YARN))[0])


def test_longrope_changes_its_divisors_beyond_the_trained_length() -> None:
    rope = read("longrope", LONG)
    found, factor = frequencies(rope, 64)
    np.testing.assert_allclose(found, DEFAULT / [1, 2, 3, 4], rtol=1e-13)
    assert factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)), rel=1e-14)
    np.testing.assert_allclose(frequencies(rope, 65)[0], DEFAULT / [5, 6, 7, 8], rtol=1e-13)
    assert frequencies(read("longrope", {**LONG, "factor": 1.0}))[1] == 1.0
    assert frequencies(read("longrope", {**LONG, "attention_factor": 1.25}))[1] == 1.25


def test_the_trained_length_beside_the_rope_settings_wins() -> None:
    inside = read("llama3", {**LLAMA3, "original_max_position_embeddings": 32})
    beside = read("llama3", LLAMA3, original_max_position_embeddings=32)
    assert inside == beside
    absent = {k: v for k, v in LLAMA3.items() if not k.startswith("original")}
    assert read("llama3", absent).parameters["original_max_position_embeddings"] == 256


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("default", {}),
        ("linear", {"factor": 3.0}),
        ("dynamic", {"factor": 2.0}),
        ("yarn", YARN),
        ("longrope", LONG),
        ("llama3", LLAMA3),
    ],
)
def test_written_settings_read_as_the_same(kind: str, parameters: dict[str, Any]) -> None:
    rope = read(kind, parameters)
    old = rope.to_dict()
    new = {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **parameters}}
    for values in (old, new):
        assert Rope.read(Settings({"max_position_embeddings": 256, **values}, "llama"), D) == rope


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("mrope", {"mrope_section": [1, 2]}, '"mrope" is not implemented: expected one of default, dynamic'),
        ("default", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("default", {"full_attention": {"rope_type": "default"}}, "full_attention"),
        ("linear", {}, '"linear" needs the number "factor" above 0, got None'),
        ("linear", {"factor": "2"}, "factor"),
        ("linear", {"factor": True}, "factor"),
        ("linear", {"factor": 0.0}, "factor"),
        ("dynamic", {"factor": 2.0, "alpha": 1000}, "unknown parameter.s. alpha"),
        ("yarn", {**YARN, "beta_fast": "x"}, "beta_fast"),
        ("longrope", {**LONG, "short_factor": [1, 2]}, 'short_factor", a list of 4 numbers'),
        ("longrope", {**LONG, "long_factor": None}, "long_factor"),
        ("longrope", {**LONG, "long_factor": [1, 2, 3, "4"]}, "long_factor"),
        ("llama3", {**LLAMA3, "high_freq_factor": 1.0}, "not above low_freq_factor"),
        ("llama3", {"factor": 8.0}, "low_freq_factor"),
    ],
)
def test_what_is_refused(kind: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(kind, parameters)


def test_a_base_without_decay_is_refused() -> None:
    with pytest.raises(ConfigError, match="rope_theta"):
        read("default", {}, rope_theta=1.0)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
        {"type": "longrope", "short_factor": [1, 2], "long_factor": [5, 6], "original_max_position_embeddings": 8},
        {"type": "dynamic", "factor": 2.0},
    ],
)
def test_gradients_with_scaled_rotation(scaling: dict[str, Any]) -> None:
    # The attention factor makes the rotation more than orthogonal: its VJP must carry the factor too.
    model = tiny("llama", rope_scaling=scaling, max_position_embeddings=32 if scaling["type"] == "yarn" else 8)
    check_finite_differences(model, padded_batch("left", rows=(11, 6)))


def test_cache_with_yarn() -> None:
    check_cache(tiny("llama", rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}))
