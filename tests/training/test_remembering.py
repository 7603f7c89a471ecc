"""Trainings with a memory, on every backend: what acted is what is learned from, and a resume repeats it."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recall

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.losses import policy_loss
from poise.config import PPO, Config, Normalize, Policy, Value
from poise.envs import make
from poise.placement import two_devices
from poise.training.acting import Actor, CompiledActor, empty_carry
from poise.training.loop import Start, iterations, settle

KINDS = ("gru", "lstm", "history")


def config(kind="gru", num_steps=20, **options):
    ppo = PPO(num_steps=num_steps, num_epochs=2, minibatch_size=40, **options.pop("ppo", {}))
    if kind == "history":
        networks = {"history": 3}
    else:
        networks = {"policy": Policy(memory=kind, memory_size=8), "value": Value(memory=kind, memory_size=8)}
    options = {"num_envs": 4, "total_steps": 6 * 4 * num_steps, **networks} | options
    return Config(ppo=ppo, normalize=Normalize(first_rollout=False), **options)


CASES = {
    "recall:Recall-v0": "gymnasium",
    "CartPole-v1": "gymnasium",
    "InvertedPendulum-v4": "mujoco",
    "Pendulum-v1": "native",
}


@pytest.mark.parametrize("id", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_every_ratio_is_1(id, kind):
    """pi_old, from whole sequences, is the policy that acted step by step; episodes end on the way."""
    settings = config(kind, ppo={"sequence_length": 5})
    progress = next(iterations(settings, make(id, 4, CASES[id])))
    settings = settle(settings, make(id, 1, CASES[id]).spec, new=True)
    batch = progress.prepared.batch
    assert batch.begins.shape == (16, 5)
    state = two_devices.init(make(id, 1, CASES[id]).spec, settings)
    _, metrics = jax.jit(policy_loss)(state.learner.policy, batch, Hyperparameters.of(settings, 0))
    assert float(metrics.kl) < 1e-8
    # the distribution at each row draws the action that was taken, for the noise of the collector
    assert np.isfinite(batch.log_prob).all()


@pytest.mark.parametrize("id", ["CartPole-v1", "InvertedPendulum-v4"])
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_acts_as_the_compiled_networks_do(id, kind):
    last = list(iterations(config(kind), make(id, 4)))[-1]
    policy, normalizer = last.state.learner.policy, last.state.normalizer
    rng, obs = np.random.default_rng(0), np.asarray(last.rollout.obs)
    both = [kind(policy, normalizer, Normalize()) for kind in (Actor, CompiledActor)]
    carries = [empty_carry(actor, 4) for actor in both]
    for row in obs.astype(np.float32):
        noise = make(id, 1).spec.draw_noise(rng, 4)
        actions = [actor.act(row, noise, carry) for actor, carry in zip(both, carries, strict=True)]
        np.testing.assert_allclose(*actions, atol=1e-5)
        np.testing.assert_allclose(*carries, atol=1e-5)
    assert np.abs(carries[0]).max() > 0.1


@pytest.mark.parametrize("id", CASES)
def test_a_memory_forgets_at_the_start_of_each_episode(id):
    """And nowhere else: every rollout goes on with what the one before held."""
    rollouts = [
        jax.tree.map(np.asarray, each.rollout) for each in iterations(config(), make(id, 4, CASES[id]))
    ]
    begins = np.concatenate([rollout.begins for rollout in rollouts])
    done = np.concatenate([rollout.terminated | rollout.truncated for rollout in rollouts])
    assert begins[0].all()
    assert done.any()
    np.testing.assert_array_equal(begins[1:], done[:-1])
    assert not rollouts[0].carry.any()
    assert any(rollout.carry.any() for rollout in rollouts)  # not where all episodes begin with the rollout


@pytest.mark.parametrize("id", CASES)
@pytest.mark.parametrize("kind", ["lstm", "history"])
def test_a_training_that_resumes_anywhere_has_the_same_bits(id, kind):
    """The memory is part of the world: what the policy and the value function hold is restored."""
    settings = config(kind, total_steps=5 * 80)
    whole = list(iterations(settings, make(id, 4, CASES[id])))
    for stop in random.Random(0).sample(range(1, 5), 2):
        progress = whole[stop - 1]
        rest = list(iterations(settings, make(id, 4, CASES[id]), Start(progress.state, progress.world)))
        assert all(each.exact for each in rest)
        for a, b in zip(jax.tree.leaves(rest[-1].state), jax.tree.leaves(whole[-1].state), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_length_of_sequences_and_the_size_of_a_memory_have_an_effect():
    def learned(**changes):
        *_, last = iterations(config(**changes), make("CartPole-v1", 4))
        return [np.asarray(x) for x in jax.tree.leaves(last.state.learner.policy)]

    usual = learned()
    for other in (
        {"ppo": {"sequence_length": 10}},
        {"policy": Policy(memory="gru", memory_size=4)},
        {"kind": "lstm"},
    ):
        changed = learned(**other)
        assert [x.shape for x in changed] != [x.shape for x in usual] or any(
            not np.array_equal(a, b) for a, b in zip(changed, usual, strict=True)
        )


def test_each_length_of_a_history_is_another_training_and_1_is_none():
    def learned(**options):
        *_, last = iterations(Config(total_steps=512, **options), make("CartPole-v1", 4))
        return last.state.learner.policy

    assert learned(history=1).memory is None
    assert [learned(history=k).mlp.weight[0].shape for k in (1, 2, 5)] == [(4, 64), (8, 64), (20, 64)]


def test_the_rows_of_a_history_of_numbers_are_shuffled_one_by_one_and_those_of_images_are_not():
    lengths = {}
    for id in ("CartPole-v1", "recall:Recall-v0"):
        settled = settle(config("history"), make(id, 1).spec, new=True)
        lengths[id] = settled.ppo.sequence_length
    assert lengths == {"CartPole-v1": 1, "recall:Recall-v0": 20}


def test_only_one_network_may_remember():
    for one in ({"policy": Policy()}, {"value": Value()}):
        *_, last = iterations(config(**one), make("CartPole-v1", 4))
        has = last.state.learner.policy.memory, last.state.learner.value.memory
        assert [memory is None for memory in has] == ["policy" in one, "value" in one]
        assert (last.rollout.carry is None, last.state.value_carry is None) == (
            "policy" in one,
            "value" in one,
        )


def test_groups_keep_the_memories_of_their_own_environments():
    settings = dataclasses.replace(config(), env_groups=2)
    worlds = [make("CartPole-v1", 2) for _ in range(2)]
    whole = list(iterations(settings, worlds))
    assert whole[-1].rollout.carry.shape == (4, 8)
    rest = list(
        iterations(
            settings, [make("CartPole-v1", 2) for _ in range(2)], Start(whole[2].state, whole[2].world)
        )
    )
    np.testing.assert_array_equal(rest[-1].rollout.action, whole[-1].rollout.action)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_everything_at_once_is_learned_to_the_optimum(seed):
    """Image, vector, mask, an action of two parts, and a memory: within 5% of the best return."""
    from poise.agents.evaluation import evaluate
    from poise.training.acting import ActionScale, make_actor

    networks = {"policy": Policy(memory="gru"), "value": Value(memory="gru")}
    settings = Config(total_steps=50_000, seed=seed, **networks)
    *_, last = iterations(settings, make("recall:Recall-v0", settings.shape[1]))
    env = make("recall:Recall-v0", 16)
    actor = make_actor(last.state.learner.policy, last.state.normalizer, Normalize())
    score = evaluate(env, actor, ActionScale(env.spec, normalize=True), seed=seed, episodes=100)
    assert score.mean > 0.95 * recall.OPTIMUM
