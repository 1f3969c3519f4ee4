"""A config.json with every key that transformers writes is read, and means the same from each of its versions.

`configs/` holds what `CONFIG_MAPPING[family]().to_dict()` gave in transformers 4.30.2 and 4.57.1: all families that
this library has or may come to have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_llama
from tlora_ref.errors import ConfigError
from tlora_ref.transformer import FAMILIES

RECORDED = {
    version: json.loads((Path(__file__).parent / "configs" / f"transformers-{version}.json").read_text())
    for version in ("4.30.2", "4.57.1")
}
LLAMA = RECORDED["4.57.1"]["llama"]
#: What a family's default is not, and its models here must be: without experts and without Mamba.
NOT_BY_DEFAULT: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {"num_local_experts": 0, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
}


def read(values: dict[str, Any]) -> Any:
    return FAMILIES[values["model_type"]][0].from_dict(values)


@pytest.mark.parametrize(("version", "family"), [(v, f) for v, found in RECORDED.items() for f in found])
def test_defaults_of_transformers_4(version: str, family: str) -> None:
    if family not in FAMILIES:
        pytest.skip(f"{family} is not implemented")
    config = read(RECORDED[version][family])
    assert config.model_type == family and read(config.to_dict()) == config


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_of_transformers_5_mean_the_same(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    values = transformers.AutoConfig.for_model(family, **NOT_BY_DEFAULT.get(family, {})).to_dict()
    now = read(json.loads(json.dumps(values)))
    assert transformers.AutoConfig.for_model(**now.to_dict()).to_dict().keys() >= values.keys() - {"rope_parameters"}
    before = RECORDED["4.57.1"].get(family)
    assert before is None or read(before) == now


@pytest.mark.parametrize(
    "more",
    [
        {"max_sequence_length": 128},  # the first Llamas
        {"quantization_config": None},
        {"is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": {}, "tie_encoder_decoder": False},
        {"attention_window": None, "made_up": None},  # null asks for nothing
        {"unsloth_version": "2025.1", "unsloth_fixed": True, "_commit_hash": "abc", "transformers.js_config": {"a": 1}},
        {"model_max_length": 4096, "tokenizer_padding_side": "left", "neftune_noise_alpha": 5},
        {"max_new_tokens": 20, "min_p": 0.1, "stop_strings": ["x"], "guidance_scale": 2.0},
        {"sbert_ce_default_activation_function": "torch.nn.Identity", "sentence_transformers": {"version": "4"}},
    ],
)
def test_keys_that_change_nothing(more: dict[str, Any]) -> None:
    assert read({**LLAMA, **more}) == read(LLAMA)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"is_encoder_decoder": True}, '"is_encoder_decoder" is True'),
        ({"add_cross_attention": True}, '"add_cross_attention" is True'),
        ({"pruned_heads": {"0": [1]}}, '"pruned_heads"'),
        ({"tie_encoder_decoder": True}, '"tie_encoder_decoder"'),
        ({"attn_logit_softcapping": 50.0}, "unknown key.s. attn_logit_softcapping: they may change"),
        ({"rms_norm_epsilon": 1e-5}, 'by "rms_norm_epsilon" rms_norm_eps may be meant'),
        ({"quantization_config": {"bits": 4}}, "quantised"),
    ],
)
def test_keys_that_may_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read({**LLAMA, **more})


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_a_length_beside_rope_types_that_do_not_read_it(kind: str) -> None:
    plain = {"rope_type": kind, "factor": 2.0}
    ids = np.arange(30)
    logits = [
        tiny_llama(max_position_embeddings=24, rope_scaling=scaling)(ids).logits
        for scaling in (plain, {**plain, "original_max_position_embeddings": 16})
    ]
    assert np.array_equal(*logits)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_transformers_does_not_read_that_length_either(kind: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    ids, logits = torch.arange(30)[None], []
    for more in ({}, {"original_max_position_embeddings": 16}):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            **{"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "max_position_embeddings": 24},
            rope_parameters={"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0, **more},
        )
        with torch.no_grad():
            logits.append(transformers.LlamaForCausalLM(config).eval()(input_ids=ids).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 2**40),
        ("num_hidden_layers", 10**9),
        ("vocab_size", 10**30),
        ("head_dim", 2**30),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", 10**400),
        ("rope_theta", float("inf")),
        ("vocab_size", float("inf")),
        ("num_attention_heads", 2.5),
        ("pad_token_id", 10**30),
        ("eos_token_id", [1, {}]),
        ("hidden_act", {}),
        ("rope_scaling", {"rope_type": {}, "factor": 2.0}),
        ("rope_scaling", {"rope_type": "linear", "factor": float("nan")}),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0, "\ud800": 1}),
        ("architectures", [{}]),
        ("architectures", {}),
        ("\ud800", 1),
    ],
)
def test_numbers_and_kinds_that_no_model_has(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read({**LLAMA, key: value})
    assert str(caught.value).encode("ascii")  # any terminal can print it
