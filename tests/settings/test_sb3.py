"""Stable-Baselines3 and RL Zoo in poise's options."""

import json
import math

import pytest

from poise.checked import ConfigError
from poise.cli.main import main
from poise.config import Config
from poise.settings.files import nested, read_settings
from poise.settings.sb3 import RENAMED, WITHOUT, translate

ZOO = {
    "n_envs": 8,
    "n_timesteps": 1e6,
    "policy": "MlpPolicy",
    "normalize": True,
    "n_steps": 512,
    "batch_size": 128,
    "gamma": 0.98,
    "gae_lambda": 0.9,
    "n_epochs": 20,
    "ent_coef": 0.01,
    "max_grad_norm": 0.8,
    "learning_rate": "lin_3e-4",
    "clip_range": 0.1,
    "vf_coef": 0.6,
    "use_sde": True,
    "policy_kwargs": "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, "
    "net_arch=[dict(pi=[256, 128], vf=[64])])",
    "new_thing": 3,
}


def config_of(settings):
    found = translate({"Task-v0": settings}, "Task-v0")
    return found, Config.from_dict(nested(found.options))


def test_each_setting_is_translated_as_worked_out_by_hand():
    found, config = config_of(ZOO)
    ppo, policy, normalize = config.ppo, config.policy, config.normalize
    assert (config.num_envs, config.total_steps) == (8, 1_000_000)
    assert (ppo.num_steps, ppo.minibatch_size, ppo.num_epochs) == (512, 128, 20)
    assert (ppo.gamma, ppo.lam, ppo.clip, ppo.entropy_coef, ppo.max_grad_norm) == (0.98, 0.9, 0.1, 0.01, 0.8)
    assert (ppo.policy_learning_rate, ppo.value_learning_rate, ppo.anneal) == (3e-4, 3e-4, "linear")
    assert (policy.hidden, policy.activation, policy.init) == ((256, 128), "relu", "uniform")
    assert (config.value.hidden, config.value.activation, config.value.init) == ((64,), "relu", "uniform")
    assert policy.std_init == pytest.approx(math.exp(-2))
    assert (normalize.obs, normalize.reward, normalize.obs_clip, normalize.reward_clip) == (
        True,
        True,
        10.0,
        10.0,
    )
    assert [line.partition(" = ")[0] for line in found.without] == ["vf_coef", "use_sde", "new_thing"]


def test_nothing_of_a_file_is_dropped_silently():
    """Each setting changes an option, or has a sentence."""
    usual, _ = config_of({})
    values = {"n_timesteps": 5e5, "frame_stack": 4, "normalize_advantage": False, "target_kl": 0.1, "seed": 3}
    for name in (*RENAMED, *WITHOUT):
        value = values.get(name, 7)
        found = translate({"Task-v0": {name: value}}, "Task-v0")
        assert found.options != usual.options or len(found.without) == 1, name


def test_arguments_and_wrappers_of_the_environment_are_taken_over():
    found, _ = config_of(
        {
            "env_kwargs": "dict(continuous=True)",
            "env_wrapper": [
                "minigrid.wrappers.FlatObsWrapper",
                {"gymnasium.wrappers.FrameStackObservation": {"stack_size": 2}},
                "rl_zoo3.wrappers.HistoryWrapper",
            ],
        }
    )
    assert found.options["env_kwargs"] == {"continuous": True}
    assert found.options["wrappers"] == [
        "minigrid.wrappers:FlatObsWrapper",
        "gymnasium.wrappers:FrameStackObservation(stack_size=2)",
    ]
    assert [line.partition(":")[0] for line in found.without] == [
        "env_wrapper = rl_zoo3.wrappers.HistoryWrapper"
    ]


def test_what_is_off_is_not_missed():
    found, _ = config_of(
        {"use_sde": False, "sde_sample_freq": -1, "clip_range_vf": None, "env_wrapper": None, "callback": []}
    )
    assert found.without == [
        "callback = []: use --eval-every and --checkpoint-every, or on_iteration of poise.train in Python"
    ]


@pytest.mark.parametrize(
    ("value", "obs", "reward"),
    [
        (True, True, True),
        (False, False, False),
        ("{'norm_obs': False, 'norm_reward': True}", False, True),
        ("dict(norm_obs=True, norm_reward=False)", True, False),
        ({"norm_reward": False}, True, False),
        ({"norm_reward": False, "gamma": 0.9, "clip_reward": 5.0}, True, False),
    ],
)
def test_normalization_is_that_of_its_wrapper(value, obs, reward):
    _, config = config_of({"normalize": value})
    assert (config.normalize.obs, config.normalize.reward) == (obs, reward)


def test_the_bounds_of_its_wrapper_are_kept():
    _, config = config_of({"normalize": "dict(clip_obs=5.0, clip_reward=3.0, gamma=0.9)"})
    normalize = config.normalize
    assert (normalize.obs_clip, normalize.reward_clip, normalize.reward_gamma) == (5.0, 3.0, 0.9)


def test_a_network_without_hidden_layers_is_named():
    found, config = config_of({"policy_kwargs": "dict(net_arch=[])"})
    assert [line.partition(":")[0] for line in found.without] == ["net_arch, pi = []", "net_arch, vf = []"]
    assert config.policy.hidden == (64, 64)


def test_a_policy_that_is_no_name_is_refused():
    with pytest.raises(ConfigError, match=r"policy = \['a'\]: must be the name of a policy"):
        config_of({"policy": ["a"]})


@pytest.mark.parametrize(
    "arch", ["[64, 32]", "dict(pi=[64, 32], vf=[64, 32])", "[dict(pi=[64, 32], vf=[64, 32])]"]
)
def test_networks_are_read_in_each_of_their_forms(arch):
    _, config = config_of({"policy_kwargs": f"dict(net_arch={arch})"})
    assert config.policy.hidden == config.value.hidden == (64, 32)


def test_a_recurrent_policy_needs_no_stack_of_frames():
    found, config = config_of({"frame_stack": 2, "policy": "CnnLstmPolicy", "n_steps": 128})
    assert (config.history, config.policy.memory) == (1, "lstm")
    assert found.without == ["frame_stack = 2: the memory reads earlier observations"]


def test_a_recurrent_policy_is_an_lstm():
    _, config = config_of({"policy": "MlpLstmPolicy", "policy_kwargs": "dict(lstm_hidden_size=32)"})
    assert (config.policy.memory, config.value.memory) == ("lstm", "lstm")
    assert (config.policy.memory_size, config.value.memory_size) == (32, 32)
    _, config = config_of(
        {
            "n_steps": 256,
            "policy": "MlpLstmPolicy",
            "policy_kwargs": "dict(enable_critic_lstm=False, lstm_hidden_size=256)",
        }
    )
    assert (config.ppo.num_steps, config.ppo.minibatch_size, config.policy.memory_size) == (256, 128, 256)
    assert (config.value.memory, config.value.memory_size) == ("none", None)


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true')", "dict(a=open('x'))", "lambda: 1", "dict(**{})", "[" * 300, "1 +"],
)
def test_python_in_a_file_is_read_and_never_run(text):
    with pytest.raises(ConfigError, match="policy_kwargs = "):
        translate({"Task-v0": {"policy_kwargs": text}}, "Task-v0")


def test_a_value_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match=r"clip_range = 'cos_1': must be a number, or lin_ and a number"):
        translate({"Task-v0": {"clip_range": "cos_1"}}, "Task-v0")
    with pytest.raises(ConfigError, match=r"log_std_init = 'x': must be a number"):
        translate({"Task-v0": {"policy_kwargs": "dict(log_std_init=x)"}}, "Task-v0")


def test_the_verb_prints_a_file_that_trains(tmp_path, capsys):
    zoo = tmp_path / "ppo.yml"
    zoo.write_text(
        "CartPole-v0: &base\n  n_timesteps: !!float 512\n  n_envs: 2\n  n_steps: 64\n  vf_coef: 0.5\n"
        "CartPole-v1:\n  <<: *base\n  clip_range: lin_0.3\n"
    )
    assert main(["translate", str(zoo), "CartPole-v1"]) == 0
    printed = capsys.readouterr().out
    assert "# without counterpart: vf_coef = 0.5: policy and value function each have an optimizer" in printed
    file = tmp_path / "cartpole.yaml"
    file.write_text(printed)
    options = ["--no-video", "--no-evaluate", "--out", str(tmp_path / "runs"), "--json"]
    assert main(["train", "--config", str(file), *options]) == 0
    run = json.loads(capsys.readouterr().out)
    config = json.loads((tmp_path / run["folder"] / "config.json").read_text())
    assert (config["num_envs"], config["ppo"]["num_steps"], config["ppo"]["clip"]) == (2, 64, 0.3)
    assert config["ppo"]["clip_schedule"] == "linear"

    assert main(["translate", str(zoo), "CartPole-v0", "--env", "CartPole-v1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["env"] == "CartPole-v1"
    assert main(["translate", str(zoo), "CartPole-v9"]) == 2
    assert "has no settings of CartPole-v9; it has CartPole-v0, CartPole-v1" in capsys.readouterr().err


def test_the_settings_of_stable_baselines3_have_a_name():
    config = read_settings("sb3").over(Config())
    assert (config.num_envs, config.ppo.num_steps, config.ppo.minibatch_size) == (1, 2048, 64)
    assert config.ppo.recompute_every is None
    assert config.unused == "skip"


def test_a_minibatch_larger_than_a_rollout_is_the_whole_rollout():
    _, config = config_of({"n_steps": 8, "batch_size": 256})
    assert config.ppo.minibatch_size == 8


def test_the_frames_of_atari_and_the_limit_of_the_kl():
    found = translate({"atari": {"frame_stack": 4}}, "atari")
    assert "history" not in found.options
    assert "four frames already" in found.without[0]
    _, config = config_of({"target_kl": 0.02})
    assert config.ppo.target_kl == pytest.approx(0.03)
