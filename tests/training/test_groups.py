import dataclasses

import jax
import numpy as np
import pytest
from probes import Counter, NativeCounter, first_state, small

import poise
from poise.arrays import ArraysError
from poise.checked import ConfigError
from poise.config import Config
from poise.envs import make
from poise.envs.checking import EnvFault
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.native.vector import NativeEnv
from poise.seeds import Stream, episode_seed
from poise.training.collector import Group
from poise.training.groups import groups, joined_worlds, make_collector, merged, parted_worlds
from poise.training.host import HostCollector
from poise.training.loop import Start, iterations


def grouped(num_envs, env_groups, **settings):
    return dataclasses.replace(small(num_envs, **settings), env_groups=env_groups)


def acting(env, config):
    state = first_state(env.spec, config)
    return state.learner.policy, state.normalizer


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sixteen_environments_in_three_groups_are_five_five_and_six():
    assert groups(Config(num_envs=16, env_groups=3)) == [
        Group(0, 0, 5, 16),
        Group(1, 5, 5, 16),
        Group(2, 10, 6, 16),
    ]
    assert groups(Config(num_envs=4)) == [Group(0, 0, 4, 4)]


def test_the_only_group_has_the_noise_that_a_training_without_groups_always_had():
    drawn = [np.random.default_rng((7, Stream.NOISE, 3, *group)).random(9) for group in ((), (0,), (1,))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not (drawn[0] == drawn[2]).any()


def test_a_group_is_the_same_beside_others_and_alone():
    config = grouped(6, 3)
    envs = [make("InvertedPendulum-v4", 2) for _ in range(3)]
    agent = acting(envs[0], config)
    together = make_collector(envs, config).collect(*agent, 0)
    alone = HostCollector(make("InvertedPendulum-v4", 2), config, groups(config)[1])
    same(jax.tree.map(lambda x: x[:, 2:4], together.rollout), alone.collect(*agent, 0).rollout)


def test_an_environment_plays_the_episodes_of_its_number_in_any_group():
    config = grouped(4, 2)
    envs = [Counter([3, 3]), Counter([3, 3])]
    rollout = make_collector(envs, config).collect(*acting(envs[0], config), 0).rollout
    wanted = [episode_seed(0, Stream.TRAINING, n, 0) % 1000 for n in range(4)]
    assert rollout.obs[0, :, 1].tolist() == wanted


def test_the_episodes_of_all_groups_are_listed_in_the_order_of_their_ends():
    config = grouped(3, 3)
    envs = [Counter([3]), Counter([-5]), Counter([0])]
    collected = make_collector(envs, config).collect(*acting(envs[0], config), 0)
    got = [(e.env, e.index, e.step, e.length, e.terminated) for e in collected.episodes]
    assert got == [(0, 0, 9, 3, True), (1, 0, 15, 5, False), (0, 1, 18, 3, True)]  # as in one group
    again = make_collector([Counter([3]), Counter([-5]), Counter([0])], config)
    same(merged([again.collect(*acting(envs[0], config), 0)]).rollout, collected.rollout)


def test_first_episodes_are_cut_by_the_number_among_all():
    config = grouped(4, 2, num_steps=60)
    envs = [make("Reacher-v4", 2) for _ in range(2)]
    rollout = make_collector(envs, config).collect(*acting(envs[0], config), 0).rollout
    assert [int(np.argmax(rollout.truncated[:, n])) + 1 for n in range(4)] == [12, 25, 37, 50]


def test_the_number_of_groups_changes_the_training():
    def final(env_groups):
        config = Config(total_steps=512, num_envs=4, env_groups=env_groups)
        envs = [make("InvertedPendulum-v4", group.num_envs) for group in groups(config)]
        return list(iterations(config, envs))[-1].state.learner.policy

    one, two, again = final(1), final(2), final(2)
    same(two, again)
    assert not np.array_equal(one.mlp.weight[0], two.mlp.weight[0])


def test_a_training_of_several_groups_goes_on_where_it_was():
    config = Config(total_steps=1024, num_envs=4, env_groups=2)

    def envs():
        return [make("InvertedPendulum-v4", 2), make("InvertedPendulum-v4", 2)]

    whole = list(iterations(config, envs()))
    half = whole[1]
    rest = list(iterations(config, envs(), Start(half.state, half.world)))
    assert [p.iteration for p in rest] == [3, 4]
    same(rest[-1].state.learner, whole[-1].state.learner)
    assert [p.episodes for p in rest] == [p.episodes for p in whole[2:]]
    assert all(p.exact for p in rest)


def test_the_world_of_another_number_of_groups_is_refused():
    world = {"obs": np.zeros(2)}
    assert parted_worlds(joined_worlds([world]), 1) == [world]
    joined = joined_worlds([world, world])
    assert sorted(joined) == ["shard.0.obs", "shard.1.obs"]
    assert len(parted_worlds(joined, 2)) == 2
    for arrays, count in ((joined, 3), (world, 2), (joined | world, 2)):
        with pytest.raises(ArraysError, match=f"the world is not of {count} groups"):
            parted_worlds(arrays, count)
    assert joined_worlds([world, None]) is None


def test_environments_that_do_not_fit_the_groups_are_refused():
    config = grouped(4, 2)
    message = r"num_envs = 4 in 2 groups of 2 \+ 2: the environment given has "
    with pytest.raises(ConfigError, match=message + "4"):
        make_collector(Counter([3, 3, 3, 3]), config)
    with pytest.raises(ConfigError, match=message + r"3 \+ 1"):
        make_collector([Counter([3, 3, 3]), Counter([3])], config)


def test_more_groups_than_environments_are_refused():
    with pytest.raises(ConfigError, match="env_groups = 5: must be <= 4, the environments"):
        Config(num_envs=4, env_groups=5)


def test_groups_of_environments_in_jax_share_environments_and_minibatches_equally():
    env = NativeEnv(NativeCounter(3, None), 4)
    with pytest.raises(ConfigError, match="env_groups = 3: must divide 4, the environments"):
        make_collector(env, grouped(4, 3))
    with pytest.raises(ConfigError, match="a minibatch of 6 rows cannot be shared equally"):
        poise.train("Pendulum-v1", total_steps=512, num_envs=4, env_groups=4, ppo={"minibatch_size": 6})


def test_a_fault_names_the_environment_by_its_number_among_all():
    class Odd(Counter):
        def step(self, action):
            out = super().step(action)
            out.reward[1] = np.nan
            return out

    config = grouped(4, 2)
    envs = [Counter([3, 3]), Odd([3, 3])]
    seed = episode_seed(0, Stream.TRAINING, 3, 0)
    with pytest.raises(EnvFault, match=f"Counter, environment 3, episode seed {seed}, step 1: reward is nan"):
        make_collector(envs, config).collect(*acting(envs[0], config), 0)


@pytest.mark.parametrize("processes", [False, True])
def test_gymnasiums_environments_are_numbered_from_the_first(processes, tmp_path, monkeypatch):
    (tmp_path / "failing.py").write_text(
        "import gymnasium, numpy\n"
        "class Failing(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (1,))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return numpy.zeros(1, numpy.float32), {}\n"
        "    def step(self, action):\n"
        "        if action == 1: raise RuntimeError('no')\n"
        "        return numpy.zeros(1, numpy.float32), 0.0, False, False, {}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make(
        "failing:Failing",
        2,
        "gymnasium-async" if processes else "gymnasium",
        timeout=60.0,
        restart=True,
        first=4,
    )
    assert isinstance(env, GymnasiumEnv)
    try:
        env.reset(np.ones(2, bool), [10, 11])
        with pytest.raises(
            EnvFault, match="failing:Failing, environment 5, episode seed 11, step 1"
        ) as raised:
            env.step(np.array([0, 1]))
        crash = raised.value.crash
        assert (crash.index, crash.seed, crash.actions.tolist()) == (5, 11, [1])
        if processes:
            assert env.rebuild(raised.value).exact.tolist() == [True, False]
    finally:
        env.close()
