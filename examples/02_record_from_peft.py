"""Records a PyTorch and PEFT run of TLoRA as a candidate's trace, to be verified against a golden one.

    tlora-ref trace MODEL --data DATA --rank 4 --alpha 4 --steps 3 --out GOLDEN
    python examples/02_record_from_peft.py MODEL GOLDEN CANDIDATE --dtype float32
    tlora-ref verify GOLDEN CANDIDATE --checkpoint MODEL

Needs torch, transformers and peft. Samples, batches and learning rates are the golden run's; everything else is
computed here: hooks on the modules gather C and S, `torch.linalg.svd` gives A, `torch.optim.AdamW` trains B inside
PEFT's modules. Replace a step by yours and see what `verify` says.

With --dtype float64 the verdict is "right as float32": transformers computes norms, softmax and rotary tables in
float32 whatever the weights are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from tlora_ref.oracle.format import Manifest, Trace, TraceWriter


def host(x: torch.Tensor) -> np.ndarray:
    """A tensor as NumPy knows it: bfloat16 goes by way of float32, exactly."""
    return x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32).cpu().numpy()


def calibrate(model: Any, gold: Trace, writer: TraceWriter) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Lines 4 to 11 of Algorithm 1: C and S of every module, one sample at a time."""
    modules = {name: model.get_submodule(name) for name in gold.shapes}
    wide = torch.promote_types(model.dtype, torch.float32)  # sums are kept in float32 at least
    C = {name: torch.zeros(d_in, d_in, dtype=wide) for name, (_, d_in) in gold.shapes.items()}
    S = dict.fromkeys(modules, 0.0)

    def add(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            X = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).to(wide)  # (T_n, d_in)
            C[name] += X.T @ X

        return hook

    hooks = [module.register_forward_hook(add(name)) for name, module in modules.items()]
    samples = gold.numbered("sample", "input_ids")
    for n in samples:
        ids, labels = (torch.as_tensor(gold.get(f"sample/{n}/{what}"))[None] for what in ("input_ids", "labels"))
        model.zero_grad()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        writer.add(f"sample/{n}/loss", np.float64(loss.item()))
        for name, module in modules.items():
            S[name] += (module.weight * module.weight.grad).abs().mean(dtype=wide).item() / len(samples)
    for hook in hooks:
        hook.remove()
    for name in modules:
        C[name] /= len(samples)
        writer.add(f"covariance/{name}", host(C[name]))
        writer.add(f"sensitivity/{name}", np.float64(S[name]))
    return C, S


def allocate(S: dict[str, float], gold: Trace, writer: TraceWriter) -> tuple[dict[str, int], dict[str, float]]:
    """Lines 12 to 15: ranks (Eq. 6) and scales (Eq. 7)."""
    r_init, alpha, total = gold.manifest.r_init, gold.manifest.alpha, sum(S.values())
    rank = {name: min(round(len(S) * r_init * s / total), *gold.shapes[name]) for name, s in S.items()}
    scale = {name: alpha / r_init * s / (total / len(S)) for name, s in S.items()}
    for name in S:
        writer.add(f"rank/{name}", np.int64(rank[name]))
        writer.add(f"scale/{name}", np.float64(scale[name]))
    return rank, scale


def adapt(
    model: Any, C: dict[str, torch.Tensor], rank: dict[str, int], scale: dict[str, float], writer: TraceWriter
) -> Any:
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
        A = torch.linalg.svd(module.weight.detach().to(C[name].dtype) @ C[name])[2][: rank[name]]
        module.lora_A["default"].weight.data.copy_(A)
        module.lora_A["default"].weight.requires_grad_(False)
        writer.add(f"A/{name}", host(module.lora_A["default"].weight))
    return adapted


def train(adapted: Any, gold: Trace, writer: TraceWriter) -> None:
    """The golden batches, by torch's AdamW over every B; then the merged weights."""
    modules = {n: adapted.base_model.model.get_submodule(n) for n in gold.shapes}
    B = {n: m.lora_B["default"].weight for n, m in modules.items() if hasattr(m, "lora_B")}
    adamw = torch.optim.AdamW(B.values(), lr=1.0, weight_decay=gold.manifest.train["weight_decay"])
    rates = gold.get("train/lr") if gold.has("train/lr") else []
    losses = []
    for t, rate in enumerate(rates, start=1):
        batch = {n: torch.as_tensor(gold.get(f"train/{t}/{n}")) for n in ("input_ids", "labels", "attention_mask")}
        adamw.zero_grad()
        loss = adapted(**batch).loss
        loss.backward()
        losses.append(loss.item())
        for name in B:
            writer.add(f"train/{t}/grad_B/{name}", host(B[name].grad))
        adamw.param_groups[0]["lr"] = float(rate)
        adamw.step()
        for name, weight in B.items():
            writer.add(f"train/{t}/B/{name}", host(weight))
            for kind in ("exp_avg", "exp_avg_sq"):
                writer.add(f"train/{t}/{kind}/{name}", host(adamw.state[weight][kind]))
    writer.add("train/loss", np.array(losses))
    writer.add("train/lr", np.asarray(rates))
    for name in B:
        delta = modules[name].get_delta_weight("default")
        writer.add(f"merged/{name}", host(modules[name].weight + delta))


def main(model_folder: Path, golden: Path, candidate: Path, dtype: str) -> None:
    """The whole run, written to `candidate`."""
    gold = Trace(golden)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()
    facts = gold.manifest
    writer = TraceWriter(Manifest(modules=facts.modules, r_init=facts.r_init, alpha=facts.alpha, dtype=dtype))
    C, S = calibrate(model, gold, writer)
    rank, scale = allocate(S, gold, writer)
    train(adapt(model, C, rank, scale, writer), gold, writer)
    writer.write(candidate, overwrite=True)
    print(f"{candidate}: {len(writer.tensors)} quantities in {dtype}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("candidate", type=Path)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16"))
    given = parser.parse_args()
    main(given.model, given.golden, given.candidate, given.dtype)
