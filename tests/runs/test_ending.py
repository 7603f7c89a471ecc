"""A training that fails: the failure is what is told, whatever fails after it."""

import io
import json
import signal

import pytest

import poise
from poise.config import Config
from poise.runs.options import Options
from poise.runs.recorder import Recorder
from poise.runs.session import execute
from poise.runs.setup import Conditions
from poise.system.interrupts import Guard, Interrupted

QUICK = {"total_steps": 256, "video": False, "evaluate": False}


@pytest.fixture
def failing(monkeypatch):
    def fail(recorder, progress):
        raise MemoryError("the real error")

    monkeypatch.setattr(Recorder, "record", fail)


def test_a_failed_curve_does_not_hide_the_error(failing, monkeypatch, tmp_path):
    def draw(*_):
        raise ImportError("ft2font.so: failed to map segment from shared object")

    monkeypatch.setattr("poise.runs.recorder.draw_curve", draw)
    with pytest.raises(MemoryError, match="the real error"):
        poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), **QUICK)
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "failed"


def test_an_unfinished_run_writes_its_summary_before_its_curve(failing, monkeypatch, tmp_path):
    """Drawing takes seconds on a busy machine; an interrupted process is ended before."""
    seen = []
    monkeypatch.setattr(
        "poise.runs.recorder.draw_curve",
        lambda path, *_: seen.append(json.loads((path.parent / "summary.json").read_text())["status"]),
    )
    with pytest.raises(MemoryError):
        poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), **QUICK)
    assert seen == ["failed"]


def test_an_interrupt_while_drawing_the_curve_leaves_a_summary(monkeypatch, tmp_path):
    """All is trained; the process is ended where drawing takes too long."""
    saves, seen = [], []

    class Watched(Guard):
        def saving(self, save):
            saves.append(save)
            return super().saving(save)

    def slow(path, *_):
        saves[-1]()  # as the other thread does, 2.5 seconds after the signal
        seen.append(json.loads((path.parent / "summary.json").read_text())["status"])

    monkeypatch.setattr("poise.runs.recorder.draw_curve", slow)
    config, options = Config(total_steps=256), Options(out=tmp_path, video=False, evaluate=False)
    execute("Pendulum-v1", config, options, Conditions(io.StringIO(), Watched()))
    assert seen == ["interrupted"]
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "finished"
    saves[-1]()  # too late: all is done
    assert json.loads(summary.read_text())["status"] == "finished"


def test_a_failed_curve_at_the_end_is_an_error_and_the_status_is_failed(monkeypatch, tmp_path):
    def draw(*_):
        raise ImportError("ft2font.so: failed to map segment from shared object")

    monkeypatch.setattr("poise.runs.recorder.draw_curve", draw)
    with pytest.raises(ImportError, match="ft2font"):
        poise.train("Pendulum-v1", out=tmp_path, file=io.StringIO(), eval_every=128, **QUICK)
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "failed"


def test_a_failure_to_complete_the_folder_does_not_hide_the_error(failing, monkeypatch, tmp_path):
    def finish(recorder, *_):
        recorder.close()
        raise OSError("no space")

    monkeypatch.setattr(Recorder, "finish", finish)
    shown = io.StringIO()
    with pytest.raises(MemoryError, match="the real error"):
        poise.train("Pendulum-v1", out=tmp_path, file=shown, **QUICK)
    assert shown.getvalue().endswith("the run folder is not complete: OSError: no space\n")


def test_an_interrupt_before_the_first_iteration_leaves_a_summary(monkeypatch, tmp_path):
    guard, save = Guard(), Recorder.save

    def interrupted(recorder):
        save(recorder)
        guard.hear(signal.SIGINT, None)

    monkeypatch.setattr(Recorder, "save", interrupted)
    options = Options(out=tmp_path, video=False, evaluate=False)
    with pytest.raises(Interrupted):
        execute("Pendulum-v1", Config(total_steps=256), options, Conditions(io.StringIO(), guard))
    (summary,) = tmp_path.glob("*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "interrupted"
