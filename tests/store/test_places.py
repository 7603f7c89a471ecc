"""A folder that was given for a run and is none."""

import os

import pytest

import poise
from poise.cli.main import main
from poise.store.checkpoint import CheckpointError
from poise.store.places import instead_of_run


@pytest.fixture
def runs(tmp_path):
    """Two runs of one task and one of an experiment; the second was saved last."""
    for number, name in enumerate(("task/1", "task/3", "task/2", "task/2/replaced-1", "other/5/task/0")):
        saved = tmp_path / "runs" / name / "checkpoints"
        saved.mkdir(parents=True)
        os.utime(saved, (number, 100 - number if "replaced" not in name and "3" not in name else 1000))
    return tmp_path / "runs"


def test_of_the_runs_in_a_folder_the_newest_is_named(runs):
    newest = runs / "task" / "3"
    for place in (runs, runs / "task"):
        assert instead_of_run(place) == f"is not a run but holds runs, the newest is {newest}"
    assert instead_of_run(runs / "other").endswith(f"{runs / 'other' / '5' / 'task' / '0'}")  # pyright: ignore
    assert instead_of_run(runs / "task" / "2") is None
    assert instead_of_run(runs / "nope") == "there is no such folder"
    (runs / "file").touch()
    assert instead_of_run(runs / "file") == "is not a folder"


VERBS = ["evaluate", "evaluate --which best", "video", "export", "resume", "doctor", "report", "config"]


@pytest.mark.parametrize("verb", [*VERBS, "train X --start-from", "train Pendulum-v1 --config"])
def test_every_verb_names_the_newest_run_of_a_folder(verb, runs, capsys):
    assert main([*verb.split(), str(runs / "task")]) == 2
    where = runs / "task"
    said = f"poise: {where}: is not a run but holds runs, the newest is {where / '3'}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("verb", ["evaluate", "evaluate --which best", "video", "resume", "doctor", "report"])
def test_a_folder_that_does_not_exist_is_said_not_to_exist(verb, capsys):
    assert main([*verb.split(), "nope"]) == 2
    assert capsys.readouterr().err == "poise: nope: there is no such folder\n"


def test_python_says_the_same(runs):
    with pytest.raises(CheckpointError, match="holds runs, the newest is"):
        poise.load(runs)
