from functools import partial

import gymnasium as gym
import jax
import numpy as np
import pytest

from poise.envs import make
from poise.envs.native.pendulum import Pendulum, PendulumState


def states(count=300):
    """Angles over several turns and speeds up to the limit, with torques beyond the bounds."""
    rng = np.random.default_rng(0)
    return rng.uniform(-9, 9, count), rng.uniform(-8, 8, count), rng.uniform(-3, 3, (count, 1))


def step_all(version, angle, speed, torque):
    task = Pendulum(version)
    state = PendulumState(*(x.astype(np.float32) for x in (angle, speed)))
    after, reward, terminated = jax.vmap(partial(task.step, key=jax.random.key(0)))(
        state, torque.astype(np.float32)
    )
    assert not terminated.any()
    return jax.vmap(task.observe)(after), reward


def test_v1_steps_as_gymnasium_does():
    angle, speed, torque = states()
    obs, reward = step_all(1, angle, speed, torque)
    env = gym.make("Pendulum-v1").unwrapped
    env.reset()
    for i in range(len(angle)):
        env.state = np.array([angle[i], speed[i]])
        expected_obs, expected_reward, *_ = env.step(torque[i])
        np.testing.assert_allclose(obs[i], expected_obs, atol=2e-5)
        assert float(reward[i]) == pytest.approx(expected_reward, abs=2e-5)


def reference_v0(angle, speed, torque):
    """OpenAI Gym's Pendulum-v0: the angle moves with the speed before it is limited."""
    torque = np.clip(torque[:, 0], -2, 2)
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = speed + (-3 * 10 / 2 * np.sin(angle + np.pi) + 3 * torque) * 0.05
    angle = angle + speed * 0.05
    speed = np.clip(speed, -8, 8)
    return np.stack([np.cos(angle), np.sin(angle), speed], axis=1), reward


def test_v0_steps_as_its_reference_and_unlike_v1_only_at_the_speed_limit():
    angle, speed, torque = states()
    obs, reward = step_all(0, angle, speed, torque)
    expected_obs, expected_reward = reference_v0(angle, speed, torque)
    np.testing.assert_allclose(obs, expected_obs, atol=2e-5)
    np.testing.assert_allclose(reward, expected_reward, atol=2e-5)
    obs_v1, _ = step_all(1, angle, speed, torque)
    differ = np.abs(np.asarray(obs) - obs_v1).max(axis=1) > 1e-5
    np.testing.assert_array_equal(differ, np.abs(obs_v1[:, 2]) == 8)
    assert 0 < differ.sum() < 100


def test_starts_cover_gymnasiums_range_and_no_more():
    env = make("Pendulum-v1", 500)
    obs = env.reset(np.ones(500, bool), range(500))
    angle = np.arctan2(obs[:, 1], obs[:, 0])
    assert -np.pi <= angle.min() < -3
    assert 3 < angle.max() <= np.pi
    assert 0.95 < np.abs(obs[:, 2]).max() <= 1


def test_the_same_seed_starts_the_same_episode_in_any_environment():
    env = make("Pendulum-v1", 3)
    first = env.reset(np.ones(3, bool), [5, 6, 7])
    again = env.reset(np.array([False, False, True]), [5])
    np.testing.assert_array_equal(again[2], first[0])
    np.testing.assert_array_equal(again[:2], first[:2])


def test_the_time_limit_truncates_after_200_steps():
    env = make("Pendulum-v1", 2)
    env.reset(np.ones(2, bool), [0, 1])
    for _ in range(100):
        env.step(np.zeros((2, 1), np.float32))
    env.reset(np.array([True, False]), [2])
    flags = [env.step(np.zeros((2, 1), np.float32)).truncated.tolist() for _ in range(100)]
    assert flags[-1] == [False, True]
    assert not np.any(flags[:-1])


def test_the_spec_equals_that_of_gymnasium():
    env = gym.make("Pendulum-v1")
    spec = make("Pendulum-v1", 1).spec
    assert (spec.obs_size,) == env.observation_space.shape
    assert spec.action_low == tuple(env.action_space.low)
    assert spec.time_limit == env.spec.max_episode_steps
