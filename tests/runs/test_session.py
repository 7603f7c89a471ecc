import csv
import io
import json
import re
import sys
from collections.abc import Generator
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from poise import api
from poise.agents import agent
from poise.config import PPO, Config
from poise.envs import EnvError, make
from poise.runs import scoring
from poise.runs import session as run
from poise.runs.curve import recent_mean
from poise.runs.options import Options
from poise.runs.setup import Conditions
from poise.system.interrupts import Guard
from poise.system.machine import peak_memory
from poise.training.loop import settled_iterations as real_iterations

SMALL = Config(total_steps=4 * 128, num_envs=2, ppo=PPO(num_steps=64, num_epochs=2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, drawing):
    shown = io.StringIO()
    out = tmp_path_factory.mktemp("runs")
    with drawing():
        result = run.execute("Reacher-v2", SMALL, Options(out=out, video=False), Conditions(shown))
    return result, shown.getvalue(), out


def test_the_folder_holds_what_it_promises(finished):
    result, _, out = finished
    assert result.folder.parent == out / "Reacher-v4"
    (events,) = result.folder.glob("events.out.tfevents.*")
    assert {f.name for f in result.folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "episodes.csv",
        "curve.png",
        "evaluation.csv",
        "summary.json",
        "checkpoints",
        ".lock",
        events.name,
    }


def test_the_summary_has_the_keys_that_scripts_rely_on(finished):
    result, _, _ = finished
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary == result.summary
    assert set(summary) == {
        "env",
        "backend",
        "seed",
        "steps",
        "status",
        "stopped_by",
        "stop_reason",
        "exact",
        "resumed",
        "crashes",
        "fingerprints",
        "steps_per_second",
        "seconds",
        "peak_memory_bytes",
        "evaluation",
        "best",
        "parameters_sha256",
        "versions",
        "processor",
        "device",
        "fingerprint",
        "processes",
    }
    assert (summary["env"], summary["backend"], summary["steps"]) == ("Reacher-v4", "mujoco", 512)
    assert summary["status"] == "finished"
    times = {
        "import",
        "compile",
        "rollout",
        "physics",
        "learn",
        "prepare",
        "log",
        "evaluate",
        "total",
        "film",
    }
    assert set(summary["seconds"]) == times
    parts = [v for k, v in summary["seconds"].items() if k not in {"total", "physics", "prepare"}]
    assert 0.5 * summary["seconds"]["total"] < sum(parts) <= summary["seconds"]["total"]
    assert 1e8 < summary["peak_memory_bytes"] < 1e10
    evaluation = summary["evaluation"]
    assert evaluation["episodes"] == 100
    assert evaluation["low"] < evaluation["mean"] < evaluation["high"]
    assert summary["versions"]["poise"] == "0.1.0"


def test_the_configuration_is_kept_exactly(finished):
    data = json.loads((finished[0].folder / "config.json").read_text())
    assert (data.pop("env"), data.pop("backend")) == ("Reacher-v4", "mujoco")
    kept = Config.from_dict(data)
    spec = make("Reacher-v4", 1).spec
    assert kept == SMALL.settled(spec) == kept.settled(spec)
    assert None not in (kept.ppo.gamma, kept.ppo.policy_learning_rate, kept.ppo.value_learning_rate)


def test_the_tables_agree_with_each_other(finished):
    folder = finished[0].folder
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    episodes = list(csv.DictReader((folder / "episodes.csv").read_text().splitlines()))
    assert [m["steps"] for m in metrics] == [128, 256, 384, 512]
    assert sum(m["episode/count"] for m in metrics) == len(episodes)
    # the first episode of the first environment is cut after 25 steps, and not listed
    assert [e["env"] for e in episodes].count("0") == (256 - 25) // 50
    assert [e["env"] for e in episodes].count("1") == 256 // 50
    assert {e["ended"] for e in episodes} == {"truncated"}
    for m in metrics:
        returns = [float(e["return"]) for e in episodes if m["steps"] - 128 < int(e["step"]) <= m["steps"]]
        assert m["episode/return"] == pytest.approx(np.mean(returns))


def test_progress_in_plain_lines_names_backend_and_replacement(finished):
    shown = finished[1].splitlines()
    assert shown[0].startswith("Reacher-v2 is run as Reacher-v4")
    assert shown[1] == "Reacher-v4: 512 steps, seed 0"
    told = r"on mujoco \(2 threads\), learning on (one device|two devices at once): 4 iterations x 128"
    assert re.fullmatch(told, shown[2])
    assert all(len(line) <= 80 for line in shown[1:3])
    lines = [line for line in shown if re.match(r" *\d+ / 512 steps", line) and " s)" not in line]
    assert [line.split()[0] for line in lines] == ["128", "256", "384", "512"]
    assert "return -" in lines[-1]
    (score,) = (line for line in shown if line.startswith("score: "))
    choice = r"with the choice of the best of \d saved agents"
    assert re.fullmatch(rf"score: up to 100 episodes, {choice}; about \d+ s at most", score)


def test_the_curve_is_a_picture_with_ink(finished):
    image = np.asarray(Image.open(finished[0].folder / "curve.png").convert("L"))
    assert image.shape == (900, 1600)
    assert (image < 128).mean() > 0.003


def test_the_same_seed_gives_the_same_parameters_and_another_does_not(finished, tmp_path):
    quick = SMALL.to_dict() | {"evaluate": False, "video": False, "out": tmp_path, "file": io.StringIO()}
    again = api.train("Reacher-v4", **quick)
    other = api.train("Reacher-v4", **quick | {"seed": 1})
    assert again.summary["parameters_sha256"] == finished[0].summary["parameters_sha256"]
    assert other.summary["parameters_sha256"] != again.summary["parameters_sha256"]
    assert again.summary["evaluation"] is None


def test_an_interrupted_run_keeps_what_it_has(tmp_path, monkeypatch):
    def interrupted(*given, **more):
        for progress in real_iterations(*given, **more):
            yield progress
            if progress.iteration == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(run, "settled_iterations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.train("Reacher-v4", **SMALL.to_dict(), out=tmp_path, file=io.StringIO())
    (folder,) = (tmp_path / "Reacher-v4").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["evaluation"]) == ("interrupted", 256, None)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert {f.name for f in (folder / "checkpoints").iterdir()} == {"000000000000", "000000000256"}


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    names = {run.new_folder(tmp_path, "a:b/C-v0", "3") for _ in range(4)}
    assert len(names) == 4
    assert {n.parent.name for n in names} == {"a-b-C-v0"}


def test_nothing_is_written_for_an_environment_that_cannot_be_made(tmp_path):
    with pytest.raises(EnvError):
        api.train("Reachr-v4", out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_recent_mean_by_hand():
    step, value = np.array([10, 20, 30, 100]), np.array([1.0, 2.0, 6.0, 5.0])
    np.testing.assert_allclose(recent_mean(step, value, 20), [1, 1.5, 4, 5])


def test_peak_memory_is_none_if_the_system_does_not_measure_it(monkeypatch):
    assert peak_memory() > 1e7
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory() is None


def test_a_closed_session_is_stopped_and_resumes_to_the_same_bits(tmp_path, finished):
    options = Options(out=tmp_path, video=False)
    (tmp_path / "run").mkdir()

    def go_on():
        return run.session("Reacher-v2", SMALL, options, tmp_path / "run", Conditions(io.StringIO()))

    training = go_on()
    assert [next(training).steps for _ in range(2)] == [128, 256]
    training.close()
    assert run.status(tmp_path / "run") == "stopped"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 256
    training = go_on()
    assert [progress.steps for progress in training] == [384, 512]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    for name in ("parameters_sha256", "evaluation", "best"):
        assert summary[name] == finished[0].summary[name]


def test_an_interrupt_while_compiling_shows_how_to_resume(tmp_path):
    """There the main thread does not hear of it: another one saves, and says so."""
    (tmp_path / "run").mkdir()
    guard, shown = Guard(), io.StringIO()
    options = Options(out=tmp_path, video=False)
    training = run.session("Reacher-v2", SMALL, options, tmp_path / "run", Conditions(shown, guard))
    next(training)
    guard._saves[-1]()
    told = f"interrupted at step 128; to resume: poise resume {tmp_path / 'run'}"
    assert shown.getvalue().splitlines()[-1] == told
    assert run.status(tmp_path / "run") == "interrupted"
    training.close()


def test_the_episodes_of_an_interrupted_score_are_kept(tmp_path, monkeypatch):
    def interrupted(folder):
        real = agent.load(folder)

        def evaluate(episodes, *, env, limits):
            limits.keep(real.evaluate(3, env=env))
            raise KeyboardInterrupt

        return SimpleNamespace(evaluate=evaluate, settings_for=lambda task: {})

    monkeypatch.setattr(scoring, "load", interrupted)
    shown = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        run.execute("Reacher-v4", SMALL, Options(out=tmp_path, video=False), Conditions(shown))
    (folder,) = (tmp_path / "Reacher-v4").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["evaluation"]["episodes"]) == ("interrupted", 3)
    assert " over 3 episodes so far; to resume: poise resume " in shown.getvalue().splitlines()[-1]


def test_python_shows_score_health_and_folder_at_the_end(tmp_path, finished):
    shown = io.StringIO()
    found = api._told(finished[0], shown)
    score, threshold, *_, health, folder = shown.getvalue().splitlines()
    assert score.startswith("greedy return -")
    assert threshold == "Gymnasium calls a mean return of -3.75 solved: not reached"
    assert health.startswith("health: ")
    assert folder == str(found.folder)


def test_an_interrupt_between_iterations_is_handled_like_one_inside(tmp_path):
    options = Options(out=tmp_path, video=False)
    training = run.session("Reacher-v2", SMALL, options, tmp_path / "run", Conditions(io.StringIO()))
    (tmp_path / "run").mkdir()
    steps = []

    class Noisy(Generator):
        """Ctrl-C between two iterations."""

        def send(self, _):
            if steps:
                raise KeyboardInterrupt
            progress = next(training)
            steps.append(progress.steps)
            return progress

        def throw(self, error):
            return training.throw(error)

    with pytest.raises(KeyboardInterrupt):
        run._to_its_end(Noisy(), Conditions(io.StringIO()))
    assert run.status(tmp_path / "run") == "interrupted"
    assert steps == [128]


def test_an_error_after_a_resume_does_not_restart_the_training(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()

    def go_on():
        options = Options(out=tmp_path, video=False)
        return run.session("Reacher-v2", SMALL, options, tmp_path / "run", Conditions(io.StringIO()))

    training = go_on()
    next(training)
    training.close()

    def failing(*_, **more):
        raise ValueError("of something else")
        yield

    monkeypatch.setattr(run, "settled_iterations", failing)
    with pytest.raises(ValueError, match="of something else"):
        next(go_on())
    assert run.checkpoints(tmp_path / "run")[0].name == f"{128:012d}"  # as it was
