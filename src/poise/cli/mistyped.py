"""Verbs and options that poise does not have, and the names that were probably meant."""

import dataclasses
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tyro.conf import Positional

from poise.checked import ConfigError, flat
from poise.config import Config
from poise.runs.options import Options
from poise.studies.sweep.search import Search

VERBS = {
    "learn": "train",
    "fit": "train",
    "continue": "resume",
    "test": "evaluate",
    "play": "video",
    "film": "video",
    "record": "video",
    "tune": "sweep",
    "optimize": "sweep",
    "plot": "report",
    "list": "envs",
}
# names in Stable-Baselines3, RL Zoo, CleanRL and the paper, without their groups
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
    "gpu": "write --device gpu",
    "cuda": "write --device gpu",
    "name": "a run is named after its start time; --out FOLDER chooses the folder of all runs",
    "exp_name": "a run is named after its start time; --out FOLDER chooses the folder of all runs",
    "vf_coef": "the policy and the value function each have an optimizer; see --ppo.value-learning-rate",
    "algo": "PPO is the only algorithm",
    "env_kwargs": "register an environment with these arguments in your own module (docs/environments.md)",
    "track": "docs/reading.md describes the files of a run folder, for use with other tools",
    "verbose": "--json prints only the result on standard output",
    "config": "set each option on the command line, or use a preset (poise presets)",
}


def refuse_unknown_verb(verb: str, verbs: Collection[str]) -> None:
    """Refuses a verb that poise does not have, and suggests the verb that was probably meant.

    Raises:
        ConfigError: the verb is unknown.
    """
    if verb in verbs:
        return
    near = [VERBS[verb]] if verb in VERBS else difflib.get_close_matches(verb, verbs, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; the verbs are {', '.join(verbs)}"
    raise ConfigError(f"{verb}: no such verb{hint}\nall verbs: poise --help")


def as_typed(message: str, *, everywhere: bool) -> str:
    """The message of an error with the names of options as they are typed: ``ppo.clip`` as ``--ppo.clip``.

    At the start, where most messages name an option and its value; with ``everywhere`` also names in the
    middle that cannot be words of a sentence, because they have a group or an underscore. Quoted text, and
    what is said of values for ``--search``, stays as it is.
    """
    flags = {name for name, value in _defaults().items() if isinstance(value, bool)}

    def typed(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name is None or name not in _defaults():
            return match[0]
        dashed = name.replace("_", "-")
        if name in flags and value is not None:
            group, dot, last = dashed.rpartition(".")
            return f"--{dashed}" if value == "True" else f"--{group}{dot}no-{last}"
        return f"--{dashed}" if value is None else f"--{dashed} = {value}"

    value = r"(?: = (?P<value>True|False)\b)?"
    message = re.sub(rf"^(?P<name>[a-z_.]+)(?= = |: ){value}", typed, message)
    if not everywhere or message.startswith("--search"):
        return message
    return re.sub(rf"'[^']*'|(?<![\w./-])(?P<name>[a-z]+[._][a-z_]+)(?![\w/(]){value}", typed, message)


@functools.cache
def _defaults() -> dict[str, Any]:
    """The default of each option that an error may name, with underscores."""
    records = (Search(), Options(), Config())
    names = {name: value for record in records for name, value in flat(dataclasses.asdict(record)).items()}
    return {**names, "rounds": 3}


def refuse_unknown(verb: str, command: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuses options that the verb does not have, and suggests the option that was probably meant.

    Raises:
        ConfigError: at least one option is unknown.
    """
    options, positionals = names_of(command)
    typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    unknown = [option for option in typed if option not in ("--", "--help") and _plain(option) not in options]
    lines = []
    for option in dict.fromkeys(unknown):
        if _plain(option).rstrip("s") in {name.rstrip("s") for name in positionals}:
            lines.append(
                f"{option}: is not an option; write the value alone: poise {verb} {_plain(option).upper()}"
            )
        else:
            lines.append(f"{option}: no such option{_instead(_plain(option), options)}")
    if lines:
        raise ConfigError("\n".join([*lines, f"all options: poise {verb} --help"]))


def with_todays_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with today's name where an option has the name of an earlier version."""
    words = []
    for word in arguments:
        option, equals, value = word.partition("=")
        now = Config.earlier.get(_plain(option)) if option.startswith("--") else None
        words.append(word if now is None else f"--{now.replace('_', '-')}{equals}{value}")
    return words


def names_of(command: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The names of a verb's options and of its positional arguments, with underscores."""
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
    """What to write in place of an unknown option; "" if no option is similar."""
    _, _, last = name.rpartition(".")
    meant = SYNONYMS.get(last)
    if meant and meant.split(" ")[0].replace("-", "_") in options:
        return f"; in poise it is --{meant}"
    if last in WITHOUT:
        return f"; {WITHOUT[last]}"
    grouped = {option.rpartition(".")[2]: option for option in sorted(options)}
    near = [option for option in sorted(options) if option.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, sorted(options), n=3)
    near = near or [grouped[name] for name in difflib.get_close_matches(last, grouped, n=3, cutoff=0.75)]
    if near:
        return f"; did you mean {' or '.join('--' + option.replace('_', '-') for option in near)}?"
    return ""


def _plain(argument: str) -> str:
    return argument.removeprefix("--").replace("-", "_")
