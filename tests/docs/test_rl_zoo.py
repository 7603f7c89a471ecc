"""The example with ten experiments of RL Zoo, in small."""

import importlib.util
import subprocess
import sys

import pytest
from pages import ROOT, environment

from poise.config import Config
from poise.settings.files import load_data, nested
from poise.settings.sb3 import translate

ZOO = ROOT / "examples" / "rl_zoo.yml"
TASKS = load_data(ZOO)
NEEDS = {"LunarLander-v3": "Box2D", "BipedalWalker-v3": "Box2D", "MiniGrid-DoorKey-5x5-v0": "minigrid"}


def test_ten_tasks_are_translated_and_what_has_no_counterpart_is_named():
    assert len(TASKS) == 10
    for task, settings in TASKS.items():
        found = translate(TASKS, task)
        Config.from_dict(nested(found.options))
        left_out = {line.partition(" = ")[0] for line in found.without}
        assert left_out == settings.keys() & {"vf_coef", "use_sde", "sde_sample_freq"}


def test_the_script_is_short():
    assert len((ROOT / "examples" / "rl_zoo.py").read_text().splitlines()) <= 40


@pytest.mark.pages
def test_the_script_trains_all_ten_by_name_and_prints_one_table(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "rl_zoo.py", "--quick"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    head, *rows = (line.split() for line in done.stdout.splitlines()[-11:])
    assert head[0] == "task"
    assert [row[0] for row in rows] == list(TASKS)
    for task, *cells in rows:
        if task in NEEDS and importlib.util.find_spec(NEEDS[task]) is None:
            assert cells[:2] == ["left", "out:"]
        else:
            assert cells[3] == "256"
    assert len(list(tmp_path.glob("runs/*/*-zoo/config.json"))) == sum(row[4:5] == ["256"] for row in rows)
