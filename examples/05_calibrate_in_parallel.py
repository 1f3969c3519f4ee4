"""Calibrate in processes, on a Dask cluster, and layer by layer: the same adapter each time, bit for bit.

python examples/05_calibrate_in_parallel.py [--dask]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as many BLAS threads everywhere: sums then add up in one order

import numpy as np

import tlora_ref as tr
from tlora_ref.data import encode_rows, load_dataset
from tlora_ref.transformer import Model

MODEL = Path(__file__).resolve().parents[1] / "models" / "tiny-math-llama"
RANK = 8


@contextmanager
def dask_workers() -> Iterator[Executor]:
    """Two workers on this machine. A real cluster differs in one line: Client("tcp://scheduler:8786"); its machines
    need a folder that all of them see, given as `scratch`."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client.get_executor(retries=2)  # a worker that dies costs its block's time, no more


def adapted(model: Model, stats: tr.CalibrationStats) -> tr.Adapter:
    """Alg. 1, lines 12 to 17."""
    return tr.initialize(model, stats, tr.allocate(stats.sensitivity, stats.shapes, RANK, RANK))


def layer_by_layer(model: Model, samples: list[dict[str, object]], folder: Path) -> tr.Adapter:
    """For a model whose covariances do not fit into memory together: one layer's at a time, left in files."""
    sensitivity: dict[str, float] = {}
    files = []
    for layer in range(model.config.num_hidden_layers):
        stats = tr.calibrate(model, samples, targets=rf"model\.layers\.{layer}\..*_proj")
        files.append(folder / f"{layer}.safetensors")
        stats.save(files[-1])
        sensitivity |= stats.sensitivity
    plan = tr.allocate(sensitivity, model.shapes(), RANK, RANK)
    whole: tr.Adapter | None = None
    for file in files:
        stats = tr.CalibrationStats.load(file)
        part = tr.initialize(model, stats, plan, modules=stats.shapes)
        if whole is None:
            whole = part
        for name in ("A", "B", "scale", "sigma"):
            getattr(whole, name).update(getattr(part, name))
    assert whole is not None
    return whole


def main() -> None:
    """Calibrate every way and compare the adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dask", action="store_true", help="on a Dask cluster too (pip install 'tlora-ref[dask]')")
    options = parser.parse_args()
    model, tokenizer = tr.load_model(MODEL), tr.load_tokenizer(MODEL)
    samples = encode_rows(load_dataset(MODEL / "task"), tokenizer, max_length=128)[0][:32]

    adapters = {"in this process": adapted(model, tr.calibrate(model, samples))}
    with ProcessPoolExecutor(2) as executor:
        adapters["in two processes"] = adapted(model, tr.calibrate(model, samples, executor=executor))
    if options.dask:
        with dask_workers() as executor:
            adapters["on a Dask cluster"] = adapted(model, tr.calibrate(model, samples, executor=executor))
    with tempfile.TemporaryDirectory() as folder:
        adapters["layer by layer"] = layer_by_layer(model, samples, Path(folder))

    first = adapters["in this process"]
    for how, adapter in adapters.items():
        same = all(np.array_equal(adapter.A[module], first.A[module]) for module in first.A)
        print(f"{how}: ranks {sum(len(A) for A in adapter.A.values())}, {'the same bits' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
