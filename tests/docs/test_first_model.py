"""docs/first_model.md: its first commands run at toy size, with the shipped configs."""

import re

import pytest

from mge_plugin import registry
from tests.docs.test_reproduce import configs, recorded, run, toy

SMALL = {"--songs": "6", "--seconds": "6"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning's and SAT's
def test_the_first_block_leads_from_songs_to_an_extracted_source(tmp_path, monkeypatch, capsys):
    configs(tmp_path)
    lines = recorded("first_model.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    registry.install()
    for line in map(toy, lines[:6]):
        line = [re.sub(r"test/Track\d+", "test/Track*", word) for word in line]
        for name, value in SMALL.items():
            if name in line:
                line[line.index(name) + 1] = value
        extra = {
            "fit-mel": ["--windows", "8", "--batch-size", "2"],
            "extract": ["--steps", "2", "--device", "cpu"],
        }
        run(line + extra.get(line[1], []), monkeypatch, capsys)
    assert len(list((tmp_path / "extracted").rglob("*.wav"))) == 3
