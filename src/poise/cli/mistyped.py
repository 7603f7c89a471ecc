"""Options that poise does not have: what other libraries call them, and what they are called here."""

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tyro.conf import Positional

from poise.checked import ConfigError

# names of Stable-Baselines3, RL Zoo, CleanRL and of the paper, without their groups
SYNONYMS = {
    "n_timesteps": "total-steps",
    "total_timesteps": "total-steps",
    "timesteps": "total-steps",
    "steps": "total-steps",
    "budget": "total-steps",
    "n_envs": "num-envs",
    "n_steps": "ppo.num-steps",
    "n_epochs": "ppo.num-epochs",
    "epochs": "ppo.num-epochs",
    "update_epochs": "ppo.num-epochs",
    "batch_size": "ppo.minibatch-size",
    "clip_range": "ppo.clip",
    "clip_coef": "ppo.clip",
    "clip_ratio": "ppo.clip",
    "epsilon": "ppo.clip",
    "discount": "ppo.gamma",
    "lambda": "ppo.lam",
    "gae_lambda": "ppo.lam",
    "ent_coef": "ppo.entropy-coef",
    "anneal_lr": "ppo.anneal",
    "lr_schedule": "ppo.anneal",
    "norm_adv": "ppo.normalize-advantage",
    "net_arch": "policy.hidden and --value.hidden",
    "hidden_sizes": "policy.hidden and --value.hidden",
    "layers": "policy.hidden and --value.hidden",
    "activation_fn": "policy.activation and --value.activation",
    "ortho_init": "policy.init and --value.init",
    "log_std_init": "policy.std-init (the standard deviation, not its logarithm)",
    "lr": "ppo.policy-learning-rate and --ppo.value-learning-rate",
    "learning_rate": "ppo.policy-learning-rate and --ppo.value-learning-rate",
    "normalize_observation": "normalize.obs",
    "norm_obs": "normalize.obs",
    "norm_reward": "normalize.reward",
    "clip_obs": "normalize.obs-clip",
    "eval_freq": "eval-every",
    "n_eval_episodes": "eval-episodes",
    "save_freq": "checkpoint-every",
    "capture_video": "video",
    "log_dir": "out",
    "tensorboard_log": "out",
    "output": "out",
    "num_seeds": "seeds",
    "n_seeds": "seeds",
    "n_trials": "trials",
    "vec_env": "backend",
}
WITHOUT = {
    "device": "JAX chooses the device; the variable JAX_PLATFORMS=cpu (or cuda) sets it",
    "gpu": "JAX chooses the device; the variable JAX_PLATFORMS=cpu (or cuda) sets it",
    "cuda": "JAX chooses the device; the variable JAX_PLATFORMS=cpu (or cuda) sets it",
    "name": "a run is named for its start; --out FOLDER puts it into a folder of your own",
    "exp_name": "a run is named for its start; --out FOLDER puts it into a folder of your own",
    "vf_coef": "policy and value function have an optimizer each; see --ppo.value-learning-rate",
    "algo": "PPO is the only algorithm",
    "env_kwargs": "register an environment with these arguments in a module of yours (docs/environments.md)",
    "track": "docs/reading.md says what a run folder holds for other tools",
    "verbose": "--json prints the result alone on standard output",
    "config": "options are given one by one, or as a preset (poise presets)",
}


def refuse_unknown(verb: str, command: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuses options that the verb does not have, each with the option that was probably meant.

    Raises:
        ConfigError: there is one.
    """
    options, positionals = names_of(command)
    typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    unknown = [option for option in typed if option not in ("--", "--help") and _plain(option) not in options]
    lines = []
    for option in dict.fromkeys(unknown):
        if _plain(option).rstrip("s") in {name.rstrip("s") for name in positionals}:
            lines.append(f"{option}: is given without a name: poise {verb} {_plain(option).upper()}")
        else:
            lines.append(f"{option}: no such option{_instead(_plain(option), options)}")
    if lines:
        raise ConfigError("\n".join([*lines, f"all options: poise {verb} --help"]))


def names_of(command: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The options of a verb, and what it takes without a name; with underscores."""
    options: set[str] = set()
    positionals: set[str] = set()
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if Positional in getattr(hints[name], "__metadata__", ()):
            positionals.add(name)
        elif dataclasses.is_dataclass(parameter.default):
            options |= _fields(parameter.default, "")
        else:
            options |= _with_negation(name.rstrip("_"), parameter.default, "")
    return options, positionals


def _fields(record: Any, prefix: str) -> set[str]:
    names: set[str] = set()
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            names |= _fields(value, f"{prefix}{field.name}.")
        else:
            names |= _with_negation(field.name, value, prefix)
    return names


def _with_negation(name: str, default: Any, prefix: str) -> set[str]:
    no = {f"{prefix}no_{name}"} if isinstance(default, bool) and name != "json" else set()
    return {f"{prefix}{name}"} | no


def _instead(name: str, options: Collection[str]) -> str:
    """What to write in place of an unknown option; "" where nothing is like it."""
    _, _, last = name.rpartition(".")
    meant = SYNONYMS.get(last)
    if meant and meant.split(" ")[0].replace("-", "_") in options:
        return f"; here it is --{meant}"
    if last in WITHOUT:
        return f"; {WITHOUT[last]}"
    grouped = {option.rpartition(".")[2]: option for option in sorted(options)}
    near = [option for option in sorted(options) if option.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, sorted(options), n=3)
    near = near or [grouped[one] for one in difflib.get_close_matches(last, grouped, n=3, cutoff=0.75)]
    if near:
        return f"; did you mean {' or '.join('--' + option.replace('_', '-') for option in near)}?"
    return ""


def _plain(argument: str) -> str:
    return argument.removeprefix("--").replace("-", "_")
