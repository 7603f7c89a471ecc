"""Folders that an earlier poise made (commit 9bb846b) stay usable, with every verb that takes a folder.

``earlier/`` holds a run, an experiment of two seeds and a sweep of three trials, without their pictures. The
files of TensorBoard are there only where a test resumes a training. ``earlier/pixels`` is a run of commit
2faf619, which read an array of three axes as numbers, and no mask of the info; its agent still does. It was
trained with the flags of XLA that conftest.py sets.
"""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from poise.agents.agent import load
from poise.cli.main import main

PIXELS = "pixels:Pixels-v0"
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


def interrupt(run, kind="run"):
    """Takes away what the run wrote after its first iterations, as if it had been killed there."""
    (run / "summary.json").unlink()
    checkpoints = sorted(p for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    shutil.rmtree(checkpoints[-1])
    return json.loads((EARLIER / kind / "summary.json").read_text())


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


def rows(run):
    """The numbers of each iteration, times left out."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    numbers = [{k: v for k, v in json.loads(line).items() if v is not None} for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in numbers]


@pytest.mark.parametrize("workers", [None, pytest.param(1, marks=pytest.mark.processes)])
def test_an_agent_that_reads_pixels_as_numbers_learns_on(workers, folders, capsys):
    run = folders["pixels"]
    before = interrupt(run, "pixels")
    options = "" if workers is None else f" --workers {workers}"
    poise(f"resume {run} --env {PIXELS}{options}", capsys)
    after = json.loads((run / "summary.json").read_text())
    assert (after["status"], after["steps"]) == ("finished", before["steps"])
    assert after["evaluation"]["mean"] == pytest.approx(before["evaluation"]["mean"], rel=1e-6)
    first, second = rows(run)
    assert first == rows(EARLIER / "pixels")[0]
    assert second == pytest.approx(rows(EARLIER / "pixels")[1], rel=1e-3, abs=1e-6)
    if after["exact"]:  # the same processor and versions
        assert after["parameters_sha256"] == before["parameters_sha256"]
    # what it saves has the form of now, and is resumed like that
    poise(f"resume {run} --env {PIXELS} --total-steps 96", capsys)
    assert json.loads((run / "summary.json").read_text())["steps"] == 96


def test_an_agent_that_reads_pixels_as_numbers_repeats_its_score_and_is_filmed(folders, capsys, tmp_path):
    run = folders["pixels"]
    score = json.loads((run / "summary.json").read_text())["evaluation"]
    again = json.loads(poise(f"evaluate {run} --env {PIXELS} --json", capsys))
    assert again["mean"] == pytest.approx(score["mean"], rel=1e-6)
    assert "video" in poise(f"video {run} --env {PIXELS}", capsys)
    poise(f"export {run} --out {tmp_path / 'policy.py'}", capsys)
    assert load(run).act(np.zeros((5, 5, 3), np.uint8)) in (0, 1)
