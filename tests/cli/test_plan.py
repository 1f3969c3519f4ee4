"""`plan`: what can be known from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run
from tests.families.make_tiny import MODELS, tiny_model
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.calibration import calibration_memory
from tlora_ref.cli.screen import duration
from tlora_ref.planning import time as planning_time

LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "float16",
}


@pytest.fixture
def llama2(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA2_7B), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("rank", "lora", "frozen"), [(128, 319_815_680, 174_063_616), (32, 79_953_920, 43_515_904)]
)  # method.md's table: what the paper prints, untruncated
def test_the_papers_parameter_counts_as_integers(llama2: Path, run: Run, rank: int, lora: int, frozen: int) -> None:
    status, said, _ = run("plan", llama2, "--rank", rank, "--json")
    found = json.loads(said)
    assert status == 0
    assert (found["lora_parameters"], found["frozen_A_parameters"]) == (lora, frozen)
    assert found["weights"] == 6_738_415_616 and found["modules"] == 224
    status, said, _ = run("plan", llama2 / "config.json", "--rank", rank)
    assert status == 0 and f"{lora:,}" in said and f"{frozen:,}" in said


def test_t5_base_and_mistral_by_arithmetic(tmp_path: Path, run: Run) -> None:
    """T5-base has 144 attention modules of 768 x 768 and 24 pairs wi, wo; Mistral-7B's k and v have 1024 outputs."""
    t5 = {
        **{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_model": 768},
        **{"d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "relu"},
        **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    }
    mistral = LLAMA2_7B | {
        **{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "intermediate_size": 14336},
        **{"num_key_value_heads": 8, "sliding_window": 4096},
    }
    outputs = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    inputs = 32 * (6 * 4096 + 14336)
    for config, lora, frozen in (
        (t5, 12_976_128, 6_488_064),
        (mistral, 32 * (outputs + inputs), 32 * outputs),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        status, said, _ = run("plan", tmp_path, "--rank", 32, "--tokens", 8, "--json")
        found = json.loads(said)
        assert status == 0 and (found["lora_parameters"], found["frozen_A_parameters"]) == (lora, frozen)
    assert 32 * (144 * 768 * 2 + 24 * 2 * (768 + 3072)) == 12_976_128


def test_memory_counts_a_shared_input_once(llama2: Path, run: Run) -> None:
    found = json.loads(run("plan", llama2, "--rank", 32, "--json")[1])
    d, d_ff, layers = 4096, 11008, 32
    once = layers * (d * d + d * d + d * d + d_ff * d_ff)  # q, k, v; o; gate, up; down
    for dtype, size in (("float32", 4), ("float64", 8)):
        assert found["bytes"][dtype] == {
            "weights": 6_738_415_616 * size,
            "covariances": once * size,
            "covariances_of_a_layer": once // layers * size,
            "adapter": 79_953_920 * size,
            "adamw_moments": 2 * 43_515_904 * size,
        }
    targets = found["targets"]
    assert targets["model.layers.3.self_attn.v_proj"]["covariance_of"] == "model.layers.3.self_attn.q_proj"
    assert targets["model.layers.3.mlp.down_proj"]["covariance_of"] == "model.layers.3.mlp.down_proj"


def test_it_agrees_with_what_calibration_finds_by_running_the_model(folder: Path, run: Run) -> None:
    found = json.loads(run("plan", folder / "model", "--json")[1])
    assert 2 * found["bytes"]["float64"]["covariances"] == calibration_memory(tiny_llama(), tiny_samples(1))


def test_what_a_7b_model_takes_by_arithmetic(llama2: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations counted by hand; hours at a planted rate, calibration's divided among the machines."""
    monkeypatch.setattr(planning_time, "product_rate", lambda: 1e12)  # a layer is too large to be tried
    run_plan = json.loads(run("plan", llama2, "--samples", 16, "--tokens", 100, "--workers", 4, "--json")[1])["run"]
    d, d_ff, layers = 4096, 11008, 32
    targets = layers * (4 * d * d + 3 * d * d_ff)
    moments = layers * (3 * d * d + d_ff * d_ff)  # 2 T d_in^2 each, of which half is computed
    head = 32000 * d
    calibration = 16 * 100 * (2 * 2 * (targets + head) + 2 * targets + moments)
    square = 4 * (2 + 2 + 9) * d**3
    tall = 2 * (2 * d_ff * d**2 + 2 * d_ff * d**2 + 9 * d**3)
    wide = 2 * d * d_ff**2 + 2 * d_ff * d**2 + 9 * d**3
    assert run_plan["flop"] == {"calibration": calibration, "initialisation": 2 * layers * (square + tall + wide)}
    assert run_plan["seconds"]["calibration"] == pytest.approx(calibration / 0.75e12 / 4)
    said = run("plan", llama2, "--samples", 16, "--tokens", 100, "--workers", 4)[1]
    assert (
        "by its operations" in said
        and "16 samples of 100 tokens, 4 such machines" in said
        and "8 rows of 100 tokens" in said
    )


@pytest.mark.parametrize(
    ("hours", "said"), [(30.0, "30.0 hours"), (1.0, "1.0 hours"), (0.25, "15.0 minutes"), (0.001, "3.6 s")]
)
def test_durations_are_said_as_people_do(hours: float, said: str) -> None:
    assert duration(hours) == said


def test_targets_and_alpha(llama2: Path, run: Run) -> None:
    status, said, _ = run("plan", llama2, "--rank", 8, "--alpha", 16, "--targets", "q_proj", "--targets", "v_proj")
    assert status == 0 and "64 target modules" in said and "mean scale 2" in said and f"{64 * 8 * 8192:,}" in said
    status, _, error = run("plan", llama2, "--target", "w_proj")
    assert status == 2 and 'target "w_proj"' in error and "q_proj" in error
    status, _, error = run("plan", llama2, "--alpha", "nan")
    assert status == 2 and "--alpha" in error


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family_is_planned_as_calibration_finds_it(tmp_path: Path, run: Run, name: str) -> None:
    model = tiny_model(name)
    tr.save_model(model, tmp_path / "model")
    classes = bool(getattr(model.config, "labels", ()))
    sample = {"input_ids": [3, 4, 5], "labels": 1 if classes else [3, 4, 5]}
    found = json.loads(run("plan", tmp_path / "model", "--tokens", 8, "--samples", 2, "--json")[1])
    assert 2 * found["bytes"]["float32"]["covariances"] == calibration_memory(model, [sample])
    assert found["modules"] == len(model.shapes()) and found["weights"] == model.parameter_count()


def written(folder: Path, lengths: tuple[int, ...], name: str = "rows.jsonl") -> Path:
    rows = [{"input_ids": [3] * n, "labels": [3] * n} for n in lengths]
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


def test_the_rows_of_data_are_reckoned_with(folder: Path, run: Run) -> None:
    words = ("plan", folder / "model", "--data", written(folder, (4, 9, 6, 6, 5)), "--batch-size", 3, "--samples", 2)
    status, said, _ = run(*words, "--json")
    plan = json.loads(said)["run"]
    assert status == 0 and plan["steps"] == 2 and plan["evaluations"] == 0 and plan["rows"] == 2.5
    took = plan["seconds"]
    assert plan["total_seconds"] == pytest.approx(took["calibration"] + took["initialisation"] + 2 * took["step"])
    status, said, _ = run(*words, "--steps", 5)
    assert status == 0 and "all of it, 5 steps: " in said and " at peak" in said
    status, said, error = run("plan", folder / "model", "--epochs", 2, "--group-by-length", "--eval-every", 3)
    assert status == 0 and "a step, 8 rows of 64 tokens with padding" in said and "all of it" not in said
    for flag in ("--epochs", "--group-by-length", "--eval-every"):
        assert f"{flag} does nothing here" in error


@pytest.mark.parametrize(
    ("flags", "rows", "tokens"),
    [((), 4, 20), (("--group-by-length",), 4, 11), (("--packing", "--max-length", 24), 2, 24)],
    ids=["padded", "grouped", "packed"],
)
def test_rows_are_batched_as_the_run_does(folder: Path, run: Run, flags: tuple, rows: float, tokens: float) -> None:
    """Padded: a long row in each batch. Grouped: a batch of 2 and one of 20. Packed: what fits beside a long row."""
    words = ("plan", folder / "model", "--data", written(folder, (2, 2, 2, 2, 20, 20, 20, 20)), "--batch-size", 4)
    plan = json.loads(run(*words, "--samples", 2, "--json", *flags)[1])["run"]
    assert (plan["rows"], plan["tokens"]) == (pytest.approx(rows), pytest.approx(tokens))


def test_packing_that_train_refuses_is_refused(folder: Path, run: Run) -> None:
    words = ("plan", folder / "model", "--data", written(folder, (2, 20)), "--packing")
    status, _, error = run(*words)
    assert status == 2 and "--packing fills sequences of up to --max-length" in error


def test_held_out_rows_belong_to_the_run(folder: Path, run: Run) -> None:
    (folder / "both").mkdir()
    written(folder / "both", (4, 9, 6, 6, 5), "train.jsonl"), written(folder / "both", (5, 7), "valid.jsonl")
    words = ("plan", folder / "model", "--data", folder / "both", "--batch-size", 2, "--samples", 2, "--json")
    plan = json.loads(run(*words, "--eval-every", 2, "--steps", 5)[1])["run"]
    took = plan["seconds"]
    assert plan["evaluations"] == 4 and took["evaluation"] > 0
    steps = 5 * took["step"] + 4 * took["evaluation"]
    assert plan["total_seconds"] == pytest.approx(took["calibration"] + took["initialisation"] + steps)
    assert json.loads(run(*words)[1])["run"]["evaluations"] == 2  # an epoch: before it and after
    words = (
        "plan",
        folder / "model",
        "--data",
        folder / "both" / "train.jsonl",
        "--valid-share",
        0.4,
        "--batch-size",
        3,
    )
    status, said, _ = run(*words)
    assert status == 0 and "held-out rows, 2 times" in said and "all of it, 1 step:" in said


def test_a_bare_encoder_is_planned_with_its_labels(tmp_path: Path, run: Run) -> None:
    config = MODELS["bert"] | {"architectures": ["BertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, said, _ = run("plan", tmp_path)
    assert status == 0 and "A bare encoder has no loss: with --labels a,b" in said
    status, said, _ = run("plan", tmp_path, "--labels", "a,b", "--steps", 2)
    assert status == 0 and "all of it, 2 steps" in said
