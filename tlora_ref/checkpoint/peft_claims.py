"""Which modules and tensors an `adapter_config.json` names, by PEFT's rules."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tlora_ref.errors import ConfigError

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"
#: Modules that "all-linear" leaves out: output layers.
OUTPUTS = ("lm_head", "score", "classifier")
#: What a module was called up to transformers 4 (in GPT-NeoX), and is called since.
RENAMED = {"embed_out": "lm_head"}


@dataclass(frozen=True)
class Claims:
    """What a configuration says that its adapter holds.

    Attributes
    ----------
    targets : a regular expression for whole paths, or names that paths end in
    whole : the modules of `modules_to_save`
    exclude : as `targets`: modules that are left out
    layers : the layers that are adapted (`layers_to_transform`), None for all; patterns : what stands before a number
    """

    targets: str | tuple[str, ...]
    whole: tuple[str, ...] = ()
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    patterns: tuple[str, ...] = ()

    @staticmethod
    def of(config: Mapping[str, Any]) -> Claims:
        """From a checked configuration (see `read_peft_config`)."""
        layers, patterns, exclude = (
            config.get(k) for k in ("layers_to_transform", "layers_pattern", "exclude_modules")
        )
        targets = config["target_modules"]
        return Claims(
            targets if isinstance(targets, str) else tuple(RENAMED.get(name, name) for name in targets),
            tuple(RENAMED.get(name, name) for name in config.get("modules_to_save") or ()),
            exclude if isinstance(exclude, str) else tuple(exclude or ()),
            None if layers is None or layers == [] else (layers,) if isinstance(layers, int) else tuple(layers),
            (patterns,) if isinstance(patterns, str) and patterns else tuple(patterns or ()),
        )

    def adapts(self, module: str) -> bool:
        """Whether the module gets an A and a B."""
        if self.exclude and _named(self.exclude, module):
            return False
        if any(matches(rf"(^|.*\.){name}($|\..*)", module, re.match) for name in self.whole):
            return False
        if isinstance(self.targets, str):
            return self.targets.lower() == ALL_LINEAR or _named(self.targets, module)
        if module in self.targets:
            return True
        return _named(self.targets, module) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        # The first number counts, and what stands before it is any one word unless patterns are given.
        expressions = [rf"(?:^|.*?\.){pattern}\.(?P<number>\d+)\." for pattern in self.patterns]
        for expression in expressions or [r".*?\.[^.]*\.(?P<number>\d+)\."]:
            found = matches(expression, module, re.match)
            if found is not None:
                return int(found["number"]) in self.layers
        return False

    def saves(self, tensor: str) -> bool:
        """Whether the tensor is of a module that is kept whole: one above it whose path ends so ("pre_classifier" does
        in "classifier": PEFT compares letters, not path components)."""
        parts = tensor.split(".")
        above = [".".join(parts[:i]) for i in range(1, len(parts))]
        return any(path.endswith(module) for path in above for module in self.whole)

    def missing(
        self, linears: Sequence[str], tables: Sequence[str], tensors: Sequence[str], held: Collection[str]
    ) -> list[str]:
        """What is claimed among a model's linear modules, embedding tables and tensors, and not in `held`."""
        modules = [*linears, *tables]
        if isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR:
            modules = [module for module in linears if module.partition(".")[0] not in OUTPUTS]
        pairs = [f"A and B of {module}" for module in modules if self.adapts(module) and module not in held]
        return [*pairs, *(name for name in tensors if self.saves(name) and name not in held)]


def _named(names: str | tuple[str, ...], module: str) -> bool:
    """By a regular expression for all of its path, or by a name that the path ends in."""
    if isinstance(names, str):
        return matches(names, module, re.fullmatch) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def matches(pattern: str, module: str, how: Any) -> re.Match[str] | None:
    """`how(pattern, module)`; a ConfigError for what is no regular expression."""
    try:
        found: re.Match[str] | None = how(pattern, module)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f'{CONFIG}: the pattern "{pattern:.200}" is no valid regular expression: {error}') from None
    return found
