"""The model class that lm-evaluation-harness asks: likelihoods of tokens, and greedy or sampled continuations.

Importing this file registers it under the name `tlora_ref`. Texts become tokens as its `hf` class makes them, so that
both give the same figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from scipy.special import log_softmax

from tlora_ref.backend import Array, to_numpy
from tlora_ref.data import load_tokenizer, pad_batch, sample_form
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.pipeline import Responder, load_adapted

#: Arguments of generation that change nothing here, or are read elsewhere.
READ = ("until", "max_gen_toks", "do_sample")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
#: Context of a model that names none, as lm-eval has it.
CONTEXT = 2048

Ids = list[int]
#: A request that is being scored: its texts, and the tokens of either.
Pair = tuple[Any, Ids, Ids]


@register_model("tlora_ref")
class HarnessModel(TemplateLM):
    """A causal model of this library, with an adapter or without.

    Parameters
    ----------
    pretrained, adapter : folders of the model and of an adapter
    dtype, hold, device : as `load_model` has them
    batch_size : requests that are computed together; they change what is computed by rounding alone
    max_length : the longest sequence in tokens; None for the model's context
    max_gen_toks : the longest response, where a task says nothing
    seed : of the draws, where a task samples

    Raises
    ------
    ConfigError, CheckpointError, ShapeError
        for an argument that is not known, a model that is not causal, or a damaged folder.
    """

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        dtype: str | None = "float32",
        hold: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        known = ("pretrained", "adapter", "dtype", "hold", "device", "batch_size", "max_length", "max_gen_toks", "seed")
        for name in unknown:
            hint = did_you_mean(name, known, {"peft": "adapter", "model": "pretrained"})
            raise ConfigError(f"model_args: {name} is not known, expected some of {', '.join(known)}{hint}")
        if not str(batch_size).isdigit() or int(str(batch_size)) < 1:
            raise ConfigError(f"batch_size is {batch_size}: expected a number of 1 or more (auto is not known here)")
        self.model, _ = load_adapted(pretrained, adapter, dtype, device or "cpu", hold=hold)
        if sample_form(self.model) != "causal":
            raise ConfigError(f"{pretrained}: a {self.model.config.model_type} model; only causal models are scored")
        self.tokenizer = load_tokenizer(pretrained)
        self.pretrained, self.batch_size, self.seed = str(pretrained), int(str(batch_size)), int(seed)
        self.max_length = int(max_length or self.model.context or CONTEXT)
        self.max_gen_toks = int(max_gen_toks)

    # ------------------------------------------------------------------ tokens
    @property
    def tokenizer_name(self) -> str:
        return self.pretrained.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        token = self.tokenizer.eos_token_id
        if token is None:
            raise ConfigError(f"{self.pretrained}: the tokenizer names no end token to begin a text with")
        return token

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Ids:
        """Tokens of a text, with what the tokenizer puts around one, unless its begin token stands there already."""
        if add_special_tokens is None:
            add_special_tokens = self.tokenizer.bos_token is None or not string.startswith(self.tokenizer.bos_token)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt's text by the checkpoint's chat template."""
        return self.tokenizer.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)

    # ------------------------------------------------------------------ likelihoods
    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """(the log likelihood of the continuation, whether each of its tokens is the likeliest) for each request."""
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        found: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(requests), self.batch_size):
            numbers = longest_first[start : start + self.batch_size]
            for number, answer in zip(numbers, self._scored([requests[i] for i in numbers]), strict=True):
                found[number] = answer
                self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return [found[i] for i in range(len(requests))]

    def _scored(self, requests: Sequence[Pair]) -> list[tuple[float, bool]]:
        rows = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        samples = [{"input_ids": np.array(row[:-1]), "labels": np.array(row[:-1])} for row in rows]
        batch = pad_batch(samples, self.model.config.pad_token_id or 0)
        found = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        logits = to_numpy(found.logits)  # (rows, tokens, V)
        return [
            self._answer(own[: len(row) - 1], row, len(continuation))
            for own, row, (_, _, continuation) in zip(logits, rows, requests, strict=True)
        ]

    def _answer(self, logits: Array, row: Ids, scored: int) -> tuple[float, bool]:
        """Of the last `scored` tokens of a row, from the logits before each."""
        scored = min(scored, len(row) - 1)
        if scored == 0:
            return 0.0, True
        tokens = np.array(row[-scored:])
        log_p = log_softmax(logits[-scored:].astype(np.float64), axis=-1)  # (scored, V)
        likeliest = bool((log_p.argmax(axis=-1) == tokens).all())
        return float(log_p[np.arange(scored), tokens].sum()), likeliest

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log likelihood of whole texts, in windows of the context, each token scored once."""
        found = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            answers = [answer for start in range(0, len(pairs), self.batch_size)
                       for answer in self._scored(pairs[start : start + self.batch_size])]  # fmt: skip
            found.append(sum(loglikelihood for loglikelihood, _ in answers))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    # ------------------------------------------------------------------ texts
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string, requests of the same arguments together."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        found: dict[int, str] = {}
        for numbers in groups.values():
            arguments = normalize_gen_kwargs(requests[numbers[0]].args[1], self.max_gen_toks)
            texts = self._generated([requests[i].args[0] for i in numbers], arguments)
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return [found[i] for i in range(len(requests))]

    def _generated(self, contexts: Sequence[str], arguments: dict[str, Any]) -> list[str]:
        useless = sorted(set(arguments) - {*READ, *SAMPLING})
        if useless:
            raise ConfigError(f"generation_kwargs: {', '.join(useless)} is not known, expected {', '.join(SAMPLING)}")
        longest = arguments["max_gen_toks"]
        if longest >= self.max_length:
            raise ConfigError(f"max_gen_toks {longest} leaves no room in the context of {self.max_length} tokens")
        sampling = {name: arguments[name] for name in SAMPLING if name in arguments} if arguments["do_sample"] else {}
        stops = [stop for stop in arguments.get("until", []) if stop]
        responder = Responder(self.model, self.tokenizer, longest, stops, sampling, self.seed, within_context=False)
        prompts = [self.tok_encode(context)[-(self.max_length - longest) :] for context in contexts]
        return [response.text for response in responder.respond_to_all(prompts, batch_size=self.batch_size)]
