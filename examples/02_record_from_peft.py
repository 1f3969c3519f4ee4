"""A PyTorch and PEFT run of TLoRA, recorded as a candidate's trace by five lines in `main`.

    tlora-ref trace MODEL --data DATA --rank 4 --alpha 4 --steps 3 --out GOLDEN
    python examples/02_record_from_peft.py MODEL GOLDEN CANDIDATE --dtype float32
    tlora-ref verify GOLDEN CANDIDATE --checkpoint MODEL

Needs torch, transformers and peft. Samples, batches and learning rates are the golden run's; everything else is
computed here: hooks gather C, `torch.linalg.svd` gives A, `torch.optim.AdamW` trains B inside PEFT's modules. The
recorder watches from outside. Replace a step by yours and see what `verify` says.

With --dtype float64 the verdict is "right as float32": transformers computes norms, softmax and rotary tables in
float32 whatever the weights are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from tlora_ref.oracle.recorder import Recorder

Tensors = dict[str, torch.Tensor]


def matrix(module: Any) -> torch.Tensor:
    """The weight as (d_out, d_in): Conv1D keeps its transpose."""
    return module.weight.T if isinstance(module, transformers.pytorch_utils.Conv1D) else module.weight


def calibrate(model: Any, names: list[str], samples: Iterable[dict[str, Any]]) -> tuple[Tensors, dict[str, float]]:
    """Lines 4 to 11 of Algorithm 1: C and S of every module, one sample at a time."""
    modules = {name: model.get_submodule(name) for name in names}
    wide = torch.promote_types(model.dtype, torch.float32)  # sums are kept in float32 at least
    C = {name: torch.zeros((matrix(m).shape[1],) * 2, dtype=wide) for name, m in modules.items()}
    S = dict.fromkeys(names, 0.0)
    counting = True  # gradient checkpointing makes forward passes again

    def add(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if counting:
                X = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).to(wide)  # (T_n, d_in)
                C[name] += X.T @ X

        return hook

    hooks = [module.register_forward_hook(add(name)) for name, module in modules.items()]
    N = 0
    for sample in samples:
        model.zero_grad()
        counting = True
        loss = model(**{name: torch.as_tensor(x) for name, x in sample.items()}).loss
        counting = False
        loss.backward()
        for name, module in modules.items():
            S[name] += (module.weight * module.weight.grad).abs().mean(dtype=wide).item()
        N += 1
    for hook in hooks:
        hook.remove()
    return {name: C[name] / N for name in names}, {name: S[name] / N for name in names}


def allocate(
    S: dict[str, float], shapes: dict[str, tuple[int, int]], r_init: int, alpha: float
) -> tuple[dict[str, int], dict[str, float]]:
    """Lines 12 to 15: ranks (Eq. 6) and scales (Eq. 7)."""
    total = sum(S.values())
    rank = {name: min(round(len(S) * r_init * s / total), *shapes[name]) for name, s in S.items()}
    return rank, {name: alpha / r_init * s / (total / len(S)) for name, s in S.items()}


def adapt(model: Any, C: Tensors, rank: dict[str, int], scale: dict[str, float]) -> Any:
    """Lines 16 and 17: PEFT's modules, with A from the SVD of W C and frozen, B zero."""
    kept = [name for name in rank if rank[name] > 0]
    config = peft.LoraConfig(
        target_modules=kept,
        rank_pattern={name: rank[name] for name in kept},
        alpha_pattern={name: scale[name] * rank[name] for name in kept},  # PEFT divides by the rank
    )
    adapted = peft.get_peft_model(model, config)
    for name in kept:
        module = adapted.base_model.model.get_submodule(name)
        A = torch.linalg.svd(matrix(module.base_layer).detach().to(C[name].dtype) @ C[name])[2][: rank[name]]
        module.lora_A["default"].weight.data.copy_(A)
        module.lora_A["default"].weight.requires_grad_(False)
    return adapted


def train(adapted: Any, optimizer: Any, batches: Iterable[tuple[int, float, dict[str, Any]]]) -> None:
    """The golden batches, by torch's AdamW over every B."""
    for _, rate, batch in batches:
        optimizer.zero_grad()
        adapted(**{name: torch.as_tensor(x) for name, x in batch.items()}).loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def main(model_folder: Path, golden: Path, candidate: Path, dtype: str, architecture: str, attention: str) -> None:
    """The whole run, written to `candidate`."""
    model = getattr(transformers, architecture).from_pretrained(
        model_folder, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    model.eval()
    recorder = Recorder(golden)
    facts, shapes = recorder.golden.manifest, recorder.golden.shapes
    with recorder.calibration(model):
        C, S = calibrate(model, list(shapes), recorder.samples())
    rank, scale = allocate(S, shapes, facts.r_init, facts.alpha)
    recorder.add(covariance=C, sensitivity=S, rank=rank, scale=scale)
    adapted = adapt(model, C, rank, scale)
    B = [weight for name, weight in adapted.named_parameters() if ".lora_B." in name]
    optimizer = torch.optim.AdamW(B, lr=1.0, weight_decay=facts.train["weight_decay"])
    with recorder.training(adapted, optimizer):
        train(adapted, optimizer, recorder.batches())
    recorder.write(candidate, merged=adapted.merge_and_unload(), overwrite=True)
    print(f"{candidate}: {len(recorder.writer.tensors)} quantities in {dtype}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16"))
    parser.add_argument("--architecture", default="AutoModelForCausalLM", help="a class of transformers")
    parser.add_argument("--attention", default="eager", choices=("eager", "sdpa"))
    given = parser.parse_args()
    main(given.model, given.golden, given.candidate, given.dtype, given.architecture, given.attention)
