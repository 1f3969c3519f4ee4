"""Where a prompt ends and its response begins, in tokens."""

from __future__ import annotations

from tlora_ref.data.tokenizer import Tokenizer


def joined(tokenizer: Tokenizer, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the response that follows it.

    Where the tokens of the whole text have a boundary at the seam, they are taken: a model that reads the text sees
    these. Where one token lies across the seam ("a = " and "b": the blank belongs to "b"), the prompt keeps the tokens
    that it has alone, as in generation, and the response follows without the blank that a tokenizer like Llama-2's puts
    before a text.
    """
    alone = tokenizer.encode(prompt)
    ids, offsets = tokenizer.encode_with_offsets(prompt + response)
    if ids[: len(alone)] == alone:
        return alone, ids[len(alone) :]
    seam = len(prompt)
    count = next((i for i, (_, end) in enumerate(offsets) if end > seam), len(ids))
    if all(start >= seam for start, _ in offsets[count:]) and _stays(tokenizer, prompt, prompt + response):
        return ids[:count], ids[count:]
    return alone, tokenizer.encode_continuation(response)


def _stays(tokenizer: Tokenizer, prompt: str, whole: str) -> bool:
    """Normalising changes nothing across the seam (an accent in the response may join a letter of the prompt)."""
    normalizer = tokenizer.backend.normalizer
    return normalizer is None or normalizer.normalize_str(whole).startswith(normalizer.normalize_str(prompt))
