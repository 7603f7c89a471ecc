"""The verbs that list what there is: presets, envs, completion."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from poise.checked import flat
from poise.cli.arguments import Json
from poise.cli.telling import as_json
from poise.config import Config
from poise.runs.presets import PRESETS
from poise.system.streams import quiet_output
from poise.system.terminal import print
from poise.wording import counted


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
    for row in rows:
        print(f"{row['name']}  ({row['env']})\n  {row['about']}")
        changes = (f"{path.replace('_', '-')} {value}" for path, value in row["changes"].items())
        print(f"  {', '.join(changes)}\n")


def envs(json_: Json = False) -> None:
    """List the environments: backend, spaces, time limit, and the mean return that counts as solved.

    Example: poise envs
    """
    from poise.envs.listing import list_envs

    with quiet_output():
        listed, refused = list_envs()
    if json_:
        print(as_json([dataclasses.asdict(row) for row in listed]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("environment", "backend", "obs", "action", "limit", "solved"):
        table.add_column(title, justify="right" if title in ("limit", "solved") else "left", no_wrap=True)
    for row in listed:
        bar = "" if row.solved is None else f"{row.solved:g}"
        table.add_row(row.id, row.backend, row.obs, row.action, str(row.time_limit or ""), bar)
    Console().print(table)
    print(
        "\nobs, action: size or number of choices; limit: steps of an episode; solved: the mean return from "
        "which the task counts as solved"
    )
    print(f"Gymnasium has {counted(len(refused), 'more id')} that need another package or have other spaces.")
    print("Any id that Gymnasium can make works, and module:Task for a task in your own module.")


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], Positional, arg(metavar="SHELL")]) -> None:
    """Print the shell completion script.

    Example: poise completion bash > ~/.local/share/bash-completion/completions/poise

    Args:
        shell: The shell.
    """
    raise Completion(shell)


class Completion(Exception):
    """Carries the name of the shell out of the parser, which then has to write the script."""
