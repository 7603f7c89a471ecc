import dataclasses
import math
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive import Learner as NaiveLearner
from naive import Net
from probes import first_state

from poise.algo.distributions import DiagGaussian
from poise.algo.hyperparameters import Hyperparameters, scheduled
from poise.algo.losses import policy_loss
from poise.algo.minibatches import take
from poise.algo.update import update as pure_update
from poise.checked import ConfigError
from poise.config import Config, factor
from poise.placement import two_devices
from poise.placement.two_devices import draw_shuffles, make_ready, sort_shuffles
from poise.spec import Spec
from poise.training.acting import ActionScale
from poise.types import Rollout

SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))
PPO = {"num_steps": 25, "num_epochs": 2, "minibatch_size": 32, "gamma": 0.97, "recompute_every": 1}
RATES = {"policy_learning_rate": 5e-4, "value_learning_rate": 5e-4}
BASE = {"total_steps": 400, "num_envs": 4, "ppo": PPO | RATES}


def config(**changes):
    """``BASE`` with changes like ``ppo__clip=0.1``."""
    data = Config.from_dict(BASE).to_dict()
    for path, value in changes.items():
        *groups, name = path.split("__")
        target = data
        for group in groups:
            target = target[group]
        target[name] = value
    return Config.from_dict(data)


def rollout_for(state, seed=0, steps=25, envs=4):
    """Random facts, with actions that the state's policy could have sampled."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(steps, envs, 3)).astype(np.float32) * 3
    policy = state.learner.policy
    d = jax.vmap(jax.vmap(policy))(jnp.clip(jnp.asarray(obs), -10, 10))
    noise = rng.normal(size=(steps, envs, 2)).astype(np.float32)
    action = d.mean + d.std * noise if isinstance(d, DiagGaussian) else jnp.argmax(d.logits + noise, axis=-1)
    return Rollout(
        obs=obs,
        action=np.asarray(action),
        reward=rng.normal(1, 5, size=(steps, envs)).astype(np.float32),
        next_obs=rng.normal(size=(steps, envs, 3)).astype(np.float32) * 3,
        terminated=rng.random((steps, envs)) < 0.1,
        truncated=rng.random((steps, envs)) < 0.1,
    )


def hyper(settings, state=None):
    """The settings of the iteration that follows ``state``."""
    return Hyperparameters.of(settings.settled(SPEC), 0 if state is None else int(state.iteration))


def update(state, rollout, settings):
    return two_devices.update(state, rollout, hyper(settings, state))


def prepare(state, rollout, settings):
    now = hyper(settings, state)
    drawn = draw_shuffles(state.key, state.iteration, num_epochs=now.num_epochs, size=rollout.reward.size)
    return make_ready(state, rollout, drawn, now).prepared


def step(settings, state=None, **kwargs):
    state = state or first_state(SPEC, settings)
    return update(state, rollout_for(state, **kwargs), settings)


def leaves(learner):
    return [np.asarray(x) for x in jax.tree.leaves((learner.policy, learner.value))]


@pytest.mark.parametrize(("first_rollout", "recompute_every"), [(True, 1), (False, None), (True, None)])
def test_two_whole_updates_equal_the_naive_ppo(first_rollout, recompute_every):
    """Two, so that statistics and optimizers go on; with every bound so tight that it binds."""
    tight = {
        "policy__std_rate": 3.0,
        "ppo__clip": 0.02,
        "normalize__reward_clip": 0.5,
        "normalize__obs_clip": 1.5,
    }
    options = {"normalize__first_rollout": first_rollout, "ppo__recompute_every": recompute_every}
    settings = config(**tight, **options)
    state = first_state(SPEC, settings)
    policy = Net(state.learner.policy.mlp.weight, state.learner.policy.mlp.bias)
    value = Net(state.learner.value.mlp.weight, state.learner.value.mlp.bias)
    log_std = np.array(state.learner.policy.log_std, float)
    naive = NaiveLearner(policy, log_std, value, settings)
    start = np.asarray(state.learner.policy.mlp.weight[1])
    size, ppo = settings.rollout_size, settings.ppo
    for iteration in (0, 1):
        rollout = rollout_for(state, seed=iteration)
        keys = jax.random.split(jax.random.fold_in(state.key, iteration), 2)
        orders = [np.asarray(jax.random.permutation(k, size))[:96] for k in keys]
        share = 1 - iteration / 4  # four iterations, annealed linearly
        naive.update(rollout, orders, share * ppo.policy_learning_rate, share * ppo.value_learning_rate)
        state, _ = update(state, rollout, settings)

        got = state.learner
        for ours, net in ((got.policy.mlp, policy), (got.value.mlp, value)):
            for a, b in zip([*ours.weight, *ours.bias], [*net.weight, *net.bias], strict=True):
                np.testing.assert_allclose(a, b, atol=2e-5)
        np.testing.assert_allclose(got.policy.log_std, log_std, atol=2e-5)
    assert np.abs(np.asarray(got.policy.mlp.weight[1]) - start).max() > 2e-3  # far beyond the tolerance
    assert min(naive.num_clipped.values()) > 20


def test_on_the_first_minibatch_the_ratio_is_1_and_the_kl_0():
    settings = config()
    state, _ = step(settings)
    rollout = rollout_for(state, seed=1)
    batch = prepare(state, rollout, settings).batch
    first = jax.tree.map(lambda x: x[:32], batch)
    _, metrics = policy_loss(state.learner.policy, first, hyper(settings, state))
    log_prob = jax.vmap(lambda o, a: state.learner.policy(o).log_prob(a))(first.obs, first.action)
    np.testing.assert_allclose(jnp.exp(log_prob - first.log_prob), 1, atol=1e-4)
    assert abs(metrics.kl) < 1e-4
    assert metrics.clip_fraction == 0


CHANGES = {
    "seed": 1,
    "ppo__num_epochs": 3,
    "ppo__value_num_epochs": 1,
    "ppo__minibatch_size": 16,
    "ppo__recompute_every": None,
    "ppo__gamma": 0.5,
    "ppo__lam": 0.5,
    "ppo__clip": 0.01,
    "ppo__clip_schedule": "0:0.05",
    "ppo__policy_learning_rate": 1e-4,
    "ppo__value_learning_rate": 1e-4,
    "ppo__anneal": "none",
    "ppo__max_grad_norm": None,
    "ppo__target_kl": 1e-6,
    "ppo__entropy_coef": 0.1,
    "ppo__entropy_schedule": "linear",
    "ppo__normalize_advantage": False,
    "policy__hidden": (16,),
    "policy__activation": "relu",
    "policy__init": "uniform",
    "policy__layer_norm": True,
    "policy__residual": True,
    "policy__std": "predicted",
    "policy__std_init": 0.5,
    "policy__std_min": 0.1,
    "policy__std_rate": 3.0,
    "policy__head_tanh": "mean",
    "value__hidden": (16,),
    "value__activation": "relu",
    "value__init": "uniform",
    "value__layer_norm": True,
    "value__residual": True,
    "normalize__obs": False,
    "normalize__obs_clip": 1.0,
    "normalize__first_rollout": False,
    "normalize__reward": False,
    "normalize__reward_clip": 0.5,
    "normalize__reward_gamma": 0.0,
    "total_steps": 200,
}
# what an option of ``CHANGES`` needs besides itself
NEEDS = {"ppo__entropy_schedule": {"ppo__entropy_coef": 0.1}}
# what decides which rows are collected, not what is made of them; tests/training/test_collector.py and
# tests/training/test_groups.py change these
COLLECTING = {
    "num_envs",
    "env_groups",
    "ppo__num_steps",
    "ppo__reset_every_rollout",
    "ppo__stagger_starts",
    "normalize__action",
}
# of observations of several parts, of images and of a memory: tests/algo/test_memory.py and
# tests/algo/test_encoders.py change these
ELSEWHERE = {
    "unused",  # tests/settings
    # tests/runs/test_starting.py, tests/runs/test_curricula.py
    *("start_from", "start_parts", "start_sum", "demonstrations", "demonstration_epochs", "curriculum"),
    "ppo__sequence_length",
    "history",
    *(f"{network}__{name}" for network in ("policy", "value") for name in ("images", "see")),
    *(f"{network}__network" for network in ("policy", "value")),  # tests/own
    *(f"{network}__{name}" for network in ("policy", "value") for name in ("memory", "memory_size")),
}


def two_updates(settings):
    """Two, since annealing and observation statistics first show in the second."""
    first, _ = step(settings)
    return leaves(step(settings, first, seed=1)[0].learner)


@pytest.fixture(scope="module")
def usual():
    return two_updates(config())


@pytest.mark.parametrize("change", CHANGES)
def test_every_option_changes_the_update(change, usual):
    more = NEEDS.get(change, {})
    usual = two_updates(config(**more)) if more else usual
    changed = two_updates(config(**more, **{change: CHANGES[change]}))
    assert [x.shape for x in changed] != [x.shape for x in usual] or any(
        not np.array_equal(a, b) for a, b in zip(changed, usual, strict=True)
    )


def test_the_return_is_discounted_like_the_advantages_unless_told_otherwise(usual):
    for a, b in zip(two_updates(config(normalize__reward_gamma=0.97)), usual, strict=True):
        np.testing.assert_array_equal(a, b)


DISCRETE = Spec.flat("probe", (3,), num_choices=2)
UNBOUNDED = Spec.flat("probe", (3,), (2,), (-1e38, -math.inf), (1e38, 1.0))
KINDS = {"predicted": (SPEC, "predicted"), "fixed": (SPEC, "fixed"), "discrete": (DISCRETE, "independent")}
OF_THE_POLICY = [
    "policy__std_init",
    "policy__std_min",
    "policy__std_rate",
    "policy__head_tanh",
    "ppo__entropy_coef",
    "normalize__action",
]


@pytest.mark.parametrize("change", OF_THE_POLICY)
@pytest.mark.parametrize("kind", KINDS)
def test_with_every_kind_of_policy_an_option_has_an_effect_or_is_refused(kind, change):
    spec, std = KINDS[kind]
    value = {**CHANGES, "normalize__action": False, "ppo__entropy_coef": 0.1}[change]
    if (kind, change) in REFUSED:
        with pytest.raises(ConfigError, match=change.replace("__", ".")):
            first_state(spec, config(policy__std=std, **{change: value}))
        return
    settings = config(policy__std=std), config(policy__std=std, **{change: value})
    if change == "normalize__action":  # acts where actions are scaled, not in the update
        scales = [ActionScale(Spec.flat("b", (3,), (1,), (0.0,), (4.0,)), normalize=n) for n in (True, False)]
        assert scales[0](np.zeros(1)) != scales[1](np.zeros(1))
        return
    states = [first_state(spec, c) for c in settings]
    rollout = rollout_for(states[0])
    one, two = (leaves(update(s, rollout, c)[0].learner) for s, c in zip(states, settings, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


REFUSED = {
    ("fixed", "policy__std_min"),
    ("fixed", "policy__std_rate"),
    ("predicted", "policy__std_rate"),
    ("fixed", "ppo__entropy_coef"),
    ("discrete", "policy__std_init"),
    ("discrete", "policy__std_min"),
    ("discrete", "policy__std_rate"),
    ("discrete", "policy__head_tanh"),
    ("discrete", "normalize__action"),
}


def test_actions_without_bounds_cannot_be_told_not_to_be_scaled():
    with pytest.raises(ConfigError, match=r"normalize.action = False: has no effect on the unbounded"):
        first_state(UNBOUNDED, config(normalize__action=False))


def test_the_table_of_changes_names_every_option():
    def paths(data, prefix=""):
        for name, value in data.items():
            yield from paths(value, f"{prefix}{name}__") if isinstance(value, dict) else [prefix + name]

    assert set(paths(Config().to_dict())) == set(CHANGES) | COLLECTING | ELSEWHERE


def test_beyond_the_target_kl_the_policy_stops_and_the_value_goes_on():
    # with first_rollout, the policy would learn from other observations than it acted on: a KL above 0
    unscaled = {"normalize__first_rollout": False}
    never_after, never = step(config(**unscaled))
    _, soon = step(config(ppo__target_kl=1e-9, **unscaled))
    # the first minibatch is always at KL 0, the second is beyond
    assert soon.policy.num_updates.tolist() == [1, 0]
    assert soon.policy.num_seen.tolist() == [2, 0]  # the second is looked at, not learned from
    assert np.isnan(soon.policy.kl[1])
    assert never.policy.num_updates.tolist() == [3, 3]
    np.testing.assert_array_equal(soon.value_loss, never.value_loss)
    late_after, _ = step(config(ppo__target_kl=1e9, **unscaled))
    for a, b in zip(leaves(late_after.learner), leaves(never_after.learner), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_remainder_of_a_shuffle_is_dropped_and_no_row_comes_twice():
    settings = config()
    state = first_state(SPEC, settings)
    batch = prepare(state, rollout_for(state), settings).batch
    numbered = dataclasses.replace(batch, target=jnp.arange(100.0))
    drawn = draw_shuffles(jax.random.key(0), np.array(0), num_epochs=3, size=100)
    shuffled = take(numbered, jnp.asarray(sort_shuffles(drawn, 32)[0]))
    assert shuffled.target.shape == (3, 32)
    rows = np.asarray(shuffled.target).ravel().astype(int)
    assert len(set(rows)) == 96
    np.testing.assert_array_equal(shuffled.obs.reshape(96, -1), np.asarray(batch.obs)[rows])


def test_each_network_learns_for_its_own_number_of_epochs():
    """As if both had that number, since nothing but new advantages would make one depend on the other."""
    alone = {epochs: step(config(ppo__recompute_every=None, ppo__num_epochs=epochs)) for epochs in (2, 3)}
    for epochs, values in ((2, 3), (3, 2)):
        settings = config(ppo__recompute_every=None, ppo__num_epochs=epochs, ppo__value_num_epochs=values)
        state, measured = step(settings)
        assert (measured.policy.loss.shape, measured.value_loss.shape) == ((epochs,), (values,))
        expected = alone[epochs][0].learner.policy, alone[values][0].learner.value
        pairs = zip(leaves(state.learner), jax.tree.leaves(expected), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("size", [1, 2, 64, 2000, 2048, 70_000])
def test_shuffles_are_those_of_jax(size):
    key, minibatch_size = jax.random.key(size), min(size, max(2, size // 3))
    rows = sort_shuffles(draw_shuffles(key, np.array(7), num_epochs=3, size=size), minibatch_size)
    keys = jax.random.split(jax.random.fold_in(key, 7), 3)
    expected = np.stack([jax.random.permutation(k, size) for k in keys])
    kept = rows.reshape(3, -1)
    np.testing.assert_array_equal(kept, expected[:, : kept.shape[1]])
    assert kept.shape[1] == size // minibatch_size * minibatch_size


def test_learning_rates_fall_linearly_one_value_an_iteration():
    settings = config(ppo__policy_learning_rate=0.8)  # 4 iterations
    rates = [scheduled(settings, i)["policy_step_size"] for i in range(4)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2])
    settings = config(ppo__policy_learning_rate=0.8, ppo__anneal="none")
    assert scheduled(settings, 3)["policy_step_size"] == 0.8


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]),
        ("0:1,0.5:1,1:0.1", [1, 1, 1, 0.55, 0.1]),
        ("0.25:2, 0.75:0", [2, 2, 1, 0, 0]),  # constant before the first share and after the last
        ("0.5:3", [3, 3, 3, 3, 3]),
    ],
)
def test_schedules_by_hand(schedule, factors):
    assert [factor(schedule, i / 4) for i in range(5)] == pytest.approx(factors, abs=1e-15)


def test_each_number_has_its_own_schedule():
    settings = config(
        ppo__anneal="cosine",
        ppo__clip_schedule="0:1,0.5:0.5",
        ppo__entropy_coef=0.01,
        ppo__entropy_schedule="linear",
    )
    numbers = scheduled(settings, 2)  # of 4 iterations
    assert numbers == pytest.approx(
        {"policy_step_size": 2.5e-4, "value_step_size": 2.5e-4, "clip": 0.1, "entropy_coef": 0.005}
    )
    hyper = Hyperparameters.of(settings, 2)
    assert {name: getattr(hyper, name) for name in numbers} == numbers


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({}, {"ppo__clip_schedule": "0:1,1:1", "ppo__anneal": "0:1,1:0"}),
        ({"ppo__clip": 0.01}, {"ppo__clip": 0.02, "ppo__clip_schedule": "0:0.5"}),
        (
            {"ppo__entropy_coef": 0.1},
            {"ppo__entropy_coef": 0.2, "ppo__entropy_schedule": "0:0.5,0.25:0.5,1:0"},
        ),
    ],
)
def test_equal_schedules_learn_the_same_bits(one, same):
    for a, b in zip(two_updates(config(**one)), two_updates(config(**same)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_observation_statistics_are_frozen_and_return_statistics_are_not():
    settings = config()
    state = first_state(SPEC, settings)
    rollout = rollout_for(state)
    prepared = prepare(state, rollout, settings)
    own = (rollout.obs - rollout.obs.mean((0, 1))) / rollout.obs.std((0, 1))  # of the first rollout alone
    np.testing.assert_allclose(prepared.batch.obs, own.reshape(100, 3), atol=1e-4)
    usual = config(normalize__first_rollout=False)
    left = prepare(first_state(SPEC, usual), rollout, usual).batch.obs
    np.testing.assert_allclose(left, np.clip(rollout.obs, -10, 10).reshape(100, 3))
    state, _ = update(state, rollout, settings)
    second = prepare(state, rollout_for(state, seed=1), settings)
    raw = rollout_for(state, seed=1).obs
    by_first = (raw - rollout.obs.mean((0, 1))) / rollout.obs.std((0, 1))
    np.testing.assert_allclose(second.batch.obs, by_first.reshape(100, 3), atol=1e-4)
    np.testing.assert_allclose(prepared.normalizer.obs.mean, rollout.obs.mean((0, 1)), atol=1e-5)
    assert prepared.normalizer.ret.count == 100


@pytest.mark.parametrize("origin", [None, np.array([1e3, -2e3, 0.0], np.float32)])
def test_pi_old_of_the_first_rollout_is_the_policy_as_it_acted(origin):
    """It acted on raw observations, and learns from scaled ones: the first ratio is not 1."""
    settings = config(normalize__obs_clip=None)
    state = first_state(SPEC, settings)
    rollout = rollout_for(state)
    seen_by_policy = np.array(rollout.obs).reshape(100, 3)
    if origin is not None:
        state = eqx.tree_at(lambda s: s.normalizer.origin, state, origin, is_leaf=lambda x: x is None)
        seen_by_policy += origin
    batch = prepare(state, rollout, settings).batch
    policy = state.learner.policy
    acted = jax.vmap(lambda o, a: policy(o).log_prob(a))(jnp.asarray(seen_by_policy), batch.action)
    np.testing.assert_allclose(batch.log_prob, acted, atol=1e-5)
    now = jax.vmap(lambda o, a: policy(o).log_prob(a))(batch.obs, batch.action)
    assert np.abs(now - batch.log_prob).max() > 1e-3


def test_rollouts_that_begin_anew_forget_the_running_return():
    assert not step(config(ppo__reset_every_rollout=True))[0].running_return.any()
    assert step(config())[0].running_return.any()


FUNCTIONS = ("draw_shuffles", "_prepare", "_recompute", "learn_policy", "learn_value", "_init")


def compiled():
    """How often each function of the driver was compiled in this process."""
    return [getattr(two_devices, name)._cache_size() for name in FUNCTIONS]


def test_nothing_is_compiled_again_after_the_first_iteration_nor_for_another_seed_or_budget():
    settings = config(seed=123)
    state, _ = step(settings)
    before = compiled()
    for seed in (1, 2):
        state, _ = step(settings, state, seed=seed)
    step(config(seed=124, total_steps=800))
    assert compiled() == before


NUMBERS = {
    "ppo__clip": 0.1,
    "ppo__clip_schedule": "0:0.01",
    "ppo__anneal": "0:0.5",
    "ppo__gamma": 0.9,
    "ppo__lam": 0.8,
    "ppo__policy_learning_rate": 1e-4,
    "ppo__value_learning_rate": 1e-4,
    "ppo__entropy_coef": 0.01,
    "ppo__max_grad_norm": 1.0,
    "policy__std_rate": 2.0,
    "normalize__obs_clip": 1.0,
    "normalize__reward_clip": 0.5,
    "normalize__reward_gamma": 0.5,
}


def test_other_numbers_compile_nothing_and_change_what_is_learned():
    usual, _ = step(config())
    before = compiled()
    for name, value in NUMBERS.items():
        changed, _ = step(config(**{name: value}))
        pairs = zip(leaves(changed.learner), leaves(usual.learner), strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs), name
    step(config(**NUMBERS, ppo__entropy_schedule="0:0.5"))
    assert compiled() == before


EVERY_OTHER = {"ppo__num_epochs": 3, "ppo__recompute_every": 2}
OPTIONS = [
    EVERY_OTHER,
    EVERY_OTHER | {"ppo__value_num_epochs": 5},
    EVERY_OTHER | {"ppo__value_num_epochs": 1},
    {"ppo__recompute_every": None},
    {"ppo__target_kl": 1e-4},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_driver_on_two_devices_and_the_pure_update_agree(options):
    """Two iterations; what differs is how XLA splits the work into functions."""
    settings = config(**options)
    driven = pure = first_state(SPEC, settings)
    pure = jax.device_put(pure, jax.devices()[0])
    for seed in (0, 1):
        rollout, now = rollout_for(driven, seed=seed), hyper(settings, driven)
        driven, by_driver = two_devices.update(driven, rollout, now)
        pure, measured = jax.jit(pure_update)(pure, rollout, now)
        for a, b in zip(leaves(pure.learner), leaves(driven.learner), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(measured.value_loss, by_driver.value_loss, rtol=1e-4)
        np.testing.assert_array_equal(measured.policy.num_updates, by_driver.policy.num_updates)
        assert measured.policy_finite
        assert measured.value_finite
    assert int(pure.iteration) == 2


def test_the_pure_update_maps_over_seeds_and_numbers_and_scans_over_iterations():
    seeds, clips = (1, 2), (0.2, 0.01)
    states = [jax.device_put(first_state(SPEC, config(seed=seed)), jax.devices()[0]) for seed in seeds]
    rollouts = [rollout_for(state, seed=seed) for state, seed in zip(states, seeds, strict=True)]
    hypers = [hyper(config(ppo__clip=clip)) for clip in clips]

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)

    mapped, _ = jax.jit(jax.vmap(pure_update))(stacked(states), stacked(rollouts), stacked(hypers))
    for i, (state, rollout, one) in enumerate(zip(states, rollouts, hypers, strict=True)):
        alone, _ = jax.jit(pure_update)(state, rollout, one)
        for a, b in zip(leaves(mapped.learner), leaves(alone.learner), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)

    def iteration(state, rollout):
        after, measured = pure_update(state, rollout, hypers[0])
        return after, measured.value_loss

    scanned, losses = jax.jit(lambda s, r: jax.lax.scan(iteration, s, r))(states[0], stacked(rollouts))
    one_by_one = states[0]
    for rollout in rollouts:
        one_by_one, _ = jax.jit(pure_update)(one_by_one, rollout, hypers[0])
    for a, b in zip(leaves(scanned.learner), leaves(one_by_one.learner), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert losses.shape == (2, 2)  # iterations, epochs


@pytest.mark.parametrize("name", ["policy", "value"])
def test_a_parameter_that_is_not_finite_is_seen_where_a_tanh_hides_it(name):
    settings = config()
    state = first_state(SPEC, settings)
    rollout = rollout_for(state)
    network = getattr(state.learner, name)
    infinite = eqx.tree_at(lambda n: n.mlp.bias[0], network, jnp.full(64, jnp.inf))
    assert jnp.isfinite(infinite.mlp(jnp.ones(3))).all()
    broken = eqx.tree_at(lambda s: getattr(s.learner, name), state, infinite)
    _, measured = update(broken, rollout, settings)
    finite = {"policy": bool(measured.policy_finite), "value": bool(measured.value_finite)}
    assert finite == {"policy": True, "value": True} | {name: False}


def test_the_next_state_does_not_use_up_the_one_before():
    settings = config()
    state = first_state(SPEC, settings)
    first = leaves(update(state, rollout_for(state), settings)[0].learner)
    again = leaves(update(state, rollout_for(state), settings)[0].learner)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


SCRIPT = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.devices()  # poise leaves JAX as it is where it runs already
from poise import envs
from poise.config import Config, PPO
from poise.training.loop import iterations
from poise.runs.recorder import parameters_sha256
env = envs.make("InvertedPendulum-v4", 4)
config = Config(total_steps=512, num_envs=4, ppo=PPO(num_steps=128))
*_, last = iterations(config, env)
print(len(jax.devices()), parameters_sha256(last.state))
"""


@pytest.mark.processes
def test_one_device_and_two_give_the_same_bits():
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PJRT_NPROC": "2"}
    command = [sys.executable, "-c", SCRIPT]
    both = [subprocess.Popen([*command, n], env=env, stdout=subprocess.PIPE, text=True) for n in "12"]
    (one, first), (two, second) = (process.communicate()[0].split() for process in both)
    assert (one, two) == ("1", "2")
    assert first == second
