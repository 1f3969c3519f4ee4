"""A model or adapter by its name on the Hugging Face Hub: found in the local cache, or fetched into it on request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tlora_ref.errors import CheckpointError
from tlora_ref.files import recovered

#: NAME/REPO, as the Hub allows them.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What is fetched of a repository, from its top folder alone: weights, configuration and tokenizer.
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|adapter_model\.safetensors")
WANTED = re.compile(
    r"model\.safetensors\.index\.json|(config|generation_config|adapter_config|tlora)\.json|tokenizer.*\.(json|model)"
    r"|(special_tokens_map|added_tokens|vocab|chat_template)\.json|vocab\.txt|merges\.txt|(spiece|sentencepiece\.bpe)\.model"
    r"|chat_template\.jinja|additional_chat_templates/[\w.-]+\.jinja"
)
TEMPLATE = re.compile(r"additional_chat_templates/[\w.-]+")
#: Weights of other kinds, by how their files end, and the way out.
OTHERS = {
    ".gguf": "GGUF weights, which llama.cpp reads: take the repository that they were made from, whose weights are "
    "safetensors",
    ".npz": "MLX weights: take the repository that they were made from",
    ".bin": "PyTorch's pickled weights, which are never read: load the model with transformers and save it again "
    "(save_pretrained, with safe_serialization=True in old versions)",
    ".pt": "PyTorch's pickled weights, which are never read: save the model again as safetensors",
    ".pth": "PyTorch's pickled weights, which are never read: save the model again as safetensors",
    ".h5": "TensorFlow's weights: load the model with transformers (from_tf=True) and save it again",
    ".msgpack": "Flax's weights: load the model with transformers (from_flax=True) and save it again",
    ".onnx": "an ONNX graph: take the repository that it was made from, whose weights are safetensors",
}


def other_weights(names: Sequence[str], stem: str = "model") -> str | None:
    """What a folder without STEM.safetensors holds instead, and the way out; None where nothing is known of it."""
    for end, said in OTHERS.items():
        found = sorted(name for name in names if name.endswith(end) and not name.startswith("training_args"))
        if found:
            return f"it holds {found[0]}: {said}"
    others = sorted(name for name in names if name.endswith(".safetensors"))
    if others:
        return (
            f"it holds {others[0]}: safetensors under a name that transformers does not read. If they are the whole "
            f"model, and not quantised, rename them {stem}.safetensors"
        )
    return None


def find_model(name: str | Path, *, download: bool = False) -> Path:
    """The folder of a model: `name` itself where it is one (or the config.json in it), else the repository NAME/REPO in
    the local cache.

    Parameters
    ----------
    download : fetch the repository into the cache (huggingface_hub's, with its progress bars) if it is not there: only
        safetensors, configuration and tokenizer files of its top folder

    Raises
    ------
    CheckpointError
        if there is no such folder and no such repository in the cache; or if it cannot be fetched, or has no
        safetensors. The message says how to get the folder.
    """
    if Path(name).suffix == ".gguf":
        raise CheckpointError(f"{name}: {OTHERS['.gguf']}")
    found = _found(name, "config.json", download)
    return found.parent if found.name == "config.json" and found.is_file() else found


def find_adapter(name: str | Path, *, download: bool = False) -> Path:
    """The folder of a PEFT adapter, as `find_model` finds a model's."""
    return _found(name, "adapter_config.json", download)


def _found(name: str | Path, config: str, download: bool) -> Path:
    """`name`, or the folder of a repository that has the file `config`."""
    path, text = recovered(Path(name)), str(name)
    if path.exists() or not REPOSITORY.fullmatch(text):
        return path
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(text, config)
    if isinstance(found, str):
        return Path(found).parent
    if not download:
        raise CheckpointError(
            f"{text}: there is no such folder, and no such repository in the Hugging Face cache. Fetch it with "
            f"--download, or `hf download {text}` where there is a network, and give its folder"
        )
    return _fetched(text)


def _fetched(repository: str) -> Path:
    """The snapshot folder of a repository, fetched into the cache."""
    from huggingface_hub import HfApi, hf_hub_download

    try:
        siblings = HfApi().model_info(repository).siblings or []
        names = [file.rfilename for file in siblings if "/" not in file.rfilename or TEMPLATE.fullmatch(file.rfilename)]
        chosen = [name for name in names if WEIGHTS.fullmatch(name) or WANTED.fullmatch(name)]
        if not any(WEIGHTS.fullmatch(name) for name in names):
            raise CheckpointError(
                f"{repository} on the Hugging Face Hub has no model.safetensors and no "
                f"adapter_model.safetensors: {other_weights(names) or 'is it a model?'}"
            )
        folders = {Path(hf_hub_download(repository, name)).parent for name in sorted(chosen)}
    except CheckpointError:
        raise
    except Exception as error:  # its own, its HTTP library's (which changed), or the system's: what stopped it is said
        line = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise CheckpointError(
            f"{repository}: cannot be fetched ({type(error).__name__}: {line[:200]}). Is the name right, and is there "
            f"a network? Elsewhere, `hf download {repository} --local-dir FOLDER`, and give that folder"
        ) from error
    return min(folders, key=lambda folder: len(folder.parts))


def repository_of(folder: str) -> str:
    """NAME/REPO for a snapshot folder of the cache, which another machine knows it by; any other path as it is."""
    parts = Path(folder).parts
    if len(parts) >= 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        return parts[-3].removeprefix("models--").replace("--", "/")
    return folder
