"""examples/: they run on what `make demo` leaves."""

import runpy
from pathlib import Path

import pytest

from tests.docs.test_tasks import demo as demo  # fixtures
from tests.inference.conftest import model as model
from tests.inference.conftest import noise as noise

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(demo, path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert "Wrote demo" in capsys.readouterr().out
