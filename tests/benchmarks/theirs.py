"""The same rows by PyTorch, transformers and PEFT, as their users write them (default threads)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.benchmarks.cases import LAYERS, NEW_TOKENS, Case, inputs

Work = Callable[[], float]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def prepare(case: Case, folder: Path, device: str = "cpu", compiled: bool = False) -> Work:
    """The work of `case` on the model in `folder`, ready to be timed. `device` is the library's: "cpu" or "gpu";
    `compiled`: through torch.compile, for what COMPILED names."""
    where = "cuda" if device == "gpu" else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).to(where)
    if compiled:
        model.forward = torch.compile(model.forward, dynamic=False)
    model.config.use_cache = case.row == "decode"
    ids = torch.from_numpy(inputs(case, model.config.vocab_size)).to(where)
    return {
        "forward": forward,
        "train step": train_step,
        "calibration": calibration,
        "initialisation": initialisation,
        "decode": decode,
    }[case.row](model, folder / "adapter", ids)


def wait_for(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device == "gpu":
        torch.cuda.synchronize()


def _adapted(model: Any, adapter: Path) -> Any:
    adapted = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    return adapted


def forward(model: Any, adapter: Path, ids: Any) -> Work:
    adapted = _adapted(model, adapter).eval()

    def loss() -> float:
        with torch.no_grad():
            return float(adapted(input_ids=ids, labels=ids).loss)

    return loss


def train_step(model: Any, adapter: Path, ids: Any) -> Work:
    adapted = _adapted(model, adapter).train()
    adamw = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)

    def step() -> float:
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        adamw.step()
        adamw.zero_grad()
        return float(loss.detach())

    return step


def _targets(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if name.endswith(LINEARS)}


def calibration(model: Any, adapter: Path, ids: Any) -> Work:
    """A hook a module adds X^T X; after each sample's backward pass mean|W * dW|: the sum of the losses."""
    targets = _targets(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in targets)

    covariance: dict[str, Any] = {}
    for name, module in targets.items():

        def observe(module: Any, args: Any, output: Any, name: str = name) -> None:
            X = args[0].detach().flatten(0, 1)
            covariance[name] = covariance[name] + X.T @ X if name in covariance else X.T @ X

        module.register_forward_hook(observe)

    def samples() -> float:
        covariance.clear()
        sensitivity, total = dict.fromkeys(targets, 0.0), 0.0
        for row in ids:
            loss = model(input_ids=row[None], labels=row[None]).loss
            loss.backward()
            for name, module in targets.items():
                sensitivity[name] += (module.weight * module.weight.grad).abs().mean().item()
            model.zero_grad()
            total += float(loss.detach())
        return total

    return samples


def initialisation(model: Any, adapter: Path, ids: Any) -> Work:
    """The SVD as the released code calls it: float32, full matrices."""
    covariance: dict[str, Any] = {}
    targets = {name: module for name, module in _targets(model).items() if int(name.split(".")[2]) < LAYERS}
    for name, module in targets.items():

        def observe(module: Any, args: Any, output: Any, name: str = name) -> None:
            X = args[0].flatten(0, 1)
            covariance[name] = X.T @ X

        module.register_forward_hook(observe)

    @torch.no_grad()
    def layer() -> float:
        return float(
            sum(torch.linalg.svd(m.weight @ covariance[n], full_matrices=True)[1][0] for n, m in targets.items())
        )

    with torch.no_grad():
        model(input_ids=ids[:1])
    return layer


def decode(model: Any, adapter: Path, ids: Any) -> Work:
    model.generation_config.pad_token_id = 0

    def tokens() -> float:
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
        )
        return float(made[:, ids.shape[1] :].sum())

    return tokens
