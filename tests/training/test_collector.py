import jax
import numpy as np
import pytest
from probes import Counter, NativeCounter, first_state, small

from poise.config import PPO, Config, Normalize, Policy
from poise.envs import make
from poise.envs.native.vector import NativeEnv
from poise.seeds import Stream, episode_seed, stream_key
from poise.spec import Spec
from poise.training import compiled as module
from poise.training.compiled import NativeCollector
from poise.training.episodes import first_lengths
from poise.training.host import HostCollector
from poise.training.loop import iterations


def collector_for(env, config, kind=HostCollector):
    state = first_state(env.spec, config)
    collector = kind(env, config)
    return lambda iteration: collector.collect(state.learner.policy, state.normalizer, iteration)


def test_a_rollout_of_episodes_that_end_all_three_ways():
    env = Counter([3, -5, 0])  # terminates after 3, truncated after 5, goes on
    rollout, episodes, *_ = collector_for(env, small())(0)
    count = rollout.obs[:, :, 2]
    np.testing.assert_array_equal(count[:, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(count[:, 1], [0, 1, 2, 3, 4, 0, 1, 2])
    np.testing.assert_array_equal(count[:, 2], range(8))
    np.testing.assert_array_equal(rollout.next_obs[:, :, 2], count + 1)  # never a reset observation
    np.testing.assert_allclose(rollout.reward, count + 1, atol=0.05)  # the reset step gives no reward
    np.testing.assert_array_equal(np.argwhere(rollout.terminated), [[2, 0], [5, 0]])
    np.testing.assert_array_equal(np.argwhere(rollout.truncated), [[4, 1]])

    got = [(e.env, e.index, e.step, e.length, e.terminated) for e in episodes]
    assert got == [(0, 0, 9, 3, True), (1, 0, 15, 5, False), (0, 1, 18, 3, True)]
    assert [round(e.episodic_return) for e in episodes] == [6, 15, 6]


def test_episodes_go_on_across_rollouts_and_keep_what_they_have_gathered():
    collect = collector_for(Counter([3, -5, 0]), small())
    collect(0)
    rollout, episodes, *_ = collect(1)
    np.testing.assert_array_equal(rollout.obs[0, :, 2], [2, 3, 8])
    first = episodes[0]
    assert (first.env, first.index, first.step, first.length) == (0, 2, 27, 3)
    assert round(first.episodic_return) == 6


def test_with_reset_every_rollout_each_begins_with_fresh_episodes():
    collect = collector_for(Counter([3, -5, 0]), small(reset_every_rollout=True))
    before = collect(0).rollout
    rollout, episodes, *_ = collect(1)
    np.testing.assert_array_equal(rollout.obs[0, :, 2], [0, 0, 0])
    assert (before.obs[0, :, 1] != rollout.obs[0, :, 1]).all()  # new seeds
    # the unfinished third episode of environment 0 is dropped with what it had gathered
    assert [(e.env, e.index, e.length) for e in episodes][:1] == [(0, 3, 3)]
    assert round(episodes[0].episodic_return) == 6


def test_every_episode_has_the_seed_of_its_place():
    env = Counter([3, -5, 0])
    rollout = collector_for(env, small())(0).rollout
    expected = [episode_seed(0, Stream.TRAINING, 0, i) % 1000 for i in (0, 0, 0, 1, 1, 1, 2, 2)]
    np.testing.assert_array_equal(rollout.obs[:, 0, 1], expected)


def test_the_environment_gets_scaled_actions_and_the_rollout_keeps_unscaled_ones():
    env = Counter([0, 0])
    env.spec = Spec.flat("Counter", (3,), (1,), (-2.0,), (4.0,))
    config = Config(
        total_steps=16, num_envs=2, ppo=PPO(num_steps=8, minibatch_size=2), policy=Policy(std_init=2.0)
    )
    rollout = collector_for(env, config)(0).rollout
    given = np.stack(env.actions)
    np.testing.assert_allclose(given, 1 + 3 * np.clip(rollout.action, -1, 1), atol=1e-6)
    assert np.abs(rollout.action).max() > 1
    plain = Counter([0, 0])
    unscaled = Config.from_dict(config.to_dict() | {"normalize": {"action": False}})
    rollout = collector_for(plain, unscaled)(0).rollout
    np.testing.assert_allclose(np.stack(plain.actions), np.clip(rollout.action, -1, 1), atol=1e-6)


def test_the_same_rollout_through_both_host_backends():
    config = Config(total_steps=240, num_envs=2, ppo=PPO(num_steps=120, minibatch_size=2))
    ours, theirs = (
        collector_for(make("Reacher-v4", 2, backend), config)(0) for backend in ("mujoco", "gymnasium")
    )
    for a, b in zip(jax.tree.leaves(ours.rollout), jax.tree.leaves(theirs.rollout), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # of the first environment the first episode ended after 25 steps and is not counted
    places = [(e.env, e.index, e.step, e.length) for e in ours.episodes]
    assert places == [(1, 0, 100, 50), (0, 1, 150, 50), (1, 1, 200, 50)]
    assert places == [(e.env, e.index, e.step, e.length) for e in theirs.episodes]


@pytest.mark.parametrize(("end", "limit"), [(3, None), (0, 3), (0, None)])
def test_the_compiled_collector_ends_episodes_as_the_other_does(end, limit):
    config = small(num_envs=2, stagger_starts=False)
    ends = [end or -(limit or 0)] * 2
    host, host_episodes, *_ = collector_for(Counter(ends), config)(0)
    collect = collector_for(NativeEnv(NativeCounter(end, limit), 2), config, NativeCollector)
    native, native_episodes, *_ = collect(0)
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_allclose(getattr(native, name), getattr(host, name), atol=0.1)
    for name in ("obs", "next_obs"):
        np.testing.assert_array_equal(getattr(native, name)[..., 1], getattr(host, name)[..., 2])

    def facts(episodes):
        return [(e.env, e.index, e.step, e.length, e.terminated) for e in episodes]

    assert facts(native_episodes) == facts(host_episodes)
    following = collect(1).rollout
    carried = 8 if not end and not limit else 2
    np.testing.assert_array_equal(following.obs[0, :, 1], [carried, carried])


def test_the_lengths_of_first_episodes_by_hand():
    spec = NativeCounter(0, 200).spec
    assert first_lengths(Config(), spec, 4).tolist() == [50, 100, 150, 200]
    assert first_lengths(Config(), spec, 1).tolist() == [200]
    assert first_lengths(Config(), NativeCounter(0, 2).spec, 4).tolist() == [1, 1, 1, 2]
    assert first_lengths(Config(), NativeCounter(3, None).spec, 4) is None
    for off in (PPO(stagger_starts=False), PPO(reset_every_rollout=True)):
        assert first_lengths(Config(ppo=off), spec, 4) is None


@pytest.mark.parametrize("kind", [NativeCollector, HostCollector])
def test_first_episodes_end_in_turn_and_are_not_counted(kind):
    config = small(num_envs=4)  # 8 steps
    collect = collector_for(NativeEnv(NativeCounter(0, 8), 4), config, kind)
    first, second = collect(0), collect(1)
    truncated = np.concatenate([np.asarray(c.rollout.truncated) for c in (first, second)])
    assert [np.flatnonzero(column).tolist() for column in truncated.T] == [[1, 9], [3, 11], [5, 13], [7, 15]]
    assert not np.asarray(first.rollout.terminated).any()
    assert [(e.env, e.index, e.length) for e in first.episodes] == [(3, 0, 8)]
    assert [(e.env, e.index, e.length) for e in second.episodes] == [
        (0, 1, 8),
        (1, 1, 8),
        (2, 1, 8),
        (3, 1, 8),
    ]


@pytest.mark.parametrize("kind", [NativeCollector, HostCollector])
def test_a_first_episode_that_ended_by_itself_counts_and_is_not_cut(kind):
    config = small(num_envs=2)
    collect = collector_for(
        NativeEnv(NativeCounter(3, 12), 2), config, kind
    )  # terminates after 3 of 12 steps
    collected = collect(0)
    assert not np.asarray(collected.rollout.truncated).any()
    assert [e.length for e in collected.episodes] == [3] * 4


def test_the_compiled_collector_begins_anew_when_told_and_never_repeats_a_start():
    config = small(num_envs=2, reset_every_rollout=True)
    collect = collector_for(NativeEnv(NativeCounter(3, None), 2), config, NativeCollector)
    starts = [np.asarray(collect(i)[0].obs) for i in range(2)]
    assert not starts[1][0, :, 1].any()
    begun = np.concatenate([s[s[..., 1] == 0][:, 0] for s in starts])
    assert len(set(begun.tolist())) == len(begun) == 12


@pytest.mark.parametrize("id", ["Pendulum-v1", "InvertedPendulum-v4", "CartPole-v1"])
def test_a_rollout_is_a_function_of_the_seed(id):
    def run(seed):
        config = Config(total_steps=64, num_envs=2, seed=seed, ppo=PPO(num_steps=32))
        env = make(id, 2)
        kind = NativeCollector if id.startswith("Pendulum") else HostCollector
        state = first_state(env.spec, Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=32)))
        return kind(env, config).collect(state.learner.policy, state.normalizer, 0).rollout

    for a, b, c in zip(*(jax.tree.leaves(run(seed)) for seed in (0, 0, 1)), strict=True):
        np.testing.assert_array_equal(a, b)
        if a.dtype == np.float32 and a.ndim == 3:
            assert not np.array_equal(a, c)


def test_another_seed_or_budget_compiles_no_second_collector():
    env, ppo = make("Pendulum-v1", 2), PPO(num_steps=32)
    state = first_state(env.spec, Config(total_steps=64, num_envs=2, ppo=ppo))
    sizes = []
    for seed, total in ((0, 64), (1, 64), (2, 128)):
        config = Config(total_steps=total, num_envs=2, seed=seed, ppo=ppo)
        NativeCollector(env, config).collect(state.learner.policy, state.normalizer, 0)
        sizes.append(module._collect._cache_size())
    assert len(set(sizes)) == 1


def test_options_of_collecting_change_the_rollout():
    base = Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=32))

    def shape(config):
        return collector_for(make("Pendulum-v1", config.shape[1]), config, NativeCollector)(0)[0].obs.shape

    assert shape(base) == (32, 2, 3)
    assert shape(Config(total_steps=64, num_envs=4, ppo=PPO(num_steps=16))) == (16, 4, 3)
    rewards = [
        np.asarray(
            collector_for(
                make("Pendulum-v1", 2),
                Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=32), normalize=Normalize(action=action)),
                NativeCollector,
            )(0)[0].reward
        )
        for action in (True, False)
    ]
    assert not np.array_equal(*rewards)


@pytest.mark.parametrize("id", ["InvertedPendulum-v4", "Pendulum-v1"])
def test_prepare_computes_the_old_policy_from_the_observations_that_it_acted_on(id):
    """At any iteration the sampled action, seen from prepare's distribution, is the noise and no more."""
    # the first rollout is otherwise learned from as its own statistics scale it, which did not act
    config = Config(
        total_steps=3 * 128,
        num_envs=2,
        ppo=PPO(num_steps=64, policy_learning_rate=3e-3),
        normalize=Normalize(first_rollout=False),
    )
    env = make(id, 2)
    for progress in iterations(config, env):
        i = progress.iteration - 1
        if id == "Pendulum-v1":
            key = jax.random.fold_in(stream_key(config.seed, Stream.NOISE), i)
            noise = jax.random.normal(key, (64, 2, 1))
        else:
            noise = np.random.default_rng((config.seed, Stream.NOISE, i)).standard_normal(
                (64, 2, 1), np.float32
            )
        acted, batch = progress.prepared.distribution, progress.prepared.batch
        seen = (np.asarray(batch.action) - acted.mean) / acted.std
        np.testing.assert_allclose(seen.ravel(), np.asarray(noise).ravel(), atol=2e-4)
    assert progress.iteration == 3
    assert abs(float(acted.std[0, 0]) - 1) > 1e-3  # the policy has moved, a stale one would be seen
