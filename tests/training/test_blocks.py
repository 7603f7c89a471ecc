"""Blocks of iterations as one program: the same training as iteration by iteration, in groups or not."""

import dataclasses
import os
import subprocess
import sys

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import NativeCounter

from poise.algo.hyperparameters import Hyperparameters
from poise.checked import ConfigError
from poise.config import PPO, Config, Normalize, Policy, Value
from poise.envs.checking import EnvFault
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.envs.native.vector import NativeEnv
from poise.envs.registry import make
from poise.errors import TrainingError
from poise.placement import two_devices
from poise.placement.joined import group_shuffles
from poise.placement.mesh import Layout
from poise.placement.two_devices import Ready, make_ready
from poise.spec import MASK
from poise.training import blocks
from poise.training.episodes import Counts, _as_kept
from poise.training.groups import make_collector
from poise.training.loop import Start, choose_layout, iterations, settle, settled_iterations

SMALL = PPO(num_steps=16, minibatch_size=32, num_epochs=2)
CONFIG = Config(
    total_steps=10 * 64, num_envs=4, ppo=SMALL, policy=Policy(hidden=(8,)), value=Value(hidden=(8,))
)


class Dice(JaxEnv):
    """Images, a mask that changes, and two parts of an action; ends by itself or by its limit."""

    observation_space = gym.spaces.Dict(
        camera=gym.spaces.Box(0, 255, (4, 4, 1), np.uint8),
        place=gym.spaces.Box(-9, 9, (1,)),
        action_mask=gym.spaces.MultiBinary(3),
    )
    action_space = gym.spaces.Dict(push=gym.spaces.Box(-1, 1, (1,)), pick=gym.spaces.Discrete(3))
    time_limit = 7

    def reset(self, *, key):
        return jax.random.uniform(key), jnp.array(0)

    def observe(self, state):
        place, count = state
        mask = jnp.ones(3, int).at[count % 3].set(0)
        return {"place": place[None], "camera": jnp.full((4, 4, 1), count, jnp.uint8), MASK: mask}

    def step(self, state, action, *, key):
        place = state[0] + action["push"][0] + 0.1 * jax.random.normal(key)
        return (place, state[1] + 1), place - action["pick"].astype(float), place > 2


class Breaks(JaxEnv):
    """The reward becomes NaN in the 101st step of an episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    time_limit = 200

    def reset(self, *, key):
        return jnp.zeros(())

    def observe(self, state):
        return state[None]

    def step(self, state, action, *, key):
        return state + 1, jnp.where(state == 100, jnp.nan, action[0]), state < 0


def world(name, num_envs):
    if isinstance(name, str):
        return make(name, num_envs)
    return NativeEnv(JaxTask.of(name.__name__, name()), num_envs)


def trained(env, config, **more):
    return list(training(env, config, **more))


def training(env, config, *, groups=1, devices=1, start=None, pauses=(), one_program=True):
    config = dataclasses.replace(config, env_groups=groups)
    collector = make_collector(world(env, config.num_envs), config)
    config = settle(config, collector.spec, new=start is None)
    layout = Layout.of(groups, jax.devices()[:devices]) if one_program else None
    return settled_iterations(config, collector, start, layout=layout, pauses=pauses)


def rows_of(training):
    return [row for progress in training for row in progress.rows]


def plain(x):
    is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def same(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(plain(a).astype(float), plain(b).astype(float), **tolerance or {"rtol": 0})


MEMORY = {"hidden": (8,), "memory": "gru", "memory_size": 4}
KINDS = {
    "Pendulum-v1": CONFIG,
    "masks, images and memories": dataclasses.replace(
        CONFIG,
        ppo=dataclasses.replace(
            SMALL,
            sequence_length=8,
            recompute_every=1,
            target_kl=0.5,
            clip_schedule="0:1,0.5:0.01",
            value_num_epochs=3,
        ),
        policy=Policy(**MEMORY),
        value=Value(**MEMORY),
    ),
}


def of(kind):
    return (kind if kind in ("Pendulum-v1",) else Dice), KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_one_program_is_the_same_training_as_its_parts(kind):
    env, config = of(kind)
    parts, whole = trained(env, config, one_program=False), trained(env, config)
    # the same but for rounding: XLA compiles other pieces
    same(parts[-1].state.learner, whole[-1].state.learner, rtol=1e-3, atol=1e-4)
    same(parts[-1].rollout, whole[-1].rollout, rtol=1e-2, atol=1e-3)
    assert parts[-1].world.keys() == whole[-1].world.keys()
    for a, b in zip(rows_of(parts), rows_of(whole), strict=True):
        assert (a.iteration, a.steps) == (b.iteration, b.steps)
        assert [(e.env, e.index, e.step, e.length) for e in a.episodes] == [
            (e.env, e.index, e.step, e.length) for e in b.episodes
        ]
        assert a.metrics.keys() == b.metrics.keys()
        for name, value in a.metrics.items():
            close = value if value is None else pytest.approx(value, rel=1e-2, abs=2e-3)
            assert b.metrics[name] == close, name


def test_one_program_follows_the_schedules():
    """With factors of 1/2, the bits are those of half the numbers."""
    ppo = dataclasses.replace(SMALL, num_epochs=4, entropy_coef=0.02, clip=0.02, anneal="none")
    halved = dataclasses.replace(ppo, clip_schedule="0:0.5,0.6:0.5,1:0", entropy_schedule="0:0.5")
    half = dataclasses.replace(ppo, clip=0.01, entropy_coef=0.01)
    one, other = (
        rows_of(trained("Pendulum-v1", dataclasses.replace(CONFIG, ppo=ppo))) for ppo in (halved, half)
    )
    for a, b in zip(one[:6], other, strict=False):  # after 60% of the budget the clip range falls
        assert {name: a.metrics[name] for name in b.metrics} == b.metrics
    assert one[-1].metrics["policy/clip_fraction"] > other[-1].metrics["policy/clip_fraction"]
    recorded = [row.metrics["policy/clip"] for row in one]
    assert recorded == pytest.approx([0.01] * 7 + [0.0075, 0.005, 0.0025])
    assert one[0].metrics["policy/entropy_coef"] == 0.01
    assert "policy/clip" not in other[0].metrics


def test_blocks_grow_to_a_second_and_end_where_the_caller_wants_the_state():
    sizes = [len(progress.rows) for progress in trained("Pendulum-v1", CONFIG)]
    assert (sizes[:3], sum(sizes)) == ([1, 1, 1], 10)  # the first compiles, the second is measured
    assert max(sizes) > 1
    ends = [progress.steps for progress in trained("Pendulum-v1", CONFIG, pauses=(200, 320))]
    assert {256, 320, 448, 640} <= set(ends)  # iterations of 64 steps that reach 200, 320, 400 and 640


def test_a_training_resumes_after_every_block_to_the_same_bits():
    ppo = dataclasses.replace(SMALL, clip_schedule="cosine")
    config = dataclasses.replace(CONFIG, total_steps=20 * 64, ppo=ppo)
    every = trained("Pendulum-v1", config, pauses=(64,))
    assert [len(progress.rows) for progress in every] == [1] * 20
    in_blocks = trained("Pendulum-v1", config)
    same(every[-1].state, in_blocks[-1].state)
    for before in every[:-1:6]:
        resumed = trained("Pendulum-v1", config, start=Start(before.state, before.world))
        same((resumed[-1].state, resumed[-1].rollout), (every[-1].state, every[-1].rollout))
        assert [row.episodes for row in rows_of(resumed)] == [
            row.episodes for row in rows_of(every)[before.iteration :]
        ]
        for name, array in every[-1].world.items():
            np.testing.assert_array_equal(plain(resumed[-1].world[name]), plain(array))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_learn_what_one_group_with_their_minibatches_would(kind):
    """One step of all groups equals the parts of an iteration on the joined rollout, in their order."""
    env, config = of(kind)
    before, after, *_ = trained(env, dataclasses.replace(config, total_steps=3 * 64), groups=2, pauses=(64,))
    config = settle(dataclasses.replace(config, total_steps=3 * 64), world(env, 4).spec, new=False)
    hyper = Hyperparameters.of(config, 1)
    state = two_devices.place(jax.tree.map(lambda x: x, before.state))
    drawn = two_devices.draw_shuffles(
        two_devices.shuffle_key(state),
        np.array(1, np.int32),
        num_epochs=2,
        size=after.prepared.batch.num_items,
    )
    ready = make_ready(state, jax.device_get(after.rollout), drawn, hyper)
    same(ready.prepared, after.prepared, rtol=1e-3, atol=1e-4)
    rows = group_shuffles(before.state, config, 2)
    assert all(sorted(epoch.ravel()) == list(range(after.prepared.batch.num_items)) for epoch in rows)
    alone, _ = two_devices.learn(state, Ready(ready.prepared, rows), hyper)
    same(alone.learner, after.state.learner, rtol=1e-3, atol=1e-5)


def test_two_devices_train_as_one():
    """To the same bits in the next test: XLA compiles this process with fewer optimizations."""
    one, two = (trained("Pendulum-v1", CONFIG, groups=4, devices=n) for n in (1, 2))
    same(one[-1].state.learner, two[-1].state.learner, rtol=1e-4, atol=1e-5)
    for a, b in zip(rows_of(one), rows_of(two), strict=True):
        assert [(e.env, e.step) for e in a.episodes] == [(e.env, e.step) for e in b.episodes]
    assert {len(x.devices()) for x in jax.tree.leaves(two[-1].rollout)} == {2}


EIGHT = """
import jax
from poise.system.threads import start_jax
start_jax(8)
import test_blocks as t, dataclasses
from poise.runs.recorder import parameters_sha256
config = dataclasses.replace(t.CONFIG, num_envs=16, total_steps=20 * 256)
assert len(jax.devices()) == 8
for devices in (1, 2, 4, 8):
    print(parameters_sha256(t.trained("Pendulum-v1", config, groups=8, devices=devices)[-1].state))
"""


@pytest.mark.processes
def test_eight_devices_compute_the_bits_of_one():
    """20 iterations in 8 groups, on 1, 2, 4 and 8 virtual devices."""
    command = [sys.executable, "-c", EIGHT]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    del place["XLA_FLAGS"]  # of the tests
    done = subprocess.run(command, capture_output=True, text=True, env=place, check=False)
    assert done.returncode == 0, done.stderr
    hashes = done.stdout.split()
    assert len(hashes) == 4
    assert len(set(hashes)) == 1


def test_what_target_kl_skipped_is_not_what_diverged():
    raw = Normalize(obs=False, reward=False)
    ppo = {"value_learning_rate": 3e37, "max_grad_norm": None, "target_kl": 1e-12, "anneal": "none"}
    config = dataclasses.replace(CONFIG, ppo=dataclasses.replace(SMALL, **ppo), normalize=raw)
    for one_program in (False, True):
        with pytest.raises(TrainingError, match=r"^(value/loss is (nan|inf)|after learning, the value)"):
            trained("Pendulum-v1", config, one_program=one_program)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_resume_on_another_number_of_devices(kind):
    env, config = of(kind)
    before, *_, last = trained(env, config, groups=2, devices=2, pauses=(64,))
    resumed = trained(env, config, groups=2, devices=1, start=Start(before.state, before.world))
    same(resumed[-1].state.learner, last.state.learner, rtol=1e-3, atol=1e-5)


def test_what_the_caller_compiles_is_not_the_time_of_a_block():
    times = []
    for progress in training("Pendulum-v1", CONFIG, pauses=(64,)):
        times.append(progress.times["time/learn"])
        jax.jit(jnp.sin)(jnp.zeros(len(times) + 50))  # compiles
    assert all(seconds > 0 for seconds in times[1:])


def test_the_sums_of_unfinished_episodes_are_those_that_a_checkpoint_has():
    rng = np.random.default_rng(0)
    sums = rng.normal(size=64) * 10.0 ** rng.integers(-12, 9, 64)
    sums[:3] = 0.0, 1.0 + 1e-12, 3.0
    total = sums.astype(np.float32)
    rest = ((sums - total) * rng.uniform(-1, 1, 64)).astype(np.float32)  # with more digits than are kept
    counts = Counts(total, rest, np.arange(64))
    kept = jax.jit(_as_kept)(jax.tree.map(jnp.asarray, counts))
    again = Counts.of(*kept.sums())
    np.testing.assert_array_equal(again.total, kept.total)
    np.testing.assert_array_equal(again.rest, kept.rest)
    np.testing.assert_allclose(kept.sums()[0], counts.sums()[0], rtol=1e-12)


def test_groups_of_sequences_share_a_minibatch_equally():
    config = dataclasses.replace(CONFIG, env_groups=4, policy=Policy(**MEMORY))
    collector = make_collector(world("Pendulum-v1", 4), config)
    settled = settle(config, collector.spec, new=True)
    assert settled.ppo.sequence_length == 16
    with pytest.raises(
        ConfigError, match=r"sequences of 16 steps .*ppo.minibatch_size must be a multiple of 64"
    ):
        choose_layout(settled, collector, 1)


def test_groups_change_what_is_learned():
    """So their number is a part of the configuration."""
    one, two = (trained("Pendulum-v1", CONFIG, groups=n)[-1].state.learner for n in (1, 2))
    assert not np.array_equal(one.policy.mlp.weight[0], two.policy.mlp.weight[0])


def test_a_fault_of_the_environment_is_named_as_everywhere(monkeypatch):
    """Within a block: the iterations before it are yielded."""
    monkeypatch.setattr(blocks, "SECONDS", 60.0)  # so blocks double: 1, 1, 1, 2, 4
    config = dataclasses.replace(CONFIG, ppo=dataclasses.replace(SMALL, stagger_starts=False))
    said, rows = [], []

    def play(**options):
        for progress in training(Breaks, config, **options):
            rows.append(progress)

    for groups, one_program in ((1, False), (1, True), (2, True)):
        with pytest.raises(EnvFault) as error:
            play(groups=groups, one_program=one_program)
        said.append(str(error.value))
        assert [row.iteration for row in rows_of(rows)] == [1, 2, 3, 4, 5, 6]
        assert len(rows) == 6 or len(rows[-1].rows) == 1  # of a block of four
        rows.clear()
    assert said[0].startswith("Breaks, environment 0, episode seed ")
    assert said[0].endswith("step 101: reward is nan")
    assert said == [said[0]] * 3


def test_what_diverges_is_named_as_everywhere():
    raw = Normalize(obs=False, reward=False)
    ppo = dataclasses.replace(
        SMALL, policy_learning_rate=3e37, max_grad_norm=None, num_epochs=1, anneal="none"
    )
    config = dataclasses.replace(CONFIG, ppo=ppo, normalize=raw)
    said = []
    for one_program in (False, True):
        with pytest.raises(TrainingError) as error:
            trained("Pendulum-v1", config, one_program=one_program)
        said.append(str(error.value).split(" (")[0])
    assert said[0] == said[1]


def test_more_episodes_than_are_listed_are_a_sample_and_the_metrics_count_all():
    config = Config(
        total_steps=3 * 2048,
        num_envs=64,
        ppo=PPO(num_steps=32, minibatch_size=2048, num_epochs=1),
        policy=Policy(std="fixed", std_init=1e-9),
    )
    collector = make_collector(NativeEnv(NativeCounter(3, None), 64), config)
    config = settle(config, collector.spec, new=True)
    layout = Layout.of(1, jax.devices()[:1])
    *_, last = rows_of(list(settled_iterations(config, collector, None, layout=layout)))
    assert len(last.episodes) == 64
    assert 64 * 10 <= last.metrics["episode/count"] <= 64 * 11
    assert last.metrics["episode/length"] == 3
    assert last.metrics["episode/return"] == pytest.approx(1 + 2 + 3, abs=0.05)
    places = [(e.step, e.env) for e in last.episodes]
    assert places == sorted(set(places))
    assert {e.length for e in last.episodes} == {3}
    assert len({e.env for e in last.episodes}) > 32  # from all over


def test_several_devices_are_refused_where_they_have_no_meaning():
    spec_of = {name: make_collector(make(name, 4), CONFIG) for name in ("Pendulum-v1", "CartPole-v1")}
    with pytest.raises(ConfigError, match="devices = 2: must be 1 on backend gymnasium"):
        choose_layout(CONFIG, spec_of["CartPole-v1"], 2)
    with pytest.raises(ConfigError, match="devices = 2: must divide env_groups = 1"):
        choose_layout(CONFIG, spec_of["Pendulum-v1"], 2)
    with pytest.raises(ConfigError, match="devices = 4: JAX has 2 here"):
        choose_layout(dataclasses.replace(CONFIG, env_groups=4), spec_of["Pendulum-v1"], 4)
    assert choose_layout(CONFIG, spec_of["Pendulum-v1"], 1) is None  # on a CPU


def test_groups_are_one_program_also_for_a_caller_of_iterations():
    config = dataclasses.replace(CONFIG, env_groups=2)
    seen = list(iterations(config, make("Pendulum-v1", 4), devices=2))
    assert sum(len(progress.rows) for progress in seen) == 10
    assert seen[-1].iteration == 10
    assert len(seen) < 10
