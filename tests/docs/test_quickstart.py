"""The quickstart is run, as a page and as a notebook."""

import json
import subprocess
import sys

import pytest
from pages import ROOT, WRITTEN, blocks, environment, run_commands, shorter

pytestmark = pytest.mark.pages


def run_program(program, folder, *, as_written):
    done = subprocess.run(
        [sys.executable, "-c", program if as_written else shorter(program)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("as_written", WRITTEN)
def test_every_command_of_the_quickstart_runs(as_written, tmp_path):
    shown = run_commands("quickstart.md", tmp_path, as_written=as_written)
    assert "resuming from step" in shown


@pytest.mark.parametrize("as_written", WRITTEN)
def test_the_python_of_the_quickstart_runs(as_written, tmp_path):
    (program,) = blocks("quickstart.md", "python")
    assert run_program(program, tmp_path, as_written=as_written).endswith("[]\n")  # nothing found


@pytest.mark.parametrize("as_written", WRITTEN)
def test_the_cells_of_the_notebook_run_from_top_to_bottom(as_written, tmp_path):
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 7
    shows = "def Image(path, **options):\n    assert path.stat().st_size > 1000\n\nVideo = Image"
    program = "\n".join(code).replace("from IPython.display import Image, Video", shows)
    assert shows in program  # a notebook draws it; here it has to be there
    shown = run_program(program, tmp_path, as_written=as_written)
    assert "warning: learning-rate-too-high" in shown
