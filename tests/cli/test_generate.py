"""`generate`: the tokens are those of the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tlora_ref as tr
from tests.cli.conftest import Run


def test_generate_with_an_adapter_and_samples_by_seed(trained: Path, run: Run) -> None:
    adapter = trained / "run" / "adapter"
    common = ("generate", trained / "model", "--prompt", "w3 w4", "--max-new-tokens", 6)
    found = json.loads(run(*common, "--adapter", adapter, "--json")[1])
    model = tr.load_model(trained / "model")
    model.attach(tr.load_peft(adapter))
    assert found["tokens"] == model.generate([3, 4], max_new_tokens=6)[2:].tolist()
    drawn = [run(*common, "--temperature", 2.0, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    _, _, error = run(*common, "--max-new-tokens", 70)
    assert "beyond the model's context 64" in error


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--prompt", ""), "--prompt is empty"),
        (("--prompt", "w1", "--top-p", 0), "top_p 0"),
        (("--prompt", "w1", "--temperature", -1), "--temperature"),
        (("--prompt", "w1", "--chat"), "no chat template"),
        (("--prompt", "w1", "--adapter", "nowhere"), "nowhere: there is no such folder"),
    ],
)
def test_generate_refuses(folder: Path, run: Run, flags: tuple[object, ...], match: str) -> None:
    status, said, error = run("generate", folder / "model", *flags)
    assert status == 2 and match in error and said == ""


def test_the_tokenizers_chat_template(folder: Path, run: Run) -> None:
    config = {"chat_template": "{% for m in messages %}{{ m.content }} w9 {% endfor %}"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = json.loads(
        run("generate", folder / "model", "--prompt", "w3", "--chat", "--max-new-tokens", 3, "--json")[1]
    )
    assert found["tokens"] == tr.load_model(folder / "model").generate([3, 9], max_new_tokens=3)[2:].tolist()


def test_what_generation_config_asks_for_is_said_and_not_applied(folder: Path, run: Run) -> None:
    words = ("generate", folder / "model", "--prompt", "w1 w2", "--max-new-tokens", 4)
    plain = run(*words)
    file = folder / "model" / "generation_config.json"
    file.write_text('{"repetition_penalty": 9.5, "temperature": 0.2, "no_repeat_ngram_size": 2, "use_cache": true}')
    status, said, error = run(*words)
    assert status == 0 and said == plain[1] and "generation_config" not in plain[2]
    assert "asks for repetition_penalty 9.5, no_repeat_ngram_size 2; none" in error and "0.2" not in error
    assert "--repetition-penalty 9.5" in error
    assert "repetition_penalty" not in run(*words, "--repetition-penalty", 9.5)[2]
    file.write_text('{"do_sample": true, "temperature": 0.2, "top_p": 1.0}')
    assert "asks for temperature 0.2, do_sample True; none" in run(*words)[2]
    file.write_text("[")
    assert run(*words)[0] == 2
