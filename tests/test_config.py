import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.checked import ConfigError
from poise.config import PPO, Config, Normalize, Policy
from poise.spec import Spec
from poise.training.loop import settle
from poise.wording import parse_count


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPO(clip=-1.0), "ppo.clip = -1.0: must be > 0"),
        (lambda: PPO(gamma=1.5), "ppo.gamma = 1.5: must be >= 0 and <= 1"),
        (lambda: PPO(lam=float("nan")), "ppo.lam = nan: must be >= 0 and <= 1"),
        (lambda: PPO(policy_learning_rate=float("inf")), "ppo.policy_learning_rate = inf: must be > 0"),
        (lambda: PPO(num_epochs=0), "ppo.num_epochs = 0: must be >= 1"),
        (lambda: PPO(value_num_epochs=0), "ppo.value_num_epochs = 0: must be >= 1"),
        (lambda: PPO(num_epochs=2.5), "ppo.num_epochs = 2.5: must be a whole number"),
        *(
            (
                lambda schedule=schedule: PPO(clip_schedule=schedule),
                f"ppo.clip_schedule = {schedule!r}: must be one of: none, linear, cosine; or pairs SHARE",
            )
            for schedule in ("sine", "", "0:1,0.5", "0:1:2", "a:1", "0:1,0:2", "1:1,0:1", "0:1,1.1:0", "0:-1")
        ),
        (lambda: PPO(anneal="0:nan"), "ppo.anneal = '0:nan': must be one of: none, linear, cosine; or pairs"),
        (lambda: PPO(entropy_schedule=0.5), "ppo.entropy_schedule = 0.5: must be text"),
        (lambda: PPO(target_kl=0.0), "ppo.target_kl = 0.0: must be > 0"),
        (lambda: PPO(normalize_advantage=1), "ppo.normalize_advantage = 1: must be true or false"),
        (lambda: Policy(hidden=()), "policy.hidden = (): must be 1 to 64 layers"),
        (lambda: Policy(hidden=(64, 0)), "policy.hidden = (64, 0): must be >= 1"),
        (lambda: Policy(std="fixed", std_min=0.1), "policy.std_min = 0.1: must be 0 with policy.std = fixed"),
        (lambda: Normalize(reward=False, reward_gamma=1.0), "normalize.reward_gamma = 1.0: must be None"),
        (lambda: Normalize(obs=False, first_rollout=False), "normalize.first_rollout = False: has no effect"),
        (lambda: Config(seed=-1), "seed = -1: must be >= 0"),
        (
            lambda: Config(total_steps=2047, num_envs=16, ppo=PPO(num_steps=128)),
            "total_steps = 2047: must be >= 2048, one rollout",
        ),
        (lambda: Config(total_steps=1), "total_steps = 1: a rollout needs 2 rows"),
        (
            lambda: Config(num_envs=1, ppo=PPO(num_steps=32, minibatch_size=64)),
            "ppo.minibatch_size = 64: must be <= 32",
        ),
    ],
)
def test_a_wrong_value_names_field_value_and_bound(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("whole", [1e6, np.float64(1e6), np.int64(10**6), 10**6])
def test_a_whole_number_may_be_written_as_a_float(whole):
    config = Config(total_steps=whole)
    assert (config.total_steps, type(config.total_steps)) == (10**6, int)
    assert Policy(hidden=(64.0, 32)).hidden == (64, 32)
    for wrong in (True, 1.5, float("inf"), float("nan"), "4k"):
        with pytest.raises(ConfigError, match=r"total_steps = .*: must be a whole number"):
            Config(total_steps=wrong)
    with pytest.raises(ConfigError, match="num_epochs = 0: must be >= 1"):
        PPO(num_epochs=0.0)


def test_derived_sizes():
    config = Config(total_steps=100_000, num_envs=1, ppo=PPO(num_steps=2000, minibatch_size=32))
    assert (config.rollout_size, config.num_iterations) == (2000, 50)
    assert Config(total_steps=5000, num_envs=16, ppo=PPO(num_steps=128)).num_iterations == 2  # rounded down


def test_a_group_given_as_a_mapping_is_refused_with_what_it_must_be():
    with pytest.raises(ConfigError, match=r"^ppo = \{'clip': 0.1\}: must be PPO\(...\)$"):
        Config(ppo={"clip": 0.1})  # pyright: ignore[reportArgumentType]


def test_json_and_back():
    config = Config(
        seed=3, policy=Policy(hidden=(32,), std="predicted"), ppo=PPO(target_kl=0.02, anneal="0:1,1:0.1")
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ppo": {"clop": 1}}, "ppo.clop: no such option"),
        ({"ppo": 3}, "ppo = 3: must be an object"),
        ([], "configuration = []: must be an object"),
        ({"ppo": {"clip": "x"}}, "ppo.clip = 'x': must be a number"),
        ({"policy": {"hidden": ["a"]}}, "policy.hidden = ('a',): must be a whole number"),
    ],
)
def test_a_malformed_description_names_the_field(data, message):
    with pytest.raises(ConfigError, match=r"^" + __import__("re").escape(message)):
        Config.from_dict(data)


@pytest.mark.parametrize(
    "settings",
    [Policy(std="fixed"), Policy(std_init=0.5), Policy(std_min=0.1), Policy(head_tanh="all")],
)
def test_options_of_continuous_actions_are_refused_for_discrete_ones(settings):
    spec = Spec.flat("CartPole-v1", (4,), num_choices=2)
    with pytest.raises(ConfigError, match="has no effect on the discrete actions of CartPole-v1"):
        Config(policy=settings).check_against(spec)
    Config(policy=settings).check_against(Spec.flat("probe", (4,), (2,), (-1.0,) * 2, (1.0,) * 2))
    Config().check_against(spec)


@pytest.mark.parametrize(
    ("text", "count"),
    [("100k", 100_000), ("1e6", 10**6), ("100_000", 100_000), ("1.5M", 1_500_000), ("7", 7), ("2e+3", 2000)],
)
def test_whole_numbers_as_people_write_them(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "1.5", "1e-3", "ten", "1e6e", "0x10", "1 000", "nan", "inf"])
def test_an_invalid_whole_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        parse_count(text)


@given(st.integers(-(10**12), 10**12))
def test_every_whole_number_is_understood(number):
    assert parse_count(str(number)) == number
    assert parse_count(f"{number:_}") == number


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ppo": {"recompute_every": 12}},
            "ppo.recompute_every = 12: has no effect with 10 epochs",
        ),
        ({"ppo": {"recompute_every": 3, "num_epochs": 3}}, "ppo.recompute_every = 3: has no effect"),
        (
            {"ppo": {"entropy_schedule": "linear"}},
            "ppo.entropy_schedule = 'linear': has no effect with ppo.entropy_coef = 0",
        ),
        ({"policy": {"head_tanh": "all"}}, "policy.head_tanh = 'all': .* set policy.head_tanh to mean"),
    ],
)
def test_an_option_that_changes_nothing_is_refused_of_a_new_training(options, message):
    config = Config.from_dict(options)  # an old run folder may hold it, and is read
    with pytest.raises(ConfigError, match=message):
        config.refuse_idle()


def test_what_is_skipped_is_not_refused_in_another_way():
    discrete = Spec.flat("CartPole-v1", (4,), num_choices=2)
    continuous = Spec.flat("probe", (4,), (2,), (-1.0,) * 2, (1.0,) * 2)
    tanh = Config(unused="skip", policy=Policy(head_tanh="all"))
    assert settle(tanh, discrete, new=True).policy.head_tanh == "none"
    bonus = PPO(entropy_coef=0.1, entropy_schedule="linear")
    fixed = Config(unused="skip", policy=Policy(std="fixed"), ppo=bonus)
    ppo = settle(fixed, continuous, new=True).ppo
    assert (ppo.entropy_coef, ppo.entropy_schedule) == (0.0, "none")
    with pytest.raises(ConfigError, match="head_tanh to mean"):
        settle(tanh, continuous, new=True)


def test_epochs_of_the_value_function_that_are_those_of_both_are_one_number():
    spec = Spec.flat("CartPole-v1", (4,), num_choices=2)
    assert Config(ppo=PPO(num_epochs=4, value_num_epochs=4)).settled(spec).ppo.value_num_epochs is None
    assert Config(ppo=PPO(num_epochs=4, value_num_epochs=3)).settled(spec).ppo.value_num_epochs == 3


def test_options_with_an_effect_are_accepted():
    Config().refuse_idle()
    Config.from_dict({"ppo": {"num_epochs": 4}}).refuse_idle()  # 5 is the default, not a choice
    Config.from_dict({"ppo": {"recompute_every": 9}}).refuse_idle()
    Config.from_dict({"ppo": {"recompute_every": 12, "value_num_epochs": 13}}).refuse_idle()
    Config.from_dict({"ppo": {"entropy_schedule": "0:1,1:0", "entropy_coef": 0.01}}).refuse_idle()
    Config.from_dict({"policy": {"head_tanh": "all", "std": "predicted"}}).refuse_idle()


@pytest.mark.parametrize(
    ("total_steps", "num_envs", "iterations"),
    [(10**5, 2048, "3 iterations"), (60_000, 2048, "1 iteration "), (10**6, 2048, None), (5000, 16, None)],
)
def test_a_budget_of_few_iterations_is_warned_of(total_steps, num_envs, iterations):
    warnings = Config(total_steps=total_steps, num_envs=num_envs).warnings()
    assert len(warnings) == (iterations is not None)
    enough = f"set --total-steps {5 * 16 * 2048} or more"
    assert all(f"are only {iterations}" in warning and enough in warning for warning in warnings)


@pytest.mark.parametrize(("name", "usual"), [("obs", 10.0), ("reward", 1000.0)])
def test_a_bound_follows_from_whether_there_is_normalization(name, usual):
    spec = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))
    bounds = {
        (True, "auto"): usual,
        (False, "auto"): None,
        (False, 10.0): 10.0,  # as runs of earlier versions have it
        (True, None): None,
    }
    for (on, clip), bound in bounds.items():
        config = Config.from_dict({"normalize": {name: on, f"{name}_clip": clip}})
        settled = config.settled(spec).normalize
        assert getattr(settled, f"{name}_clip") == getattr(config.normalize, f"{name}_bound") == bound
        assert getattr(Config.from_dict(config.settled(spec).to_dict()).normalize, f"{name}_bound") == bound
