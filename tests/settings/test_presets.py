import pytest

import poise
import poise.envs
from poise.checked import ConfigError
from poise.config import PPO, Config
from poise.settings.presets import FAMILIES, PRESETS, configure, starting_point

COMMON = {"num_steps": 2000, "clip": 0.2, "max_grad_norm": 0.5, "gamma": 0.99, "reset_every_rollout": True}
COMMON |= {"target_kl": None, "entropy_coef": 0.0, "normalize_advantage": True}


@pytest.mark.parametrize(
    ("name", "env", "ppo", "policy", "action"),
    [
        (
            "paper/inverted-pendulum",
            "InvertedPendulum-v2",
            (10, 32, 0.95, 1e-5, 3e-5, "linear"),
            ("fixed", 0.3, 0.0, "none"),
            False,
        ),
        (
            "paper/reacher",
            "Reacher-v2",
            (10, 32, 0.95, 5e-4, 3e-5, "linear"),
            ("fixed", 0.05, 0.0, "all"),
            True,
        ),
        (
            "paper/pendulum",
            "Pendulum-v0",
            (20, 64, 0.9, 1e-3, 5e-3, "none"),
            ("predicted", 0.3, 1e-6, "all"),
            True,
        ),
    ],
)
def test_the_papers_settings_to_the_letter(name, env, ppo, policy, action):
    preset = PRESETS[name]
    config = preset.config
    assert preset.env == env
    assert (config.total_steps, config.num_envs, config.num_iterations) == (100_000, 1, 50)
    p = config.ppo
    rates = (p.policy_learning_rate, p.value_learning_rate)
    assert (p.num_epochs, p.minibatch_size, p.lam, *rates, p.anneal) == ppo
    assert {name: getattr(p, name) for name in COMMON} == COMMON
    q = config.policy
    assert (q.std, q.std_init, q.std_min, q.head_tanh) == policy
    assert (q.hidden, q.activation, q.init) == ((64, 64), "tanh", "orthogonal")
    assert (config.value.hidden, config.value.activation, config.value.init) == (
        (64, 64),
        "tanh",
        "orthogonal",
    )
    n = config.normalize
    assert (n.obs, n.obs_clip, n.reward, n.reward_clip, n.reward_gamma, n.action) == (
        True,
        10,
        True,
        10,
        1.0,
        action,
    )


def test_options_change_a_preset_and_leave_the_rest():
    env, config = configure("paper/reacher", seed=5, ppo={"clip": 0.1})
    assert (env, config.seed, config.ppo.clip, config.ppo.num_steps) == ("Reacher-v2", 5, 0.1, 2000)
    _, replaced = configure("paper/reacher", ppo=PPO(clip=0.1))
    assert replaced.ppo == PPO(clip=0.1)
    assert configure("Reacher-v4") == ("Reacher-v4", Config())


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError, match="learning_rate: no such option"):
        configure("Reacher-v4", learning_rate=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_of_a_family_and_its_options_fit_its_environment(name):
    assert name.partition("/")[0] in FAMILIES
    preset = PRESETS[name]
    assert preset.about.endswith(".")
    env = poise.envs.make(preset.env, 1)
    _, config = configure(name)
    config.check_against(env.spec)
    config.refuse_idle()
    config.settled(env.spec)
    env.close()


def test_a_wrong_name_in_a_family_is_told_the_familys_presets():
    with pytest.raises(ConfigError) as error:
        starting_point("minigrid/doorkey")
    assert str(error.value) == (
        "minigrid/doorkey: no such preset; the presets are minigrid/doorkey-5x5, minigrid/unlock, "
        "minigrid/keycorridor-s3r1"
    )


@pytest.mark.parametrize("env", ["ALE/Pong-v5", "MinAtar/Breakout-v1", "dm_control/cartpole-swingup-v0"])
def test_an_environment_with_a_slash_is_no_preset(env):
    assert starting_point(env) == (env, Config())
