"""The verbs that list what there is: presets, envs, completion."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from poise.checked import ConfigError, flat
from poise.cli.arguments import Json
from poise.cli.telling import as_json
from poise.config import Config
from poise.settings.presets import FAMILIES, PRESETS
from poise.system.streams import quiet_output
from poise.system.terminal import print
from poise.wording import counted

if TYPE_CHECKING:
    from poise.envs.listing import Family, Listed


def presets(json_: Json = False) -> None:
    """List the presets of poise train, and the options they change.

    Example: poise presets
    """
    defaults = flat(Config().to_dict())
    rows = []
    for name, preset in PRESETS.items():
        options = flat(preset.config.to_dict())
        changes = {path: value for path, value in options.items() if value != defaults[path]}
        rows.append({"name": name, "env": preset.env, "about": preset.about, "changes": changes})
    if json_:
        print(as_json(rows))
        return
    for family, meaning in FAMILIES.items():
        print(f"{family}: {meaning}\n")
        for row in (row for row in rows if row["name"].startswith(f"{family}/")):
            changes = [f"--{path.replace('_', '-')}\0{value}" for path, value in row["changes"].items()]
            print(f"  {row['name']}  ({row['env']})")
            print(_wrapped(row["about"]))
            # an option and its value stay in one line
            print(f"{_wrapped(', '.join(changes) or 'all options have their defaults')}\n".replace("\0", " "))
    print("Train one: poise train minigrid/unlock. Every option can be changed beside it.")


def runs(
    place: Annotated[Path, Positional, arg(metavar="[DIR]")] = Path("runs"),
    filter: Annotated[tuple[str, ...], arg(metavar="WORD...", help_behavior_hint="")] = (),
    sort: str = "time",
    reverse: bool = False,
    json_: Json = False,
) -> None:
    """List the runs in a folder: name, task, status, score, and what differs from the defaults.

    Example: poise runs --filter Reacher finished --sort score

    Args:
        place: The folder.
        filter: Only runs that have each of these words in their name, tags, note, task, status, options or
            folder: all words up to the next option, so write DIR before it.
        sort: The column to sort by: time (of the last checkpoint), name, env, seed, status, steps or score.
        reverse: Whether the largest come first; otherwise they come last.
    """
    from poise.studies.listing import lines, list_runs

    listed = list_runs(place, filter, sort=sort, reverse=reverse)
    if json_:
        print(as_json([run.to_dict() for run in listed]))
    elif listed:
        print(*lines(listed), sep="\n")
    else:
        print(f"{place}: no runs" + (f" with {' and '.join(filter)}" if filter else ""))


def _wrapped(text: str) -> str:
    """A text in lines of 80 columns at most, indented."""
    indent = 4 * " "
    return textwrap.fill(text, 80, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def envs(
    word: Annotated[str, Positional, arg(metavar="[WORD]", help_behavior_hint="")] = "", json_: Json = False
) -> None:
    """List the environments: backend, spaces, time limit, and the mean return that counts as solved.

    Example: poise envs minigrid

    Args:
        word: Only environments with this word in their ids, also those of packages.
    """
    from poise.envs.listing import in_families, list_envs, list_families

    with quiet_output():
        listed, refused = list_envs(word)
        families, missing = list_families()
        listed += in_families(families, word) if word else []
    if not listed:
        raise ConfigError("; ".join([f"no environment here has {word!r} in its id", *missing]))
    if json_:
        print(as_json([dataclasses.asdict(row) for row in listed]))
        return
    _print_envs(listed)
    if word:
        return
    print("\nobs, action: size or number of choices; limit: steps of an episode;")
    print("solved: the mean return from which the task counts as solved\n")
    _print_families(families)
    for line in missing:
        print(line)
    others = counted(len(refused), "other id")
    print(f"\nGymnasium has {others} that cannot be trained here: a package is missing,")
    print("or a space is not supported. For a task of your own type module:Task.")


def _print_envs(listed: Sequence["Listed"]) -> None:
    made = [row for row in listed if row.obs is not None]
    if made:
        columns = ("environment", "backend", "obs", "action", "limit", "solved")
        rows = [
            (row.id, row.backend, row.obs, row.action, row.time_limit or "", _solved(row)) for row in made
        ]
        _print_table(columns, rows, right=("limit", "solved"))
    for row in listed:
        if row.obs is None:
            print(row.id)


def _print_families(families: Sequence["Family"]) -> None:
    rows = [(family.word, len(family.ids), family.ids[0]) for family in families]
    if rows:
        _print_table(("family", "ids", "first id"), rows, right=("ids",))
        print(f"\nTo list a family: poise envs {families[0].word}")


def _solved(row: "Listed") -> str:
    return "" if row.solved is None else f"{row.solved:g}"


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], Positional, arg(metavar="SHELL")]) -> None:
    """Print the shell completion script.

    Example: poise completion bash > ~/.local/share/bash-completion/completions/poise

    Args:
        shell: The shell.
    """
    raise Completion(shell)


class Completion(Exception):
    """Carries the name of the shell out of the parser, which then has to write the script."""
