"""The quickstart, as a page and as a notebook, is run as it is written."""

import json
import subprocess
import sys

from pages import ROOT, blocks, environment, run_commands


def run_program(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_of_the_quickstart_runs(tmp_path):
    run_commands("quickstart.md", tmp_path)


def test_the_python_of_the_quickstart_runs(tmp_path):
    (program,) = blocks("quickstart.md", "python")
    assert run_program(program, tmp_path).endswith("[]\n")  # nothing found


def test_the_cells_of_the_notebook_run_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 7
    shows = "def Image(path, **options):\n    assert path.stat().st_size > 1000\n\nVideo = Image"
    program = "\n".join(code).replace("from IPython.display import Image, Video", shows)
    assert shows in program  # a notebook draws it; here it has to be there
    assert "warning: learning-rate-too-high" in run_program(program, tmp_path)
