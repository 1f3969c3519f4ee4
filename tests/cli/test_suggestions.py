"""Flags, keys, commands and values as other tools call them: each gets the name that is meant here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tlora_ref.cli.commands import Commands
from tlora_ref.cli.suggestions import ADVICE, COMMANDS_ELSEWHERE, FLAGS_ELSEWHERE
from tlora_ref.cli.words import flags_of

COMMANDS = Commands()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train m --learning-rate 1e-4", "train has no flag --learning-rate: did you mean --lr?"),
        ("train m --learning_rate=1e-4", "did you mean --lr?"),
        ("train m -lr 1e-4", "train has no flag -lr: did you mean --lr?"),
        ("train m --lr 1e-4 --num-epochs 3", "did you mean --epochs?"),
        ("train m --num_train_epochs 3", "did you mean --epochs?"),
        ("train m --iters 100", "did you mean --steps?"),  # mlx-lm
        ("train m --batch_size 4", "did you mean --batch-size?"),
        ("train m --per_device_train_batch_size 4", "did you mean --batch-size?"),  # transformers, TRL
        ("train m --cutoff_len 512", "did you mean --max-length?"),  # LLaMA-Factory
        ("train m --lora_target q_proj", "did you mean --target?"),
        ("train m --target-modules q_proj", "did you mean --target?"),  # PEFT
        ("train m --rnak 4", "did you mean --rank?"),  # a slip of the finger
        ("generate m --max-tokens 4", "did you mean --max-new-tokens?"),
        ("generate m --temp 0.5", "did you mean --temperature?"),
        ("generate m --adapter-path a", "did you mean --adapter?"),
        ("generate m --prompt --temp --num-beams 3", "--num-beams: it is greedy"),  # --temp is the prompt's text
        ("train m --model m", "the model's folder stands without a flag"),
        ("train m --lora_dropout 0.1", "TLoRA trains without dropout"),
        ("init m --learning-rate 1", "did you mean --lr? it belongs to train, trace, explain"),
        ("plan m --lr 1", "--lr: it belongs to train, trace, explain"),
        ("train m --zzz 1", "tlora-ref train -h lists those there are"),
        ("finetune m", "there is no command finetune: did you mean train?"),
        ("evalute m", "did you mean eval?"),
        ("zzz m", "there are demo, plan, preview, init, train"),
    ],
)
def test_a_wrong_word_gets_the_right_one(words: str, said: str, run: Run) -> None:
    status, out, error = run(*words.split())
    assert status == 2 and out == "" and said in error and error.count("\n") == 1, error


def test_negative_numbers_values_and_the_end_of_flags_are_no_flags(folder: Path, run: Run) -> None:
    status, _, error = run("train", folder / "model", "--data", folder / "data", "--out", folder / "x", "--lr", "-1e-3")
    assert status == 2 and "lr is -0.001" in error
    status, _, error = run("generate", folder / "model", "--prompt", "--learning-rate", "--max-new-tokens", 1)
    assert status == 0, error
    status, _, error = run("eval", "--", "--learning-rate")
    assert status == 2 and "did you mean" not in error


def test_the_tables_name_flags_and_commands_that_are_there() -> None:
    flags = flags_of(COMMANDS)
    everywhere = set().union(*flags.values())
    assert set(FLAGS_ELSEWHERE.values()) <= everywhere | {"system"}
    assert set(COMMANDS_ELSEWHERE.values()) == set(COMMANDS)
    assert not set(COMMANDS_ELSEWHERE) & set(COMMANDS)
    for name in (*FLAGS_ELSEWHERE, *ADVICE):
        assert name not in flags["train"], f"{name} is a flag of ours: its entry is never read"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate: 1e-4", 'unknown key "learning_rate" for this command: did you mean lr?'),
        ("num_train_epochs: 3", "did you mean epochs?"),
        ("output_dir: x", "did you mean out?"),
        ("lora_parameters: {rank: 8}", "its keys stand by themselves here"),
        ("model_name_or_path: x", "did you mean model?"),
        ("modle: x", "did you mean model?"),
        ("common: {modle: x}", 'part "common": unknown key "modle": did you mean model?'),
        ("trian: {rank: 8}", 'unknown key "trian" for this command: did you mean train?'),
        ("finetune: {rank: 8}", "did you mean train?"),
        ("comon: {rank: 8}", "did you mean common?"),
        ("feild: {prompt: q}", "did you mean field?"),
        ("common: {rank: 8}\neval: {}\ntrian: {lr: 1}", 'unknown part "trian"'),
        ("max_new_tokns: 3", "did you mean max-new-tokens? it belongs to eval, generate, chat"),
        ("max_new_tokens: 3", "it belongs to eval, generate, chat"),
    ],
)
def test_keys_of_a_config_file_too(text: str, said: str, folder: Path, run: Run) -> None:
    (folder / "c.yaml").write_text(text)
    status, _, error = run("train", folder / "model", "--config", folder / "c.yaml")
    assert status == 2 and said in error and error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--target all-linear", "leave the target out"),
        ("--target q_proj,v_proj", "--target q_proj --target v_proj"),
        ("--target q_proj|v_proj", "--target q_proj --target v_proj"),
        ("--target [q_proj,'v_proj']", "--target q_proj --target v_proj"),
        ("--target qproj", "did you mean q_proj?"),
        ("--field prompt=question,completion=reply", "--field prompt=question --field completion=reply"),
        ("--field question=prompt", "did you mean prompt=question?"),
        ("--field response=reply", "did you mean completion?"),
        ("--field question:prompt", "did you mean --field question=prompt?"),
        ("--device cuda", "did you mean gpu?"),
        ("--device cuda:0", "did you mean gpu?"),
        ("--device mps", "did you mean cpu?"),
        ("--dtype fp32", "did you mean float32?"),
        ("--dtype bf16", "did you mean float32?"),
        ("--dtype fp64", "did you mean float64?"),
        ("--init pissa", "did you mean w-svd?"),
        ("--init gaussian", "did you mean random?"),
        ("--schedule cosine_with_warmup", "did you mean cosine?"),
        ("--schedule constant_with_warmup", "did you mean constant?"),
        ("--profile official", "did you mean released?"),
        ("--switch center=true", "did you mean centre?"),
        ("--template alpcaa", "did you mean alpaca?"),
        ("--template chatml", "did you mean chat?"),
        ("--task SST-2", "did you mean sst2?"),
        ("--task arc_challenge", "did you mean arc?"),
        ("--task gsm8", "did you mean gsm8k?"),
    ],
)
def test_values_as_others_write_them(flags: str, said: str, folder: Path, run: Run) -> None:
    data = folder / ("text.jsonl" if "--field" in flags else "data")
    common = ("--data", data, "--out", folder / "x", "--samples", 2, "--warmup-ratio", 0)
    status, _, error = run("train", folder / "model", *common, *flags.split())
    assert status == 2 and said in error and error.count("\n") == 1 and not (folder / "x").exists(), error
