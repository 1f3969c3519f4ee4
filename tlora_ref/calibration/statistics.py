"""What calibration leaves behind: sums over samples that merge, save and load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tlora_ref.backend import Array, to_numpy
from tlora_ref.calibration.blocked import mirror
from tlora_ref.errors import CheckpointError, ConfigError, OutputError, reason
from tlora_ref.files import beside, parse_json
from tlora_ref.names import span, told_by_kind
from tlora_ref.provenance import provenance

FORMAT = "tlora_ref.calibration"
VERSION = 3


class Means(Mapping[str, Array]):
    """{module: sum / N}, divided and mirrored when read. Modules that share an input share one stored sum."""

    def __init__(self, sums: Mapping[str, Array], leader: Mapping[str, str], samples: int) -> None:
        self._sums, self._leader, self._samples = sums, leader, samples

    def __getitem__(self, module: str) -> Array:
        mean = self._sums[self._leader[module]] / self._samples
        mirror(mean)
        return mean

    def __repr__(self) -> str:
        return f"{{C of {len(self)} modules, over {self._samples} samples}}"

    def __contains__(self, module: object) -> bool:  # Mapping's own would compute the mean
        return module in self._leader

    def __iter__(self) -> Iterator[str]:
        return iter(self._leader)

    def __len__(self) -> int:
        return len(self._leader)


@dataclass
class CalibrationStats:
    """C_i and S_i of Alg. 1, lines 8 and 9, kept as sums and N so that shards merge exactly to rounding.

    Attributes
    ----------
    samples : N
    shapes : {module: (d_out, d_in)}, in model order
    leader : {module: the module whose covariance sum it shares}; q, k and v see one input and need one C
    covariance_sums : {leader: sum over samples of X^T X, (d_in, d_in)}, the upper triangle (see `add_second_moment`)
    sensitivity_sums : {module: sum over samples of mean|W * dLoss_n/dW|}
    losses : loss of each sample, in order
    profile, centre : the profile and its one switch that acts here (centring each sample's X)
    model : `Model.digest` of the model; None if that is not known
    """

    samples: int
    shapes: dict[str, tuple[int, int]]
    leader: dict[str, str]
    covariance_sums: dict[str, Array]
    sensitivity_sums: dict[str, float]
    losses: list[float] = field(default_factory=list)
    profile: str = "paper"
    centre: bool = False
    model: str | None = None

    def __repr__(self) -> str:
        sums = self.covariance_sums.values()
        size = f"{sum(C.nbytes for C in sums) / 1e6:,.1f} MB{f' of {next(iter(sums)).dtype}' if sums else ''}"
        lines = [
            f"CalibrationStats (profile {self.profile}): {self.samples} samples, {len(self.shapes)} modules, "
            f"{len(sums)} covariances ({size})",
            f"losses {span(self.losses)}",
        ]
        total = sum(self.sensitivity_sums.values())
        if self.samples and total:
            ordered = sorted(self.sensitivity.items(), key=lambda entry: entry[1])
            lines.append("S from {0[1]:.3g} ({0[0]}) to {1[1]:.3g} ({1[0]})".format(ordered[0], ordered[-1]))
            share = told_by_kind(self.sensitivity_sums, lambda sums: f"{sum(sums) / total:.1%}")
            lines.append(f"share of S: {share}")
        return "\n  ".join(lines)

    @property
    def covariance(self) -> Mapping[str, Array]:
        """{module: C_i = (1/N) sum_n X_n^T X_n}, each (d_in, d_in)."""
        return Means(self.covariance_sums, self.leader, self.samples)

    @property
    def sensitivity(self) -> dict[str, float]:
        """{module: S_i = (1/N) sum_n mean|W_i * dLoss_n/dW_i|} (Eq. 5)."""
        return {module: total / self.samples for module, total in self.sensitivity_sums.items()}

    def merge(self, other: CalibrationStats) -> CalibrationStats:
        """The statistics of both sets of samples, this one's first. Neither is changed.

        Raises
        ------
        ConfigError
            if they are of different models, targets or profiles.
        """
        sums = {module: total.copy() for module, total in self.covariance_sums.items()}
        both = replace(
            self, covariance_sums=sums, sensitivity_sums=dict(self.sensitivity_sums), losses=list(self.losses)
        )
        both.absorb(other)
        return both

    def absorb(self, other: CalibrationStats) -> None:
        """`merge` into this one, in place: no third set of sums comes to be."""
        for what, mine, theirs in (
            ("profile", self.profile, other.profile),
            ("centring", self.centre, other.centre),
            ("modules", self.shapes, other.shapes),
            ("models", self.model, other.model),
            ("shared inputs", self.leader, other.leader),
        ):
            if mine != theirs:
                shown = "they differ" if isinstance(mine, dict) else f"{mine!r} against {theirs!r}"
                raise ConfigError(
                    f"calibration statistics of different {what} cannot be merged ({shown}): calibrate both with the "
                    "same model, targets and profile"
                )
        for module, total in self.covariance_sums.items():
            total += other.covariance_sums[module]
        for module in self.sensitivity_sums:
            self.sensitivity_sums[module] += other.sensitivity_sums[module]
        self.samples += other.samples
        self.losses += other.losses

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file (written beside, then renamed)."""
        path = Path(path)
        tensors, facts = self.packed()
        # One entry: safetensors writes several in an order that differs every time.
        metadata = {FORMAT: json.dumps({"version": VERSION, "provenance": provenance(), "facts": facts})}
        try:
            with beside(path) as new:
                save_file(tensors, new, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: the calibration statistics cannot be written ({reason(error)})") from error

    @classmethod
    def load(cls, path: str | Path) -> CalibrationStats:
        """Read what `save` wrote.

        Raises
        ------
        CheckpointError
            if the file is missing, damaged, of another format, or of a version that this library does not read.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file of calibration statistics")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                header = parse_json(metadata.get(FORMAT, "{}"))
                if not isinstance(header, dict) or header.get("version") != VERSION:
                    raise CheckpointError(
                        f"{path}: expected calibration statistics ({FORMAT} version {VERSION}), found "
                        f"{header.get('version') if isinstance(header, dict) else None!r} in {sorted(metadata)}"
                    )
                stats = cls.unpacked({name: file.get_tensor(name) for name in file.keys()}, header["facts"])  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: damaged calibration statistics ({reason(error)}). Calibrate again"
            ) from error
        stats.check(path)
        return stats

    def packed(self, prefix: str = "covariance/") -> tuple[dict[str, Array], dict[str, Any]]:
        """As a file holds them: the covariance sums by name, and everything else as JSON values."""
        sums = {f"{prefix}{m}": to_numpy(C) for m, C in self.covariance_sums.items()}
        return sums, {name: getattr(self, name) for name in FACTS}

    @classmethod
    def unpacked(
        cls, tensors: Mapping[str, Array], facts: Mapping[str, Any], prefix: str = "covariance/"
    ) -> CalibrationStats:
        """Of what `packed` gave, among other tensors perhaps; whatever Python raises if the facts are damaged."""
        sums = {name.removeprefix(prefix): C for name, C in tensors.items() if name.startswith(prefix)}
        shapes = {m: (int(s[0]), int(s[1])) for m, s in facts["shapes"].items()}
        return cls(covariance_sums=sums, **{**facts, "shapes": shapes})

    def check(self, path: Path) -> None:
        """CheckpointError, which names the file they came from, where a module lacks its sums."""
        for module, (_, d_in) in self.shapes.items():
            C = self.covariance_sums.get(self.leader.get(module, ""))
            if C is None or C.shape != (d_in, d_in) or module not in self.sensitivity_sums:
                raise CheckpointError(
                    f"{path}: damaged calibration statistics: {module} needs a sensitivity and a ({d_in}, {d_in}) "
                    f"covariance, found {'none' if C is None else C.shape}. Calibrate again"
                )


#: The attributes that are stored as JSON beside the covariance tensors.
FACTS = ("samples", "shapes", "leader", "sensitivity_sums", "losses", "profile", "centre", "model")
