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
    found = Time()
    monkeypatch.setattr(pulse, "time", found)
    return found


def test_what_lasts_is_said_every_five_seconds(clock):
    said = []
    beat = Pulse(said.append)
    beat.doing("filming")
    for _ in range(12):
        clock.now += 1
        beat.beat()
    assert said == ["filming (5 s)", "filming (10 s)"]
    beat.doing("")
    clock.now += 60
    beat.beat()
    assert len(said) == 2


def test_what_was_just_said_needs_no_pulse(clock):
    said = []
    beat = Pulse(said.append)
    beat.doing("training")
    for _ in range(12):
        clock.now += 1
        beat.heard()
        beat.beat()
    assert said == []


def test_the_silence_may_grow_with_what_has_passed(clock):
    said = []
    beat = Pulse(said.append, share=0.1)
    beat.doing("training")
    for _ in range(1000):
        clock.now += 1
        beat.beat()
    assert 20 < len(said) < 50


def test_a_pulse_beats_by_itself(monkeypatch):
    monkeypatch.setattr(pulse, "SILENCE", 0.02)
    monkeypatch.setattr(pulse, "LOOKING", 0.005)
    said = []
    with announced("compiling", said.append):
        for _ in range(1000):
            if said:
                break
            __import__("time").sleep(0.005)
    assert said[0].startswith("compiling (")


def test_a_pipe_is_told_what_follows_the_training(clock):
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


def test_of_several_trainings_a_pipe_hears_how_far_each_is(clock, tmp_path, monkeypatch):
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


def test_a_trial_has_the_steps_of_all_its_seeds(tmp_path):
    trial = job(tmp_path / "trial", num_seeds=2)
    for seed, steps in (("0", 1000), ("1", 400)):
        job(trial.folder / seed, steps)
    assert watching._steps_of(trial) == (1400, 2000)


def test_a_table_that_is_a_pipe_or_a_link_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert watching.steps_done(tmp_path) == 0
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "metrics.jsonl").symlink_to("/dev/zero")
    assert watching.steps_done(Path(tmp_path)) == 0
