"""The examples of docs/starting.md, each run in small."""

import io
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

import poise
from poise.cli.main import main
from poise.training.starting.curriculum import CurriculumState

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "starting.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_a_part_of_the_example():
    assert blocks("python")[0] in (ROOT / "examples" / "targets.py").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of the page have run, with few steps, and what they have read."""
    place = tmp_path_factory.mktemp("page")
    run = poise.train(
        "Pendulum-v1", total_steps=1024, evaluate=False, video=False, out=place, file=io.StringIO()
    )
    (place / "runs").mkdir()
    run.folder.rename(place / "runs" / "expert")
    return place


def test_the_commands_and_the_scripts_of_the_page_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    script = blocks("python")[2]
    (folder / "show.py").write_text(script.replace("evaluate(20", "evaluate(2"))
    runpy.run_path(str(folder / "show.py"))
    with np.load(folder / "shown.npz", allow_pickle=False) as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"obs": (400, 3), "action": (400, 1)}
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(re.sub(r"--total-steps \w+", "--total-steps 1k", command))
        assert main([*words[1:], "--no-video", "--no-evaluate"]) == 0, command


def test_the_curriculum_by_return_moves_on_only_when_it_is_good():
    space: dict = {}
    exec(blocks("python")[1], space)
    decide = space["by_return"]
    state = CurriculumState(steps=1, share=0.1, mean_return=-4.0, episodes=100, settings={"outer": 0.15})
    assert decide(state)["outer"] == pytest.approx(0.155)
    assert decide(CurriculumState(1, 0.1, -6.0, 100, {"outer": 0.15})) == {"outer": 0.15}
    assert decide(CurriculumState(0, 0.0, None, 0, {})) == {"outer": 0.1}
