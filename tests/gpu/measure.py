"""What a GPU does: `--versions`, `--compare` (every stage against NumPy), `--time` (against NumPy and torch eager).

    python -m tests.gpu.measure --time --shapes smollm2 llama-1b --out gpu.json

`--device cpu` measures the CPU in the GPU's place, to try this program out where there is none.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tlora_ref as tr
from tlora_ref.backend import get_device
from tlora_ref.data import encode_rows, load_dataset
from tlora_ref.method.singular import right_singular_vectors
from tlora_ref.training.loop import apply_gradients, step_batches, step_gradients
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.training.state import TrainState
from tlora_ref.transformer import family

ROOT = Path(__file__).resolve().parents[2]
#: config.json of the shapes that are timed; weights are random.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152},
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128256},
    "tiny": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 31},
}
RANK = 16


def versions(device: str) -> dict[str, Any]:
    """Python, the libraries, the device."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "tlora_ref": tr.__version__}
    xp = get_device(device).xp
    if xp is not np:
        properties = xp.cuda.runtime.getDeviceProperties(0)
        found |= {"cupy": xp.__version__, "device": properties["name"].decode()}
    return found


def compare(device: str) -> bool:
    """A golden trace on the CPU and the same run on the device, float64 and float32, by `tr.compare`."""
    model = ROOT / "models" / "tiny-math-llama"
    tokenizer = tr.load_tokenizer(model)
    samples = encode_rows(load_dataset(model / "task"), tokenizer, max_length=256)[0][:4]
    right = True
    with tempfile.TemporaryDirectory() as folder:
        golden = Path(folder) / "golden"
        tr.trace(tr.load_model(model), samples, golden, steps=3)
        for dtype in ("float64", "float32"):
            tr.trace(tr.load_model(model, dtype, device), samples, Path(folder) / dtype, steps=3)
            report = tr.compare(golden, Path(folder) / dtype, checkpoint=model)
            print(f"{dtype} on {device}: {'right' if report.passed else 'WRONG'}")
            for row in report.rows():
                print("  ", *row)
            right = right and report.passed
    return right


def timed(run: Callable[[], Any], wait: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of a call, the device waited for."""
    run()
    wait()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def ours(config: dict[str, Any], name: str, tokens: int) -> dict[str, float]:
    """Seconds of a training step, of calibration on one sample, and of one SVD, in float32."""
    device = get_device(name)
    config_class, model_class = family("llama")
    settings = config_class.from_dict(config)
    rng = np.random.default_rng(0)
    weights = {
        n: device.put(rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02))
        for n, shape in model_class.tensor_shapes(settings).items()
    }
    model = model_class(settings, weights)
    ids = rng.integers(0, config["vocab_size"], tokens).tolist()
    samples = [{"input_ids": ids, "labels": ids}] * 2
    wait = (lambda: None) if device.xp is np else device.xp.cuda.Device().synchronize
    shapes = model.shapes()
    seconds = {"calibration": timed(lambda: tr.calibrate(model, samples[:1]), wait, 3)}
    stats = tr.calibrate(model, samples[:1])
    name_of = max(shapes, key=lambda m: shapes[m][0] * shapes[m][1])
    M = model.weight(name_of) @ device.put(stats.covariance[name_of])
    seconds["svd"] = timed(lambda: right_singular_vectors(M, RANK), wait, 3)
    adapter = tr.initialize(model, stats, tr.allocate(stats.sensitivity, shapes, RANK, RANK), init="random")
    plan = tr.TrainSettings(batch_size=2, steps=100)
    state = TrainState.start(trained_arrays(model, adapter, plan))
    model.attach(adapter)
    (batch,) = next(iter(step_batches(samples, plan, 0, 100, 0)))

    def step() -> None:
        nonlocal state
        state = apply_gradients(state, step_gradients(model, state.arrays, [batch]), plan, 100)
        install(state.arrays, model, adapter)

    seconds["train step"] = timed(step, wait)
    return seconds


def torchs(config: dict[str, Any], device: str, tokens: int) -> dict[str, float]:
    """Seconds of torch eager with transformers and PEFT: the same step; forward and backward of one sample; the SVD."""
    import peft
    import torch
    import transformers

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    where = "cuda" if device == "gpu" else "cpu"
    wait = torch.cuda.synchronize if where == "cuda" else (lambda: None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(where)
    ids = torch.randint(0, config["vocab_size"], (2, tokens), device=where)
    seconds = {"calibration": timed(lambda: model(input_ids=ids[:1], labels=ids[:1]).loss.backward(), wait, 3)}
    model.zero_grad(set_to_none=True)
    W = max((p for n, p in model.named_parameters() if "proj" in n), key=lambda p: p.numel())
    seconds["svd"] = timed(lambda: torch.linalg.svd(W.detach(), full_matrices=False), wait, 3)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=linear))
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    adamw = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])

    def step() -> None:
        adamw.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        adamw.step()

    seconds["train step"] = timed(step, wait)
    return seconds


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--shapes", nargs="+", default=["smollm2", "llama-1b"], choices=sorted(SHAPES))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.versions:
        print(json.dumps(versions(given.device)))
    if given.compare and not compare(given.device):
        return 1
    table: dict[str, Any] = {}
    for shape in given.shapes if given.time else ():
        config = {"model_type": "llama", "max_position_embeddings": 2048, "tie_word_embeddings": True, **SHAPES[shape]}
        rows = {
            given.device: ours(config, given.device, given.tokens),
            "torch": torchs(config, given.device, given.tokens),
        }
        if shape != "llama-1b":  # minutes on a CPU
            rows["numpy"] = ours(config, "cpu", given.tokens)
        table[shape] = rows
        for what in ("train step", "calibration", "svd"):
            print(shape, what, {side: f"{seconds[what] * 1e3:.2f} ms" for side, seconds in rows.items()})
    if given.out is not None:
        given.out.write_text(json.dumps({"versions": versions(given.device), "seconds": table}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
