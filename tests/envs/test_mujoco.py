"""The batch engine beside Gymnasium's own environments: same seeds, same actions.

Bitwise equal: every observation and ending, and the rewards of InvertedPendulum, HalfCheetah,
Hopper and Walker2d. To 1e-9: the rewards of Reacher, whose distance Gymnasium computes with BLAS's dot
product and the batch with NumPy's sum of squares.
"""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from poise.envs import make
from poise.envs.mujoco import MujocoEnv
from poise.envs.tasks import TASKS

NUM_ENVS, STEPS = 3, 150
REWARD_TOLERANCE = dict.fromkeys(("Reacher-v4", "Reacher-v5", "Pusher-v5"), 1e-9)


@pytest.mark.parametrize("id", TASKS)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_each_task_steps_as_gymnasium_does(id):
    ours = make(id, NUM_ENVS)
    theirs = [gym.make(id) for _ in range(NUM_ENVS)]
    rng = np.random.default_rng(0)
    seeds = [11, 12, 13]
    obs = ours.reset(np.ones(NUM_ENVS, bool), seeds)
    np.testing.assert_array_equal(obs, [env.reset(seed=s)[0] for env, s in zip(theirs, seeds, strict=True)])
    low, high = ours.spec.action_low, ours.spec.action_high
    ends = 0
    for t in range(STEPS):
        # torques that change slowly: some legs fall, some stand for a while
        if t % 5 == 0:
            action = rng.uniform(low, high, (NUM_ENVS, len(low))).astype(np.float32)
        got = ours.step(action)
        expected = [env.step(a) for env, a in zip(theirs, action, strict=True)]
        np.testing.assert_array_equal(got.next_obs, [e[0] for e in expected])
        np.testing.assert_allclose(
            got.reward, [e[1] for e in expected], rtol=0, atol=REWARD_TOLERANCE.get(id, 0)
        )
        np.testing.assert_array_equal(got.terminated, [e[2] for e in expected])
        np.testing.assert_array_equal(got.truncated, [e[3] for e in expected])
        done = got.terminated | got.truncated
        if done.any():
            ends += done.sum()
            seeds = [100 + t + n for n in np.flatnonzero(done).tolist()]
            obs = ours.reset(done, seeds)
            for n, seed in zip(np.flatnonzero(done), seeds, strict=True):
                np.testing.assert_array_equal(obs[n], theirs[n].reset(seed=seed)[0])
    assert ends > 0 or id.startswith(("HalfCheetah", "Swimmer", "HumanoidStandup"))  # which never end


@pytest.mark.parametrize("id", TASKS)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_each_task_has_gymnasiums_shapes_bounds_and_time_limit(id):
    ours, theirs = make(id, 1).spec, gym.make(id)
    assert (ours.obs_size,) == theirs.observation_space.shape
    np.testing.assert_array_equal(np.float32(ours.action_low), theirs.action_space.low)
    np.testing.assert_array_equal(np.float32(ours.action_high), theirs.action_space.high)
    assert ours.time_limit == theirs.spec.max_episode_steps


def test_the_time_limit_truncates_and_does_not_terminate():
    env = make("Reacher-v4", 2)
    env.reset(np.ones(2, bool), [0, 1])
    for _ in range(49):
        step = env.step(np.zeros((2, 2), np.float32))
        assert not step.truncated.any()
    step = env.step(np.zeros((2, 2), np.float32))
    assert step.truncated.all()
    assert not step.terminated.any()


def test_the_number_of_threads_does_not_change_a_bit():
    envs = [MujocoEnv("Hopper-v4", TASKS["Hopper-v4"](), 8, n) for n in (1, 2)]
    rng = np.random.default_rng(0)
    first, second = (env.reset(np.ones(8, bool), range(8)) for env in envs)
    np.testing.assert_array_equal(first, second)
    for _ in range(60):
        action = rng.uniform(-1, 1, (8, 3)).astype(np.float32)
        for a, b in zip(*(env.step(action) for env in envs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "id", ["Hopper-v5", "Ant-v5"]
)  # Ant-v5 is put back by the engine, as it keeps cfrc_ext
def test_an_episode_does_not_depend_on_earlier_ones(id):
    used, fresh = make(id, 2), make(id, 2)
    rng = np.random.default_rng(0)
    used.reset(np.ones(2, bool), [5, 6])
    for _ in range(30):
        used.step(rng.uniform(-1, 1, (2, len(used.spec.action_low))).astype(np.float32))
    both = np.ones(2, bool)
    np.testing.assert_array_equal(used.reset(both, [1, 2]), fresh.reset(both, [1, 2]))
    for _ in range(20):
        action = rng.uniform(-1, 1, (2, len(used.spec.action_low))).astype(np.float32)
        np.testing.assert_array_equal(used.step(action).next_obs, fresh.step(action).next_obs)


def test_resetting_some_environments_does_not_change_the_others():
    env = make("Reacher-v4", 3)
    env.reset(np.ones(3, bool), [0, 1, 2])
    step = env.step(np.ones((3, 2), np.float32))
    after = env.reset(np.array([False, True, False]), [7])
    np.testing.assert_array_equal(after[[0, 2]], step.next_obs[[0, 2]])
    assert not np.array_equal(after[1], step.next_obs[1])


WILD = """
import numpy as np
from poise import envs
env = envs.make("InvertedPendulum-v4", 2, {backend!r})
env.reset(np.ones(2, bool), [0, 1])
{push}
for _ in range(3):
    env.step(np.zeros((2, 1), np.float32))
"""
PUSH = {
    "mujoco": "env._batch.qvel[:] = 1e12",
    "gymnasium": "[e.unwrapped.set_state(np.zeros(2), np.full(2, 1e12)) for e in env._env.envs]",
}


@pytest.mark.parametrize("backend", PUSH)
def test_mujoco_warnings_are_shown_once_and_leave_no_file(backend, tmp_path):
    script = WILD.format(backend=backend, push=PUSH[backend])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    shown = [line for line in done.stderr.splitlines() if line.startswith("MuJoCo: ")]
    assert len(shown) == len(set(shown)) > 0
    assert "unstable" in shown[0]
    assert not list(tmp_path.iterdir())
