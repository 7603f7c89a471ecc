"""What a sweep searches follows from the defaults of a budget, and from what is typed."""

import dataclasses
import json

import pytest

from poise import make
from poise.checked import ConfigError
from poise.config import PPO, Config, Policy
from poise.studies.sweep.space import Dimension, applied, make_space


@pytest.fixture(scope="module")
def reacher():
    return make("Reacher-v4", 1).spec


@pytest.fixture(scope="module")
def cartpole():
    return make("CartPole-v1", 1).spec


def by_name(space):
    return {dimension.name: dimension for dimension in space}


def test_the_usual_space_lies_around_the_defaults_of_the_budget(reacher):
    # 100,000 steps: rate 1e-3, rollouts of 2048 rows = 16 x 128, minibatches of 128; episodes of 50 steps
    base, space = make_space([], Config(), reacher)
    found = by_name(space)
    assert list(found) == [
        "ppo.policy_learning_rate",
        "ppo.value_learning_rate",
        "ppo.gamma",
        "ppo.minibatch_size",
        "ppo.num_steps",
        "ppo.num_epochs",
        "ppo.lam",
        "ppo.clip",
        "policy.std_init",
    ]
    rate = found["ppo.policy_learning_rate"]
    assert (rate.scale, rate.low, rate.high) == ("log", 2.5e-4, 4e-3)
    horizon = 3 * 50**0.5  # by docs/defaults.md
    gamma = found["ppo.gamma"]
    assert gamma.usual == 1 - 1 / horizon
    drawn = [gamma.drawn(value) for value in (gamma.low, gamma.usual, gamma.high)]
    assert drawn == pytest.approx([horizon / 4, horizon, 4 * horizon])
    assert found["ppo.minibatch_size"].choices == (64, 128, 256)
    assert found["ppo.num_steps"].choices == (32, 64, 128, 256, 512)
    assert found["ppo.lam"].choices == (0.9, 0.95, 0.98)
    std = found["policy.std_init"]
    assert (std.low, std.high) == pytest.approx((2**-0.5 / 3, 2 * 2**-0.5))
    assert (base.num_envs, base.ppo.num_steps, base.ppo.minibatch_size) == (16, 128, 128)


def test_a_short_budget_leaves_two_iterations_and_room_for_each_minibatch(reacher):
    # 2,000 steps: rollouts of 256 rows = 4 x 64, minibatches of 128
    _, space = make_space([], Config(total_steps=2000), reacher)
    found = by_name(space)
    assert found["ppo.minibatch_size"].choices == (64, 128, 256)
    assert found["ppo.num_steps"].choices == (64, 128)  # 16 and 32 hold no 256 rows; 256 leaves one iteration
    _, space = make_space([], Config(total_steps=2000, ppo=PPO(minibatch_size=64)), reacher)
    assert by_name(space)["ppo.num_steps"].choices == (16, 32, 64, 128)


def test_the_defaults_lie_in_the_usual_space_and_come_back_from_it_to_the_last_bit(reacher, cartpole):
    for spec in (reacher, cartpole):
        for budget in (2_000, 8_000, 30_000, 100_000, 1_000_000):
            config = Config(total_steps=budget)
            base, space = make_space([], config, spec)
            values = {d.name: d.option(d.drawn(d.usual)) for d in space}
            assert all(d.holds(d.usual) for d in space)
            assert applied(base, values).settled(spec) == config.settled(spec)


def test_set_options_are_not_searched_and_discrete_actions_have_no_deviation(reacher, cartpole):
    config = Config(ppo=PPO(gamma=0.97, clip=0.1))
    base, space = make_space([], config, reacher)
    assert not {"ppo.gamma", "ppo.clip"} & set(by_name(space))
    assert base.ppo.gamma == 0.97
    assert "policy.std_init" not in by_name(make_space([], Config(), cartpole)[1])


WORDS = """
    ppo.gamma=0.9:0.999:horizon ppo.clip=0.1,0.2,0.3 ppo.policy-learning-rate=1e-4:1e-2:log
    policy.activation=tanh,relu ppo.lam ppo.num_epochs=2:1e1 policy.hidden=32x32,64
    normalize.reward ppo.target-kl=None,0.02 ppo.entropy_coef=0:0.01 policy.init
    ppo.anneal ppo.clip-schedule=none,cosine
"""


def test_words_are_read_as_they_are_typed(reacher):
    _, space = make_space(WORDS.split(), Config(), reacher)
    found = by_name(space)
    assert [(d.name, d.scale) for d in space] == [
        ("ppo.gamma", "horizon"),
        ("ppo.clip", "choice"),
        ("ppo.policy_learning_rate", "log"),
        ("policy.activation", "choice"),
        ("ppo.lam", "choice"),
        ("ppo.num_epochs", "linear"),
        ("policy.hidden", "choice"),
        ("normalize.reward", "choice"),
        ("ppo.target_kl", "choice"),
        ("ppo.entropy_coef", "linear"),
        ("policy.init", "choice"),
        ("ppo.anneal", "choice"),
        ("ppo.clip_schedule", "choice"),
    ]
    assert found["ppo.anneal"].choices == ("none", "linear", "cosine")
    assert found["ppo.clip_schedule"].choices == ("none", "cosine")
    assert (found["ppo.gamma"].low, found["ppo.gamma"].high) == (0.9, 0.999)
    assert found["ppo.clip"].choices == (0.1, 0.2, 0.3)
    assert found["ppo.lam"].choices == (0.9, 0.95, 0.98)
    assert (found["ppo.num_epochs"].low, found["ppo.num_epochs"].high) == (2, 10)
    assert found["ppo.num_epochs"].whole
    assert not found["ppo.entropy_coef"].whole
    assert found["policy.hidden"].choices == ((32, 32), (64,))
    assert found["normalize.reward"].choices == (True, False)
    assert found["ppo.target_kl"].choices == (None, 0.02)
    assert found["policy.init"].choices == ("orthogonal", "uniform")


def test_a_dimension_reads_what_it_wrote_and_can_be_typed_again(reacher):
    _, space = make_space(WORDS.split(), Config(), reacher)
    assert tuple(Dimension.from_dict(json.loads(json.dumps(d.to_dict()))) for d in space) == space
    assert make_space([d.words() for d in space], Config(), reacher)[1] == space
    for broken in ({"scale": "cubic"}, {"name": "ppo.no"}, {"choices": []}, {"name": "policy"}):
        with pytest.raises((ConfigError, ValueError)):
            Dimension.from_dict({**space[1].to_dict(), **broken})


def test_drawn_values_have_few_digits_and_stay_within_their_bounds():
    horizon = Dimension("ppo.gamma", "horizon", 0.95, low=0.9, high=0.999)
    assert horizon.drawn(0.9) == pytest.approx(10)
    assert horizon.option(123.456789) == 0.9919
    assert horizon.option(10.0) == 0.9
    rate = Dimension("ppo.policy_learning_rate", "log", 1e-3, low=0.000333333, high=3e-3)
    assert rate.option(0.00123456789) == 0.001235
    assert rate.option(0.00033333301) == 0.000333333
    hidden = Dimension("policy.hidden", "choice", (64, 64), choices=((64, 64), (32,)))
    assert hidden.drawn((64, 64)) == "64x64"
    assert hidden.option("32") == (32,)
    epochs = Dimension("ppo.num_epochs", "linear", 10, low=2, high=20)
    assert type(epochs.option(7)) is int


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ppo.gama=0.9:0.99", "search = 'ppo.gama': no such option; did you mean ppo.gamma"),
        ("xyzzy", "search = 'xyzzy': no such option; poise train --help lists the options"),
        ("ppo", "search = 'ppo': no such option"),
        ("total-steps=1:2", "search = 'total-steps': cannot be searched; it is the budget"),
        ("seed=1,2", "search = 'seed': cannot be searched"),
        ("policy.network=a:B,a:C", "search = 'policy.network': cannot be searched; train once with each"),
        ("curriculum=a:b", "search = 'curriculum': cannot be searched; train once with each"),
        ("ppo.clip=0.3:0.1", "search = 'ppo.clip=0.3:0.1': LOW must be < HIGH"),
        ("ppo.clip=0.1", "must be two or more values, or LOW:HIGH"),
        ("ppo.clip=0.1,0.1", "must be two or more values, or LOW:HIGH"),
        ("ppo.clip=-1,0.2", "search: ppo.clip = -1.0: must be > 0"),
        ("ppo.gamma=0.9:1.5", "search: ppo.gamma = 1.5: must be >= 0 and <= 1"),
        ("ppo.gamma=0.9:1:horizon", "must be >= 0 and < 1 with :horizon"),
        ("ppo.clip=0.1:0.2:cubic", "must be LOW:HIGH, LOW:HIGH:log or LOW:HIGH:horizon"),
        ("ppo.clip=0.1:0.2:log:log", "must be LOW:HIGH, LOW:HIGH:log or LOW:HIGH:horizon"),
        ("ppo.entropy-coef=0:0.1:log", "LOW must be > 0 with :log"),
        ("ppo.clip=a:b", "search = 'ppo.clip': 'a' must be a number"),
        ("ppo.clip=nan:1", "LOW must be < HIGH"),
        ("ppo.clip=0.1:inf", "search: ppo.clip = inf: must be > 0"),
        ("ppo.num-epochs=1.5:3", "'1.5' must be a whole number"),
        ("ppo.num-epochs=None,3", "'None' must be a whole number"),
        ("num-envs=0,3", "search: num_envs = 0: must be >= 1"),
        ("policy.activation=tanh,swish", "policy.activation = 'swish': must be one of: tanh, relu"),
        ("ppo.anneal=0:1,1:0", "is not a number; list the values"),
        ("policy.activation=tanh:relu", "is not a number; list the values"),
        ("policy.hidden=64,a", "'a' must be layers such as 64x64"),
        ("normalize.obs=yes,no", "'yes' must be true or false"),
        ("policy.hidden", "has no default range; write policy.hidden=LOW:HIGH"),
        ("ppo.clip ppo.clip", "search = 'ppo.clip': is named twice"),
        ("ppo.lam", "search = 'ppo.lam': this option has a value as well"),
    ],
)
def test_an_invalid_search_is_refused_in_one_line(words, message, reacher):
    with pytest.raises(ConfigError) as raised:
        make_space(words.split(), Config(ppo=PPO(lam=0.9)), reacher)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_option_without_a_meaning_for_these_actions_is_refused(cartpole):
    with pytest.raises(ConfigError, match=r"policy.std_init = 0.1: has no effect on the discrete actions"):
        make_space(["policy.std-init=0.1:1"], Config(), cartpole)


def test_with_everything_given_there_is_nothing_to_search(reacher):
    ppo = PPO(
        policy_learning_rate=1e-4,
        value_learning_rate=1e-4,
        gamma=0.9,
        minibatch_size=64,
        num_steps=64,
        num_epochs=3,
        lam=0.9,
        clip=0.1,
    )
    config = Config(ppo=ppo, policy=Policy(std_init=0.3))
    with pytest.raises(ConfigError, match="every option that is searched by default has a value"):
        make_space([], config, reacher)
    fewer = dataclasses.replace(config, ppo=dataclasses.replace(ppo, clip=0.2))
    assert [d.name for d in make_space([], fewer, reacher)[1]] == ["ppo.clip"]


def test_an_option_without_effect_is_refused_unless_another_gives_it_one(reacher):
    with pytest.raises(
        ConfigError, match=r"^search = 'ppo.entropy-schedule': .* has no effect with ppo.entr"
    ):
        make_space(["ppo.entropy-schedule"], Config(), reacher)
    make_space(["ppo.entropy-schedule"], Config(ppo=PPO(entropy_coef=0.01)), reacher)
    make_space(["ppo.entropy-schedule", "ppo.entropy-coef=0,0.01"], Config(), reacher)


def test_settings_that_cannot_be_together_are_refused_when_they_are_made(reacher):
    base, _ = make_space(["ppo.num-steps=8,128"], Config(), reacher)
    with pytest.raises(ConfigError, match=r"ppo\.minibatch_size = 1000"):
        applied(base, {"ppo.num_steps": 8, "ppo.minibatch_size": 1000})
