"""Which tokens can be drawn and with which probabilities, by hand."""

from __future__ import annotations

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama
from tlora_ref.transformer.sampling import Sampling, penalised

P = np.array([0.05, 0.5, 0.15, 0.3])


@pytest.mark.parametrize(
    ("settings", "tokens", "probabilities"),
    [
        ({}, [1, 3, 2, 0], [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [1, 3], [0.625, 0.375]),
        ({"top_k": 9}, [1, 3, 2, 0], [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.7}, [1, 3], [0.625, 0.375]),
        ({"top_p": 1e-9}, [1], [1.0]),
        ({"min_p": 0.29}, [1, 3, 2], [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95]),
        ({"min_p": 0.31}, [1, 3], [0.625, 0.375]),
        ({"min_p": 1.0}, [1], [1.0]),
        # top-k first: of what it leaves (0.526, 0.316, 0.158) two reach 0.81, of all three do
        ({"top_k": 3, "top_p": 0.81}, [1, 3], [0.625, 0.375]),
        ({"top_p": 0.81}, [1, 3, 2], [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95]),
        # the temperature first: squared they are 0.25, 0.09, 0.0225, 0.0025 of 0.365
        ({"temperature": 0.5}, [1, 3, 2, 0], [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"temperature": 0.5, "top_p": 0.9}, [1, 3], [0.25 / 0.34, 0.09 / 0.34]),
        ({"temperature": 0.5, "min_p": 0.29}, [1, 3], [0.25 / 0.34, 0.09 / 0.34]),
    ],
)
def test_candidates(settings: dict[str, float], tokens: list[int], probabilities: list[float]) -> None:
    found, p = Sampling(**{"temperature": 1.0, **settings}).candidates(np.log(P) + 7.0)
    assert found.tolist() == tokens
    np.testing.assert_allclose(p, probabilities, rtol=1e-12)


def test_top_k_keeps_what_is_as_likely_as_the_last() -> None:
    found, p = Sampling(1.0, top_k=2).candidates(np.array([1.0, 3.0, 1.0, 0.0]))
    assert sorted(found) == [0, 1, 2] and p[1] == p[2]


def test_draws_have_these_probabilities() -> None:
    rng, how = np.random.default_rng(0), Sampling(1.0, top_k=3)
    drawn = np.bincount([how.next_token(np.log(P), [], rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(drawn, [0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95], atol=0.03)


def test_the_penalty_counts_each_token_once_and_by_its_sign() -> None:
    logits = np.array([2.0, -2.0, 0.0, 1.0])
    assert penalised(logits, [0, 0, 1], 4.0).tolist() == [0.5, -8.0, 0.0, 1.0]
    assert penalised(logits, [], 4.0).tolist() == logits.tolist()
    assert Sampling(repetition_penalty=4.0).next_token(logits, [0], np.random.default_rng(0)) == 3


def test_the_penalty_sees_a_row_and_not_its_padding() -> None:
    model = tiny_llama()
    rows = [[3, 4, 5, 6], [7, 8]]
    ids, keep = np.array([rows[0], [0, 0, *rows[1]]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    options = {"max_new_tokens": 8, "eos_token_id": -1, "repetition_penalty": 1.7}
    batched = model.generate(ids, keep, **options)[:, 4:].tolist()
    assert batched == [model.generate(row, **options)[len(row) :].tolist() for row in rows]
    expected = list(rows[1])
    for _ in range(8):
        logits = model(expected).logits[-1]
        expected.append(int(penalised(logits, expected, 1.7).argmax()))
    assert batched[1] == expected[2:]
    assert batched[1] != model.generate(rows[1], max_new_tokens=8, eos_token_id=-1)[2:].tolist()


def test_a_row_with_its_own_seed_does_not_depend_on_the_others() -> None:
    model, options = tiny_llama(), {"max_new_tokens": 6, "eos_token_id": -1, "temperature": 1.5, "top_k": 9}
    together = model.generate(np.array([[3, 4], [5, 6]]), seed=[1, 2], **options)
    assert together[1].tolist() == model.generate([5, 6], seed=2, **options).tolist()
    with pytest.raises(tr.TLoRAError, match="3 seeds for 2 prompts"):
        model.generate(np.array([[3, 4], [5, 6]]), seed=[1, 2, 3], **options)


def test_stop_is_told_the_row_and_ends_it() -> None:
    model, told = tiny_llama(), []

    def stop(row: list[int]) -> bool:
        told.append(list(row))
        return len(row) == (4 if row[0] == 3 else 3)

    options = {"max_new_tokens": 9, "eos_token_id": -1}
    made = model.generate(np.array([[3, 4], [0, 5]]), np.array([[1, 1], [0, 1]]), stop=stop, **options)
    free = [model.generate(row, **options)[len(row) :].tolist() for row in ([3, 4], [5])]
    assert made[:, 2:].tolist() == [free[0][:2], free[1][:2]]
    assert told == [[3, 4, free[0][0]], [5, free[1][0]], [3, 4, *free[0][:2]], [5, *free[1][:2]]]


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": float("inf")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1},
     {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"repetition_penalty": float("nan")}],
)  # fmt: skip
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(tr.TLoRAError, match=f"{name} .*expected"):
        tiny_llama().generate([3], **settings)
