"""Generation: greedy or sampled, with a key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

import numpy as np

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.head import next_token_logits
from tlora_ref.transformer.inputs import padding_mask, positions_of, token_ids
from tlora_ref.transformer.sampling import Sampling

#: Told all tokens of a row, the prompt's too and padding left out: whether the last of them ends it.
Stop = Callable[[Sequence[int]], bool]


class Ends(Protocol):
    """What says where a text ends (every `Model` is one)."""

    @property
    def config(self) -> Any: ...
    def ends(self) -> tuple[int, ...]: ...


class Continues(Ends, Protocol):
    """What `generate` needs of a model (`CausalLM` is one)."""

    @property
    def horizon(self) -> int | None: ...
    def watching(self, names: Iterable[str] | None) -> Self: ...
    def hidden_states(
        self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None
    ) -> Tensor: ...
    def head(self) -> Callable[[Tensor], Tensor]: ...


def _left_padded(ids: Array, keep: Array | None) -> tuple[Array, Array | None]:
    """Each row rolled so that its padding comes first: the last column then holds every row's last token."""
    if keep is None:
        return ids, None
    order = np.argsort(keep, axis=1, kind="stable")  # padding first, tokens in their order
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(keep, order, axis=1)


def generate(
    model: Continues,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int = 64,
    seed: int | Sequence[int] = 0,
    eos_token_id: int | Sequence[int] | None = None,
    stop: Stop | None = None,
    use_cache: bool = True,
    cache: KeyValueCache | None = None,
    on_token: Callable[[list[int]], None] | None = None,
    **sampling: Any,
) -> Array:
    """Continue a prompt (tokens,) or a padded batch of prompts (batch, tokens).

    Parameters
    ----------
    seed : of the draws; or one a row, so that what a row gets does not depend on those beside it
    eos_token_id : one token or several, any of which ends a row; None for the checkpoint's (see `Model.ends`), -1 for
        none
    stop : ends a row after a token where it says so (`tlora_ref.data.StopStrings`)
    use_cache : False computes every step from the whole sequence, for checking
    cache : of an earlier call with this model and its adapter: the tokens that both begin with are not computed again.
        Without padding alone. It holds this call's afterwards
    on_token : called with each step's new tokens, one a row
    sampling : temperature, top_k, top_p, min_p, repetition_penalty, as `Sampling` has them; without any greedy

    Returns
    -------
    Host integers: the prompt and what follows it, as a 1-D array for a 1-D prompt, else (batch, longest) with padding
    moved to the left of the prompts and the first eos (without one, 0) filling rows that ended early.
    """
    ids = token_ids(input_ids, model.config.vocab_size)
    ids, keep = _left_padded(ids, padding_mask(attention_mask, ids))
    model = model.watching([])
    if cache is not None and (keep is not None or not use_cache):
        raise ConfigError("generate: the cache of an earlier call serves prompts without padding: leave it out")
    if use_cache:
        cache = _begun(model, cache or KeyValueCache(), ids, ids.shape[1] + max_new_tokens)
    eos = ending_tokens(model, eos_token_id)
    ids = continued(
        ids,
        lambda ids: _next_logits(model, ids, keep, cache),
        keep=keep,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(**sampling),
        seed=seed,
        eos=eos,
        stop=stop,
        filler=eos[0] if eos else 0,
        on_token=on_token,
    )
    return ids[0] if np.ndim(input_ids) == 1 else ids


def _begun(model: Continues, cache: KeyValueCache, ids: Array, capacity: int) -> KeyValueCache:
    """`cache` with room for `capacity` tokens and with what of it is right for the prompt `ids`."""
    if model.horizon is not None and max(cache.length, ids.shape[1]) > model.horizon:
        cache.restart()  # keys of sequences of another length
    cache.keep_beginning(ids, capacity)
    return cache


def ending_tokens(model: Ends, eos_token_id: int | Sequence[int] | None) -> tuple[int, ...]:
    """The tokens that end a row: the checkpoint's unless some are given; none of them for -1."""
    if eos_token_id is None:
        return model.ends()
    given = (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)
    return () if given == (-1,) else given


def continued(
    ids: Array,
    next_logits: Callable[[Array], Array],
    *,
    keep: Array | None,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int | Sequence[int],
    eos: tuple[int, ...],
    stop: Stop | None,
    filler: int,
    on_token: Callable[[list[int]], None] | None,
) -> Array:
    """`ids` (batch, tokens) and what follows: `next_logits` maps all ids so far to host logits (batch, vocab).

    keep : host booleans (batch, tokens), False at padding, or None
    eos, stop : any of them ends a row, which `filler` then fills; generation ends when all rows have
    """
    if max_new_tokens < 1:
        raise ConfigError(f"generate: max_new_tokens {max_new_tokens}: expected 1 or more")
    rngs = _generators(seed, len(ids))
    rows = [row.tolist() if keep is None else row[keep[i]].tolist() for i, row in enumerate(ids)]
    done = np.zeros(len(ids), dtype=bool)
    for _ in range(max_new_tokens):
        chosen = zip(next_logits(ids), rows, rngs, strict=True)
        new = np.array([sampling.next_token(logits, row, rng) for logits, row, rng in chosen])
        new[done] = filler
        for row, token in zip(rows, new, strict=True):
            row.append(int(token))
        done |= np.isin(new, eos)
        if stop is not None:
            done |= [ended or stop(row) for ended, row in zip(done, rows, strict=True)]
        ids = np.concatenate([ids, new[:, None]], axis=1)
        if on_token is not None:
            on_token([int(token) for token in new])
        if done.all():
            break
    return ids


def _generators(seed: int | Sequence[int], rows: int) -> list[np.random.Generator]:
    """One generator for all rows, which draw in turn; or one for each."""
    if not isinstance(seed, Sequence):
        return [np.random.default_rng(seed)] * rows
    if len(seed) != rows:
        raise ConfigError(f"generate: {len(seed)} seeds for {rows} prompts: expected one for all, or one for each")
    return [np.random.default_rng(own) for own in seed]


def _next_logits(model: Continues, ids: Array, prompt: Array | None, cache: KeyValueCache | None) -> Array:
    """Host logits (batch, vocab) after the last token; with a cache, only the tokens not yet in it are computed.

    prompt : host booleans (batch, prompt's tokens), False at padding: nothing after the prompt is padding
    """
    keep = None
    if prompt is not None:
        keep = np.pad(prompt, ((0, 0), (0, ids.shape[1] - prompt.shape[1])), constant_values=True)
    positions = positions_of(keep, ids.shape[1])
    longest = int(positions.max()) + 1
    seen = 0 if cache is None else cache.length
    if cache is not None and model.horizon is not None and longest - ids.shape[1] + seen <= model.horizon < longest:
        cache.restart()
        seen = 0
    positions = positions[:, seen:]
    hidden = model.hidden_states(ids[:, seen:], positions, keep, cache)
    if cache is not None:
        cache.advance(ids[:, seen:])
    return to_numpy(next_token_logits(model, hidden))
