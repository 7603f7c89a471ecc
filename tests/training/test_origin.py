"""Observations far from 0 keep their digits, from the environment to the exported policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise import envs
from poise.agents.agent import Agent
from poise.agents.export import FORMATS, observations
from poise.agents.export_plan import make_plan
from poise.algo.normalize import Normalizer, RunningStats, normalize_obs
from poise.config import PPO, Config, Normalize
from poise.envs.vector import EnvStep, Restored
from poise.spec import Spec
from poise.store.checkpoint import Manifest, Trained, load_training, save_training
from poise.store.checkpoint import Training as Saved
from poise.training.acting import Actor
from poise.training.loop import Start, iterations
from poise.training.origin import FAR, from_origin, relative, with_origin
from poise.types import Rollout

STAMP = 1.7e9  # seconds: float32's neighbors are 128 apart


class Follow:
    """The action is to equal the first of two numbers that are shown, each ``offset + width x``."""

    def __init__(self, offset, width=1.0, dtype=np.float64, num_envs=8):
        self.spec = Spec.flat("Follow", (2,), (1,), (-1.0,), (1.0,), time_limit=20)
        self.num_envs, self.backend = num_envs, "probe"
        self._offset, self._width, self._dtype = offset, width, dtype
        self._t, self._x = np.zeros(num_envs, np.int64), np.zeros((num_envs, 2))
        self._seed = np.zeros(num_envs, np.int64)

    def _drawn(self, mask):
        for n in np.flatnonzero(mask):
            self._x[n] = np.random.default_rng((self._seed[n], self._t[n])).uniform(-1, 1, 2)
        return (self._offset + self._width * self._x).astype(self._dtype)

    def reset(self, mask, seeds):
        self._seed[mask], self._t[mask] = seeds, 0
        return self._drawn(mask)

    def step(self, action):
        reward = -np.abs(action[:, 0] - self._x[:, 0])
        self._t += 1
        over = self._t >= 20
        return EnvStep(self._drawn(np.ones(self.num_envs, bool)), reward, np.zeros_like(over), over)

    def snapshot(self):
        return {"seed": self._seed.copy(), "t": self._t.copy()}

    def restore(self, arrays):
        self._seed[:], self._t[:] = arrays["seed"], arrays["t"]
        return Restored(self._drawn(np.ones(self.num_envs, bool)), np.ones(self.num_envs, bool))

    def close(self):
        pass


CONFIG = Config(
    total_steps=8192,
    num_envs=8,
    ppo=PPO(
        num_steps=64,
        gamma=0.0,
        minibatch_size=64,
        policy_learning_rate=5e-3,
        value_learning_rate=5e-3,
        num_epochs=4,
        recompute_every=None,
    ),
)


def _reward(env):
    *_, last = iterations(CONFIG, env)
    return float(np.mean(last.rollout.reward))


@pytest.mark.parametrize(
    ("offset", "width", "dtype"),
    [
        (STAMP, 10.0, np.float64),
        (5.3e6, 1.0, np.float64),
        (2.0**39, 100.0, np.int64),
        (-1e12, 1.0, np.float64),
    ],
)
def test_observations_far_from_zero_are_learned_like_those_near_it(offset, width, dtype):
    """A random policy has -0.67 here, and so has one that sees rounded numbers."""
    assert _reward(Follow(offset, width, dtype)) > -0.35


def _rollout(obs):
    zeros = np.zeros(obs.shape[:2])
    return Rollout(obs, zeros[..., None], zeros, obs, zeros > 0, zeros > 0)


def test_an_offset_costs_no_digit_and_no_bit_of_what_needs_none():
    rng = np.random.default_rng(0)
    raw = rng.uniform(-10, 10, (30, 4, 2))
    near, far = raw + np.array([0.0, 3.0]), raw + np.array([0.0, STAMP])
    empty = Normalizer.empty(Spec.flat("x", (2,), (1,), (-1.0,), (1.0,)))

    def prepared(obs):
        rollout = _rollout(obs)
        normalizer = with_origin(empty, rollout.obs, Normalize())
        return normalizer, relative(rollout, normalizer)

    usual, seen = prepared(near)
    assert usual is empty
    assert seen.obs.tobytes() == near.astype(np.float32).tobytes()
    normalizer, seen = prepared(far)
    assert normalizer.origin is not None
    np.testing.assert_array_equal(normalizer.origin == 0, [True, False])
    # by hand: the mean of 120 numbers around 1.7e9, as the nearest float32
    assert abs(float(normalizer.origin[1]) - STAMP) <= 64 + 10
    exact = far[..., 1] - float(normalizer.origin[1])
    np.testing.assert_allclose(seen.obs[..., 1], exact, rtol=1e-6)
    assert with_origin(empty, _rollout(far).obs, Normalize(obs=False)) is empty


def test_statistics_move_with_the_origin():
    """Numbers that leave for 1e9 later: what was normalized before is normalized alike after."""
    before = Normalizer(
        RunningStats(jnp.array(1000.0), jnp.array([5.0, 1.0]), jnp.array([4000.0, 1000.0])),
        RunningStats.empty(),
    )
    obs = np.random.default_rng(0).normal([1e9, 1.0], [2.0, 1.0], (50, 4, 2))
    after = with_origin(before, _rollout(obs).obs, Normalize())
    assert after.origin is not None
    np.testing.assert_allclose(np.asarray(after.obs.mean, float) + after.origin, [5.0, 1.0], atol=64)
    np.testing.assert_array_equal(after.obs.m2, before.obs.m2)
    old = np.array([7.0, 2.0])
    shown = [
        normalize_obs(n.obs, jnp.asarray(from_origin(old, n.origin)), enabled=True, bound=None)
        for n in (before, after)
    ]
    np.testing.assert_allclose(shown[1][1], shown[0][1])
    assert FAR * 2 < 1e9


def _trained():
    *_, last = iterations(dataclasses.replace(CONFIG, total_steps=1024), Follow(STAMP, 10.0))
    return last


def test_the_agent_its_checkpoint_and_its_exports_see_the_same_digits(tmp_path):
    last, spec = _trained(), Follow(STAMP).spec
    config = CONFIG.settled(spec)
    manifest = Manifest("Pendulum-v1", "gymnasium", 2 * config.rollout_size, spec, config)
    trained = Trained.of(last.state)
    folder = save_training(tmp_path, Saved(last.state, last.world or {}, [trained]), manifest)
    kept, _ = load_training(folder)
    assert kept.state is not None
    for a, b in zip(jax.tree.leaves(kept.state), jax.tree.leaves(last.state), strict=True):
        np.testing.assert_array_equal(
            jax.random.key_data(a) if a.dtype == jax.random.key(0).dtype else a,
            jax.random.key_data(b) if b.dtype == jax.random.key(0).dtype else b,
        )
    agent = Agent(trained, manifest)
    obs = STAMP + np.array([[-9.0, 0.0], [9.0, 0.0]])
    low, high = agent.act(obs)[:, 0]
    assert low != high  # float32 would have made them one number
    assert agent.act(list(obs[0])) == low
    plan = make_plan(trained, manifest)
    rows = observations(plan)
    for format, (ending, write, act) in FORMATS.items():
        path = tmp_path / f"policy{ending}"
        path.write_bytes(write(plan))
        np.testing.assert_allclose(act(path, rows), agent.act(rows), atol=1e-5, err_msg=format)


def test_a_training_with_an_origin_resumes_to_the_same_bits():
    config = dataclasses.replace(CONFIG, total_steps=2048)
    whole = list(iterations(config, Follow(STAMP, 10.0)))
    start = Start(whole[1].state, whole[1].world)
    resumed = list(iterations(config, Follow(STAMP, 10.0), start))
    assert resumed[-1].exact
    assert resumed[-1].rollout.obs.tobytes() == whole[-1].rollout.obs.tobytes()
    for a, b in zip(
        jax.tree.leaves(resumed[-1].state.learner), jax.tree.leaves(whole[-1].state.learner), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_world_of_an_earlier_version_is_restored():
    """Its observations are there as float32."""
    config = dataclasses.replace(CONFIG, total_steps=1024)
    first = next(iterations(config, Follow(0.5)))
    world = dict(first.world)
    world["obs"] = world["obs"].astype(np.float32)
    (last,) = iterations(config, Follow(0.5), Start(first.state, world))
    assert last.exact


def test_gymnasium_environments_hand_on_their_digits():
    env = envs.make("Pendulum-v1", 1, "gymnasium")
    try:
        assert env.reset(np.ones(1, bool), [0]).dtype == np.float32  # of its own space
    finally:
        env.close()
    actor = Actor(_policy(), Normalizer.empty(Spec.flat("x", (2,), (1,), (-1.0,), (1.0,))), Normalize())
    np.testing.assert_array_equal(actor.forward(np.ones((1, 2))), actor.forward(np.ones((1, 2), np.float32)))


def _policy():
    from probes import first_state

    return first_state(Follow(0.0).spec, CONFIG).learner.policy
