"""An adapter folded into the weights of its model, from folder to folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tlora_ref.checkpoint import rounding_report, save_model
from tlora_ref.pipeline.adapters import load_adapted


@dataclass(frozen=True)
class Merged:
    """What merging wrote; `rounded_away` is {module: the share of its update that the file's dtype rounds away}."""

    folder: Path
    dtype: str
    rounded_away: dict[str, float]

    @property
    def mean(self) -> float:
        """The mean share over the modules."""
        return sum(self.rounded_away.values()) / len(self.rounded_away)

    @property
    def worst(self) -> str:
        """The module that loses most."""
        return max(self.rounded_away, key=lambda module: self.rounded_away[module])


def merge_checkpoint(
    folder: str | Path,
    adapter: str | Path,
    out: str | Path,
    dtype_out: str = "float32",
    *,
    dtype: str = "float64",
    device: str = "cpu",
    overwrite: bool = False,
) -> Merged:
    """W_0 + s B A of every module (Eq. 1), written to `out` as a Hugging Face folder that transformers loads.

    Parameters
    ----------
    folder, adapter : the model's folder and the PEFT adapter's
    dtype_out : of the file: float32, float64, float16 or bfloat16
    dtype, device : in which and where it is computed

    Raises
    ------
    CheckpointError, ConfigError, ShapeError, NumericsError, OutputError
    """
    base, low_rank = load_adapted(folder, adapter, dtype, device)
    assert low_rank is not None
    base.detach()
    merged = base.merge(low_rank)
    report = rounding_report(base, merged, dtype_out, low_rank.modules)
    save_model(merged, out, dtype_out, source=folder, overwrite=overwrite)
    return Merged(Path(out), dtype_out, report)
