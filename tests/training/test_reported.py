"""What infos report arrives with each episode, on every backend, and after a resume as without one."""

import dataclasses

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import first_state

from poise.agents.evaluation import Limits, evaluate
from poise.config import PPO, Config, Policy, Value
from poise.envs import make
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.envs.native.vector import NativeEnv
from poise.errors import PoiseError
from poise.placement.mesh import Layout
from poise.training.acting import ActionScale, make_actor
from poise.training.groups import make_collector
from poise.training.loop import Start, settle, settled_iterations

CONFIG = Config(
    total_steps=6 * 48,
    num_envs=4,
    ppo=PPO(num_steps=12, minibatch_size=16, num_epochs=1),
    policy=Policy(hidden=(8,)),
    value=Value(hidden=(8,)),
)


class Told(gym.Env):
    """Ends after 3 to 7 steps, by its seed. Reports the step and a success that only the last step has."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.end = 0, 3 + self.np_random.integers(5)
        return np.zeros(1, np.float32), {"reward_step": 100.0}

    def step(self, action):
        self.t += 1
        info = {"reward_step": float(self.t), "step": self.t, "text": "x", "reward_action": action[0]}
        if self.t == self.end:
            info["is_success"] = bool(self.end % 2)
        return np.full(1, self.t, np.float32), 1.0, self.t == self.end, False, info


class ToldInJax(JaxEnv):
    """The same in JAX."""

    observation_space = gym.spaces.Box(-10, 10, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, key):
        return jnp.array(0), 3 + jax.random.randint(key, (), 0, 5)

    def observe(self, state):
        return state[0].astype(float)[None]

    def step(self, state, action, *, key):
        t, end = state[0] + 1, state[1]
        info = {
            "reward_step": t.astype(float),
            "step": t,
            "reward_action": action[0],
            "is_success": end % 2 == 1,
        }
        return (t, end), jnp.ones(()), t == end, info


def world(name, count):
    if name == "jax":
        return NativeEnv(JaxTask.of("ToldInJax", ToldInJax()), count)
    if name in ("gymnasium", "gymnasium-async"):
        return GymnasiumEnv(f"{__name__}:Told", count, processes=name == "gymnasium-async")
    return make(name, count, "mujoco")


def training(name, start=None, *, groups=1, one_program=False):
    config = dataclasses.replace(CONFIG, env_groups=groups)
    if name == "jax":
        env = world(name, config.num_envs)
    else:
        env = [world(name, config.num_envs // groups) for _ in range(groups)]
    collector = make_collector(env, config)
    config = settle(config, collector.spec, new=start is None)
    layout = Layout.of(groups, jax.devices()[:1]) if one_program else None
    try:
        yield from settled_iterations(config, collector, start, layout=layout)
    finally:
        collector.close()


def all_episodes(progresses):
    return [episode for progress in progresses for episode in progress.episodes]


def is_right(episode):
    info, n = episode.info, episode.length
    assert (info["reward_step"], info["step_"]) == (n * (n + 1) / 2, n)
    assert info["is_success"] == n % 2
    assert info.keys() == {"reward_step", "step_", "reward_action", "is_success"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gymnasium", {}),
        ("gymnasium", {"groups": 2}),
        pytest.param("gymnasium-async", {}, marks=pytest.mark.processes),
        ("jax", {}),
        ("jax", {"one_program": True}),
        ("jax", {"one_program": True, "groups": 2}),
    ],
)
def test_each_episode_comes_with_what_it_reported(name, options):
    progresses = list(training(name, **options))
    episodes = all_episodes(progresses)
    assert len(episodes) > 30
    for episode in episodes:
        is_right(episode)
    row = progresses[-1].rows[-1]
    rate = np.mean([e.info["is_success"] for e in row.episodes])
    assert row.metrics["episode/success_rate"] == pytest.approx(rate)
    steps = np.mean([e.info["reward_step"] for e in row.episodes])
    assert row.metrics["episode/reward_step"] == pytest.approx(steps)


@pytest.mark.parametrize("name", ["gymnasium", "Reacher-v5", "jax"])
def test_a_resumed_training_reports_the_same(name):
    whole = list(training(name))
    for stop in (1, 3):
        before = whole[stop - 1]
        after = list(training(name, Start(before.state, before.world)))
        assert all_episodes(after) == all_episodes(whole[stop:])
        assert all(progress.exact for progress in after)


def test_one_program_reports_what_its_parts_report():
    apart, together = list(training("jax")), list(training("jax", one_program=True))
    assert [e.info.keys() for e in all_episodes(apart)] == [e.info.keys() for e in all_episodes(together)]
    for one, other in zip(all_episodes(apart), all_episodes(together), strict=True):
        assert one.info == pytest.approx(other.info, abs=1e-4)


@pytest.mark.parametrize("name", ["Reacher-v5", "jax"])
def test_sums_that_began_before_an_earlier_versions_checkpoint_are_left_out(name):
    whole = list(training(name))
    stop = 4 if name == "jax" else 1
    before = whole[stop - 1]
    kept = {n: x for n, x in before.world.items() if "info." not in n}
    assert kept.keys() < before.world.keys()
    after = all_episodes(training(name, Start(before.state, kept)))
    known = {(e.env, e.index) for e in after if "reward_ctrl" in e.info or "reward_step" in e.info}
    assert 0 < len(known) < len(after)
    for one, other in zip(after, all_episodes(whole[stop:]), strict=True):
        assert one.info.items() <= other.info.items()
        begun = one.step - CONFIG.num_envs * one.length < before.steps
        assert ((one.env, one.index) in known) == (not begun)


@pytest.mark.parametrize("name", ["gymnasium", "jax"])
def test_an_evaluation_has_the_numbers_of_each_episode(name):
    env = world(name, 3)
    state = first_state(env.spec, CONFIG)
    actor = make_actor(state.learner.policy, state.normalizer, CONFIG.normalize)
    scale = ActionScale(env.spec, normalize=True)
    result = evaluate(env, actor, scale, seed=0, episodes=20)
    np.testing.assert_array_equal(result.info["step_"], result.length)
    np.testing.assert_array_equal(result.info["reward_step"], result.length * (result.length + 1) / 2)
    assert result.success_rate == np.mean(result.length % 2)
    summary = result.summary()
    assert summary["success_low"] < summary["success_rate"] < summary["success_high"]
    assert summary["info"]["step_"] == np.mean(result.length)
    assert "is_success" not in summary["info"]
    # episodes that are cut report what they had up to then
    cut = evaluate(env, actor, scale, seed=0, episodes=5, limits=Limits(longest=2))
    np.testing.assert_array_equal(cut.info["reward_step"], 5 * [3.0])
    assert cut.num_cut == 5
    assert cut.success_rate is None or name == "jax"


class Odd(ToldInJax):
    def __init__(self, info):
        self.info = info

    def step(self, state, action, *, key):
        return (*super().step(state, action, key=key)[:3], self.info)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"x": jnp.ones(2)}, r"step\(\) returned info\['x'\] of shape \(2,\), it must be one number"),
        (jnp.ones(()), "it must be a dictionary of numbers"),
    ],
)
def test_an_info_in_jax_of_another_form_is_refused(info, message):
    with pytest.raises(PoiseError, match=message):
        JaxTask.of("Odd", Odd(info))
