"""Folders that an earlier poise made (commit 9bb846b) stay usable, with every verb that takes a folder.

``earlier/`` holds a run, an experiment of two seeds and a sweep of three trials, without their pictures. The
files of TensorBoard are there only where a test resumes a training.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from poise.cli.main import main

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def folders(tmp_path):
    """Copies that a test may change: of the run, the experiment and the sweep."""
    return {kind.name: shutil.copytree(kind, tmp_path / kind.name) for kind in EARLIER.iterdir()}


def poise(command, capsys):
    """Standard output of a command that must succeed."""
    code = main(shlex.split(command))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def interrupt(run):
    """Takes away what the run wrote after its first iterations, as if it had been killed there."""
    (run / "summary.json").unlink()
    checkpoints = sorted(p for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    shutil.rmtree(checkpoints[-1])
    return json.loads((EARLIER / "run" / "summary.json").read_text())


def test_a_run_is_resumed(folders, capsys):
    before = interrupt(folders["run"])
    poise(f"resume {folders['run']}", capsys)
    after = json.loads((folders["run"] / "summary.json").read_text())
    assert (after["status"], after["steps"]) == ("finished", before["steps"])


@pytest.mark.processes
@pytest.mark.parametrize("run", ["experiment/1", "sweep/default/5"])
def test_an_experiment_and_a_sweep_are_resumed(run, folders, capsys):
    kind = run.split("/")[0]
    run = folders[kind].parent / run
    interrupt(run)
    if kind == "sweep":
        (folders[kind] / "summary.json").unlink()
    poise(f"resume {folders[kind]}", capsys)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_an_agent_repeats_its_score_and_is_exported(folders, capsys, tmp_path):
    run = folders["run"]
    score = json.loads((run / "summary.json").read_text())["evaluation"]
    again = json.loads(poise(f"evaluate {run} --json", capsys))
    assert again["mean"] == pytest.approx(score["mean"], rel=1e-6)
    poise(f"export {run} --out {tmp_path / 'policy.py'}", capsys)


@pytest.mark.parametrize(
    "command",
    [
        "doctor {run}",
        "report {run}",
        "report {experiment}",
        "report {sweep}",
        "compare {experiment} {run}",
        "diff {run} {experiment}/0",
    ],
)
def test_it_is_read(command, folders, capsys):
    assert poise(command.format(**folders), capsys)
