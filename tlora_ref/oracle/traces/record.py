"""Records a whole run as a golden trace: calibration, allocation, initialisation, training, merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter, Plan, allocate, initialize
from tlora_ref.autograd import grad
from tlora_ref.backend import Array
from tlora_ref.calibration import CalibrationStats, add_samples, sample_inputs
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.method.switches import Switches, resolve
from tlora_ref.oracle.traces.digests import samples_digest, weights_digest
from tlora_ref.oracle.traces.manifest import Manifest
from tlora_ref.oracle.traces.names import SAMPLE_FIELDS
from tlora_ref.oracle.traces.noise import Noise
from tlora_ref.oracle.traces.replay import module_inputs
from tlora_ref.oracle.traces.writer import TraceWriter
from tlora_ref.provenance import provenance
from tlora_ref.training import TrainSettings
from tlora_ref.training.loop import apply_gradients, step_batches, step_gradients
from tlora_ref.training.parameters import install, trained_arrays
from tlora_ref.training.state import TrainState
from tlora_ref.transformer import Model

STAGES = ("calibration", "allocation", "initialization", "training", "merge")
EXTRAS = ("inputs", "gradients", "logits", "weights")


def trace(
    model: Model,
    samples: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    profile: str | Switches = "paper",
    r_init: int = 8,
    alpha: float | None = None,
    steps: int = 5,
    stages: Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    init: str = "wc-svd",
    seed: int = 42,
    adapt_rank: bool = True,
    adapt_scale: bool = True,
    uniform_scale: str = "alpha/r_init",
    settings: TrainSettings | None = None,
    noise: bool = True,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Manifest:
    """Run the method on `samples` and write every intermediate quantity to `folder`, as FORMAT.md names them.

    Parameters
    ----------
    samples : {"input_ids", "labels"}, 1-D: they calibrate, and train in the settings' order
    stages : some of STAGES (each needs those before it; training may be left out before merge), and of EXTRAS, which
        add large tensors: the inputs of every module, the gradients of every weight, the logits, the targets' weights
    init, adapt_rank, adapt_scale, uniform_scale : as `initialize` and `allocate` have them, for the ablations; with
        the switch freeze_A off as well, A is trained: traces/README.md has the rows of Table 4
    settings, changes : a TrainSettings, or its fields by keyword (schedule=..., max_grad_norm=..., betas=..., ...);
        `steps` and "B" or "AB" (by the profile) replace its own. By default a constant learning rate of 1e-2 and one
        sample a step
    noise : run again in float32 and in bfloat16, and note how far those are away, so that a candidate in one of them
        can be judged (only for a float64 run on the CPU)
    facts : further fields of the manifest (`command`, `checkpoint`, `data`)

    Returns
    -------
    the manifest; the same call on the same machine writes the same bytes
    """
    wanted = _checked(stages, samples)
    switches = resolve(profile)
    training = _settings(settings, switches, seed, {**changes, "steps": steps})
    model.detach()
    said = {"r_init": r_init, "alpha": float(r_init if alpha is None else alpha), "stages": list(wanted)}
    said |= {"init": init, "seed": seed, **dict(facts or {})}
    said |= {"adapt_rank": adapt_rank, "adapt_scale": adapt_scale, "uniform_scale": uniform_scale}
    manifest = _manifest(model, model.shapes(targets), switches, samples, said)
    run = _Recording(model, manifest, TraceWriter(manifest), set(wanted))
    run.all(samples, training, noise and model.dtype == np.float64 and model.device.name == "cpu")
    run.writer.write(folder, overwrite=overwrite)
    return manifest


def _manifest(
    model: Model,
    shapes: Mapping[str, tuple[int, int]],
    switches: Switches,
    samples: Sequence[Mapping[str, Any]],
    said: dict[str, Any],
) -> Manifest:
    """What identifies the run: the modules, the profile, the weights and the samples by digest, the versions."""
    manifest = Manifest(
        modules=[{"name": m, "d_out": o, "d_in": i} for m, (o, i) in shapes.items()],
        profile=switches.name,
        dtype=str(model.dtype),
        switches=switches.to_dict(),
        samples=len(samples),
        versions=provenance(),
        **said,
    )
    manifest.checkpoint = {"tensors_sha256": weights_digest(model.tensors), **manifest.checkpoint}
    manifest.data = {"samples_sha256": samples_digest(samples), **manifest.data}
    return manifest


def _checked(stages: Sequence[str] | None, samples: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The stages in order, the ones that others need included in what is asked for; there are samples."""
    if not samples:
        raise DataError("there are no samples to trace: give at least one")
    given = STAGES if stages is None else tuple(stages)
    unknown = [s for s in given if s not in STAGES + EXTRAS]
    if unknown:
        raise ConfigError(f"stages: {', '.join(unknown)} unknown: expected some of {', '.join(STAGES + EXTRAS)}")
    needs = {"initialization": "allocation", "training": "initialization", "merge": "initialization"}
    for stage, before in needs.items():
        if stage in given and before not in given:
            raise ConfigError(f"stages: {stage} needs {before}: name it as well")
    return tuple(s for s in STAGES + EXTRAS if s in given or s == "calibration")


def _settings(given: TrainSettings | None, switches: Switches, seed: int, changes: Mapping[str, Any]) -> TrainSettings:
    """The settings of the training run; ConfigError for what a trace cannot hold, or an unknown one."""
    unknown = set(changes) - {field.name for field in fields(TrainSettings)}
    if unknown:
        raise ConfigError(f"trace: {', '.join(sorted(unknown))} unknown: expected settings of TrainSettings")
    base = given or TrainSettings(batch_size=1, lr=1e-2, schedule="constant", warmup_ratio=0.0, seed=seed)
    tuples = {name: tuple(value) for name, value in changes.items() if isinstance(value, list)}
    base = replace(base, **{**changes, **tuples})
    if base.grad_accumulation != 1:
        raise ConfigError("a trace records one batch a step: leave grad_accumulation at 1")
    if base.packing is not None:
        raise ConfigError("a trace records one row a sample: leave packing out")
    if base.also:
        raise ConfigError(f"a trace records the adapter alone: leave {', '.join(base.also)} out of `also`")
    return replace(base, trainable="B" if switches.freeze_A else "AB")


class _Recording:
    """One run on its way into a trace."""

    def __init__(self, model: Model, manifest: Manifest, writer: TraceWriter, wanted: set[str]) -> None:
        self.model, self.manifest, self.writer, self.wanted = model, manifest, writer, wanted

    def all(self, samples: Sequence[Mapping[str, Any]], training: TrainSettings, noise: bool) -> None:
        """Every stage that is wanted, in the order of a run."""
        m, shapes = self.manifest, self.manifest.shapes()
        switches, measured = m.resolved(), Noise(self.model) if noise else None
        if "weights" in self.wanted:
            for module in shapes:
                self.writer.add(f"weight/{module}", self.model.weight(module))
        no_sums = dict.fromkeys(shapes, 0.0)
        stats = CalibrationStats(0, shapes, {}, {}, no_sums, profile=switches.name, centre=switches.centre)
        self.calibration(samples, stats, measured)
        adapter = self.allocation_and_initialization(stats) if "allocation" in self.wanted else None
        if "training" in self.wanted and adapter is not None:
            self.training(adapter, samples, training, measured)
        if "merge" in self.wanted and adapter is not None:
            self.merge(adapter)
        if measured is not None:
            m.noise = measured.to_dict()

    def calibration(self, samples: Sequence[Mapping[str, Any]], stats: CalibrationStats, noise: Noise | None) -> None:
        """Alg. 1, lines 4 to 11, sample by sample, with what each sample adds."""
        add = self.writer.add
        for n, sample in enumerate(samples):
            for name in SAMPLE_FIELDS:
                if name in sample:
                    add(f"sample/{n}/{name}", np.asarray(sample[name], dtype=np.int64))
            inputs = module_inputs(self.model, sample, n)
            own = add_samples(stats, self.model, [sample], n)[0]
            add(f"sample/{n}/loss", np.float64(stats.losses[-1]))
            for module, value in own.items():
                X = inputs[module]
                add(f"sample/{n}/sensitivity/{module}", np.float64(value))
                add(f"sample/{n}/tokens/{module}", np.int64(len(X)))
                add(f"sample/{n}/input_sum/{module}", X.sum(axis=0))
                if "inputs" in self.wanted:
                    add(f"sample/{n}/input/{module}", X)
            self._extras(n, sample, own, noise)
        for module in stats.shapes:
            add(f"covariance/{module}", stats.covariance[module])
            add(f"sensitivity/{module}", np.float64(stats.sensitivity[module]))
        if noise is not None:
            noise.of_calibration(samples, stats)

    def _extras(self, n: int, sample: Mapping[str, Any], modules: Mapping[str, float], noise: Noise | None) -> None:
        """The large tensors of one sample, where they are asked for."""
        if not self.wanted & {"gradients", "logits"}:
            return
        names = [f"{m}.weight" for m in modules] if "gradients" in self.wanted else []
        output = self.model.watching(names)(**sample_inputs(sample, n))
        if "logits" in self.wanted:
            self.writer.add(f"sample/{n}/logits", output.logits)
            if noise is not None:
                noise.of_logits(n, sample, output.logits)
        for name, G in (grad(output.loss, names) if names else {}).items():
            self.writer.add(f"sample/{n}/grad_W/{name.removesuffix('.weight')}", G)

    def allocation_and_initialization(self, stats: CalibrationStats) -> Adapter | None:
        """Alg. 1, lines 12 to 17."""
        m, add = self.manifest, self.writer.add
        plan: Plan = allocate(
            *(stats.sensitivity, stats.shapes, m.r_init, m.alpha, m.resolved()),
            adapt_rank=m.adapt_rank,
            adapt_scale=m.adapt_scale,
            uniform_scale=m.uniform_scale,
        )
        for module in plan.rank:
            add(f"rank_eq6/{module}", np.int64(plan.rank_eq6[module]))
            add(f"rank/{module}", np.int64(plan.rank[module]))
            add(f"alpha/{module}", np.float64(plan.alpha[module]))
            add(f"scale/{module}", np.float64(plan.scale(module)))
        if "initialization" not in self.wanted:
            return None
        adapter = initialize(self.model, stats, plan, init=m.init, seed=m.seed, spectrum=True)
        for module, A in adapter.A.items():
            add(f"A/{module}", A)
            if module in adapter.sigma:
                add(f"sigma/{module}", adapter.sigma[module])
        return adapter

    def training(
        self, adapter: Adapter, samples: Sequence[Mapping[str, Any]], plan: TrainSettings, noise: Noise | None
    ) -> None:
        """Steps of AdamW, with each step's batch, gradients, moments and new matrices."""
        add, total = self.writer.add, plan.total_steps(len(samples))
        self.manifest.train = plan.to_dict()
        state = TrainState.start(trained_arrays(self.model, adapter, plan))
        self.model.attach(adapter)
        pad = getattr(self.model.config, "pad_token_id", None) or 0
        for (batch,) in step_batches(samples, plan, 0, total, pad):
            step = state.step + 1
            for name, values in batch.items():
                add(f"train/{step}/{name}", values)
            found = step_gradients(self.model, state.arrays, [batch])
            if noise is not None:
                noise.of_step(step, adapter, batch, found.arrays, found.loss)
            state = apply_gradients(state, found, plan, total)
            install(state.arrays, self.model, adapter)
            for kind, arrays in (
                ("grad_{}", found.arrays),
                ("{}", state.arrays),
                ("{}exp_avg", state.exp_avg),
                ("{}exp_avg_sq", state.exp_avg_sq),
            ):
                self._matrices(step, kind, arrays)
        add("train/loss", np.array([entry["loss"] for entry in state.history]))
        add("train/lr", np.array([entry["lr"] for entry in state.history]))
        self.model.detach()

    def _matrices(self, step: int, kind: str, arrays: Mapping[str, Array]) -> None:
        """One kind of array of every trained matrix: grad_B, B, exp_avg and exp_avg_sq, and the same of A."""
        for leaf, array in arrays.items():
            module, _, rest = leaf.rpartition(".lora_")
            letter = rest[0]
            name = kind.format(letter) if kind in ("grad_{}", "{}") else kind.format("A_" if letter == "A" else "")
            self.writer.add(f"train/{step}/{name}/{module}", array)

    def merge(self, adapter: Adapter) -> None:
        """W' of every adapted module, after the last step."""
        for module in adapter.A:
            self.writer.add(f"merged/{module}", adapter.merged_weight(module, self.model.weight(module)))
