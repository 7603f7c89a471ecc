"""The whole algorithm on probes whose answer is known."""

import dataclasses
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Bandit, Corridor, Counter, first_state

from poise.algo.hyperparameters import Hyperparameters
from poise.checked import ConfigError
from poise.config import PPO, Config, Normalize, Policy
from poise.envs.checking import EnvFault
from poise.envs.registry import make
from poise.errors import TrainingError
from poise.placement import two_devices
from poise.placement.two_devices import draw_shuffles, make_ready
from poise.seeds import Stream, episode_seed
from poise.training.divergence import first_bad
from poise.training.groups import make_collector
from poise.training.iteration import Driver
from poise.training.loop import Start, iterations

FAST = {"num_steps": 32, "minibatch_size": 32, "policy_learning_rate": 5e-3, "value_learning_rate": 5e-3}
RAW = Normalize(obs=False, reward=False)


def train(env, total_steps=8192, normalize=RAW, **ppo):
    config = Config(
        total_steps=total_steps, num_envs=env.num_envs, ppo=PPO(**FAST | ppo), normalize=normalize
    )
    *_, last = iterations(config, env)
    return last


def test_the_value_of_one_certain_reward_is_that_reward():
    value = train(Corridor(4, truncates=False), gamma=0.9).state.learner.value
    assert value(jnp.array([1.0])) == pytest.approx(1.0, abs=0.02)


def test_the_value_one_step_before_is_discounted_once():
    value = train(Corridor(4, truncates=False), gamma=0.9).state.learner.value
    assert value(jnp.array([0.0])) == pytest.approx(0.9, abs=0.02)


def test_a_time_limit_is_not_the_end_of_the_world():
    # beyond the limit obs 1 would go on paying 1 for ever: V(1) = 1 + gamma V(1) = 2 at gamma 1/2
    value = train(Corridor(4, truncates=True), gamma=0.5, total_steps=16_384).state.learner.value
    assert value(jnp.array([1.0])) == pytest.approx(2.0, abs=0.05)
    assert value(jnp.array([0.0])) == pytest.approx(1.0, abs=0.05)


def test_the_policy_finds_the_best_action():
    policy = train(Bandit(8)).state.learner.policy
    assert policy(jnp.ones(1)).mean[0] == pytest.approx(0.5, abs=0.1)


def test_a_categorical_policy_finds_the_best_choice():
    policy = train(Bandit(8, discrete=True)).state.learner.policy
    assert jnp.exp(policy(jnp.ones(1)).log_prob(jnp.array(1))) > 0.95


def test_the_budget_counts_real_steps_and_is_rounded_down_to_whole_rollouts():
    env = Counter([3, -5, 0])
    config = Config(total_steps=1000, num_envs=3, ppo=PPO(num_steps=32, minibatch_size=32))
    progress = list(iterations(config, env))
    assert [p.steps for p in progress] == [96 * i for i in range(1, 11)]
    assert len(env.actions) * env.num_envs == 960


def test_an_environment_of_another_number_is_refused():
    with pytest.raises(ConfigError, match="num_envs = 2: the environment given has 3"):
        next(iterations(Config(num_envs=2), Counter([3, -5, 0])))


def test_each_yielded_state_stays_usable():
    config = Config(total_steps=192, num_envs=3, ppo=PPO(num_steps=32, minibatch_size=32))
    first, second = list(iterations(config, Counter([3, -5, 0])))
    assert not jnp.array_equal(
        first.state.learner.policy.mlp.weight[0], second.state.learner.policy.mlp.weight[0]
    )


def test_metrics_are_what_the_episodes_say():
    config = Config(total_steps=96, num_envs=3, ppo=PPO(num_steps=32, minibatch_size=32))
    (progress,) = iterations(config, Counter([3, -5, 0]))
    assert progress.metrics["episode/count"] == 10 + 6
    assert progress.metrics["episode/length"] == pytest.approx((10 * 3 + 6 * 5) / 16)
    assert progress.metrics["policy/num_updates"] == 10 * 3
    assert (
        progress.metrics["policy/learning_rate"] == config.settled(Counter([3]).spec).ppo.policy_learning_rate
    )
    assert progress.metrics["policy/std"] == 1.0


@pytest.mark.parametrize(
    ("part", "std", "num_epochs"),
    [("policy", "predicted", 1), ("policy", "fixed", 2), ("value function", "fixed", 1)],
)
def test_divergence_in_the_only_iteration_ends_the_training(part, std, num_epochs):
    # after one epoch of one minibatch the weights are huge and finite, what they give is not
    rate = {"policy": "policy_learning_rate", "value function": "value_learning_rate"}[part]
    ppo = PPO(num_steps=32, minibatch_size=128, num_epochs=num_epochs, **{rate: 1e38})
    config = Config(total_steps=128, num_envs=4, ppo=ppo, policy=Policy(std=std), normalize=RAW)
    what = rf"the {part} is" if num_epochs == 1 else f"{part.split()[0]}/loss is (nan|inf)"
    with pytest.raises(TrainingError, match=rf"{what} .*in iteration 1 of Counter"):
        list(iterations(config, Counter([3, -5, 0, 0])))


def test_choices_that_diverge_in_the_only_iteration_end_the_training():
    ppo = PPO(num_steps=32, minibatch_size=128, num_epochs=1, policy_learning_rate=1e38)
    config = Config(total_steps=128, num_envs=4, ppo=ppo, normalize=RAW)
    with pytest.raises(TrainingError, match="the policy is infinite or NaN in iteration 1 of Bandit"):
        list(iterations(config, Bandit(4, discrete=True)))


def test_a_reward_that_is_not_finite_ends_the_training_with_its_name():
    class Broken(Counter):
        def step(self, action):
            return super().step(action)._replace(reward=self.step_count * float("nan"))

    seed = episode_seed(0, Stream.TRAINING, 0, 0)
    with pytest.raises(EnvFault, match=f"Counter, environment 0, episode seed {seed}, step 1: reward is nan"):
        train(Broken([3, -5, 0, 0]))


def test_the_first_infinite_array_is_named_with_its_epoch_and_minibatch():
    """By hand: the first minibatch learns well, its step makes the weights huge, the second sees it."""
    ppo = PPO(num_steps=32, minibatch_size=32, num_epochs=2, value_learning_rate=1e38)
    config = Config(total_steps=128, num_envs=4, ppo=ppo)
    what = r"value/loss is (nan|inf) in iteration 1 of Counter"
    where = r"first the value's loss \((nan|inf)\) in epoch 1, minibatch 2"
    with pytest.raises(TrainingError, match=rf"{what}, {where}\. The usual cause is a learning rate"):
        list(iterations(config, Counter([3, -5, 0, 0])))


def test_an_infinite_array_in_an_epoch_of_the_value_function_alone_is_named_too():
    """By hand: the first step makes the weights huge, and what they give is first needed in epoch 2."""
    ppo = PPO(num_steps=32, minibatch_size=128, num_epochs=1, value_num_epochs=2, value_learning_rate=1e38)
    config = Config(total_steps=128, num_envs=4, ppo=ppo)
    where = r"first the value's loss \((nan|inf)\) in epoch 2, minibatch 1"
    with pytest.raises(TrainingError, match=rf"value/loss is (nan|inf) in iteration 1 of Counter, {where}"):
        list(iterations(config, Counter([3, -5, 0, 0])))


def test_the_repetition_of_an_iteration_that_is_well_finds_nothing():
    config = Config(total_steps=128, num_envs=4, ppo=PPO(num_steps=32, minibatch_size=32, num_epochs=2))
    env = Counter([3, -5, 0, 0])
    config = config.settled(env.spec)
    state, collector = first_state(env.spec, config), make_collector(env, config)
    rollout = collector.collect(state.learner.policy, state.normalizer, 0).rollout
    hyper = Hyperparameters.of(config, 0)
    drawn = draw_shuffles(state.key, state.iteration, num_epochs=hyper.num_epochs, size=rollout.reward.size)
    ready = make_ready(state, rollout, drawn, hyper)
    assert first_bad(state, ready, hyper) is None


def test_an_environment_that_cannot_be_restored_trains_all_the_same():
    (progress,) = iterations(
        Config(total_steps=96, num_envs=3, ppo=PPO(num_steps=32, minibatch_size=32)), Counter([3, -5, 0])
    )
    assert progress.world is None


def test_learning_is_compiled_once():
    """Not again for the later epochs of an iteration, nor for the next one."""
    before = two_devices.learn_policy._cache_size(), two_devices.learn_value._cache_size()
    list(iterations(Config(total_steps=3 * 96, num_envs=3, ppo=PPO(num_steps=32)), make("CartPole-v1", 3)))
    after = two_devices.learn_policy._cache_size(), two_devices.learn_value._cache_size()
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def same(a, b):
    """The same arrays, bit for bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


IN_JAX = Config(total_steps=20 * 64, num_envs=4, ppo=PPO(num_steps=16, minibatch_size=32, num_epochs=2))


def test_iterations_in_jax_start_before_the_one_before_them_is_measured(monkeypatch):
    order = []
    for name in ("launch", "landed"):
        method = getattr(Driver, name)

        def observed(self, *args, name=name, method=method, **more):
            order.append(name)
            return method(self, *args, **more)

        monkeypatch.setattr(Driver, name, observed)
    config = dataclasses.replace(IN_JAX, total_steps=4 * 64)
    for _ in iterations(config, make("Pendulum-v1", 4)):
        order.append("yield")
    first = ["launch", "landed", "yield"]  # compiles
    assert order == [*first, "launch", "launch", "landed", "yield", "launch", *first[1:], *first[1:]]
    order.clear()
    for _ in iterations(dataclasses.replace(IN_JAX, total_steps=3 * 64), Counter([3, -5, 0, 0])):
        order.append("yield")
    assert order == first * 3


def test_a_training_in_jax_resumes_at_every_iteration_to_the_same_bits():
    """Whatever was started before it stopped: a state and a world are those of their iteration."""
    every = list(iterations(IN_JAX, make("Pendulum-v1", 4)))
    assert len(every) == 20
    for before, after in pairwise(every):
        resumed = iterations(IN_JAX, make("Pendulum-v1", 4), Start(before.state, before.world))
        again = next(resumed)
        resumed.close()
        same((again.state, again.rollout), (after.state, after.rollout))
        assert again.world.keys() == after.world.keys()
        for name, array in after.world.items():
            np.testing.assert_array_equal(again.world[name], array)
        assert (again.episodes, again.metrics) == (after.episodes, after.metrics)


def test_the_times_of_iterations_in_jax_are_not_those_of_who_reads_them():
    """A caller may take as long as it likes: the devices do not wait for it, and neither does the clock."""
    shown = []
    for progress in iterations(dataclasses.replace(IN_JAX, total_steps=6 * 64), make("Pendulum-v1", 4)):
        shown.append(progress)
        jax.jit(jnp.sin)(jnp.zeros(len(shown)))  # compiles
        time.sleep(0.2)
    for progress in shown[2:]:
        assert progress.rollout_seconds >= 0
        assert 0 <= progress.prepare_seconds <= progress.learn_seconds
    ahead = shown[3:]  # was started before the one before it was shown, and is over when that has been
    assert all(p.rollout_seconds + p.learn_seconds < 0.15 for p in ahead)


def test_what_is_compiled_before_the_first_iteration_is_counted_in_it(monkeypatch):
    init = two_devices.init

    def compiled_for_long(*args):
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 1000.0)
        return init(*args)

    monkeypatch.setattr(two_devices, "init", compiled_for_long)
    config = dataclasses.replace(IN_JAX, total_steps=4 * 64)
    first, *others = iterations(config, make("Pendulum-v1", 4))
    assert 1000 <= first.compile_seconds < 1100
    assert all(0 <= progress.compile_seconds < 100 for progress in others)
