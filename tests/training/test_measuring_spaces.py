"""Entropies of parts, masks and memories, by hand."""

import dataclasses
import io
import json
import math

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import poise
from poise.algo.distributions import Categorical, Choices, DiagGaussian, Joint
from poise.algo.memory import play, to_items
from poise.algo.networks import Policy
from poise.config import Policy as PolicyConfig
from poise.spec import Part, Spec
from poise.training.measuring import (
    _forgetful,
    _in_time,
    divergence,
    measure_masks,
    measure_parts,
)

FLAT = Spec.flat("Flat-v0", (2,), num_choices=2)


def boxes(mean, std):
    return jax.vmap(DiagGaussian)(jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32))


def choices(logits, *sizes):
    if not sizes:
        return jax.vmap(Categorical)(jnp.array(logits, jnp.float32))
    return jax.vmap(lambda row: Choices(row, sizes))(jnp.array(logits, jnp.float32))


def joint(box, choice):
    return jax.vmap(Joint)(box, choice)


def with_action(*parts):
    return dataclasses.replace(FLAT, action=parts)


AIM = Part(("aim",), (2,), (-1.0, -1.0), (1.0, 1.0))
PUSH = Part(("push",), (1,), (-1.0,), (1.0,))
PICK = Part(("pick",), (), sizes=(2,), first=(0,))
MOVES = Part(("moves",), (2,), sizes=(3, 2), first=(0, 0))


def test_the_pieces_of_an_action():
    found = with_action(PICK, AIM, MOVES, PUSH).pieces
    assert [(p.name, p.columns, p.values, p.sizes) for p in found] == [
        ("aim", slice(0, 2), slice(0, 0), ()),
        ("push", slice(2, 3), slice(0, 0), ()),
        ("pick", slice(3, 4), slice(0, 2), (2,)),
        ("moves/0", slice(4, 5), slice(2, 5), (3,)),
        ("moves/1", slice(5, 6), slice(5, 7), (2,)),
    ]
    assert [p.name for p in FLAT.pieces] == [""]
    multi = dataclasses.replace(MOVES, path=())
    assert [p.name for p in with_action(multi).pieces] == ["0", "1"]
    bits = Part(("bits",), (17,), sizes=(2,) * 17, first=(0,) * 17)
    assert [(p.name, p.sizes) for p in with_action(bits).pieces] == [("bits", (2,) * 17)]


def test_the_entropy_of_each_part_by_hand():
    # two rows; probabilities of pick 1/4 and 3/4, then 1 and 0 by a mask; of moves 1/3 each, then 1/2 each
    pick = [[0.0, math.log(3)], [0.0, -1e9]]
    logits = [[*row, 0, 0, 0, 5, 5] for row in pick]
    box = boxes(np.zeros((2, 3)), [[1.0, 2.0, 0.5], [1.0, 2.0, 0.5]])
    spec = with_action(AIM, PUSH, PICK, MOVES)
    found = measure_parts(joint(box, choices(logits, 2, 3, 2)), spec)
    normal = 0.5 * math.log(2 * math.pi * math.e)
    assert found == pytest.approx(
        {
            "policy/entropy/aim": 2 * normal + math.log(2),
            "policy/entropy/push": normal - math.log(2),
            "policy/entropy/pick": (math.log(4) - 0.75 * math.log(3)) / 2,
            "policy/entropy/moves/0": math.log(3),
            "policy/entropy/moves/1": math.log(2),
            "policy/std/aim": 1.5,
            "policy/std/push": 0.5,
        },
        rel=1e-6,
    )


def test_the_parts_add_up_to_the_entropy_of_the_action():
    drawn = choices(np.random.default_rng(0).normal(size=(4, 5)), 3, 2)
    found = measure_parts(drawn, with_action(MOVES))
    assert sum(found.values()) == pytest.approx(float(jax.vmap(lambda d: d.entropy())(drawn).mean()))


def test_an_action_of_one_part_has_nothing_new():
    assert measure_parts(choices(np.zeros((3, 2))), FLAT) == {}
    assert measure_parts(boxes(np.zeros((3, 2)), np.ones((3, 2))), with_action(AIM)) == {}


def test_masks_by_hand():
    # a choice of three and a choice of two; 3 of 10 values are forbidden, 1 of 4 choices is forced
    mask = np.array([[1, 0, 1, 1, 1], [0, 1, 0, 1, 1]], bool)
    assert measure_masks(mask, (3, 2)) == pytest.approx(
        {"policy/masked_fraction": 0.3, "policy/forced_fraction": 1 / 4}
    )
    free = measure_masks(np.ones((2, 5), bool), (3, 2))
    assert free == {"policy/masked_fraction": 0.0, "policy/forced_fraction": 0.0}


def test_the_divergence_by_hand():
    p, q = boxes([[0, 1]], [[1, 1]]), boxes([[2, 1]], [[1, 2]])
    of_boxes = 2.0 + (math.log(2) + 1 / 8 - 1 / 2)  # (0 - 2)^2 / 2, and that of deviation 1 from 2
    assert divergence(p, q) == pytest.approx(of_boxes)
    half, quarter = choices([[0, 0, 7]], 2, 1), choices([[0, math.log(3), -7]], 2, 1)
    of_choices = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # and 0 for a choice of one value
    assert divergence(half, quarter) == pytest.approx(of_choices)
    assert divergence(joint(p, half), joint(q, quarter)) == pytest.approx(of_boxes + of_choices)
    assert divergence(p, p) == 0.0
    masked = choices([[0, -1e9]])
    assert divergence(masked, masked) == 0.0


def test_rows_of_items_are_found_among_those_in_time():
    rows = jnp.arange(12)  # three steps of four environments, in items of three steps
    items = np.asarray(to_items(rows, shape=(3, 4), length=3)).reshape(-1)
    np.testing.assert_array_equal(items, _in_time(np.arange(12), 12, 4))


def test_an_empty_memory_is_that_of_an_episodes_first_step():
    config = PolicyConfig(memory="lstm", memory_size=4, hidden=(8,), std_init=1.0)
    policy = Policy(FLAT, config, key=jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (6, 2))
    begins = jnp.ones((3, 2), bool)  # each step is the first of an episode
    first, _ = play(policy, obs, begins, jnp.ones((2, 8)))
    np.testing.assert_allclose(_forgetful(policy, obs).logits, first.logits, atol=1e-7)


class Recall(gym.Env):
    """The observation is shown in the first step only; the reward is for choosing it at the end."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def _obs(self):
        return np.array([self.shown if self.steps == 0 else 0, self.steps / 2], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.shown = 0, int(self.np_random.integers(2)) * 2 - 1
        return self._obs(), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 3
        return self._obs(), float(done and (action > 0) == (self.shown > 0)), done, False, {}


gym.register("MeasuredRecall-v0", Recall)
MEMORY = {"memory": "gru", "memory_size": 16}


def rows_of(tmp_path, **options):
    options = {"total_steps": 12_000, "num_envs": 16, "ppo": {"num_steps": 64}} | options
    run = poise.train(
        "MeasuredRecall-v0", out=tmp_path, file=io.StringIO(), video=False, evaluate=False, **options
    )
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_memory_that_is_needed_matters_more_and_more(tmp_path):
    rows = rows_of(tmp_path, policy=MEMORY, value=MEMORY)
    assert rows[0]["policy/memory"] is None  # the first rollout is learned from with other statistics
    assert 0 < rows[1]["policy/memory"] < 0.05
    assert rows[-1]["policy/memory"] > 0.1
    assert rows[0]["value/memory"] > 0


def test_only_a_network_with_a_memory_is_measured(tmp_path):
    row = rows_of(tmp_path, total_steps=2048, value=MEMORY)[-1]
    assert row["value/memory"] > 0
    assert "policy/memory" not in row
