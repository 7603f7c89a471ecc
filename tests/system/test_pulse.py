"""Nothing that lasts is silent for long."""

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from poise.runs.live import live
from poise.studies import watching
from poise.system import pulse
from poise.system.pulse import Pulse, announced


class Time:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = Time()
    monkeypatch.setattr(pulse, "time", fake)
    return fake


def test_long_work_is_reported_every_five_seconds(clock):
    lines = []
    beat = Pulse(lines.append)
    beat.doing("filming")
    for _ in range(12):
        clock.now += 1
        beat.beat()
    assert lines == ["filming (5 s)", "filming (10 s)"]
    beat.doing("")
    clock.now += 60
    beat.beat()
    assert len(lines) == 2


def test_other_lines_replace_the_pulse(clock):
    lines = []
    beat = Pulse(lines.append)
    beat.doing("training")
    for _ in range(12):
        clock.now += 1
        beat.heard()
        beat.beat()
    assert lines == []


def test_the_silence_may_grow_with_the_elapsed_time(clock):
    lines = []
    beat = Pulse(lines.append, share=0.1)
    beat.doing("training")
    for _ in range(1000):
        clock.now += 1
        beat.beat()
    assert 20 < len(lines) < 50


def test_a_pulse_beats_by_itself(monkeypatch):
    monkeypatch.setattr(pulse, "SILENCE", 0.02)
    monkeypatch.setattr(pulse, "LOOKING", 0.005)
    lines = []
    with announced("compiling", lines.append):
        for _ in range(1000):
            if lines:
                break
            __import__("time").sleep(0.005)
    assert lines[0].startswith("compiling (")


def test_a_pipe_gets_lines_after_the_training(clock):
    file = io.StringIO()
    with live(1000, file) as view:
        clock.now += 6
        view.pulse.beat()
        view.show(1000, [], {"policy/kl": 0.01})
        for ended in (43, 99):
            view.phase(f"scoring: {ended} / 100 episodes")
            clock.now += 5
            view.pulse.beat()
    compiling, trained, *scoring = file.getvalue().splitlines()
    assert compiling == "compiling (6 s)"
    assert "1,000 / 1,000 steps" in trained
    assert scoring == ["scoring: 43 / 100 episodes (5 s)", "scoring: 99 / 100 episodes (5 s)"]


def job(folder, steps=None, total=1000, **more):
    folder.mkdir()
    if steps is not None:
        rows = [json.dumps({"steps": s}) for s in (steps // 2, steps)]
        (folder / "metrics.jsonl").write_text("\n".join([*rows, '{"ste']))
    return SimpleNamespace(
        folder=folder, config=SimpleNamespace(num_iterations=1, rollout_size=total), **more
    )


def test_a_pipe_gets_the_progress_of_several_trainings(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "time", clock)
    jobs = [job(tmp_path / "0", 430), job(tmp_path / "1", 1000), job(tmp_path / "2")]
    file = io.StringIO()
    with watching.watching(file, lambda one: f"seed {one.folder.name}") as watch:
        watch.look(jobs)
        clock.now += 6
        watch.pulse.beat()
        watch.say("seed 1: greedy return 5.00")
        print("from a caller", file=watch.lines)
    assert file.getvalue().splitlines() == [
        "seed 0 43%; seed 1 finishing; 1 not started or compiling (6 s)",
        "seed 1: greedy return 5.00",
        "from a caller",
    ]


def test_several_trainings_have_bars_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    jobs = [job(tmp_path / "0", 430), job(tmp_path / "1")]
    with watching.watching(file, lambda one: f"seed {one.folder.name}") as watch:
        watch.look(jobs)
        watch.say("seed 7: greedy return 5.00")
    shown = file.getvalue()
    for part in ("seed 0", "43%", "1 not started or compiling", "seed 7: greedy return 5.00"):
        assert part in shown


def test_the_steps_of_a_trial_are_those_of_all_its_seeds(tmp_path):
    trial = job(tmp_path / "trial", num_seeds=2)
    for seed, steps in (("0", 1000), ("1", 400)):
        job(trial.folder / seed, steps)
    assert watching._steps_of(trial) == (1400, 2000)


def test_a_table_that_is_a_pipe_or_a_link_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert watching.steps_done(tmp_path) == 0
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").symlink_to("/dev/zero")
    assert watching.steps_done(Path(tmp_path)) == 0
