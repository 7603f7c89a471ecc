"""What a folder names and the user must repeat, before poise imports a module or reads another folder."""

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from poise.config import Config
from poise.envs.forms.text import Named, Variant, parse
from poise.envs.naming import only_here, reaches_outside
from poise.own.naming import unnamed
from poise.runs.folders import RunError
from poise.system import cluster
from poise.system.terminal import typed


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """The options of a training as they are repeated for its folder; None: not repeated.

    Of a single training only ``curriculum``: its start is in its checkpoints.
    """

    start_from: str | None = None
    demonstrations: str | None = None
    curriculum: str | None = None


NOTHING_REPEATED = Repeated()
WHY = {
    "start_from": "starts from another run; to read that",
    "demonstrations": "has demonstrations in another file; to read that",
    "curriculum": "has a curriculum in a Python module; to import and run it",
}


def check_repeated(
    folder: Path, config: Config, repeated: Repeated, *, needed: tuple[str, ...] = ("curriculum",)
) -> None:
    """Checks that the user repeats what is read or imported.

    Args:
        folder: of the training, or of several.
        config: theirs.
        repeated: by the user.
        needed: the options that have to be repeated, where the training has them.

    Raises:
        RunError: names what has to be repeated, or what must not be.
    """
    for name, value in dataclasses.asdict(repeated).items():
        stored, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if name not in needed:
            if value is not None:
                raise RunError(f"{folder}: leave out {option}: a training has its start in its checkpoints")
        elif stored is None and value is not None:
            raise RunError(f"{folder}: has no {name}: leave out {option}")
        elif stored != value:
            python = f"{name}={stored!r}"
            raise RunError(
                f"{folder}: {WHY[name]}, repeat the name: {typed(option, stored)} (in Python: {python})"
            )


ALL = ("start_from", "demonstrations", "curriculum")  # of several trainings, of which some may not have begun


def typed_again(config: Config, names: tuple[str, ...] = ALL) -> str:
    """The options among ``names`` that have to be repeated, as they are typed, with a leading space."""
    values = {name: value for name in names if (value := getattr(config, name)) is not None}
    options = [("--" + name.replace("_", "-"), value) for name, value in values.items()]
    networks = [("--network", *config.own_networks)] if config.own_networks else []
    return "".join(f" {typed(*words)}" for words in [*options, *networks])


def resume_command(folder: Path, env: str, config: Config, ray: str | None) -> str:
    """The command that resumes a training, with what has to be repeated.

    The call in Python where only the program that trained has the environment.
    """
    if only_here(env) is not None:
        arguments = _arguments(folder, parse(env), config) + ([] if ray is None else [f"ray={ray!r}"])
        return f"in Python, poise.resume({', '.join(arguments)})"
    return f"{typed_resume(folder, env, config)}{cluster.typed(ray)}"


def _arguments(folder: Path, env: Variant, config: Config) -> list[str]:
    """The arguments of ``poise.resume``, with what the program alone has under its name there."""
    arguments = [repr(str(folder)), f"env={_in_python(env.env)}"]
    if env.wrappers:
        arguments.append(f"wrappers=[{', '.join(map(_in_python, env.wrappers))}]")
    if config.curriculum is not None:
        arguments.append(f"curriculum={config.curriculum!r}")
    if config.own_networks:
        arguments.append(f"network={list(config.own_networks)!r}")
    return arguments


def _in_python(part: Named) -> str:
    """A class or a function of the program by its name, where it has one; anything else as text."""
    if not part.name.startswith("<"):
        return repr(str(part))
    name = re.sub(r"(-\d+)?>$", "", part.name[1:])
    return name if name.isidentifier() and name != "lambda" else "..."


def names_again(env: str, config: Config) -> dict[str, tuple[str, ...]]:
    """What ``poise resume`` of a training needs again, by option: names of modules."""
    names = {
        "env": (env,) if reaches_outside(env) else (),
        "curriculum": () if config.curriculum is None else (config.curriculum,),
        "network": tuple(config.own_networks),
    }
    return {option: words for option, words in names.items() if words}


def typed_resume(folder: Path, env: str, config: Config, *changes: str) -> str:
    """The whole command that resumes a training, with ``changes`` as they are typed."""
    again = [word for option, words in names_again(env, config).items() for word in (f"--{option}", *words)]
    return typed("poise", "resume", folder, *changes, *again)


def refuse_missing(folder: Path, env: str, config: Config, given: Collection[str], *changes: str) -> None:
    """Refuses to resume where several names are missing, with the whole command.

    Where only one is, what needs it says so itself.

    Args:
        folder: of the training.
        env: its environment.
        config: of the training.
        given: the options that the user has repeated.
        changes: what else the user asks for, as it is typed.

    Raises:
        RunError: names all of them.
    """
    names = names_again(env, config)
    missing = [option for option in names if option not in given]
    if "network" in missing and not unnamed(config.own_networks):
        missing.remove("network")
    if len(missing) < 2:
        return
    python = [(name, list(names[name])) for name in missing]
    arguments = ", ".join(f"{name}={words if words[1:] else words[0]!r}" for name, words in python)
    raise RunError(
        f"{folder}: its {', '.join(missing[:-1])} and {missing[-1]} name Python modules; to import and run "
        f"them, repeat the names: {typed_resume(folder, env, config, *changes)} (in Python: {arguments})"
    )
