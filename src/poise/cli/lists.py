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


def presets(json_: Json = False) -> None:
    """List the presets that poise train understands, and what they change.

    Example: poise presets
    """
    usual = flat(Config().to_dict())
    rows = []
    for name, preset in PRESETS.items():
        mine = flat(preset.config.to_dict())
        changes = {path: value for path, value in mine.items() if value != usual[path]}
        rows.append({"name": name, "env": preset.env, "about": preset.about, "changes": changes})
    if json_:
        print(as_json(rows))
        return
    for row in rows:
        print(f"{row['name']}  ({row['env']})\n  {row['about']}")
        print(
            "  "
            + ", ".join(f"{path.replace('_', '-')} {value}" for path, value in row["changes"].items())
            + "\n"
        )


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
        "\nobs, action: their numbers; limit: steps of an episode; solved: a mean return that counts as that"
    )
    print(f"{len(refused)} more ids are known to Gymnasium and need another package, or have other spaces.")
    print("Any id that Gymnasium can make will do, also module:Task of a module of yours.")


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], Positional, arg(metavar="SHELL")]) -> None:
    """Print the shell completion script.

    Example: poise completion bash > ~/.local/share/bash-completion/completions/poise

    Args:
        shell: Which shell.
    """
    raise Completion(shell)


class Completion(Exception):
    """The shell whose completion is wanted, thrown from inside the parser, which has to make it."""
