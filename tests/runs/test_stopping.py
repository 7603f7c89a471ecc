"""A training that ends before its budget is used up: by what, where, and how it continues."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest

import poise
from poise.checked import ConfigError
from poise.runs import session
from poise.runs.driving.stops import GREEDY, Stops
from poise.runs.folders import RunError
from poise.runs.journal import read_episodes, read_greedy, read_metrics
from poise.runs.options import Options
from poise.runs.setup import Past, Setup, Stopped
from poise.spec import Episode
from poise.store.checkpoint import checkpoints
from poise.training.loop import settled_iterations
from poise.wording import figure

ROLLOUT = 2 * 64
SMALL = {
    "total_steps": 40 * ROLLOUT,
    "num_envs": 2,
    "ppo": {"num_steps": 64, "num_epochs": 2},
    "policy": {"hidden": "8"},
    "value": {"hidden": "8"},
    "video": False,
    "evaluate": False,
}


def trained(out, **settings):
    return poise.train("CartPole-v1", out=out, file=settings.pop("file", io.StringIO()), **SMALL | settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The training with its whole budget."""
    return trained(tmp_path_factory.mktemp("whole"))


def means(run):
    """Of each iteration: its steps, and the mean return of the last 100 episodes, once there are so many."""
    episodes = list(read_episodes(run.folder))
    for row in read_metrics(run.folder):
        ended = [e.episodic_return for e in episodes if e.step <= row["steps"]]
        if len(ended) >= 100:
            yield row["steps"], float(np.mean(ended[-100:]))


@pytest.fixture(scope="module")
def target(whole):
    """A return that is reached, and the steps at which it is reached first: not with the 100th episode."""
    reached = list(means(whole))
    value = float(np.quantile([mean for _, mean in reached], 0.6))
    steps = next(steps for steps, mean in reached if mean >= value)
    assert reached[0][0] < steps < SMALL["total_steps"]
    return value, steps


def test_it_stops_at_the_first_iteration_whose_mean_of_100_episodes_is_reached(target, tmp_path):
    value, steps = target
    shown = io.StringIO()
    run = trained(tmp_path, stop_at=value, file=shown, evaluate=True)
    assert (run.summary["status"], run.summary["steps"]) == ("finished", steps)
    assert run.summary["stopped_by"] == "stop_at"
    reason = run.summary["stop_reason"]
    assert reason.startswith("the mean return of the last 100 episodes is ")
    assert f"stopped at step {steps:,} by --stop-at ({reason})" in shown.getvalue().splitlines()
    assert run.summary["evaluation"]["episodes"] == 100
    assert run.summary["best"]["steps"] <= steps
    assert (run.folder / "curve.png").exists()


def test_up_to_there_it_is_the_training_without_an_end_and_continues_as_that(whole, target, tmp_path):
    run = trained(tmp_path, stop_at=target[0])
    with pytest.raises(RunError, match=r"is finished, stopped at step .* by --stop-at .*; --total-steps N"):
        poise.resume(run.folder, file=io.StringIO())
    rest = poise.resume(run.folder, total_steps=SMALL["total_steps"], file=io.StringIO())
    assert rest.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    assert (rest.summary["exact"], rest.summary["stopped_by"]) == (True, None)
    assert (rest.folder / "metrics.jsonl").read_bytes().count(b"\n") == 40


def test_another_target_continues_it_without_another_budget(target, whole, tmp_path):
    run = trained(tmp_path, stop_at=target[0])
    higher = max(mean for _, mean in means(whole))
    steps = next(steps for steps, mean in means(whole) if mean >= higher)
    rest = poise.resume(run.folder, stop_at=higher, file=io.StringIO())
    assert (rest.summary["steps"], rest.summary["stopped_by"] == "stop_at") == (steps, steps < 40 * ROLLOUT)


def test_a_training_that_used_its_budget_is_not_continued_by_another_end(whole):
    with pytest.raises(RunError, match=r"it is finished, 5,120 steps; --total-steps N continues it"):
        poise.resume(whole.folder, max_seconds=1000.0, file=io.StringIO())


def copies_of(out, copies, **settings):
    """The run, with a copy of its folder as a kill after each iteration leaves it."""

    def copying(*given, **more):
        for progress in settled_iterations(*given, **more):
            if progress.iteration > 1:
                copy(progress.iteration - 1)
            yield progress
        copy("last")

    def copy(name):
        (folder,) = (out / "CartPole-v1").iterdir()
        shutil.copytree(folder, copies / str(name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "settled_iterations", copying)
        return trained(out, checkpoint_every=1, **settings)


@pytest.mark.parametrize("greedy", [False, True])
def test_a_killed_training_stops_at_the_same_iteration(greedy, whole, target, tmp_path):
    """Its window of returns comes from the tables. After the last iteration it trains no further."""
    settings = {"stop_at": target[0]}
    if greedy:
        scores = {"eval_every": 5 * ROLLOUT, "eval_episodes": 2}
        scored = trained(tmp_path / "scored", **scores)
        value = sorted(mean for _, mean in read_greedy(scored.folder))[-3]
        settings = {"stop_at": value, **scores}
    run = copies_of(tmp_path / "out", tmp_path, **settings)
    last = run.summary["steps"] // ROLLOUT
    assert run.summary["stopped_by"] == "stop_at"
    for stop in (1, last // 2, last - 1, "last"):
        again = poise.resume(tmp_path / str(stop), file=io.StringIO())
        for name in ("steps", "parameters_sha256", "stopped_by", "stop_reason", "exact"):
            assert again.summary[name] == run.summary[name], (stop, name)
        for table in ("metrics.jsonl", "episodes.csv"):
            rows = [len((r.folder / table).read_text().splitlines()) for r in (again, run)]
            assert rows[0] == rows[1]


def test_with_greedy_scores_these_decide(tmp_path):
    scores = {"eval_every": 4 * ROLLOUT, "eval_episodes": 3}
    scored = trained(tmp_path / "all", **scores)
    means = read_greedy(scored.folder)
    value = sorted(mean for _, mean in means)[len(means) // 2]
    steps = next(steps for steps, mean in means if mean >= value)
    run = trained(tmp_path / "some", stop_at=value, **scores)
    assert run.summary["steps"] == steps
    assert run.summary["stop_reason"].startswith("the mean of the greedy score is ")


def test_a_time_limit_counts_the_seconds_before_a_resume(tmp_path):
    run = trained(tmp_path, max_seconds=0.01)
    assert (run.summary["steps"], run.summary["stopped_by"]) == (ROLLOUT, "max_seconds")
    seconds = run.summary["seconds"]["total"]
    rest = poise.resume(run.folder, max_seconds=1000.0 + seconds, file=io.StringIO())
    assert (rest.summary["steps"], rest.summary["stopped_by"]) == (40 * ROLLOUT, None)
    (tmp_path / "copy").mkdir()
    kept = shutil.copytree(run.folder, tmp_path / "copy" / "run")
    with pytest.raises(RunError, match="it is finished"):
        poise.resume(kept, file=io.StringIO())


def test_a_limit_that_is_used_up_when_a_killed_training_resumes_stops_it_there(tmp_path):
    copies_of(tmp_path / "out", tmp_path, total_steps=4 * ROLLOUT)
    again = poise.resume(tmp_path / "2", max_seconds=1e-3, file=io.StringIO())
    assert (again.summary["steps"], again.summary["stopped_by"]) == (2 * ROLLOUT, "max_seconds")


def test_the_function_is_called_after_the_rows_of_each_iteration_are_written(tmp_path):
    seen = []

    def on_iteration(progress):
        (folder,) = (tmp_path / "CartPole-v1").iterdir()
        seen.append((progress.steps, read_metrics(folder)[-1]["steps"]))

    trained(tmp_path, total_steps=3 * ROLLOUT, on_iteration=on_iteration)
    assert seen == [(steps, steps) for steps in (128, 256, 384)]


def test_a_function_stops_a_training_and_a_killed_one_stays_stopped(tmp_path):
    def on_iteration(progress):
        return poise.Stop("three are enough") if progress.iteration == 3 else None

    run = copies_of(tmp_path / "out", tmp_path, on_iteration=on_iteration)
    assert run.summary["steps"] == 3 * ROLLOUT
    assert (run.summary["stopped_by"], run.summary["stop_reason"]) == ("on_iteration", "three are enough")
    again = poise.resume(tmp_path / "last", file=io.StringIO())
    assert again.summary["steps"] == 3 * ROLLOUT
    assert again.summary["parameters_sha256"] == run.summary["parameters_sha256"]


def test_the_class_of_a_stop_without_parentheses_stops(tmp_path):
    run = trained(tmp_path, on_iteration=lambda progress: poise.Stop)
    assert (run.summary["stopped_by"], run.summary["stop_reason"]) == ("on_iteration", None)
    assert run.summary["steps"] == ROLLOUT


@pytest.mark.parametrize("answer", [True, False, np.True_, 7, "stop", [poise.Stop()]])
def test_nothing_but_a_stop_stops(answer, tmp_path):
    shown = io.StringIO()
    run = trained(tmp_path, total_steps=2 * ROLLOUT, file=shown, on_iteration=lambda progress: answer)
    assert run.summary["stopped_by"] is None
    notes = [line for line in shown.getvalue().splitlines() if line.startswith("note: on_iteration returned")]
    assert len(notes) == isinstance(answer, bool | np.bool_)


@pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError])
def test_an_error_of_the_function_leaves_a_whole_folder_and_is_raised(error, tmp_path):
    """Also one that would be an error of the disk if it came from poise."""

    def on_iteration(progress):
        if progress.iteration == 2:
            raise error("of the user")

    with pytest.raises(error, match="of the user"):
        trained(tmp_path, on_iteration=on_iteration)
    (folder,) = (tmp_path / "CartPole-v1").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", 2 * ROLLOUT)
    assert int(checkpoints(folder)[0].name) == 2 * ROLLOUT
    seen = []
    poise.resume(folder, file=io.StringIO(), on_iteration=lambda p: seen.append(p.iteration))
    assert seen == list(range(3, 41))


def test_a_ready_made_stop_is_the_option(target, whole, tmp_path):
    value, steps = target
    run = trained(tmp_path, on_iteration=poise.StopAt(value))
    assert (run.summary["steps"], run.summary["stopped_by"]) == (steps, "on_iteration")
    episodes = list(read_episodes(whole.folder))
    fewer = poise.StopAt(value, episodes=10)
    for row in read_metrics(whole.folder):
        ended = [e.episodic_return for e in episodes if e.step <= row["steps"]]
        if len(ended) >= 10 and np.mean(ended[-10:]) >= value:
            break
    again = trained(tmp_path / "fewer", on_iteration=fewer)
    assert again.summary["steps"] == row["steps"] < steps


def test_a_progress_has_the_episodes_that_ended_last(tmp_path):
    seen = []
    copies_of(tmp_path / "out", tmp_path, total_steps=30 * ROLLOUT, on_iteration=seen.append)
    resumed = []
    poise.resume(tmp_path / "20", file=io.StringIO(), on_iteration=resumed.append)
    assert [p.recent for p in resumed] == [p.recent for p in seen[20:]]
    episodes = itertools.chain.from_iterable(p.episodes for p in seen)
    assert list(seen[-1].recent) == list(episodes)[-100:]
    assert seen[-1].mean_return == np.mean([e.episodic_return for e in seen[-1].recent])
    assert seen[0].iteration == 1


def test_greedy_scores_are_among_the_metrics_of_a_progress(tmp_path):
    seen = []
    run = trained(
        tmp_path, total_steps=4 * ROLLOUT, eval_every=2 * ROLLOUT, eval_episodes=2, on_iteration=seen.append
    )
    first, second = (mean for _, mean in read_greedy(run.folder))
    scores = [p.metrics[GREEDY] for p in seen]
    assert scores[0] is scores[2] is None
    assert [scores[1], scores[3]] == pytest.approx([first, second])


def test_an_end_that_is_not_reached_is_said_with_how_near_it_was(whole, tmp_path):
    shown = io.StringIO()
    trained(tmp_path / "a", stop_at=490, file=shown)
    *_, (_, mean) = means(whole)
    line = f"--stop-at 490: not reached; the mean return of the last 100 episodes is {figure(mean)}"
    assert line in shown.getvalue().splitlines()
    few = io.StringIO()
    run = trained(tmp_path / "b", stop_at=490, total_steps=4 * ROLLOUT, file=few)
    ended = len(list(read_episodes(run.folder)))
    assert f"--stop-at 490: not reached; {ended} episodes ended, the mean of 100 is needed" in few.getvalue()
    shown = io.StringIO()
    run = trained(
        tmp_path / "c",
        stop_at=490,
        total_steps=4 * ROLLOUT,
        eval_every=2 * ROLLOUT,
        eval_episodes=2,
        file=shown,
    )
    *_, (_, mean) = read_greedy(run.folder)
    said = f"--stop-at 490: not reached; the mean return of the last greedy score is {figure(mean)}"
    assert said in shown.getvalue().splitlines()


def test_an_end_that_is_reached_with_the_budget_is_not_called_missed():
    stops = blocks(total=100)
    episodes = tuple(Episode(0, 0, 0, 11.0, 1, True) for _ in range(100))
    stops.consider(type("P", (), {"steps": 100, "metrics": {}, "recent": episodes}))  # pyright: ignore
    assert stops.stopped is None
    end = "the mean return of the last 100 episodes is 11.00"
    assert stops.missed() == f"--stop-at 10: reached when the budget was used up; {end}"
    assert blocks(stop_at=None).missed() is None  # pyright: ignore


def blocks(stop_at=10.0, total=1000, rollout=10):
    config = poise.Config(
        total_steps=total, num_envs=1, ppo=poise.PPO(num_steps=rollout, minibatch_size=rollout)
    )
    setup = Setup(None, None, config, Options(stop_at=stop_at))  # pyright: ignore
    return Stops(setup, Past(), in_blocks=True, seconds=lambda: 0.0)


def test_within_a_block_no_return_stops_a_training_since_its_end_depends_on_the_clock():
    def progress(steps, returns):
        episodes = tuple(Episode(0, 0, 0, value, 1, True) for value in returns)
        return type("P", (), {"steps": steps, "metrics": {}, "recent": episodes})

    stops = blocks(total=10_000)
    for steps in (80, 90):  # hundredths of the budget are at 100, 200, ...
        stops.consider(progress(steps, [11.0] * 100))
        assert stops.stopped is None
    stops.consider(progress(100, [9.0] * 100))
    assert stops.stopped is None
    stops.consider(progress(200, [11.0] * 100))
    assert stops.stopped == Stopped("stop_at", "the mean return of the last 100 episodes is 11.00")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "475", None])
def test_a_target_that_is_no_number_is_refused(value):
    with pytest.raises((ConfigError, TypeError)):
        poise.StopAt(value)
    if value is not None:
        with pytest.raises(ConfigError, match="stop_at = "):
            Options(stop_at=value)


@pytest.mark.parametrize("episodes", [0, 101])
def test_a_window_that_is_not_kept_is_refused(episodes):
    with pytest.raises(ConfigError, match=f"episodes = {episodes}: must be >= 1 and <= 100"):
        poise.StopAt(1.0, episodes=episodes)


@pytest.mark.parametrize("reason", ["two\nlines", "x" * 301, 7])
def test_a_reason_is_a_line(reason):
    with pytest.raises(ConfigError, match="must be 300 characters in one line"):
        poise.Stop(reason)


@pytest.mark.parametrize("option", [{"stop_at": 1.0}, {"max_seconds": 1.0}, {"run_dir": "x"}])
def test_what_is_for_one_training_is_refused_where_there_are_several(option, tmp_path):
    from poise.studies.experiment import execute_experiment, execute_seeds

    options = Options(**option) if "run_dir" not in option else Options(run_dir=tmp_path)
    for execute, what in ((execute_seeds, "CartPole-v1"), (execute_experiment, ["CartPole-v1"])):
        with pytest.raises(ConfigError, match=rf"{next(iter(option))} = .*training; an experiment"):
            execute(what, poise.Config(), options, num_seeds=2, file=io.StringIO())
