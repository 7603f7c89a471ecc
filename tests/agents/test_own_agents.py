"""Agents of a user's own loop: saved, and loaded again."""

import dataclasses
import io

import gymnasium as gym
import numpy as np
import pytest

import poise
from poise.agents.export import export
from poise.arrays import named
from poise.config import PPO, Policy, Value
from poise.store.checkpoint import AGENT, CheckpointError

SMALL = poise.Config(
    total_steps=256,
    seed=4,
    ppo=PPO(num_steps=32, num_epochs=2, minibatch_size=32),
    policy=Policy(hidden=(8,)),
    value=Value(hidden=(8,)),
)


def looped(id, config=SMALL):
    env = poise.make(id, 2)
    *_, progress = poise.iterations(config, env)
    env.close()
    return progress


@pytest.fixture(scope="module", params=["Pendulum-v1", "CartPole-v1"])
def progress(request):
    return looped(request.param)


def observations(agent):
    return np.random.default_rng(0).normal(size=(7, agent.spec.obs_size)).astype(np.float32)


def test_an_agent_of_an_own_loop_is_the_same_after_it_was_saved(progress, tmp_path):
    agent = poise.Agent.of(progress)
    loaded = poise.load(agent.save(tmp_path / "agent"))
    assert (loaded.steps, loaded.spec, loaded.config) == (256, progress.spec, progress.config)
    for name, leaf in named(agent._trained).items():
        assert np.asarray(leaf).tobytes() == np.asarray(named(loaded._trained)[name]).tobytes(), name
    obs = observations(agent)
    actions = agent.act(obs)
    np.testing.assert_array_equal(loaded.act(obs), actions)
    np.testing.assert_array_equal(loaded.value(obs), agent.value(obs))
    np.testing.assert_array_equal(loaded.log_prob(obs, actions), agent.log_prob(obs, actions))
    drawn = [a.act(obs, sample=True, rng=np.random.default_rng(1)) for a in (agent, loaded)]
    np.testing.assert_array_equal(*drawn)


def test_it_is_scored_and_exported_by_its_folder(progress, tmp_path):
    agent = poise.Agent.of(progress)
    folder = agent.save(tmp_path / "agent")
    scores = [a.evaluate(3).episodic_return for a in (agent, poise.load(folder))]
    np.testing.assert_array_equal(*scores)
    exported = export(folder, out=tmp_path / "policy.py")
    assert exported.difference < 1e-5


def test_it_is_the_agent_that_a_run_with_the_same_settings_saves(tmp_path):
    """So a score of both is the same, too."""
    config = dataclasses.replace(SMALL, num_envs=2)
    settings = {"video": False, "evaluate": False, "out": tmp_path, "file": io.StringIO()}
    run = poise.train("Pendulum-v1", **config.to_dict(), **settings)
    kept, own = poise.load(run.folder), poise.Agent.of(looped("Pendulum-v1", config))
    obs = observations(own)
    np.testing.assert_array_equal(kept.act(obs), own.act(obs))


def test_saving_replaces_an_agent_and_nothing_else(progress, tmp_path):
    agent = poise.Agent.of(progress)
    folder = agent.save(tmp_path / "agent")
    assert {path.name for path in agent.save(folder).iterdir()} == {AGENT, "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    (folder / "policy.py").touch()
    with pytest.raises(CheckpointError, match=r"holds something else \(policy.py\)"):
        agent.save(folder)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        agent.save(tmp_path / "file")


def test_a_loop_continues_in_another_environment_with_the_same_spaces():
    """The policy is kept; what the world was cannot be, so it says that it is not exact."""
    gym.register("Jupiter-v0", "gymnasium.envs.classic_control:PendulumEnv", 200, kwargs={"g": 24.8})
    worlds = [poise.make(id, 2, "gymnasium") for id in ("Pendulum-v1", "Jupiter-v0")]
    (*_, last) = poise.iterations(SMALL, worlds[0])
    assert last.world is not None
    longer = dataclasses.replace(SMALL, total_steps=512)
    rest = list(poise.iterations(longer, worlds[1], poise.Start(last.state, last.world)))
    assert [p.steps for p in rest] == [last.steps + 64 * i for i in range(1, 5)]
    assert not rest[0].exact
    for env in worlds:
        env.close()
    del gym.registry["Jupiter-v0"]


def test_a_loop_continues_from_what_it_yielded(tmp_path):
    """``Start`` has the bits of the loop without a pause."""
    env = poise.make("Pendulum-v1", 2)
    whole = list(poise.iterations(SMALL, env))
    env.close()
    again = poise.make("Pendulum-v1", 2)
    half = whole[1]
    assert half.world is not None
    rest = list(poise.iterations(SMALL, again, poise.Start(half.state, half.world)))
    assert [p.steps for p in rest] == [p.steps for p in whole[2:]]
    assert all(p.exact for p in rest)
    for name, leaf in named(whole[-1].state).items():
        np.testing.assert_array_equal(named(rest[-1].state)[name], leaf)
    again.close()
