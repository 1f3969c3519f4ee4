"""From data files to samples that a model takes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlora_ref.data import (
    EncodingReport,
    Row,
    Tokenizer,
    choose_samples,
    dataset_file,
    encode_rows,
    load_dataset,
    load_tokenizer,
    sample_form,
)
from tlora_ref.data.lengths import check_too_long
from tlora_ref.data.records import split_file
from tlora_ref.data.templates import CHAT, check_template
from tlora_ref.errors import ConfigError
from tlora_ref.tasks import Task, task_rows
from tlora_ref.transformer import Model

#: What others call the split "valid".
VALID_ELSEWHERE = ("validation", "val", "dev", "eval")


@dataclass(frozen=True)
class DataSource:
    """Where samples come from and how they are made.

    Attributes
    ----------
    path : a data file, or a directory of train, valid and test
    fields : {our name of a field: the file's}
    template : how prompts are made of rows; with a task "plain", or "chat" for the tokenizer's own
    max_length : longest sample in tokens; None for the model's context
    too_long : what becomes of longer rows: "skip", "truncate" or "chunk", as `encode_rows` has them
    task : whose rows these are; None for rows that say themselves what they are

    Raises
    ------
    ConfigError
        for an unknown template, or fields or a template beside a task.
    """

    path: Path
    fields: Mapping[str, str] = field(default_factory=dict)
    template: str = "plain"
    max_length: int | None = None
    too_long: str = "skip"
    task: Task | None = None

    def __post_init__(self) -> None:
        check_template(self.template)
        check_too_long(self.too_long)
        if self.task is not None and (self.fields or self.template not in ("plain", CHAT)):
            raise ConfigError(
                "a task says how rows are read and prompts made: leave --field and --template (but chat) out"
            )

    def rows(self, split: str = "train") -> list[Row]:
        """Every row of a split, checked."""
        if self.task is not None:
            return task_rows(self.task, self.path, split)
        return load_dataset(self.path, split, self.fields)

    def held_out(self, path: Path | None = None) -> list[Row]:
        """Held-out rows: of `path` if one is given, else of the directory's valid split, none if it has no such.

        Warns where the directory has held-out data under another name.
        """
        if path is not None:
            return replace(self, path=path).rows("valid")
        if split_file(self.path, "valid") is not None:
            return self.rows("valid")
        found = next(filter(None, (split_file(self.path, name) for name in VALID_ELSEWHERE)), None)
        if found is not None:
            warnings.warn(
                f"{found} is not read as held-out data: rename it to valid{''.join(found.suffixes)}, or name it with "
                f"--valid {found}",
                stacklevel=2,
            )
        return []

    def split_off(self, rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
        """(rows to train on, held-out rows): a share of them, drawn by `seed`, at least one; both in their old order.

        Raises ConfigError unless the share lies between 0 and 1 and leaves a row to train on.
        """
        held = max(1, round(share * len(rows)))
        if not 0.0 < share < 1.0 or held >= len(rows):
            raise ConfigError(
                f"valid share {share} of {len(rows)} rows: expected a fraction that leaves rows to train on"
            )
        _, drawn = choose_samples(rows, held, seed)
        chosen = set(drawn)
        return [row for i, row in enumerate(rows) if i not in chosen], [rows[i] for i in drawn]

    def file(self, split: str = "train") -> Path:
        """The file of a split."""
        return dataset_file(self.path, split)

    def encoded(
        self, rows: Sequence[Row], model: Model, tokenizer: Tokenizer | None
    ) -> tuple[list[dict[str, Any]], EncodingReport]:
        """The samples {"input_ids", "labels"} that `model` makes of rows, and what was left out.

        Warns where `max_length` lies beyond the model's context.
        """
        return encode_rows(rows, tokenizer, **self.encoding(model))

    def encoding(self, model: Model) -> dict[str, Any]:
        """The options under which rows become `model`'s samples, as `encode_rows` takes them; warns as `encoded`."""
        if self.max_length is not None and model.context is not None and self.max_length > model.context:
            warnings.warn(
                f"--max-length {self.max_length} is beyond the model's context of {model.context} tokens, for which "
                "it was made: longer samples may be read badly",
                stacklevel=3,
            )
        return {
            "template": self.template,
            "max_length": self.max_length or model.context,
            "too_long": self.too_long,
            "vocab_size": model.config.vocab_size,
            "form": sample_form(model),
            "class_names": getattr(model.config, "labels", ()),
        }


def load_tokenizer_for(folder: Path, rows: Sequence[Row]) -> Tokenizer | None:
    """The folder's tokenizer; None where all rows are tokens already, which need none."""
    return None if all(row.form == "tokens" for row in rows) else load_tokenizer(folder)
