"""The page for users of Stable-Baselines3: its code runs, and what its tables name is there."""

import inspect
import re
import subprocess
import sys

import pytest
from pages import ROOT, WRITTEN, blocks, environment, shorter

import poise
from poise.cli.mistyped import names_of
from poise.cli.studies import sweep_command
from poise.cli.train import train_command
from poise.config import PPO, Normalize, Policy, Value
from poise.settings.files import NOTHING

PAGE = (ROOT / "docs" / "coming_from_sb3.md").read_text()
PYTHON, ZOO = (PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in ("In Python", "RL Zoo"))
CALLED = (
    poise.train,
    poise.experiment,
    poise.resume,
    poise.compare,
    poise.Agent.evaluate,
    poise.Agent.act,
    poise.session,
)


def cells(table):
    """The code of the second column."""
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [code for _, poises in rows for code in re.findall(r"`([^`]+)`", poises)]


@pytest.mark.pages
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("as_written", WRITTEN)
def test_each_block_runs(number, as_written, tmp_path):
    code = blocks("coming_from_sb3.md", "python")[number]
    (tmp_path / "program.py").write_text(code if as_written else shorter(code))
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "CartPole-v1" in done.stdout


def test_there_are_no_other_blocks():
    assert len(blocks("coming_from_sb3.md", "python")) == 2
    assert blocks("coming_from_sb3.md", "bash") == []


def test_every_argument_that_the_page_names_is_one():
    known = {name for function in CALLED for name in inspect.signature(function).parameters}
    named = {name for code in cells(PYTHON) for name in re.findall(r"(?<![-.\w])(\w+)=", code)}
    assert len(named) > 20
    assert named - {"N"} <= known, named - known


def test_every_setting_in_a_group_is_one():
    groups = {"ppo": PPO(), "policy": Policy(), "value": Value(), "normalize": Normalize()}
    text = " ".join(cells(PYTHON))
    found = re.findall(r"(ppo|policy|value|normalize)=\{([^}]*)\}", text)
    assert len(found) >= 7
    for group, inner in found:
        for name in re.findall(r'"(\w+)":', inner):
            assert hasattr(groups[group], name), f"{group}.{name}"


def test_every_function_and_method_that_the_page_names_exists():
    text = " ".join(cells(PYTHON))
    for name in re.findall(r"\bpoise\.(\w+)\(", text):
        assert name in poise.__all__, name
    for name in re.findall(r"\bagent\.(\w+)\(", text):
        assert hasattr(poise.Agent, name), name


def test_every_option_of_the_command_that_the_page_names_is_one():
    options = names_of(train_command(""))[0] | names_of(sweep_command(NOTHING))[0]
    named = {name for code in cells(ZOO) for name in re.findall(r"--([a-z][a-z.-]*)", code)}
    assert {"num-envs", "eval-every", "config"} <= named
    elsewhere = {"plot", "from", "env.g"}  # of compare; short for --start-from; of the environment
    assert {name.replace("-", "_") for name in named - elsewhere} <= options
