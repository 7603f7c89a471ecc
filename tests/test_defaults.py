import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise import defaults
from poise.checked import ConfigError
from poise.config import PPO, Config, Policy, known
from poise.spec import Spec

SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0), time_limit=900)


def test_the_discount_by_hand():
    assert defaults.gamma(900) == pytest.approx(1 - 1 / 90)
    assert defaults.gamma(50) == pytest.approx(0.95286, abs=1e-5)
    assert defaults.gamma(1) == pytest.approx(2 / 3)
    assert defaults.gamma(None) == 0.99


@pytest.mark.parametrize(
    ("budget", "num_envs", "num_steps"),
    [
        (100_000, 16, 128),  # 2,778 rows are wanted, the nearest power of two is 2,048
        (15_000, 16, 32),  # 417, so 512
        (15_000, None, 64),  # of eight environments
        (100_000, None, 128),  # of sixteen
        (1_000_000, 16, 128),  # never more than 2,048 rows
        (8_000, 1, 256),  # never fewer than 256
        (100_000, 64, 32),
        (100_000, 256, 16),  # of more than 16 environments never fewer than 16,
        (10**7, 16_384, 16),
        (15_000, 24, 21),
        (20_000, 2048, 9),  # but where the budget is less
        (100, 16, 6),  # but where the budget is less: as many as fit
        (5, 16, 1),
    ],
)
def test_the_rollout_by_hand(budget, num_envs, num_steps):
    assert defaults.shape(budget, None, num_envs)[0] == num_steps


@pytest.mark.parametrize(
    ("budget", "num_steps", "num_envs"),
    [
        (100_000, None, 16),
        (15_000, None, 8),
        (8_000, None, 4),
        (100_000, 512, 4),
        (100_000, 4000, 1),
        (40, None, 1),
    ],
)
def test_the_number_of_environments_by_hand(budget, num_steps, num_envs):
    assert defaults.shape(budget, num_steps, None)[1] == num_envs


def test_the_deviation_by_hand():
    assert [defaults.std_init(size) for size in (1, 4, 16)] == [1, 0.5, 0.25]


def test_how_fast_the_deviation_learns_by_hand():
    assert defaults.std_rate(6250) == pytest.approx(2)
    assert defaults.std_rate(100_000) == defaults.std_rate(10**9) == 1


def test_the_minibatch_by_hand():
    budgets = (8000, 399_999, 400_000, 10**9)
    assert [defaults.minibatch_size(b, 128, 16) for b in budgets] == [128, 128, 64, 64]
    assert [defaults.minibatch_size(b, 50, 1) for b in budgets] == [50, 50, 50, 50]
    # 130 rows are one minibatch, 255 are two of 127, 1,000 are eight of 125
    assert [defaults.minibatch_size(8000, rows, 1) for rows in (130, 192, 255, 1000)] == [130, 96, 127, 125]
    # of many environments 32, whatever their size; of few as many as there are
    assert [defaults.minibatch_size(10**6, 16, envs) for envs in (17, 128, 256, 2048)] == [68, 64, 128, 1024]
    assert defaults.minibatch_size(10**6, 4096, 16) == 64


def test_many_environments_learn_as_fast_as_few_with_as_many_iterations():
    """61 iterations of 16 x 2,048 steps have the rates of 61 iterations of 128 x 16."""
    many, few = (
        Config(total_steps=61 * rows, num_envs=envs).settled(SPEC)
        for rows, envs in ((32_768, 2048), (2048, 16))
    )
    assert many.num_iterations == few.num_iterations == 61
    assert many.ppo.num_steps == 16
    assert many.ppo.policy_learning_rate == many.ppo.value_learning_rate == few.ppo.policy_learning_rate
    assert many.policy.std_rate == few.policy.std_rate
    assert defaults.comparable_budget(10**6, 2048, 16) == 10**6  # where N is not large, nothing changes
    assert defaults.comparable_budget(10**6, 16, 64) == 10**6
    assert defaults.comparable_budget(2**20, 16, 256) == 2**19


@given(st.integers(2, 10**6), st.sampled_from([1000, 10**6]))
def test_an_epoch_drops_fewer_rows_than_it_has_minibatches(rows, budget):
    size = defaults.minibatch_size(budget, rows, 1)
    assert 2 <= size <= rows
    assert rows % size < rows // size
    assert size <= 1.5 * 128


@pytest.mark.parametrize("std", ["fixed", "predicted"])
def test_only_a_deviation_of_its_own_has_a_rate(std):
    assert Config(policy=Policy(std=std)).settled(SPEC).policy.std_rate is None
    with pytest.raises(ConfigError, match=r"policy.std_rate = 2.0: must be None with policy.std"):
        Policy(std=std, std_rate=2.0)


def test_discrete_actions_have_no_deviation():
    choices = Spec.flat("probe", (3,), num_choices=2)
    config = Config().settled(choices)
    assert config.policy.std_init is None is config.policy.std_rate
    config.check_against(choices)


def test_the_learning_rate_by_hand():
    assert defaults.learning_rate(100_000) == pytest.approx(1e-3)
    assert defaults.learning_rate(25_000) == pytest.approx(2e-3)
    assert defaults.learning_rate(400_000) == pytest.approx(5e-4)
    assert defaults.learning_rate(1_000) == 3e-3
    assert defaults.learning_rate(10**9) == 3e-4


@given(st.integers(1, 10**9), st.none() | st.integers(1, 5000), st.none() | st.integers(1, 10**6))
def test_derived_values_are_always_valid(budget, num_envs, limit):
    steps, envs = defaults.shape(budget, None, num_envs)
    assert 1 <= steps <= budget
    assert envs >= 1
    assert envs == num_envs or steps * envs <= budget
    assert 0 < defaults.learning_rate(budget) < 1
    assert 0 < defaults.gamma(limit) < 1


def test_set_options_stay_and_the_others_are_derived():
    config = Config(total_steps=400_000, ppo=PPO(gamma=0.5, value_learning_rate=0.1))
    settled = config.settled(SPEC)
    assert settled.ppo == PPO(
        gamma=0.5,
        value_learning_rate=0.1,
        policy_learning_rate=defaults.learning_rate(400_000),
        num_steps=128,
        minibatch_size=64,
    )
    assert Config(total_steps=90, num_envs=3).settled(SPEC).ppo.minibatch_size == 90
    assert settled.num_envs == 16
    assert settled.policy.std_rate == 1
    assert settled.policy.std_init == 1 / math.sqrt(2)
    assert dataclasses.replace(settled, policy=Policy(std_init=0.3)).settled(SPEC).policy.std_init == 0.3
    assert settled.settled(SPEC) == settled
    assert math.isclose(known(Config().settled(SPEC).ppo.gamma), 1 - 1 / 90)


def test_the_name_of_the_environment_decides_nothing():
    other = Spec.flat("InvertedPendulum-v4", (9,), (2,), (-3.0, -3.0), (3.0, 3.0), time_limit=900)
    assert Config().settled(SPEC) == Config().settled(other)


def test_a_number_that_is_not_there_yet_is_missed():
    with pytest.raises(ConfigError, match="a derived option is still None"):
        known(Config().ppo.gamma)
