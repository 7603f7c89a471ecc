"""Settings in files: the option --config, and the verbs config and translate."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from poise.checked import ConfigError, flat
from poise.cli.arguments import Json
from poise.cli.telling import as_json
from poise.config import Config
from poise.runs.options import Options
from poise.settings.files import NOTHING, Settings, as_yaml, load_data, nested, read_settings
from poise.settings.presets import PRESETS, starting_point
from poise.settings.sb3 import translate as translate_zoo
from poise.store.places import instead_of_run
from poise.system.terminal import print, typed

STARTS = ("start_from", "start_parts", "demonstrations", "curriculum")


def settings_of(arguments: Sequence[str]) -> Settings:
    """The settings that ``--config`` names, and those that follow from the agent of ``--start-from``.

    They are read before all other options, whose defaults they are.

    Raises:
        ConfigError: they cannot be read, or ``--config`` appears twice.
        CheckpointError: there is no agent.
    """
    sources = [words[0] for words in words_of("--config", arguments)]
    if len(sources) > 1:
        raise ConfigError("config: appears twice; one file can be named")
    settings = _read(sources[0]) if sources and sources[0] else NOTHING
    given: dict[str, Any] = {
        name: words[-1] for name in STARTS if (words := words_of(_option(name), arguments))
    }
    settings.refuse_curriculum(given, lambda value: f": {typed('--curriculum', value)}")
    settings.refuse_paths(given, lambda name, value: f": {typed(_option(name), value)}")
    if "start_from" in given:
        run = given["start_from"][0]
        given["start_from"] = None if run in ("", "None") else run
    if "start_parts" in given:  # repeated, they add up
        given["start_parts"] = list(itertools.chain.from_iterable(words_of("--start-parts", arguments)))
    return settings.starting_from(given)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _read(source: str) -> Settings:
    """``read_settings``. A folder that holds runs, given for a run, is answered with the newest of them."""
    place = Path(source)
    if place.is_dir() and not (place / "config.json").exists() and (why := instead_of_run(place)):
        raise ConfigError(f"{source}: {why}")
    return read_settings(source)


def words_of(option: str, arguments: Sequence[str]) -> list[list[str]]:
    """The words after an option, each time that it appears; an empty one without any."""
    found = []
    for number, argument in enumerate(arguments, start=1):
        name, equals, value = argument.partition("=")
        if name == option:
            following = itertools.takewhile(lambda word: not word.startswith("--"), arguments[number:])
            found.append([value] if equals else list(following) or [""])
    return found


def config(
    source: Annotated[str, Positional, arg(metavar="RUN|FILE|PRESET")],
    all_: Annotated[bool, arg(name="all")] = False,
    json_: Json = False,
) -> None:
    """Print the settings of a run, a file or a preset, as a file for --config.

    Example: poise config runs/Reacher-v4/20261124-120000-0 > reacher.yaml

    Args:
        source: The folder of a run, a file of settings, a preset, or sb3.
        all_: Print every setting; otherwise those that differ from the defaults. For a run, defaults that
            follow from the task and the budget, such as the learning rate, are printed as numbers.
    """
    world, chosen, options = _settings(source)
    usual = flat(Config().to_dict())
    shown = {name: value for name, value in chosen.items() if all_ or value != usual[name]}
    shown = {**world, **shown, **options}
    print(as_json(shown) if json_ else as_yaml(shown, f"poise train --config FILE: the settings of {source}"))


def _settings(source: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The environment, the configuration and the other options, by their dotted names."""
    if source in PRESETS:
        env, preset = starting_point(source)
        return {"env": env}, flat(preset.to_dict()), {}
    settings = _read(source)
    usual = Options()
    options = {name: value for name, value in settings.options.items() if value != getattr(usual, name)}
    world = {"env": settings.env, "env_kwargs": dict(settings.env_kwargs), "wrappers": settings.wrappers}
    return (
        {name: value for name, value in world.items() if value},
        flat(settings.over(Config()).to_dict()),
        options,
    )


def translate(
    file: Annotated[Path, Positional, arg(metavar="FILE.yml")],
    task: Annotated[str, Positional, arg(metavar="NAME")],
    env: Annotated[str | None, arg(metavar="ENV", help_behavior_hint="")] = None,
    json_: Json = False,
) -> None:
    """Convert the hyperparameters of one task in RL Zoo's ppo.yml to a file for --config.

    Example: poise translate ppo.yml HalfCheetah-v4 --env HalfCheetah-v5 > cheetah.yaml

    Args:
        file: The file hyperparams/ppo.yml of RL Zoo (RL Baselines3 Zoo).
        task: The environment as that file names it.
        env: Its name in poise, if it is another one, for example a newer version.
    """
    try:
        found = translate_zoo(load_data(file), task)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    settings = {"env": env or task, **found.options}
    Config.from_dict(nested(found.options))  # refuses what no training could have
    if json_:
        print(as_json({"settings": settings, "without": found.without}))
        return
    command = typed("poise", "train", "--config", "FILE")
    lines = [f"{command}: {task} in {file.name}", *(f"without counterpart: {line}" for line in found.without)]
    print(as_yaml(settings, *lines))
