"""Which tensors a run trains beside its adapter, and what is said of a name that is none."""

from __future__ import annotations

import re

import pytest

from tests.tiny import tiny_llama
from tlora_ref.errors import ConfigError
from tlora_ref.training.parameters import whole_tensors


@pytest.mark.parametrize(
    ("tied", "name", "said"),
    [
        (True, "lm_head", "is tied to model.embed_tokens.weight: name that"),
        (True, "lm_head.weight", "is tied to model.embed_tokens.weight: name that"),
        (False, "embed_tokens", "It has, for one, model.embed_tokens.weight"),
        (False, "lm_heat", "It has, for one, lm_head.weight"),
    ],
)
def test_a_name_that_is_not_there_is_told_which_is_meant(tied: bool, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        whole_tensors(tiny_llama(tie_word_embeddings=tied), [name])
