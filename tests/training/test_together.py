"""Several trainings as the lanes of one program: each as beside copies of itself."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from probes import Fragile
from test_blocks import CONFIG, KINDS, of, plain, rows_of, same, world

from poise.checked import ConfigError
from poise.envs.checking import EnvFault
from poise.placement.lanes import Lanes
from poise.training.groups import make_collector
from poise.training.loop import Start, choose_layout, settle, settled_iterations


def lane(env, config, lanes, *, start=None, pauses=()):
    collector = make_collector(world(env, config.num_envs), config)
    config = settle(config, collector.spec, new=start is None)
    layout = choose_layout(config, collector, 1, lanes.count)
    return settled_iterations(config, collector, start, layout=layout, pauses=pauses, lanes=lanes)


def in_turn(trainings):
    """What each has yielded, and, at the end, the error of one that failed."""
    yielded, left = [[] for _ in trainings], dict(enumerate(trainings))
    while left:
        for i, training in list(left.items()):
            try:
                yielded[i].append(next(training))
            except StopIteration:
                del left[i]
            except EnvFault as error:
                yielded[i].append(error)
                del left[i]
    return [[x for x in each if x is not None] for each in yielded]


def together(env, seeds, lanes, *, config=CONFIG, starts=None, **more):
    starts = starts or {}
    configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
    return in_turn([lane(env, c, lanes, start=starts.get(c.seed), **more) for c in configs])


def the_same(one, other):
    same((one[-1].state, one[-1].rollout), (other[-1].state, other[-1].rollout))
    assert [r.metrics for r in rows_of(one)] == [r.metrics for r in rows_of(other)]
    assert [r.episodes for r in rows_of(one)] == [r.episodes for r in rows_of(other)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_depends_neither_on_its_place_nor_on_the_others(kind):
    env, config = of(kind)
    lanes = Lanes(3)  # compiled once
    first, second, third = together(env, (5, 6, 7), lanes, config=config)
    the_same(second, together(env, (6,), lanes, config=config)[0])
    the_same(third, together(env, (9, 7), lanes, config=config)[1])
    weights = [plain(jax.tree.leaves(x[-1].state.learner)[0]) for x in (first, second)]
    assert not np.array_equal(weights[0], weights[1])


def test_lanes_at_different_iterations_continue_to_the_same_bits():
    lanes = Lanes(2)
    each = together("Pendulum-v1", (1, 2), lanes, pauses=(64,))
    starts = {
        1: Start(each[0][2].state, each[0][2].world),
        2: Start(each[1][6].state, each[1][6].world),
    }
    resumed = together("Pendulum-v1", (1, 2), lanes, starts=starts)
    for all_of_it, rest, number in zip(each, resumed, (3, 7), strict=True):
        the_same(all_of_it[number:], rest)
    assert [x.iteration for x in resumed[1]][-1] == 10


def test_a_lane_that_fails_leaves_the_others_as_they_are():
    seeds, lanes = range(4), Lanes(4)
    each = together(Fragile, seeds, lanes)
    failed = [seed for seed in seeds if isinstance(each[seed][-1], EnvFault)]
    assert 0 < len(failed) < 4
    for seed in seeds:
        (alone,) = together(Fragile, (seed,), lanes)
        if seed in failed:
            assert str(alone.pop()) == str(each[seed].pop())
        the_same(each[seed], alone)
        assert (rows_of(alone)[-1].iteration < 10) == (seed in failed)


def test_a_program_that_fails_says_why_in_each_lane():
    lanes = Lanes(2)

    def iterate(now, given, number):
        raise FloatingPointError("too large")

    asked = [lanes.ask(np.zeros(1, np.float32), np.zeros(1, np.float32), 1, iterate=iterate) for _ in "ab"]
    for ticket in asked:
        with pytest.raises(FloatingPointError, match="too large"):
            lanes.outcome(ticket)


def test_a_program_of_lanes_learns_what_one_training_does():
    """But for rounding: XLA compiles other products."""
    config = dataclasses.replace(CONFIG, total_steps=4 * 64)
    alone, lane = (together("Pendulum-v1", (3,), Lanes(count), config=config)[0] for count in (1, 2))
    same(alone[-1].state.learner, lane[-1].state.learner, rtol=1e-3, atol=1e-4)


AS_A_PRODUCT = """
from poise.system.threads import start_jax
start_jax()
import test_together as t
from poise.runs.recorder import parameters_sha256
lanes = t.Lanes(3)
for seeds in ((1, 2, 3), (3,), (9, 3)):
    print(parameters_sha256(t.together("Pendulum-v1", seeds, lanes)[-1][-1].state))
"""


@pytest.mark.processes
def test_lanes_have_the_same_bits_as_a_product_compiles_them():
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    del place["XLA_FLAGS"]  # of the tests
    command = [sys.executable, "-c", AS_A_PRODUCT]
    done = subprocess.run(command, capture_output=True, text=True, env=place, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3
    assert len(set(done.stdout.split())) == 1


def test_what_cannot_be_a_lane_is_refused():
    config = dataclasses.replace(CONFIG, env_groups=2)
    collector = make_collector(world("Pendulum-v1", 4), config)
    with pytest.raises(ConfigError, match=r"^together = 2: must be 1 with env_groups = 2"):
        choose_layout(settle(config, collector.spec, new=True), collector, 1, 2)
    collector = make_collector(world("CartPole-v1", 4), CONFIG)
    with pytest.raises(ConfigError, match=r"^together = 2: must be 1 on backend gymnasium"):
        choose_layout(settle(CONFIG, collector.spec, new=True), collector, 1, 2)
