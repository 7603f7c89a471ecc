"""``poise.session``: an own loop with the folder, checkpoints, score and film of ``train``."""

import io
import json

import gymnasium
import pytest

import poise
from poise.runs.driving.own_loop import LoopError
from poise.store.checkpoint import checkpoints

ROLLOUT = 2 * 32
SMALL = {
    "total_steps": 6 * ROLLOUT,
    "num_envs": 2,
    "ppo": {"num_steps": 32, "num_epochs": 2},
    "policy": {"hidden": "8"},
    "value": {"hidden": "8"},
    "video": False,
}


def opened(out, **settings):
    return poise.session("Pendulum-v1", out=out, file=settings.pop("file", io.StringIO()), **SMALL | settings)


def status(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return summary["status"], summary["steps"], summary["stopped_by"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return poise.train("Pendulum-v1", out=tmp_path_factory.mktemp("whole"), file=io.StringIO(), **SMALL)


def test_a_loop_to_its_end_leaves_the_run_of_train(whole, tmp_path):
    shown = io.StringIO()
    with opened(tmp_path, file=shown) as session:
        steps = [progress.steps for progress in session]
    assert steps == [ROLLOUT * i for i in range(1, 7)]
    run = session.run
    assert {path.name for path in run.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
    for name in ("parameters_sha256", "evaluation", "best", "status", "stopped_by"):
        assert run.summary[name] == whole.summary[name]
    assert shown.getvalue().splitlines()[-1] == str(run.folder)
    assert "greedy return" in shown.getvalue()


def test_a_break_ends_the_training_there_with_its_score(tmp_path):
    with opened(tmp_path) as session:
        for progress in session:
            if progress.iteration == 4:
                break
        with pytest.raises(LoopError, match="before the end of the with block"):
            _ = session.run
    assert status(session.run.folder) == ("finished", 4 * ROLLOUT, "loop")
    assert session.run.summary["evaluation"]["episodes"] > 0
    assert int(checkpoints(session.run.folder)[0].name) == 4 * ROLLOUT
    agent = poise.load(session.run.folder)
    assert agent.steps == 4 * ROLLOUT


def test_a_loop_that_is_left_and_entered_again_goes_on(tmp_path):
    with opened(tmp_path, evaluate=False) as session:
        first = [next(iter(session)).iteration, next(iter(session)).iteration]
        rest = [progress.iteration for progress in session]
    assert first + rest == [1, 2, 3, 4, 5, 6]
    assert session.run.summary["stopped_by"] is None


def test_a_break_after_the_last_iteration_stops_nothing(tmp_path):
    with opened(tmp_path, evaluate=False) as session:
        for progress in session:
            if progress.iteration == 6:
                break
    assert status(session.run.folder) == ("finished", 6 * ROLLOUT, None)


def test_an_error_of_the_training_that_the_block_catches_ends_the_session(tmp_path):
    class Failing(gymnasium.Wrapper):
        def step(self, action):
            raise ValueError("broken")

    shown = io.StringIO()
    env = {"wrappers": [Failing], "evaluate": False, "file": shown}
    with opened(tmp_path, **env) as session:
        with pytest.raises(poise.PoiseError, match="broken"):
            list(session)
        with pytest.raises(LoopError, match="an error has ended it"):
            list(session)
    with pytest.raises(LoopError, match="before the end"):
        _ = session.run
    with pytest.raises(LoopError, match="has ended; make a new one"), session:
        pass


def test_a_session_that_an_error_ended_cannot_be_opened_again(tmp_path):
    session = opened(tmp_path, evaluate=False)

    def fail():
        with session:
            next(iter(session))
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    with pytest.raises(LoopError, match="has ended; make a new one"), session:
        pass


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (ValueError("mine"), "failed"),
        (FileNotFoundError("mine"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_an_error_in_the_block_keeps_the_training_and_is_raised(error, ended, whole, tmp_path):
    def loop():
        with opened(tmp_path) as session:
            for progress in session:
                if progress.iteration == 2:
                    raise error

    with pytest.raises(type(error)) as caught:
        loop()
    assert caught.value is error
    (folder,) = (tmp_path / "Pendulum-v1").iterdir()
    assert status(folder) == (ended, 2 * ROLLOUT, None)
    run = poise.resume(folder, file=io.StringIO())
    assert run.summary["parameters_sha256"] == whole.summary["parameters_sha256"]


def test_an_own_loop_in_a_named_folder_continues_there(whole, tmp_path):
    steps = []

    def attempt(most):
        with opened("runs", run_dir=tmp_path / "here") as session:
            for progress in session:
                steps.append(progress.steps)
                if len(steps) == most:
                    raise InterruptedError
        return session.run

    with pytest.raises(InterruptedError):
        attempt(3)
    run = attempt(None)
    assert steps == [ROLLOUT * i for i in range(1, 7)]
    assert run.folder == tmp_path / "here"
    assert run.summary["parameters_sha256"] == whole.summary["parameters_sha256"]
    again = attempt(None)  # it is finished: no iteration
    assert len(steps) == 6
    assert again.summary == run.summary


def test_a_loop_that_asks_for_nothing_leaves_nothing(tmp_path):
    with opened(tmp_path) as session:
        pass
    with pytest.raises(LoopError, match="without an iteration"):
        _ = session.run
    assert not list(tmp_path.iterdir())


def test_a_loop_outside_of_the_block_is_refused(tmp_path):
    session = opened(tmp_path)
    with pytest.raises(LoopError, match=r"must be opened by: with poise\.session"):
        next(iter(session))
    assert not list(tmp_path.iterdir())


def test_wrong_options_are_refused_before_the_loop(tmp_path):
    with pytest.raises(poise.PoiseError, match="no such option"):
        opened(tmp_path, clip=0.1)
