"""What every model family shares: named weights, what is watched, adapters, targets."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from tlora_ref.autograd import Tensor, add, embedding, leaf, linear, low_rank_linear, scale, transpose
from tlora_ref.backend import BFLOAT16, Array, Device, arithmetic, device_of, to_numpy, widened
from tlora_ref.errors import ConfigError, did_you_mean
from tlora_ref.names import told_by_kind
from tlora_ref.transformer.attached import AttachedAdapter, check_adapter, merged, read_by
from tlora_ref.transformer.output import Output

#: Called with a module's path and its input (..., d_in) before the module is applied. Modules that share an input
#: (q, k and v, say) are given the very same array object.
Observer = Callable[[str, Array], None]
Targets = str | Sequence[str] | None


def _target_hint(pattern: str, ends: list[str], default: tuple[str, ...]) -> str:
    """What may have been meant by a target that matches nothing, as other tools write them."""
    if pattern.lower().replace("_", "-") in ("all-linear", "all", "linear", "all-modules"):
        return f". Without targets it is all of the blocks' ({', '.join(default)}): leave the target out"
    parts = re.findall(r"[\w.]+", pattern)
    if len(parts) > 1 and all(part.rpartition(".")[2] in ends for part in parts):
        return f". Name them one by one: {' '.join(f'--target {part}' for part in parts)}"
    return did_you_mean(pattern.rpartition(".")[2], ends)


class Model:
    """A transformer: a configuration and named tensors. Families subclass it.

    Linear weights are (d_out, d_in) in memory whatever the checkpoint's layout. Weights are never changed: `merge`
    makes a new model, `attach` adds an adapter beside them.
    """

    #: Suffixes of the module paths that TLoRA adapts unless told otherwise (the linear layers of attention and MLP).
    default_targets: ClassVar[tuple[str, ...]] = ()
    #: PEFT's name for what the model does.
    task_type: ClassVar[str] = "FEATURE_EXTRACTION"
    #: Modules that hold a table for others, and are not read by their own name.
    unread: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, tensors: Mapping[str, Array]) -> None:
        self.config = config
        self.tensors = dict(tensors)
        self.adapter: AttachedAdapter | None = None
        #: The tokens that end what is generated, as the checkpoint's folder names them; None for the configuration's.
        self.end_tokens: tuple[int, ...] | None = None
        #: Whether the wide inside of MLPs is computed again on the way back, not kept: at first where weights are held.
        self.recompute = any(tensor.dtype == BFLOAT16 for tensor in self.tensors.values())
        #: Names of tensors that no checkpoint gave: a classification head made anew.
        self.fresh: frozenset[str] = frozenset()
        self._watched: frozenset[str] | None = None  # None: every tensor
        self._observer: Observer | None = None

    def __repr__(self) -> str:
        shapes = self.shapes()
        kinds = told_by_kind(shapes, lambda its: f"{len(its)} x {' or '.join(map(str, dict.fromkeys(its)))}")
        lines = [
            f"{type(self).__name__} ({self.config.model_type}, {self.task_type}): {self.parameter_count():,} weights "
            f"in {self.dtype} on {self.device.name}",
            f"{len(shapes)} target modules: {kinds}",
            "context: " + ("not limited" if self.context is None else f"{self.context:,} tokens"),
            "adapter: " + ("none" if self.adapter is None else f"on {len(self.adapter.A)} modules"),
        ]
        return "\n  ".join(lines)

    # ------------------------------------------------------------------ what a family declares
    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Name and in-memory shape of every tensor that a model of this configuration has."""
        raise NotImplementedError

    @classmethod
    def linear_modules(cls, config: Any) -> list[str]:
        """Paths of all linear modules, in model order."""
        raise NotImplementedError

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        """Paths of the tables that `embedded` looks rows up in."""
        return []

    @classmethod
    def ties(cls, config: Any) -> dict[str, str]:
        """{another name: the tensor that is used under it too}: the output matrix that is the embedding, say."""
        return {}

    @classmethod
    def fitted(cls, config: Any, tensors: Mapping[str, Array]) -> Any:
        """The configuration, changed where the tensors say what config.json does not."""
        return config

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Checkpoint names and layouts -> ours (identity unless the family has quirks)."""
        return tensors

    @classmethod
    def unsanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Ours -> the names and layouts that transformers loads."""
        return tensors

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        *,
        token_type_ids: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        loss_divisor: float | None = None,
    ) -> Output:
        """Forward pass over one sample (tokens,) or a padded batch (batch, tokens): see the family's task class."""
        raise NotImplementedError

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Array:
        """Continue a prompt, where the family can; see `tlora_ref.transformer.generation.generate`."""
        raise ConfigError(f"a {type(self).__name__} model does not generate text")

    def ends(self, *also: int | None) -> tuple[int, ...]:
        """The tokens at which what is generated ends: those of generation_config.json where the checkpoint has one,
        else of the configuration; and `also` (a tokenizer's, which may have none)."""
        own = self.config.eos_token_id if self.end_tokens is None else self.end_tokens
        several = own if isinstance(own, tuple | list) else (own,)
        return tuple(dict.fromkeys(token for token in (*several, *also) if token is not None))

    def not_packed(self, longest: int) -> str | None:
        """Why samples of up to `longest` tokens cannot share a row (see `CausalLM`'s `segments`); None if they can."""
        return "only a language model that reads from left to right can tell them apart"

    @property
    def context(self) -> int | None:
        """The longest sequence, in tokens, that the model was made for; None where nothing limits it."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of a classifier; empty for other models."""
        return tuple(getattr(self.config, "labels", ()))

    def whole_head(self) -> dict[str, Array]:
        """The head of a classifier, which PEFT keeps whole beside A and B; empty for other models."""
        return {}

    # ------------------------------------------------------------------ weights
    @property
    def dtype(self) -> np.dtype[Any]:
        """What the model computes in; weights held in bfloat16 are widened to it."""
        return arithmetic(next(iter(self.tensors.values())).dtype)

    @property
    def device(self) -> Device:
        return device_of(next(iter(self.tensors.values())))

    def weight(self, module: str) -> Array:
        """W of a linear module, (d_out, d_in); of an embedding table, which is one for inputs of a single 1, its
        transpose (d_model, rows)."""
        name = f"{module}.weight"
        name = self.ties(self.config).get(name, name)
        if name not in self.tensors:
            raise ConfigError(f'the model has no module "{module}"; model.shapes() lists those it has')
        W = widened(self.tensors[name])
        return W.T if self.is_table(module) else W

    def is_table(self, module: str) -> bool:
        """Whether the module at that path is an embedding table."""
        return module in self.embedding_tables(self.config) or module in self.unread

    def adaptable(self, module: str) -> bool:
        """Whether an adapter can sit on the module at that path: all linear ones, embeddings, a tied output matrix."""
        linears, tied = self.linear_modules(self.config), self.ties(self.config)
        return module in linears or f"{module}.weight" in tied or self.is_table(module)

    def parameter_count(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(int(tensor.size) for tensor in self.tensors.values())

    def digest(self) -> str:
        """Tells checkpoints apart: SHA-256 of each tensor's name, shape and some sixteen values in float32."""
        found = hashlib.sha256()
        for name in sorted(self.tensors):
            values = self.tensors[name].reshape(-1)
            few = to_numpy(values[:: max(1, values.size // 16)]).astype("<f4")
            found.update(f"{name} {self.tensors[name].shape} ".encode() + few.tobytes())
        return found.hexdigest()

    @classmethod
    def target_shapes(cls, config: Any, targets: Targets = None) -> dict[str, tuple[int, int]]:
        """{module path: (d_out, d_in)} of the targets, in model order, from the configuration alone.

        Parameters
        ----------
        targets : None for the family's default; else one or several of: a module's whole path, the end of paths
            ("q_proj", "mlp.down_proj"), or a regular expression that matches whole paths.

        Raises
        ------
        ConfigError
            if a target matches no linear module, or is not a valid regular expression.
        """
        patterns = cls.default_targets if targets is None else (targets,) if isinstance(targets, str) else targets
        modules = cls.linear_modules(config)
        chosen: set[str] = set()
        for pattern in patterns:
            matches = {m for m in modules if m == pattern or m.endswith(f".{pattern}")}
            if not matches:
                try:
                    matches = {m for m in modules if re.fullmatch(pattern, m)}
                except re.error as error:
                    raise ConfigError(f'target "{pattern}" is no valid regular expression: {error}') from None
            if not matches:
                ends = sorted({m.rpartition(".")[2] for m in modules})
                said = f'target "{pattern}" matches no linear module; their names end in {", ".join(ends)}'
                raise ConfigError(f"{said}{_target_hint(pattern, ends, cls.default_targets)}")
            chosen |= matches
        shapes = cls.tensor_shapes(config)
        return {m: (shapes[f"{m}.weight"][0], shapes[f"{m}.weight"][1]) for m in modules if m in chosen}

    def shapes(self, targets: Targets = None) -> dict[str, tuple[int, int]]:
        """{module path: (d_out, d_in)} of the targets (see `target_shapes`)."""
        return self.target_shapes(self.config, targets)

    # ------------------------------------------------------------------ views
    def watching(self, names: Iterable[str] | None) -> Self:
        """A view of this model (same arrays) whose forward pass records what gradients of `names` need.

        None watches every tensor, as a fresh model does; an empty list watches none, which is what evaluation and
        generation want. Names are tensor names; those of an adapter are `<module>.lora_A.weight` and
        `<module>.lora_B.weight`. A view is cheap, and safe to use in a thread of its own.
        """
        view = copy.copy(self)
        view._watched = None if names is None else frozenset(names)
        return view

    def observing(self, observer: Observer | None) -> Self:
        """A view of this model that calls `observer(module, x)` with the input of every linear module."""
        view = copy.copy(self)
        view._observer = observer
        return view

    # ------------------------------------------------------------------ adapters
    def attach(self, adapter: AttachedAdapter) -> None:
        """Put `adapter` beside the weights: from now on its modules compute Eq. 1.

        Raises
        ------
        ConfigError
            if it names a module that this model lacks.
        ShapeError
            if a matrix does not fit its module, or has another dtype than the model.
        CheckpointError
            if its configuration names modules or tensors that its file lacks; all are listed.
        """
        check_adapter(self, adapter)
        self.adapter = adapter

    def detach(self) -> None:
        """Take the adapter off: the model computes what it did before `attach`, bit for bit."""
        self.adapter = None

    def merge(self, adapter: AttachedAdapter) -> Self:
        """A new model with W' = W + s B A in every module of `adapter` (Eq. 1). This one is unchanged.

        Where the adapter changes one use of a tied table and not the other, the new model has two tables, and its
        configuration says so. Raises as `attach` does.
        """
        check_adapter(self, adapter)
        tensors, apart = merged(self, adapter)
        config = self.config
        if apart:
            config, tensors = self.untied(config, tensors, apart)
        made = type(self)(config, tensors)
        made.end_tokens = self.end_tokens
        return made

    @classmethod
    def untied(cls, config: Any, tensors: dict[str, Array], apart: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        """Configuration and tensors of a model whose uses `apart` of a tied table have tables of their own."""
        raise ConfigError(
            f"a {config.model_type} model has no place for {', '.join(apart)} of its own: keep the adapter"
        )

    # ------------------------------------------------------------------ what the families call
    def refuse(self, **inputs: Any) -> None:
        """ConfigError for an input that another kind of model takes."""
        for name, value in inputs.items():
            if value is not None:
                raise ConfigError(f"{name} means nothing to a {self.config.model_type} model: leave it out")

    def parameter(self, name: str) -> Tensor:
        """The tensor called `name`: a leaf if it is watched, a constant if not."""
        trained_by, data = read_by(name, self.tensors, self.ties(self.config), self.adapter)
        return Tensor(data) if trained_by is None else self._placed(trained_by, data)

    def embedded(self, module: str, ids: Array) -> Tensor:
        """Rows of the embedding table at path `module`, with its adapter if it has one.

        ids : host integers of any shape; the result is (*ids.shape, d_model)
        """
        where = self.device.put(ids)
        rows = embedding(self.parameter(f"{module}.weight"), where)
        if self.adapter is None or module not in self.adapter.A:
            return rows
        # Eq. 1 for inputs that are 0 but for a 1 at the token: x A^T is a column of A.
        A, B, s = self._low_rank(module)
        return add(rows, scale(linear(embedding(transpose(A), where), B), s))

    def linear(self, module: str, x: Tensor) -> Tensor:
        """The linear module at path `module` applied to x (..., d_in), with its bias and adapter if it has them."""
        self.observe(module, x)
        return self.bound(module)(x)

    def observe(self, module: str, x: Tensor) -> None:
        """Show the observer, if there is one, what a module is given."""
        if self._observer is not None:
            self._observer(module, x.data)

    def adapts(self, module: str) -> bool:
        """Whether the attached adapter, if there is one, changes this module."""
        return self.adapter is not None and module in self.adapter.A

    def bound(self, module: str) -> Callable[[Tensor], Tensor]:
        """The linear module at path `module` as a function, with the weights and the adapter of this moment."""
        W, bias = self.parameter(f"{module}.weight"), f"{module}.bias"
        b = self.parameter(bias) if bias in self.tensors else None
        if self.adapter is None or module not in self.adapter.A:
            return lambda x: linear(x, W, b)
        A, B, s = self._low_rank(module)
        return lambda x: low_rank_linear(x, W, b, A, B, s)

    def _low_rank(self, module: str) -> tuple[Tensor, Tensor, float]:
        """A, B and the scale of the attached adapter."""
        assert self.adapter is not None
        A = self._placed(f"{module}.lora_A.weight", self.adapter.A[module])
        B = self._placed(f"{module}.lora_B.weight", self.adapter.B[module])
        return A, B, self.adapter.scale[module]

    def _placed(self, name: str, data: Array) -> Tensor:
        watched = self._watched is None or name in self._watched
        return leaf(data, name) if watched else Tensor(data)
