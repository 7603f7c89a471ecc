"""Stable-Baselines3 and RL Zoo in poise's options: ``--config sb3`` and ``poise translate``.

What has no counterpart in poise is named, not dropped silently.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from poise.checked import ConfigError
from poise.envs.forms.text import Named

# What Stable-Baselines3 2.x does without options. The value loss has no coefficient here: each network has
# its own optimizer.
SB3: dict[str, Any] = {
    "unused": "skip",  # of discrete actions: the deviation
    "num_envs": 1,
    "ppo.num_steps": 2048,
    "ppo.num_epochs": 10,
    "ppo.recompute_every": None,
    "ppo.minibatch_size": 64,
    "ppo.gamma": 0.99,
    "ppo.lam": 0.95,
    "ppo.clip": 0.2,
    "ppo.policy_learning_rate": 3e-4,
    "ppo.value_learning_rate": 3e-4,
    "ppo.anneal": "none",
    "ppo.max_grad_norm": 0.5,
    "ppo.entropy_coef": 0.0,
    "ppo.stagger_starts": False,
    "policy.std_init": 1.0,
    "policy.std_rate": 1.0,
    "normalize.obs": False,
    "normalize.reward": False,
    "normalize.action": False,
}
# with ``normalize`` in RL Zoo: VecNormalize
NORMALIZED: dict[str, dict[str, Any]] = {
    "norm_obs": {"normalize.obs": True, "normalize.first_rollout": False, "normalize.obs_clip": 10.0},
    "norm_reward": {"normalize.reward": True, "normalize.reward_clip": 10.0},
}
# its other arguments: what each belongs to, and the option
BESIDE_NORMALIZED = {
    "gamma": ("norm_reward", "normalize.reward_gamma"),
    "clip_obs": ("norm_obs", "normalize.obs_clip"),
    "clip_reward": ("norm_reward", "normalize.reward_clip"),
}
RENAMED = {
    "n_envs": "num_envs",
    "n_timesteps": "total_steps",
    "n_steps": "ppo.num_steps",
    "n_epochs": "ppo.num_epochs",
    "batch_size": "ppo.minibatch_size",
    "gamma": "ppo.gamma",
    "gae_lambda": "ppo.lam",
    "ent_coef": "ppo.entropy_coef",
    "max_grad_norm": "ppo.max_grad_norm",
    "normalize_advantage": "ppo.normalize_advantage",
    "seed": "seed",
}
WITHOUT = {
    "vf_coef": "policy and value function each have an optimizer, so their losses are not added; see "
    "--ppo.value-learning-rate",
    "clip_range_vf": "the value loss is not clipped",
    "use_sde": "state-dependent exploration is not there; actions get independent noise",
    "sde_sample_freq": "state-dependent exploration is not there",
    "vec_env_wrapper": "it is around many environments; write a wrapper of one, and name it with --wrapper",
    "callback": "use --eval-every and --checkpoint-every, or on_iteration of poise.train in Python",
    "tensorboard_log": "each run folder has its own TensorBoard log; --out is the folder of all runs",
    "rollout_buffer_class": "a rollout has one form",
    "stats_window_size": "episode/return is the mean of the episodes that ended in an iteration",
    "verbose": "--json prints only the result on standard output",
    "device": "write --device cpu or gpu on the command line",
    "monitor_wrapper": "episodes are always recorded",
    "n_eval_envs": "scores choose the number of environments",
}
OFF = (None, False, -1)  # values with which such a setting does nothing
ACTIVATIONS = {
    "Tanh": "tanh",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "ELU": "elu",
    "SELU": "selu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
POLICIES = {"MlpPolicy", "MultiInputPolicy", "CnnPolicy"}
# of RecurrentPPO in sb3-contrib, without options
LSTM: dict[str, Any] = {
    "ppo.num_steps": 128,
    "ppo.minibatch_size": 128,
    "policy.memory": "lstm",
    "policy.memory_size": 256,
    "value.memory": "lstm",
    "value.memory_size": 256,
}
RECURRENT = {"MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"}
_LINEAR = re.compile(r"lin_(.+)")


@dataclass
class Translated:
    """Settings of RL Zoo in poise's options.

    Attributes:
        env: the environment.
        options: by their dotted names, over those of Stable-Baselines3 itself.
        without: a sentence for each setting that has no counterpart.
    """

    env: str
    options: dict[str, Any] = field(default_factory=lambda: dict(SB3))
    without: list[str] = field(default_factory=list)


def translate(data: Mapping[str, Any], env: str) -> Translated:
    """The settings of ``env`` in a file of RL Zoo (``hyperparams/ppo.yml``), as poise has them.

    Raises:
        ConfigError: the file has no settings of it, or a value cannot be read.
    """
    settings = data.get(env)
    if not isinstance(settings, Mapping):
        family = env.rpartition("-v")[0]
        near = [name for name in data if str(name).rpartition("-v")[0] == family]
        others = near or [str(name) for name in data]
        raise ConfigError(f"has no settings of {env}; it has {', '.join(map(str, others)):.500}")
    found = Translated(env)
    for name in sorted(settings, key=lambda name: name != "policy"):  # which has defaults of its own
        _translate_one(found, str(name), settings[name])
    rows, size = (
        found.options["num_envs"] * found.options["ppo.num_steps"],
        found.options["ppo.minibatch_size"],
    )
    if isinstance(rows, int) and isinstance(size, int):  # a larger minibatch is the whole rollout
        found.options["ppo.minibatch_size"] = min(size, rows)
    return found


def _translate_one(found: Translated, name: str, value: Any) -> None:
    """Adds one setting of RL Zoo."""
    if name in _READERS:
        _READERS[name](found, value)
    elif name in RENAMED:
        number = isinstance(value, float) and value.is_integer() and name.startswith(("n_", "batch"))
        found.options[RENAMED[name]] = int(value) if number else value
    elif name in WITHOUT:
        if value not in OFF:
            found.without.append(f"{name} = {value}: {WITHOUT[name]}")
    else:
        found.without.append(f"{name} = {value}: is not known")


def _env_kwargs(found: Translated, value: Any) -> None:
    arguments = _python("env_kwargs", value) if isinstance(value, str) else value
    if arguments is None:
        return
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"env_kwargs = {value!r:.100}: must be dict(...)")
    found.options["env_kwargs"] = dict(arguments)


def _env_wrapper(found: Translated, value: Any) -> None:
    """``package.module.Name``, or ``{package.module.Name: arguments}``, or a list of these."""
    for one in value if isinstance(value, list) else [value] if value else []:
        name, kwargs = next(iter(one.items())) if isinstance(one, Mapping) else (one, {})
        module, _, last = str(name).rpartition(".")
        if module.partition(".")[0] in ("", "stable_baselines3", "sb3_contrib", "rl_zoo3", "utils"):
            found.without.append(
                f"env_wrapper = {name}: it is a wrapper of Stable-Baselines3 or RL Zoo; write one, and name "
                "it with --wrapper"
            )
        else:
            found.options.setdefault("wrappers", []).append(str(Named(f"{module}:{last}", kwargs or {})))


def _learning_rate(found: Translated, value: Any) -> None:
    rate, linear = _schedule("learning_rate", value)
    for name in ("policy", "value"):
        found.options[f"ppo.{name}_learning_rate"] = rate
    found.options["ppo.anneal"] = "linear" if linear else "none"


def _target_kl(found: Translated, value: Any) -> None:
    if value is None:
        return
    limit, _ = _schedule("target_kl", value)
    found.options["ppo.target_kl"] = 1.5 * limit  # where Stable-Baselines3 stops
    found.without.append(
        f"target_kl = {value}: ends the epochs of the policy alone, not of the value function"
    )


def _clip_range(found: Translated, value: Any) -> None:
    found.options["ppo.clip"], linear = _schedule("clip_range", value)
    found.options["ppo.clip_schedule"] = "linear" if linear else "none"


def _schedule(name: str, value: Any) -> tuple[float, bool]:
    """A number, and whether it falls to 0 over the budget (``lin_0.2``)."""
    match = _LINEAR.fullmatch(value) if isinstance(value, str) else None
    try:
        return float(match[1] if match else value), match is not None
    except (TypeError, ValueError):
        raise ConfigError(f"{name} = {value!r:.100}: must be a number, or lin_ and a number") from None


def _normalize(found: Translated, value: Any) -> None:
    given = _python("normalize", value) if isinstance(value, str) else value
    chosen = given if isinstance(given, Mapping) else dict.fromkeys(NORMALIZED, bool(given))
    chosen = dict.fromkeys(NORMALIZED, True) | dict(chosen)
    for name, on in NORMALIZED.items():
        if chosen[name]:
            found.options |= on
    for name in chosen.keys() - NORMALIZED.keys():
        switch, option = BESIDE_NORMALIZED.get(name, (None, ""))
        if switch is None:
            found.without.append(f"normalize, {name} = {chosen[name]}: is not known")
        elif chosen[switch]:  # otherwise it does nothing
            found.options[option] = chosen[name]


def _frame_stack(found: Translated, value: Any) -> None:
    if found.env == "atari" or found.env.startswith("ALE/") or "NoFrameskip" in found.env:
        found.without.append(
            f"frame_stack = {value}: an observation of an Atari game has four frames already"
        )
        return
    if found.options.get("policy.memory", "none") != "none":
        found.without.append(f"frame_stack = {value}: the memory reads earlier observations")
        return
    found.options["history"] = value
    found.without.append(
        f"frame_stack = {value}: history {value} reads as many observations; of images, it learns from whole "
        "sequences (ppo.sequence_length) instead of shuffled rows"
    )


def _policy(found: Translated, value: Any) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"policy = {value!r:.100}: must be the name of a policy")
    if value in RECURRENT:
        found.options |= LSTM
    elif value == "CnnPolicy":
        found.without.append(
            f"policy = {value}: each network has an encoder of its own, and hidden layers after it"
        )
    elif value not in POLICIES:
        found.without.append(f"policy = {value}: is not known; the networks follow from the spaces")


def _policy_kwargs(found: Translated, value: Any) -> None:
    arguments = _python("policy_kwargs", value) if isinstance(value, str) else value
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"policy_kwargs = {value!r:.100}: must be dict(...)")
    for name, one in arguments.items():
        match name:
            case "log_std_init":
                if not isinstance(one, int | float):
                    raise ConfigError(f"log_std_init = {one!r:.100}: must be a number")
                found.options["policy.std_init"] = math.exp(min(one, 100))
            case "ortho_init" if not one:
                found.options |= {"policy.init": "uniform", "value.init": "uniform"}
            case "ortho_init":
                pass
            case "activation_fn" if str(one) in ACTIVATIONS:
                chosen = ACTIVATIONS[str(one)]
                found.options |= {"policy.activation": chosen, "value.activation": chosen}
            case "net_arch":
                _net_arch(found, one)
            case "lstm_hidden_size":
                found.options |= {"policy.memory_size": one, "value.memory_size": one}
            case "enable_critic_lstm":
                pass  # after all others
            case _:
                found.without.append(f"policy_kwargs, {name} = {one}: has no counterpart")
    _critic_without_memory(found, arguments)


def _critic_without_memory(found: Translated, arguments: Mapping[str, Any]) -> None:
    if not arguments.get("enable_critic_lstm", True):
        found.options |= {"value.memory": "none", "value.memory_size": None}


def _net_arch(found: Translated, value: Any) -> None:
    """``[64, 64]``, ``dict(pi=[64], vf=[64])``, or the same in a list, as before version 1.8."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0]
    both = value if isinstance(value, Mapping) else {"pi": value, "vf": value}
    for name, group in (("pi", "policy"), ("vf", "value")):
        widths = both.get(name)
        if widths == []:
            found.without.append(
                f"net_arch, {name} = []: a network has at least one hidden layer; it keeps 64x64"
            )
        elif not isinstance(widths, list):
            found.without.append(f"net_arch, {name} = {widths}: must be a list of widths")
        else:
            found.options[f"{group}.hidden"] = tuple(widths)


_READERS: dict[str, Callable[[Translated, Any], None]] = {
    "env_kwargs": _env_kwargs,
    "env_wrapper": _env_wrapper,
    "learning_rate": _learning_rate,
    "clip_range": _clip_range,
    "target_kl": _target_kl,
    "normalize": _normalize,
    "policy": _policy,
    "frame_stack": _frame_stack,
    "policy_kwargs": _policy_kwargs,
}


def _python(name: str, text: str) -> Any:
    """A value that RL Zoo writes as Python: dict(...), lists, numbers, names such as nn.ReLU. Runs nothing.

    Raises:
        ConfigError: it is anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{name} = {text!r:.200}: cannot be read: {error!s:.100}") from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(k.arg for k in keywords):
            return {keyword.arg: _value(keyword.value) for keyword in keywords}
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ast.literal_eval(node)
