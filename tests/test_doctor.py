import os
import subprocess
import sys

import pytest

from mge_plugin import doctor
from mge_plugin import sat as upstream

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
NETWORK = 97  # exit code of a process that looked for a host or connected

# An audit hook cannot be caught by whoever touches the network, nor taken out again.
WITHOUT_NETWORK = f"""
import os, sys

def hang_up(event, arguments):
    if event.startswith("socket.") and event.split(".")[1] in TELLTALE:
        os._exit({NETWORK})

TELLTALE = {{"connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr"}}
sys.addaudithook(hang_up)
"""


def python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT_NETWORK + code]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def findings() -> dict[str, doctor._Finding]:
    return {finding.name: finding for finding in doctor.examine()}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """An empty working folder and cache, and no import of SAT."""
    monkeypatch.setitem(doctor._EXAMINATIONS, "hooks", lambda: ("in", None))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_process_that_touches_the_network_is_caught():
    assert python("import socket; socket.create_connection(('127.0.0.1', 9))").returncode == NETWORK
    assert python("import socket; socket.getaddrinfo('example.org', 80)").returncode == NETWORK


def test_the_whole_examination_leaves_the_network_alone():
    code = "sys.argv = ['mge', 'doctor']\nfrom mge_plugin.cli import main\nmain()"
    result = python(code)
    assert result.returncode in (0, 1), result.stderr  # 1: something is wrong with this environment
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["stable-audio-tools"] == upstream.sat_version()
    assert lines["torch"][0].isdigit()
    assert lines["hooks"].startswith("in: create_model_from_config")
    assert "create_dataloader_from_config" in lines["hooks"]
    assert {"mge_plugin", "Python", "device", "gradio", "CLAP", "MiniSlakh"} <= lines.keys()
    assert "Traceback" not in result.stderr


def test_versions_that_were_tested_are_no_problem(quick, monkeypatch):
    for version in upstream.TESTED_VERSIONS:
        monkeypatch.setattr(upstream, "sat_version", lambda version=version: version)
        assert findings()["stable-audio-tools"] == doctor._Finding("stable-audio-tools", version)


def test_other_versions_are_a_problem_that_names_the_tested_ones(quick, monkeypatch):
    monkeypatch.setattr(upstream, "sat_version", lambda: "0.0.99")
    monkeypatch.setattr("platform.python_version", lambda: "3.100.1")
    found = findings()
    assert found["stable-audio-tools"].problem == "tested with 0.0.19 and 0.0.20"
    assert found["Python"].problem == "tested with Python 3.10 and 3.11"


def test_missing_packages_are_reported_with_the_remedy(quick, monkeypatch):
    monkeypatch.setattr(upstream, "sat_version", lambda: None)
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr(doctor, "_RENDERERS", ("mido", "no_such_module"))
    found = findings()
    assert found["stable-audio-tools"].problem == "pip install stable-audio-tools"
    assert found["gradio"].value == "not installed"
    assert found["device"].problem == "install torch first"
    assert found["MiniSlakh rendering"].value == "without no_such_module"
    assert "pip install --no-deps tinysoundfont" in found["MiniSlakh rendering"].problem


def test_an_examination_that_breaks_is_a_finding_and_hides_no_other(quick, monkeypatch):
    def broken():
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    monkeypatch.setitem(doctor._EXAMINATIONS, "device", broken)
    found = findings()
    assert list(found) == list(doctor._EXAMINATIONS)
    problem = "OSError: libcudart.so.12: cannot open shared object file"
    assert found["device"] == doctor._Finding("device", "broken", problem)
    assert found["mge_plugin"].problem is None


def test_clap_files_are_looked_for_where_one_puts_them(quick):
    assert "not found" in findings()["CLAP checkpoint"].value
    (quick / "checkpoints").mkdir()
    for path in (
        quick / doctor._CLAP_CHECKPOINTS[1],
        quick / "checkpoints" / doctor._CLAP_CHECKPOINTS[0],
    ):
        path.touch()
        assert str(path) in findings()["CLAP checkpoint"].value


def test_a_tokenizer_counts_when_it_is_whole(quick, monkeypatch):
    assert "not found" in findings()["CLAP tokenizer"].value
    snapshot = quick / "cache" / "hub" / doctor._TOKENIZERS[0] / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    assert findings()["CLAP tokenizer"].problem.startswith("incomplete")
    (snapshot / "vocab.json").touch()
    problem = findings()["CLAP tokenizer"].problem
    assert problem == "incomplete: has no tokenizer.json or vocab.json with merges.txt"
    (snapshot / "merges.txt").touch()
    found = findings()["CLAP tokenizer"]
    assert found.value == str(snapshot.parents[1])
    assert found.problem is None
    monkeypatch.setenv("HF_HUB_CACHE", str(quick / "elsewhere"))
    assert "not found" in findings()["CLAP tokenizer"].value
