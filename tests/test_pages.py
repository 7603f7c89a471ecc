"""Every command of the pages is run, as it is written, one page in one shell from top to bottom."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from poise.diagnosis import RULES

ROOT = Path(__file__).parent.parent
PAGES = ["quickstart.md", "reading.md", "robots.md", "export.md", "environments.md", "reports.md"]


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.M | re.S)


@pytest.fixture
def checkout(tmp_path):
    """A folder as a reader has it: with the examples, and nothing trained yet."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def environment():
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONWARNINGS": "default"}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page, checkout):
    commands = blocks(page, "bash")
    assert commands
    script = "\n".join(["set -euo pipefail", *commands])
    done = subprocess.run(
        ["bash", "-c", script], cwd=checkout, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(
    ("page", "file"), [("robots.md", "ball_and_beam.py"), ("environments.md", "tank.py")]
)
def test_the_page_shows_the_example_itself(page, file):
    assert blocks(page, "python")[0] == (ROOT / "examples" / file).read_text()


def test_the_python_of_the_quickstart_runs(tmp_path):
    (program,) = blocks("quickstart.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")  # nothing found


def test_the_environments_page_names_every_finding():
    page = (ROOT / "docs" / "environments.md").read_text()
    source = (ROOT / "src" / "poise" / "inspection.py").read_text()
    rules = set(re.findall(r'(?:Finding|_error)\(\s*"([a-z-]+)"', source))
    assert len(rules) == 19
    for rule in rules:
        assert f"| `{rule}` |" in page, rule


def test_the_reading_page_names_every_finding():
    page = (ROOT / "docs" / "reading.md").read_text()
    for rule in RULES:
        name = rule.__name__.replace("_", "-").replace("reward-says-nothing", "reward-constant")
        assert f"| `{name}` |" in page


def test_the_cells_of_the_notebook_run_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 7
    (tmp_path / "IPython").mkdir()  # a notebook has it; here, what is to be shown has to be there
    (tmp_path / "IPython" / "__init__.py").touch()
    shows = "def Image(path, **options):\n    assert path.stat().st_size > 1000\n\n\nVideo = Image\n"
    (tmp_path / "IPython" / "display.py").write_text(shows)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "warning: learning-rate-too-high" in done.stdout
