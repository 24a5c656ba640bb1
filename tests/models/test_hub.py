"""Models by name: shipped, in a folder, in one file, on a server with the Hub's protocol."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mge_plugin.config import ConfigError
from mge_plugin.models.hub import DEFAULT_MODEL, _shipped_models, available_models, find_model

CONFIG = {"model": {"diffusion": {"type": "mge_dit"}}, "card": {"labels": ["bass"]}}


@pytest.fixture
def folder(tmp_path):
    """A folder with a config and weights that nobody opens."""
    (tmp_path / "model_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    return tmp_path


def test_the_default_is_the_shipped_model_or_the_environments(folder, monkeypatch):
    monkeypatch.delenv("MGE_MODEL", raising=False)
    assert DEFAULT_MODEL in _shipped_models()
    assert find_model().name == DEFAULT_MODEL == find_model(DEFAULT_MODEL).name
    monkeypatch.chdir(folder)
    (folder / DEFAULT_MODEL).mkdir()
    assert find_model().name == DEFAULT_MODEL  # not a folder that happens to have its name
    monkeypatch.setenv("MGE_MODEL", str(folder))
    assert find_model().ckpt == folder / "model.ckpt"


def test_a_folder_has_a_config_and_weights(folder):
    found = find_model(folder)
    assert (found.config_file, found.ckpt) == (
        folder / "model_config.json",
        folder / "model.ckpt",
    )
    assert found.card.labels == ("bass",)
    (folder / "model.safetensors").touch()
    assert find_model(folder).ckpt == folder / "model.safetensors"


def test_a_file_may_have_its_config_inside(tmp_path):
    tensors = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(1)}, tensors, {"model_config": json.dumps(CONFIG)})
    trained = tmp_path / "b.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(1)}, "model_config": CONFIG}, trained)
    for path in (tensors, trained):
        found = find_model(path)
        assert found.config == CONFIG
        assert found.config_file == found.ckpt == path


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "empty", "bare.safetensors", "model.json"])
def test_a_model_that_cannot_be_found_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.json").write_text(json.dumps(CONFIG))
    save_file({"x": np.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ConfigError, match=name):
        find_model(name)
    with pytest.raises(ConfigError, match="config"):
        find_model(None, "model.ckpt")


class _Hub(BaseHTTPRequestHandler):
    """GET and HEAD of huggingface.co's /user/repo/resolve/revision/file."""

    files: ClassVar = {
        ("user/both", "main", "model_config.json"): json.dumps(CONFIG).encode(),
        ("user/both", "main", "model.safetensors"): b"tensors",
        ("user/both", "v1", "model_config.json"): json.dumps(CONFIG | {"v": 1}).encode(),
        ("user/both", "v1", "model.ckpt"): b"pickled",
        ("user/private", "main", "model_config.json"): json.dumps(CONFIG).encode(),
        ("user/private", "main", "model.ckpt"): b"secret",
    }

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        user, repo, _, revision, name = self.path.strip("/").split("/", 4)
        content = self.files.get((f"{user}/{repo}", revision, name))
        known = any(key[:2] == (f"{user}/{repo}", revision) for key in self.files)
        if repo == "private" and self.headers.get("Authorization") != "Bearer token":
            content, known = None, False
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", ("1" if revision == "v1" else "0") * 40)
        if content is None:
            code = "EntryNotFound" if known else "RepoNotFound"
            self.send_header("X-Error-Code", code)
            content = b""
        self.send_header("ETag", f'"{name}-{revision}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    """The address of a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


FIND = """
import sys
from mge_plugin.models.hub import available_models, find_model
for name in sys.argv[1:]:
    try:
        print(find_model(name).ckpt.read_text())
    except ValueError as error:
        print(str(error).partition(":")[0])
print(sorted(m.name for m in available_models() if "/" in m.name))
print([m for m in ("torch", "stable_audio_tools") if m in sys.modules])
"""


def test_a_hub_id_is_downloaded_once_with_token_revision_and_offline_mode(hub, tmp_path):
    def find(*names, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", FIND, *names]
        done = subprocess.run(
            command, env=environment | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    names = ("user/both", "user/both@v1", "user/private", "user/none")
    cached = ["user/both@00000000", "user/both@11111111", "user/private@00000000"]
    online = find(*names, HF_ENDPOINT=hub)
    assert online == ["tensors", "pickled", "user/private", "user/none", str(cached[:2]), "[]"]
    assert find("user/private", HF_ENDPOINT=hub, HF_TOKEN="token")[0] == "secret"
    offline = find(*names, HF_HUB_OFFLINE="1")
    assert offline == ["tensors", "pickled", "secret", "user/none", str(cached), "[]"]


def test_available_models_are_the_shipped_ones_at_least(tmp_path, monkeypatch):
    monkeypatch.setattr("mge_plugin.models.hub._cached", lambda: iter(()))
    assert [model.name for model in available_models()] == _shipped_models()
