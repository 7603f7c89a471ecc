"""A training that fails: the failure is what is told, whatever fails after it."""

import io
import json

import pytest

import poise
from poise.runs.recorder import Recorder

QUICK = {"total_steps": 256, "video": False, "evaluate": False}


@pytest.fixture
def failing(monkeypatch):
    def fail(recorder, progress):
        raise MemoryError("the real error")

    monkeypatch.setattr(Recorder, "record", fail)


def test_a_picture_that_cannot_be_drawn_hides_no_error(failing, monkeypatch, tmp_path):
    def draw(*_):
        raise ImportError("ft2font.so: failed to map segment from shared object")

    monkeypatch.setattr("poise.runs.recorder.draw_curve", draw)
    with pytest.raises(MemoryError, match="the real error"):
        poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), **QUICK)
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "failed"


def test_the_summary_of_a_run_that_failed_or_was_interrupted_does_not_wait_for_its_curve(
    failing, monkeypatch, tmp_path
):
    """Drawing takes seconds on a busy machine; an interrupted process is ended before."""
    seen = []
    monkeypatch.setattr(
        "poise.recorder.draw_curve",
        lambda path, *_: seen.append(json.loads((path.parent / "summary.json").read_text())["status"]),
    )
    with pytest.raises(MemoryError):
        poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), **QUICK)
    assert seen == ["failed"]


def test_a_folder_that_cannot_be_completed_hides_no_error(failing, monkeypatch, tmp_path):
    def finish(recorder, *_):
        recorder.close()
        raise OSError("no space")

    monkeypatch.setattr(Recorder, "finish", finish)
    shown = io.StringIO()
    with pytest.raises(MemoryError, match="the real error"):
        poise.train("Pendulum-v1", out=tmp_path, file=shown, **QUICK)
    assert shown.getvalue().endswith("the run folder is not complete: OSError: no space\n")
