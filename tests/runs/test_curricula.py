"""A curriculum changes settings between rollouts, and decides the same after a resume."""

import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import gymnasium as gym
import nets
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from probes import first_state

import poise
from poise.checked import ConfigError
from poise.config import PPO, Config, Policy
from poise.envs import EnvError, make
from poise.envs.adjusting import Adjusted, apply_settings, plain_settings
from poise.envs.vector import Restorable
from poise.own import naming
from poise.runs.folders import RunError
from poise.runs.options import Options
from poise.runs.session import session
from poise.runs.setup import Conditions
from poise.store.checkpoint import checkpoints, read_manifest
from poise.system.interrupts import Guard
from poise.training.groups import make_collector
from poise.training.starting.curriculum import (
    Curriculum,
    CurriculumState,
    load_function,
    name_of_function,
    program_of,
)

TINY = Config(
    total_steps=12 * 96, num_envs=3, ppo=PPO(num_steps=32, num_epochs=2, minibatch_size=32), policy=Policy()
)
PLAIN = Options(video=False, evaluate=False, checkpoint_every=1)
ROOT = Path(__file__).parents[2]


class Heavy(CartPoleEnv):
    """A pole whose push and start a curriculum sets; the episodes are longer than a rollout."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.push, self.tilts = 10.0, np.zeros(2)

    def reset(self, *, seed=None, options=None):
        self.force_mag = self.push
        _, info = super().reset(seed=seed, options=options)
        self.state = np.array(self.state, np.float32) * (1 + self.tilts[0])
        return np.array(self.state, np.float32), info


gym.register("Heavy-v0", Heavy, max_episode_steps=50)


def harder(state: CurriculumState):
    """A number that changes with each rollout, and a list that depends on the returns."""
    known = 0.0 if state.mean_return is None else state.mean_return
    return {"push": 10.0 - 4 * state.share, "tilts": [known / 100, float(state.episodes)]}


def outward(state: CurriculumState):
    """Depends on all that there is: steps, returns, and what it decided before."""
    before = state.settings.get("outer", 0.1)
    step = 0.005 if state.mean_return is None else 0.001 * abs(state.mean_return)
    return {"outer": min(0.2, before + step), "inner": min(0.05, state.steps / 1e5)}


def harder_outward(state: CurriculumState):
    return {"outer": 0.2, "inner": 0.0}


def in_a_set(state):
    return {"easy": state.episodes in {1, 2, 3}, "name": "abc" in {"abc", "def", "ghi"}}


def misspelled(state):
    return {"outre": 0.1}


def late(state):
    return {"outer": 0.1} | ({"inner": 0.0} if state.steps else {})


def silent(state):
    return {}


def advance(folder, env, config, stop=None):
    """Trains until an iteration has ended, and closes; at the end of the training returns the summary."""
    folder.mkdir(exist_ok=True)
    training = session(env, config, PLAIN, folder, Conditions(io.StringIO(), Guard()))
    while True:
        try:
            if next(training).iteration == stop:
                training.close()
                return None
        except StopIteration as end:
            return end.value.summary


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


@pytest.mark.parametrize(
    ("env", "function", "groups"),
    [("targets:Far-v0", outward, 1), ("Heavy-v0", harder, 1), ("targets:Far-v0", outward, 3)],
)
def test_closed_after_ten_iterations_in_turn_it_ends_with_the_same_bits(env, function, groups, tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(function), env_groups=groups)
    whole = advance(tmp_path / "whole", env, config)
    for stop in range(1, 11):
        assert advance(tmp_path / "parts", env, config, stop) is None
    parts = advance(tmp_path / "parts", env, config)
    assert parts["resumed"] == 10
    assert parts["exact"]
    assert parts["parameters_sha256"] == whole["parameters_sha256"]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    plain = advance(tmp_path / "plain", env, dataclasses.replace(config, curriculum=None))
    assert plain["parameters_sha256"] != whole["parameters_sha256"]


def test_what_it_decided_is_in_the_table_and_in_the_manifest(tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(harder), total_steps=4 * 96)
    advance(tmp_path / "run", "Heavy-v0", config)
    written = rows(tmp_path / "run")
    assert [row["curriculum/push"] for row in written] == [10, 9, 8, 7]
    notes = read_manifest(checkpoints(tmp_path / "run")[0]).notes
    assert notes["settings"]["push"] == 7
    assert notes["settings"]["tilts"][1] == written[-1]["curriculum/tilts/1"]


def test_it_is_told_steps_share_and_the_returns_of_the_last_episodes():
    told = []
    env = make("Heavy-v0", 3)
    config = dataclasses.replace(TINY, curriculum=name_of_function(silent), num_envs=3)
    inner = make_collector(env, config)
    curriculum = Curriculum(inner, [env], config)
    curriculum._decide = lambda state: told.append(state) or {"push": 10.0 + len(told)}
    state = first_state(env.spec, config)
    returns = []
    for iteration in range(3):
        collected = curriculum.collect(state.learner.policy, state.normalizer, iteration)
        returns += [e.episodic_return for e in collected.episodes]
        assert collected.metrics == {"curriculum/push": 11.0 + iteration}
    assert [(t.steps, round(12 * t.share, 9)) for t in told] == [(0, 0), (96, 1), (192, 2)]
    assert told[0].mean_return is None
    assert [dict(t.settings) for t in told] == [{}, {"push": 11.0}, {"push": 12.0}]
    assert told[-1].episodes <= len(returns) <= 100
    assert told[-1].mean_return == pytest.approx(np.mean(returns[: told[-1].episodes]))
    env.close()


@pytest.mark.parametrize("id", ["targets:Far-v0", "Heavy-v0"])
def test_an_episode_that_began_with_other_settings_is_restored_as_it_began(id):
    settings = {"targets:Far-v0": ("outer", 0.11, 0.2), "Heavy-v0": ("push", 10.0, 2.0)}[id]
    name, first, second = settings
    env, other = make(id, 2), make(id, 2)
    assert isinstance(env, Restorable)
    env.adjust({name: first})  # pyright: ignore[reportAttributeAccessIssue]
    env.reset(np.ones(2, bool), [1, 2])
    action = env.spec.zero_actions(2)
    env.step(action)
    env.adjust({name: second})  # pyright: ignore[reportAttributeAccessIssue]
    env.step(action)
    env.reset(np.array([True, False]), [3])
    env.step(action)
    saved = env.snapshot()
    other.restore(saved)  # pyright: ignore[reportAttributeAccessIssue]
    for name, array in other.snapshot().items():  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_array_equal(array, saved[name], err_msg=name)
    for _ in range(3):
        for a, b in zip(env.step(action), other.step(action), strict=True):
            np.testing.assert_array_equal(a, b)
    both = (each.reset(np.array([False, True]), [4]) for each in (env, other))
    np.testing.assert_array_equal(*both)
    env.close()
    other.close()


def test_the_table_of_settings_keeps_only_what_an_episode_has():
    adjusted = Adjusted(2)
    for value in range(5):
        adjusted.change({"a": value})
        adjusted.begin(np.array([value == 0, value == 3]))
    assert [each["a"] for each in adjusted.each()] == [0, 3]
    assert adjusted.now == {"a": 4}
    assert len(json.loads(adjusted.snapshot()["settings"].tobytes())) == 3
    again = Adjusted(2)
    assert again.take(adjusted.snapshot()) == {}
    assert again.each() == adjusted.each()


@pytest.mark.parametrize(
    ("env", "function", "message"),
    [
        ("targets:Far-v0", misspelled, "Far has no attribute 'outre'; did you mean outer"),
        ("Heavy-v0", misspelled, "Heavy has no attribute 'outre'; it has|did you mean"),
        ("targets:Far-v0", late, "names inner for the first time at step 96; name it from the start"),
    ],
)
def test_settings_that_there_are_not_are_refused_in_a_sentence(env, function, message, tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(function))
    with pytest.raises(EnvError, match=f"curriculum test_curricula:{function.__name__}: .*({message})"):
        advance(tmp_path / "run", env, config)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tilts", [0.5], r"it has the shape \(1,\), and was \(2,\)"),
        ("counts", [0.5, 1.7], "it was an array of int64"),
        ("push", "hard", "it was 10.0"),
        ("label", 3, "it was 'easy'"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_not_changed(name, value, message):
    target = types.SimpleNamespace(tilts=np.zeros(2), counts=np.array([1, 2]), push=10.0, label="easy")
    with pytest.raises(EnvError, match=f"{name} cannot be set to .*: {message}"):
        apply_settings({name: value}, target)
    apply_settings({"tilts": [1, 2], "counts": [3, 4], "push": 9, "label": "hard"}, target)
    assert target.tilts.tolist() == [1.0, 2.0]
    assert target.counts.dtype == np.int64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], "must be a dictionary"),
        ({"_private": 1}, "'_private' is not the name of a setting"),
        ({"a": float("nan")}, "must be a finite number, text, or a list"),
        ({"a": object()}, "must be a finite number, text, or a list"),
    ],
)
def test_other_values_are_no_settings(settings, message):
    with pytest.raises(EnvError, match=message):
        plain_settings(settings)
    assert plain_settings({"a": np.float32(0.5), "b": np.arange(2)}) == {"a": 0.5, "b": [0, 1]}


def test_methods_are_not_settings():
    env = make("targets:Far-v0", 1)
    with pytest.raises(EnvError, match=r"Far.draw cannot be a setting"):
        env.adjust({"draw": 1})  # pyright: ignore[reportAttributeAccessIssue]


def test_only_functions_that_can_be_found_again_are_taken():
    assert name_of_function(harder) == "test_curricula:harder"
    with pytest.raises(ConfigError, match="must be a function at the top of a module"):
        name_of_function(lambda state: {})


def test_a_function_that_was_changed_is_not_exact(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, curriculum=name_of_function(outward), total_steps=4 * 96)
    advance(tmp_path / "run", "targets:Far-v0", config, 2)
    for function, exact in ((outward, True), (harder_outward, False)):
        shutil.copytree(tmp_path / "run", tmp_path / function.__name__)
        monkeypatch.setattr(sys.modules[__name__], "outward", function)
        shown, seen = io.StringIO(), []
        poise.resume(
            tmp_path / function.__name__,
            env="targets:Far-v0",
            curriculum="test_curricula:outward",
            file=shown,
            on_iteration=lambda progress, seen=seen: seen.append(progress.exact),
        )
        assert seen == [exact, exact]
        said = "not exact: the function of the curriculum test_curricula:outward was changed"
        assert (said in shown.getvalue()) is not exact


def test_a_program_is_the_same_in_each_process_and_differs_by_what_it_computes():
    assert program_of(outward) == program_of(outward)
    assert program_of(outward) != program_of(harder_outward)
    assert program_of(print)[1] == ""
    code = "import test_curricula as t; print(*t.program_of(t.in_a_set))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert done[0] == done[1] == " ".join(program_of(in_a_set)) + "\n"


def test_an_agent_that_is_saved_keeps_what_the_curriculum_decided(tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(harder), total_steps=4 * 96)
    advance(tmp_path / "run", "Heavy-v0", config)
    agent = poise.load(tmp_path / "run")
    score = agent.evaluate(5).mean
    assert poise.load(agent.save(tmp_path / "saved")).evaluate(5).mean == score
    *_, last = poise.iterations(config, make("Heavy-v0", 3))
    of = poise.Agent.of(last)
    assert of.settings_for(of.world(None)) == agent.settings_for(agent.world(None)) != {}


def test_a_run_dir_resumes_with_its_curriculum(tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    given = {"total_steps": 4 * 96, "num_envs": 3, "ppo": {"num_steps": 32}, "video": False}
    given |= {"run_dir": tmp_path / "run", "curriculum": outward, "evaluate": False, "file": io.StringIO()}
    with pytest.raises(KeyboardInterrupt):
        poise.train("targets:Far-v0", **given, on_iteration=stop)
    assert poise.train("targets:Far-v0", **given).summary["steps"] == 4 * 96


def test_a_function_of_the_program_itself_is_refused(monkeypatch):
    def widen(state):
        return {}

    monkeypatch.setattr(widen, "__module__", "__main__")
    monkeypatch.setattr(widen, "__qualname__", "widen")
    monkeypatch.setattr(sys.modules["__main__"], "widen", widen, raising=False)
    said = r"^curriculum: widen is defined in the program itself, .* such as tasks.py, and give tasks.widen$"
    with pytest.raises(ConfigError, match=said):
        name_of_function(widen)
    with pytest.raises(ConfigError, match=said):
        load_function("__main__:widen")


def test_a_resume_repeats_the_function(tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(outward))
    advance(tmp_path / "run", "Reacher-v5", dataclasses.replace(config, curriculum=None), 1)
    with pytest.raises(RunError, match="has no curriculum: leave out --curriculum"):
        poise.resume(tmp_path / "run", curriculum=outward, file=io.StringIO())
    advance(tmp_path / "other", "targets:Far-v0", config, 1)
    with pytest.raises(RunError, match=r"curriculum in a Python module; .* --curriculum test_curricula:outw"):
        poise.resume(tmp_path / "other", env="targets:Far-v0", file=io.StringIO())


def test_all_names_that_a_resume_needs_are_said_at_once(tmp_path, monkeypatch):
    config = dataclasses.replace(
        TINY, curriculum=name_of_function(outward), policy=Policy(network=nets.Plain)
    )
    advance(tmp_path / "run", "targets:Far-v0", config, 1)
    monkeypatch.setattr(naming, "_named", set())
    names = "--env targets:Far-v0 --curriculum test_curricula:outward --network nets:Plain"
    whole = f"env, curriculum and network name .*: poise resume .*/run --total-steps 960 {names} "
    with pytest.raises(RunError, match=whole):
        poise.resume(tmp_path / "run", total_steps=960, file=io.StringIO())
    with pytest.raises(
        RunError, match=rf"its curriculum and network name .* {names} \(in Python: curriculum="
    ):
        poise.resume(tmp_path / "run", env="targets:Far-v0", file=io.StringIO())


def test_a_score_is_with_the_last_settings(tmp_path):
    config = dataclasses.replace(TINY, curriculum=name_of_function(outward), total_steps=2 * 96)
    advance(tmp_path / "run", "targets:Far-v0", config)
    agent = poise.load(tmp_path / "run")
    seen = []
    agent.evaluate(8, env="targets:Far-v0", on_step=seen.append)
    radii = [np.linalg.norm(step.obs[4:6]) for step in seen if step.step == 0]
    assert max(radii) < 0.12  # the last decision; the class itself has targets from 0.1 to 0.2
    others = []
    agent.evaluate(8, env="targets:Near-v0", on_step=others.append)
    assert max(np.linalg.norm(step.obs[4:6]) for step in others if step.step == 0) <= 0.1


@pytest.mark.processes
def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(tmp_path):
    source = Path(poise.__file__).parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), str(ROOT / "examples")])}
    poise_ = [sys.executable, "-m", "poise"]
    train = [*poise_, "train", "targets:Far-v0", "--curriculum", "targets:widen", "--total-steps", "100k"]
    train += ["--no-video", "--no-evaluate", "--checkpoint-every", "1"]
    options = {"env": env, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    subprocess.run([*train, "--out", "whole"], check=True, **options)
    draw, command = random.Random(0), [*train, "--out", "killed"]
    for _ in range(10):
        before = newest(tmp_path / "killed")
        process = subprocess.Popen(command, **options)
        deadline = time.monotonic() + 120
        while newest(tmp_path / "killed") <= before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.5))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (run,) = (tmp_path / "killed").glob("*/*")
        command = [*poise_, "resume", str(run), "--env", "targets:Far-v0", "--curriculum", "targets:widen"]
    subprocess.run(command, check=True, **options)
    (whole,) = (tmp_path / "whole").glob("*/*")
    first, last = (json.loads((folder / "summary.json").read_text()) for folder in (whole, run))
    assert last["exact"]
    assert last["resumed"] == 10
    assert last["parameters_sha256"] == first["parameters_sha256"]
    assert rows(run) == rows(whole)


def newest(folder):
    """The number of steps of the last checkpoint; -1 without one."""
    return max((int(path.name) for path in folder.glob("*/*/checkpoints/" + "[0-9]" * 12)), default=-1)
