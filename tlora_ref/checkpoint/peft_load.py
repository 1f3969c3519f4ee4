"""Adapters in PEFT's format, in: ours or another's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.adapter import Adapter, Plan
from tlora_ref.backend import Array, get_device
from tlora_ref.checkpoint.folders import adapter_folder
from tlora_ref.checkpoint.load import checked_dtype
from tlora_ref.checkpoint.mapping import unchanged
from tlora_ref.checkpoint.peft_claims import CONFIG, RENAMED, Claims
from tlora_ref.checkpoint.peft_config import FACTS, PREFIX, WEIGHTS, read_peft_config, scale_of
from tlora_ref.checkpoint.reader import check_finite, inside, read_header, read_json, read_tensors, shown
from tlora_ref.errors import CheckpointError, TLoRAError, reason

#: What models call their embedding tables and output matrices.
EMBEDDINGS = ("embed_tokens", "wte", "shared", "embed_in", "word_embeddings", "lm_head")
OUTPUT_MATRIX = "lm_head.weight"


def load_peft(folder: str | Path, dtype: str = "float64", device: str = "cpu") -> Adapter:
    """An adapter from a PEFT folder: `adapter_config.json`, `adapter_model.safetensors` and, if there, `tlora.json`.

    Parameters
    ----------
    folder : that folder, or the folder of a training run that has it
    dtype, device : of the matrices, to agree with the model they will be attached to

    Raises
    ------
    CheckpointError
        if a file is missing or damaged, a pair is incomplete or misshaped, a tensor belongs to no module, or a value
        is not finite.
    ConfigError
        if it uses a PEFT feature that this library does not implement; the message names it.
    """
    folder = adapter_folder(folder)
    put, kind = get_device(device).put, checked_dtype(dtype)
    config = read_peft_config(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder}: there is no {WEIGHTS}. An adapter_model.bin is a pickle and is never read: load it with PEFT "
            "and save it again with safe_serialization=True"
        )
    found = _sorted_out(folder, config, read_tensors(read_header(inside(folder, WEIGHTS))[0]))

    def placed(name: str, tensor: Array) -> Array:
        with np.errstate(over="ignore"), unchanged(tensor):
            host = np.array(tensor, dtype=kind, order="C")
        check_finite(str(folder / WEIGHTS), name, host)
        return put(host)

    modules = _in_order(config, found.pairs)
    ranks = {m: int(found.pairs[m]["A"].shape[0]) for m in modules}
    scales = {m: scale_of(folder, config, m, ranks[m]) for m in modules}
    facts = _facts(folder, ranks, scales)
    facts["untrained"] = facts.get("untrained", set()) | found.base
    tied = _tied(folder, config, found, facts.pop("tied", {}))
    others = {other for names in tied.values() for other in names}
    return Adapter(
        A={m: placed(f"{m}.lora_A", found.pairs[m]["A"]) for m in modules},
        B={m: placed(f"{m}.lora_B", found.pairs[m]["B"]) for m in modules},
        saved={name: placed(name, tensor) for name, tensor in found.whole.items() if name not in others},
        tied=tied,
        base=found.base - others,
        tables=found.tables,
        task_type=config.get("task_type"),
        claims=Claims.of(config),
        **facts,
    )


def _in_order(config: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[str]:
    """The modules in the order of `target_modules`, which is model order in what we write; then in the file's."""
    targets = config["target_modules"]
    named = [m for m in targets if m in pairs] if isinstance(targets, list) else []
    return list(dict.fromkeys([*named, *pairs]))


@dataclass
class Found:
    """What a file holds: pairs {module: {"A": ..., "B": ...}}, whole tensors, which of these are the base model's own,
    and which modules are embedding tables."""

    pairs: dict[str, dict[str, Array]] = field(default_factory=dict)
    whole: dict[str, Array] = field(default_factory=dict)
    base: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)

    def takes(self, module: str, table: str | None) -> bool:
        """Whether all of the module's matrices so far are an embedding table's, or none."""
        if module not in self.pairs and table:
            self.tables.add(module)
        return (module in self.tables) == bool(table)


def _sorted_out(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> Found:
    """Every tensor of a file in its place; a CheckpointError for one that has none."""
    claims, found = Claims.of(config), Found()
    tying = bool(config.get("ensure_weight_tying"))
    for name, tensor in tensors.items():
        _check_name(folder, name)
        path = renamed(name.removeprefix(PREFIX))
        if tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
            raise CheckpointError(f"{folder}: tensor {shown(name)} is {tensor.dtype}, expected floating point")
        low_rank = re.fullmatch(r"(.+)\.lora_(?:(embedding_[AB])|([AB])\.weight)", path)
        if low_rank is not None and (tying or claims.adapts(low_rank[1])) and found.takes(low_rank[1], low_rank[2]):
            found.pairs.setdefault(low_rank[1], {})[(low_rank[2] or low_rank[3])[-1]] = tensor
        elif ".lora_" in path or not _whole(claims, path, tying):
            raise CheckpointError(
                f"{folder}: tensor {shown(name)} belongs to nothing that {CONFIG} names in target_modules or "
                f"modules_to_save; expected {PREFIX}<module>.lora_A.weight and .lora_B.weight"
            )
        else:
            plain = path.replace(".base_layer.", ".")
            found.whole[plain] = tensor
            found.base |= {plain} if plain != path or not (claims.saves(path) or tying) else set()
    if not found.pairs:
        raise CheckpointError(f"{folder}: {WEIGHTS} holds no lora_A and lora_B tensors. Save the adapter again")
    for module, pair in found.pairs.items():
        _check_pair(folder, module, {letter: tensor.shape for letter, tensor in pair.items()})
    return found


def _check_name(folder: Path, name: str) -> None:
    """CheckpointError for a tensor under a name that PEFT does not know, and would leave out with a warning."""
    wrapped = re.search(r"(?:^|\.)(_orig_mod|module)\.", name.partition(".lora_")[0])
    if wrapped is None and name.startswith(PREFIX):
        return
    cause = {"_orig_mod": "by a model that torch.compile wraps", "module": "by a model that is trained in parallel"}
    how = (
        f"it was saved {cause[wrapped[1]]}: save the model inside"
        if wrapped
        else "save the adapter with save_pretrained"
    )
    raise CheckpointError(f"{folder}: tensor {shown(name)}: PEFT's names begin with {PREFIX}<module>; {how}")


def renamed(path: str) -> str:
    """A tensor's name as it is since transformers 5."""
    top, dot, rest = path.partition(".")
    return f"{RENAMED.get(top, top)}{dot}{rest}"


def _whole(claims: Claims, path: str, tying: bool) -> bool:
    """Whether a tensor is one of those that PEFT writes whole: of `modules_to_save`; the base layer under an A and a B;
    an embedding or output matrix (`save_embedding_layers`, or tied to one of `modules_to_save`)."""
    module, _, part = path.rpartition(".")
    under = module.removesuffix(".base_layer")
    embedding = part == "weight" and module.rpartition(".")[2] in EMBEDDINGS
    return claims.saves(path) or embedding or (under != module and (tying or claims.adapts(under)))


def _tied(
    folder: Path, config: Mapping[str, Any], found: Found, stored: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """{whole tensor: its other names}: as `tlora.json` has it, or, for PEFT's `ensure_weight_tying`, the embedding and
    the output matrix."""
    tied = {str(name): tuple(map(str, others)) for name, others in stored.items()}
    if not tied and config.get("ensure_weight_tying"):
        own = set(found.whole) - found.base
        tables = [name for name in own - {OUTPUT_MATRIX} if name.split(".")[-2] in EMBEDDINGS]
        tied = {tables[0]: (OUTPUT_MATRIX,)} if tables and OUTPUT_MATRIX in own else {}
    for name, others in tied.items():
        for other in others:
            same = name in found.whole and other in found.whole
            if not same or not np.array_equal(found.whole[name], found.whole[other]):
                raise CheckpointError(
                    f"{folder}: {name} and {other} are said to be tied, but {WEIGHTS} holds "
                    f"{'different values of them' if same else 'only one of them'}. Save the adapter again"
                )
    return tied


def _check_pair(folder: Path, module: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for letter in "AB":
        if letter not in shapes:
            raise CheckpointError(
                f"{folder}: {module} has no lora_{letter}: a pair is expected. Save the adapter again"
            )
    A, B = shapes["A"], shapes["B"]
    if len(A) != 2 or len(B) != 2 or A[0] != B[1] or 0 in A + B:
        raise CheckpointError(
            f"{folder}: {module} has lora_A {A} and lora_B {B}, expected (r, d_in) and (d_out, r). Save the adapter "
            "again"
        )


def _facts(folder: Path, ranks: Mapping[str, int], scales: Mapping[str, float]) -> dict[str, Any]:
    """What `tlora.json` knows beyond PEFT's files (defaults without it), refused where the two contradict."""
    path = inside(folder, FACTS)
    if not path.is_file():
        return {"scale": dict(scales), "init": "unknown", "seed": 0, "frozen_A": False}
    values = read_json(path)
    mend = f"Copy {FACTS} again, or delete it if the adapter was changed by another tool"
    try:
        exact = {m: float(s) for m, s in values["scale"].items()}
        plan = None if values["plan"] is None else Plan.from_dict(values["plan"])
        planned = {} if plan is None else {m: int(r) for m, r in plan.rank.items() if r > 0}
        known = {"init": str(values["init"]), "seed": int(values["seed"]), "frozen_A": bool(values["frozen_A"])}
        known |= {"untrained": set(map(str, values["untrained"])), "model": values["model"]}
        known["labels"] = tuple(map(str, values.get("labels", [])))
        known["tied"] = {str(name): tuple(map(str, others)) for name, others in values.get("tied", {}).items()}
    except (TLoRAError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not what this library writes ({type(error).__name__}: {reason(error)}). {mend}"
        ) from error
    for module, rank in ranks.items():
        # alpha / rank loses the last bit of the scale; tlora.json has it whole.
        if not abs(exact.get(module, np.inf) - scales[module]) <= 1e-12 * abs(scales[module]):
            raise CheckpointError(
                f"{path}: the scale of {module} is {exact.get(module)}, but {CONFIG} makes it {scales[module]}. {mend}"
            )
        if plan is not None and planned.get(module) != rank:
            raise CheckpointError(f"{path}: the plan's rank of {module} is {planned.get(module)}, not {rank}. {mend}")
    if set(exact) != set(ranks):
        odd = sorted(set(exact) ^ set(ranks))
        raise CheckpointError(f"{path} and {WEIGHTS} hold different modules: {', '.join(odd[:5])}. {mend}")
    return {"scale": {m: exact[m] for m in ranks}, "plan": plan, **known}
