"""Each command of the table of other packages' environments is run, with fewer steps."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec

import pytest
from pages import ROOT, environment

PAGE = (ROOT / "docs" / "environments.md").read_text()
ROWS = dict(re.findall(r"^\| ([\w -]+?) \| `uv pip install [^`]+` \| `(poise train [^`]+)` \|$", PAGE, re.M))
MODULES = {
    "MiniGrid": "minigrid",
    "POPGym": "popgym",
    "ALE": "ale_py",
    "highway-env": "highway_env",
    "gymnasium-robotics": "gymnasium_robotics",
    "PettingZoo": "pettingzoo",
    "dm_control through Shimmy": "dm_control",
}
LESS = ["--total-steps", "256", "--num-envs", "2", "--ppo.num-steps", "32", "--no-video", "--no-evaluate"]


def test_every_row_of_the_table_is_read():
    assert ROWS.keys() == MODULES.keys()


@pytest.mark.pages
@pytest.mark.parametrize("package", MODULES)
def test_the_recipe_trains(package, tmp_path):
    if find_spec(MODULES[package]) is None:
        pytest.skip(f"{MODULES[package]} is not installed")
    if package.startswith("dm_control") and int(version("mujoco").partition(".")[0]) > 3:
        pytest.skip("dm_control 1.0.50 does not load on mujoco 4")
    _, *words = shlex.split(ROWS[package])
    command = [sys.executable, "-W", "ignore", "-m", "poise", *words, *LESS, "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "examples", env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 256
