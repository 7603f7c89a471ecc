"""Tasks of one's own on the batch engine, by the worked example in examples/."""

import ctypes.util
import io
import json
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

import poise
from poise.agents import film as recording
from poise.agents.film import film
from poise.config import Config, Policy
from poise.envs import EnvError, make, resolve
from poise.envs.checking import EnvFault
from poise.envs.mujoco import MujocoEnv, Task
from poise.training.loop import iterations

EXAMPLES = Path(__file__).parents[2] / "examples"
ID = "ball_and_beam:BallAndBeam-v0"
BALL = 2


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return ID


@pytest.mark.processes
def test_the_example_trains_by_its_own_line_and_is_filmed(example, tmp_path, monkeypatch):
    line = next(x for x in (EXAMPLES / "ball_and_beam.py").read_text().splitlines() if "poise train" in x)
    command = line.split("poise ")[1].split()
    tiny = f"--total-steps 256 --num-envs 2 --ppo.num-steps 64 --no-video --out {tmp_path} --json".split()
    done = subprocess.run(
        [sys.executable, "-m", "poise", *command, *tiny],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout)
    assert (summary["env"], summary["backend"], summary["status"]) == (ID, "mujoco", "finished")
    folder = Path(summary["folder"])
    monkeypatch.setattr(recording, "MAX_SECONDS", 0.2)
    if ctypes.util.find_library("EGL"):
        assert film(poise.load(folder), tmp_path / "video", env=ID).stat().st_size > 1000
    else:
        with pytest.raises(recording.VideoError, match="apt install libegl1"):
            film(poise.load(folder), tmp_path / "video", env=ID)
    # a folder alone imports no module
    with pytest.raises(poise.PoiseError, match="repeat the name: --env ball_and_beam:BallAndBeam-v0"):
        poise.load(folder).evaluate(1)


@pytest.mark.slow
def test_the_example_learns(example, tmp_path):
    run = poise.train(example, out=tmp_path, video=False, file=io.StringIO())
    assert run.evaluation.mean > 200  # of 250


def test_each_simulation_moves_like_plain_mujoco_with_its_own_model(example):
    env = make(example, 3)
    assert isinstance(env, MujocoEnv)
    env.reset(np.ones(3, bool), [1, 2, 3])
    env.reset(np.array([False, True, False]), [4])
    masses = env._batch.expand("body_mass")[:, BALL]
    assert len(set(masses.tolist())) == 3
    assert ((masses > 0.05) & (masses < 0.2)).all()
    alone = []
    for i, mass in enumerate(masses):
        model = mujoco.MjModel.from_xml_path(env._task.model)
        model.body_mass[BALL] = mass
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        data.qpos[:], data.qvel[:] = env._batch.qpos[i], env._batch.qvel[i]
        mujoco.mj_forward(model, data)
        alone.append((model, data))
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.uniform(-0.3, 0.3, (3, 1)).astype(np.float32)
        obs = env.step(action).next_obs
        for (model, data), a, o in zip(alone, action, obs, strict=True):
            data.ctrl[:] = a
            mujoco.mj_step(model, data, 4)
            np.testing.assert_array_equal(o, np.concatenate((data.qpos, data.qvel)))


def test_an_episode_depends_only_on_its_seed(example):
    one, other = make(example, 1), make(example, 3)
    for seed in (5, 6):
        other.reset(np.ones(3, bool), [7, 8, 9])
        start = one.reset(np.ones(1, bool), [seed])
        again = other.reset(np.array([False, False, True]), [seed])
        np.testing.assert_array_equal(start[0], again[2])
        masses = [env._batch.expand("body_mass")[-1, BALL] for env in (one, other)]
        assert masses[0] == masses[1]


class Beam(Task):
    model = str(EXAMPLES / "ball_and_beam.xml")
    frame_skip = 4

    def draw(self, rng, qpos, qvel):
        qpos += 1  # may be written, the next episode starts from the model's again
        return qpos, qvel

    def observe(self, batch):
        return batch.qpos.copy()

    def outcome(self, batch, before, action):
        return np.zeros(len(action)), np.zeros(len(action), bool)


def test_changed_starts_do_not_accumulate_and_there_is_no_time_limit():
    env = MujocoEnv("Beam", Beam(), 2)
    for _ in range(2):
        np.testing.assert_array_equal(env.reset(np.ones(2, bool), [0, 1]), np.ones((2, 2)))
    assert not env.step(np.zeros((2, 1), np.float32)).truncated.any()
    assert (env.spec.time_limit, env.spec.obs_size) == (None, 2)
    assert env.seconds_a_step == pytest.approx(0.02)


def test_a_motor_without_limits_has_infinite_bounds(tmp_path):
    text = Path(Beam.model).read_text().replace('ctrllimited="true"', 'ctrllimited="false"')
    (tmp_path / "free.xml").write_text(text)
    task = type("Free", (Beam,), {"model": str(tmp_path / "free.xml")})()
    spec = MujocoEnv("Free", task, 1).spec
    assert (spec.action_low, spec.action_high) == ((-np.inf,), (np.inf,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observe": lambda self, batch: batch.qpos[0]},
            r"observe returned shape \(2,\), should be \(N, O\)",
        ),
        ({"observe": lambda self, batch: batch.qpos[:, 9]}, "its task raised IndexError"),
        ({"model": "nowhere.xml"}, "nowhere.xml"),
        ({"derived": ("elbows",)}, "elbows"),
        ({"varied": ("elbows",), "vary": lambda self, rng, values: None}, "elbows"),
        ({"varied": ("body_mass",)}, r"Broken names varied fields but has no vary\(\)"),
    ],
)
def test_a_faulty_task_is_refused_when_it_is_made(changes, message):
    with pytest.raises((EnvError, EnvFault), match=f"Beam: .*{message}"):
        MujocoEnv("Beam", type("Broken", (Beam,), changes)(), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draw": lambda self, rng, qpos, qvel: 1 / 0}, "ZeroDivisionError"),
        ({"varied": ("body_mass",), "vary": lambda self, rng, values: 1 / 0}, "ZeroDivisionError"),
        ({"outcome": lambda self, batch, before, action: None}, "TypeError"),
    ],
)
def test_an_error_in_a_task_names_the_task(changes, message):
    env = MujocoEnv("Beam", type("Broken", (Beam,), changes)(), 2)

    def play():
        env.reset(np.ones(2, bool), [0, 1])
        env.step(np.zeros((2, 1), np.float32))

    with pytest.raises(EnvFault, match=f"Beam: its task raised .*{message}"):
        play()


def test_rewards_of_another_shape_are_refused():
    def outcome(self, batch, before, action):
        return np.zeros((len(action), 1)), np.zeros(len(action), bool)

    env = MujocoEnv("Beam", type("Broken", (Beam,), {"outcome": outcome})(), 2)
    env.reset(np.ones(2, bool), [0, 1])
    with pytest.raises(EnvFault, match=r"Beam: outcome returned shapes \(2, 1\), \(2,\), should be \(N,\)"):
        env.step(np.zeros((2, 1), np.float32))


def test_a_name_that_cannot_be_registered_is_refused_with_the_reason():
    with pytest.raises(EnvError, match="'Reacher-v4' cannot be registered: it is Gymnasium's"):
        poise.register("Reacher-v4", Beam)
    with pytest.raises(EnvError, match="'a:b' cannot be registered: a name has no colon"):
        poise.register("a:b", Beam)
    with pytest.raises(EnvError, match="Part-v0: Part has no model, frame_skip, draw, observe, outcome"):
        poise.register("Part-v0", type("Part", (Task,), {}))


def test_a_name_registered_in_this_process_needs_no_module(monkeypatch):
    monkeypatch.setattr("poise.envs.tasks.TASKS", dict(poise.envs.tasks.TASKS))
    poise.register("Beam-v0", Beam)
    assert resolve("Beam-v0").backend == "mujoco"
    with pytest.raises(EnvError, match="there is no environment 'Beam-v1'"):
        resolve("Beam-v1")


class Named(Beam):
    def observe(self, batch):
        return {"place": batch.qpos[:, :1].copy(), "rest": np.hstack([batch.qpos[:, 1:], batch.qvel])}


def test_a_task_may_observe_several_arrays_by_name():
    """Their numbers stand side by side; each network can be told what it sees."""
    env, plain = MujocoEnv("Named", Named(), 2), MujocoEnv("Beam", Beam(), 2)
    assert [(leaf.name, leaf.width) for leaf in env.spec.obs] == [("place", 1), ("rest", 3)]
    obs = env.reset(np.ones(2, bool), [0, 1])
    np.testing.assert_array_equal(obs[:, :2], plain.reset(np.ones(2, bool), [0, 1]))
    assert env.step(np.ones((2, 1), np.float32)).next_obs.shape == (2, 4)
    restored = MujocoEnv("Named", Named(), 2).restore(env.snapshot())
    assert restored.exact.all()
    settings = Config(total_steps=64, num_envs=2, policy=Policy(see=("place",)))
    *_, last = iterations(settings, env)
    assert last.state.learner.policy.encoder.num_features == 1
    assert last.state.learner.value.encoder.num_features == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [({"a": np.zeros(2)}, r"observe, 'a', returned shape \(2,\)"), ({}, "no arrays")],
)
def test_a_dictionary_that_cannot_be_read_is_refused(value, message):
    task = type("Broken", (Beam,), {"observe": lambda self, batch: value})()
    with pytest.raises((EnvError, EnvFault), match=message):
        MujocoEnv("Beam", task, 2)
