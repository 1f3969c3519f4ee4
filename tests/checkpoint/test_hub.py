"""Models by their name on the Hub: the cache, fetching from a server on the loopback, and other kinds of weights."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import tiny_llama
from tlora_ref.adapter import allocate, initialize
from tlora_ref.calibration import calibrate
from tlora_ref.checkpoint import find_model, load_model, save_model, save_peft
from tlora_ref.checkpoint.hub import repository_of
from tlora_ref.errors import CheckpointError, ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXTRA = ("README.md", "training_args.bin", "pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx")


class Hub(ThreadingHTTPServer):
    """What of the Hub's interface fetching a repository needs: {repository: {file: its bytes}}."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.sent: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        found = self.server.repositories.get("/".join(path[2:4] if path[0] == "api" else path[:2]))
        if found is None:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path[0] == "api":
            siblings = [{"rfilename": name} for name in found]
            self.answer(200, json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": siblings}).encode(), {})
        elif (name := "/".join(path[4:])) in found:
            self.server.sent.append(name) if self.command == "GET" else None
            self.answer(
                200, found[name], {"ETag": f'"{hashlib.sha256(found[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
            )
        else:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A server that has `me/tiny`, a tiny Llama, beside files that are not wanted."""
    save_model(tiny_llama(), tmp_path / "m", "float64")
    server = Hub()
    files = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    server.repositories["me/tiny"] = {**files, "tokenizer.json": b"{}", **dict.fromkeys(EXTRA, b"x")}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def plan(tmp_path: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tlora-ref plan` in a process of its own."""
    return command(tmp_path, endpoint, "plan", *arguments)


def command(tmp_path: Path, endpoint: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own: huggingface_hub reads its environment when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_ETAG_TIMEOUT": "3"}
    environment.pop("HF_HUB_CACHE", None)
    line = [sys.executable, "-m", "tlora_ref", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_repository_is_fetched_once_and_found_afterwards(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    done = plan(tmp_path, endpoint, "me/tiny")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not hub.sent
    assert "no such repository in the Hugging Face cache" in done.stderr and "--download" in done.stderr
    done = plan(tmp_path, endpoint, "me/tiny", "--download")
    assert done.returncode == 0 and "llama: 4,912 weights" in done.stdout
    assert sorted(hub.sent) == ["config.json", "model.safetensors", "tokenizer.json"]
    snapshot = tmp_path / "home" / "hub" / "models--me--tiny" / "snapshots" / COMMIT
    assert np.array_equal(load_model(snapshot)([1, 2]).logits, tiny_llama()([1, 2]).logits)
    assert repository_of(str(snapshot)) == "me/tiny" and repository_of("a/b/c") == "a/b/c"
    hub.shutdown()
    done = plan(tmp_path, "http://127.0.0.1:9", "me/tiny", "--download")  # it is there: no network is needed
    assert done.returncode == 0 and "llama: 4,912 weights" in done.stdout


def test_an_adapter_is_found_by_its_name_too(hub: Hub, tmp_path: Path) -> None:
    model = tiny_llama()
    save_model(model, tmp_path / "model", "float64")
    stats = calibrate(model, [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}])
    save_peft(initialize(model, stats, allocate(stats.sensitivity, model.shapes(), 2, 2)), tmp_path / "a")
    hub.repositories["me/lora"] = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    (tmp_path / "rows.jsonl").write_text('{"input_ids": [1, 2], "labels": [1, 2]}', encoding="utf-8")
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    arguments = [str(tmp_path / "model"), "--data", str(tmp_path / "rows.jsonl"), "--adapter", "me/lora"]
    done = command(tmp_path, endpoint, "eval", *arguments)
    assert done.returncode == 2 and "no such repository in the Hugging Face cache" in done.stderr
    done = command(tmp_path, endpoint, "eval", *arguments, "--download")
    assert done.returncode == 0, done.stderr
    assert "adapter_config.json" in hub.sent and "tlora.json" in hub.sent
    assert command(tmp_path, "http://127.0.0.1:9", "eval", *arguments).returncode == 0


def test_what_cannot_be_fetched_says_why_in_one_line(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    hub.repositories["me/gguf"] = {"m.Q4_K_M.gguf": b"x", "config.json": b"{}"}
    hub.repositories["me/bin"] = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    for name, where, said in (
        ("me/absent", endpoint, "cannot be fetched (RepositoryNotFoundError"),
        ("me/tiny", "http://127.0.0.1:9", "is there a network? Elsewhere, `hf download me/tiny"),
        ("me/gguf", endpoint, "it holds m.Q4_K_M.gguf: GGUF weights"),
        ("me/bin", endpoint, "it holds pytorch_model.bin: PyTorch's pickled weights"),
    ):
        done = plan(tmp_path, where, name, "--download")
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
    assert not hub.sent


def test_a_folder_wins_over_a_repository_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me" / "tiny").mkdir(parents=True)
    assert find_model("me/tiny") == Path("me/tiny") == find_model("me/tiny", download=True)


@pytest.mark.parametrize("name", ["absent", "/no/such/folder", "a/b/c", "../me/tiny", "me/tiny/"])
def test_what_is_no_repository_s_name_is_a_path(name: str) -> None:
    assert find_model(name, download=True) == Path(name)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.Q4.gguf", "GGUF"),
        ("weights.npz", "MLX"),
        ("pytorch_model.bin", "pickled"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "ONNX"),
        ("gptq_model-4bit-128g.safetensors", "a name that transformers does not read.*not quantised"),
        ("consolidated.safetensors", "a name that transformers does not read"),
    ],
)
def test_other_kinds_of_weights_are_named_with_the_way_out(tmp_path: Path, file: str, said: str) -> None:
    save_model(tiny_llama(), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / file)
    with pytest.raises(CheckpointError, match=rf"It holds {file}: .*{said}.*(save|take|rename)"):
        load_model(tmp_path / "m")


def test_a_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF weights, which"):
        load_model(tmp_path / "m.gguf")


def test_mlx_weights_of_few_bits_are_named(tmp_path: Path) -> None:
    save_model(tiny_llama(), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    bits = {"group_size": 64, "bits": 4}
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({**config, "quantization": bits, "quantization_config": bits})
    )
    with pytest.raises(ConfigError, match=r"MLX weights of 4 bits.*dequantize"):
        load_model(tmp_path / "m")
