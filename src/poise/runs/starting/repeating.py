"""What a folder names and the user must repeat, before poise imports a module or reads another folder."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from poise.config import Config
from poise.runs.folders import RunError
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
