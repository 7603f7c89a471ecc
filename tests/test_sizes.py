"""What no memory holds is refused by arithmetic, before anything is made."""

import time

import pytest

from poise.checked import ConfigError
from poise.config import PPO, Config, Policy, Value, num_parameters
from poise.spec import Spec
from poise.store.checkpoint import (
    CheckpointError,
    Manifest,
    Training,
    load_agent,
    load_training,
    save_training,
)

SPEC = Spec.flat(
    "Large-v0", obs_shape=(10_000,), action_shape=(2,), action_low=(-1.0,) * 2, action_high=(1.0,) * 2
)


def test_parameters_are_weights_and_biases():
    assert num_parameters(3, (64, 32), 2) == 3 * 64 + 64 + 64 * 32 + 32 + 32 * 2 + 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("policy.hidden", {"policy": Policy(hidden=(2**16, 2**16))}),
        ("value.hidden", {"value": Value(hidden=(2**13,) * 3)}),
        ("ppo.num_epochs", {"ppo": PPO(num_epochs=10**9), "total_steps": 1000}),
        (
            "ppo.num_steps",
            {"num_envs": 4096, "ppo": PPO(num_steps=10**6, num_epochs=1), "total_steps": 10**12},
        ),
        ("num_envs", {"num_envs": 10**9, "total_steps": 10**12}),
    ],
)
def test_a_configuration_of_gigabytes_is_refused(name, options):
    with pytest.raises(ConfigError, match=rf"{name}.*(at most|must be)"):
        Config.from_dict(options) if isinstance(options.get("policy"), dict) else Config(**options)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("policy.hidden", Config(policy=Policy(hidden=(2**13,)))),
        ("value.hidden", Config(value=Value(hidden=(2**13,)))),
        ("ppo.num_steps", Config(num_envs=1024, ppo=PPO(num_steps=1024, num_epochs=1), total_steps=10**7)),
    ],
)
def test_large_observations_count(name, config):
    with pytest.raises(ConfigError, match=rf"{name}.*must be <="):
        config.check_against(SPEC)
    Config(policy=Policy(hidden=(4096,))).check_against(SPEC)


def test_a_manifest_that_describes_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("poise.config.MOST_PARAMETERS", 2**40)  # a stranger writes what he likes
    config = Config(policy=Policy(hidden=(2**16, 2**16)))
    spec = Spec.flat("Small-v0", obs_shape=(3,), num_choices=2)
    folder = save_training(tmp_path, Training(), Manifest("Small-v0", "gymnasium", 0, spec, config))
    monkeypatch.undo()
    begun = time.perf_counter()
    for load in (load_training, load_agent):
        with pytest.raises(CheckpointError, match=r"policy\.hidden .* 4,295,\d+,\d+ parameters"):
            load(folder)
    assert time.perf_counter() - begun < 1
