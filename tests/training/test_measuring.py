import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.normalize import Normalizer, RunningStats
from poise.spec import Spec
from poise.training.acting import ActionScale
from poise.training.measuring import iteration_metrics, measure_rollout, observation_shift, saturation
from poise.types import Rollout

SPEC = Spec.flat("Two-v0", (2,), (3,), (-1.0, -4.0, -np.inf), (1.0, 2.0, np.inf))


def seen(*observations):
    stats = RunningStats.empty(2)
    return Normalizer(stats.merge(jnp.array(observations, jnp.float32)) if observations else stats, stats)


def test_the_share_of_actions_at_a_bound_by_hand():
    action = np.array(
        [[[-1.0, 0.0, 9.0]], [[0.9, 1.5, 9.0]]], np.float32
    )  # [T, N, A]; the last has no bounds
    assert (
        saturation(action, ActionScale(SPEC, normalize=True)) == 2 / 4
    )  # -1 and 1.5, in units of the bounds
    assert saturation(action, ActionScale(SPEC, normalize=False)) == 1 / 4  # -1 alone


def test_without_bounds_or_with_choices_nothing_can_be_cut():
    free = Spec.flat("Free-v0", (2,), (1,), (-np.inf,), (np.inf,))
    choices = Spec.flat("Choice-v0", (2,), num_choices=3)
    assert saturation(np.ones((2, 1, 1), np.float32), ActionScale(free, normalize=True)) is None
    assert saturation(np.ones((2, 1), int), ActionScale(choices, normalize=False)) is None


def test_the_shift_by_hand():
    before = seen([0, 10], [2, 10], [0, 12], [2, 12])  # means 1 and 11, deviations 1 and 1
    obs = np.array([[1, 11], [2, 14]], np.float32)  # means 1.5 and 12.5
    assert observation_shift(obs, before) == pytest.approx(1.5)


def test_what_the_first_rollout_cannot_have_is_not_measured():
    epochs = {"policy/num_updates": np.array([2, 3]), "value/loss": np.array([2.0, 1.0])}
    measured = {
        "normalize/shift": np.float32(7),
        "policy/memory": np.float32(3),
        "reward/mean": np.float32(1),
    }
    found = iteration_metrics(epochs, np.array([2, 3]), measured, first=True)
    assert (found["normalize/shift"], found["policy/memory"], found["reward/mean"]) == (None, None, 1.0)
    assert iteration_metrics(epochs, np.array([2, 3]), measured, first=False)["normalize/shift"] == 7.0


def test_arrays_of_jax_are_measured_as_those_of_numpy():
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(6, 4, 2)), rng.normal(size=(6, 4, 3))
    ends = np.zeros((6, 4), bool)
    rollout = Rollout(
        *(x.astype(np.float32) for x in (obs, action, rng.normal(size=(6, 4)), obs)), ends, ends
    )
    before, scale = seen([0, 10], [2, 10], [0, 12], [2, 12]), ActionScale(SPEC, normalize=True)
    with jax.numpy_rank_promotion("allow"):
        compiled = jax.jit(lambda rollout, before: measure_rollout(rollout, before, scale))(rollout, before)
    found = measure_rollout(rollout, jax.device_get(before), scale)
    assert {k: float(v) for k, v in compiled.items()} == pytest.approx(found, rel=1e-5)


def test_rewards_are_the_raw_ones():
    rollout = Rollout(
        obs=np.zeros((2, 1, 2), np.float32),
        action=np.zeros((2, 1, 3), np.float32),
        reward=np.array([[1.0], [3.0]], np.float32),
        next_obs=np.zeros((2, 1, 2), np.float32),
        terminated=np.zeros((2, 1), bool),
        truncated=np.zeros((2, 1), bool),
    )
    found = measure_rollout(rollout, seen(), ActionScale(SPEC, normalize=True))
    assert (found["reward/mean"], found["reward/std"]) == (2.0, 1.0)
