"""The options that ``--help`` shows. ``--help-all`` shows all of them; all can always be typed."""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, NamedTuple

from tyro.conf import Positional, Suppress

from poise.system.terminal import print

# names of fields, with the groups of ``Config``
EVERYDAY = {
    "config",
    "total_steps",
    "seed",
    "seeds",
    "num_envs",
    "device",
    "out",
    "run_dir",
    "name",
    "video",
    "eval_every",
    "against",
    "search",
    "trials",
    "final_seeds",
    "env",
    "env.KEY",
    "wrapper",
    "stop_at",
    "start_from",
    "history",
    "rounds",
    "ppo.num_steps",
    "ppo.num_epochs",
    "ppo.minibatch_size",
    "ppo.gamma",
    "ppo.clip",
    "ppo.policy_learning_rate",
    "ppo.entropy_coef",
    "policy.hidden",
    "value.hidden",
}
ALSO = {"resume": {"network", "curriculum", "max_seconds"}}  # of one verb: without these a run may not resume
LONG = {"train", "resume", "experiment", "sweep", "bench"}  # verbs whose --help is shorter than --help-all
SINGLE = {"run_dir", "stop_at", "max_seconds", "workers"}  # options of a single training
REFUSED = {"experiment": SINGLE, "sweep": SINGLE | {"together", "evaluate"}}  # options that a verb refuses


class Help(NamedTuple):
    """A help that is asked for: of which verb, and whether it lists the options of ``EVERYDAY`` alone."""

    verb: str
    brief: bool


_help: ContextVar[Help | None] = ContextVar("help", default=None)  # the help that is being written


def words_of_help(verb: str, options: Sequence[str]) -> tuple[list[str], Help | None]:
    """The options with ``--help`` for ``--help-all``, and the help that they ask for, of ``LONG``."""
    asked = [option for option in options if option in ("-h", "--help", "--help-all")]
    plain = ["--help" if option == "--help-all" else option for option in options]
    return plain, Help(verb, "--help-all" not in asked) if verb in LONG and asked else None


def run_help(run: Callable[[Callable[..., Any]], None], command: Callable[..., Any], help: Help) -> None:
    """Writes the help of a command. A brief one ends with how to see all options."""
    token = _help.set(help)
    try:
        run(_with_shown(command))
    except SystemExit as end:
        if help.brief and end.code in (0, None):
            print(f"\nThese are the everyday options; all options: poise {help.verb} --help-all")
        raise
    finally:
        _help.reset(token)


def _with_shown(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command without those of its own options, which are in no record, that the help does not list."""

    @functools.wraps(command)
    def listed(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = [p.replace(annotation=shown(name, hints[name])) for name, p in signature.parameters.items()]
    del listed.__wrapped__  # which has the signature with all options
    listed.__annotations__ = {p.name: p.annotation for p in parameters}
    listed.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    return listed


def _is_option(hint: Any) -> bool:
    """Whether a parameter is one option: neither positional nor a record of options."""
    markers = getattr(hint, "__metadata__", ())
    inner = typing.get_args(hint)[0] if markers else hint
    return Positional not in markers and not dataclasses.is_dataclass(inner)


def shown(name: str, hint: Any) -> Any:
    """The annotation of an option or of a group, without those that the help does not list."""
    help = _help.get()
    listed = EVERYDAY | ALSO.get(help.verb, set()) if help else EVERYDAY
    hidden = help and (name in REFUSED.get(help.verb, ()) or (help.brief and name not in listed))
    return Annotated[hint, Suppress] if hidden and _is_option(hint) else hint


def shortened(text: str) -> str:
    """The text about an option; in a brief help what comes before its first period or semicolon."""
    if not _is_brief():
        return text
    text = re.sub(r" \(docs/[\w.]+\)", "", text)
    first = re.split(r"[.;] ", text)[0]
    return f"{first}." if first != text and text.endswith(".") else first


def about_group() -> str | None:
    """The text about a group of options; None: the docstring of its record."""
    return "" if _is_brief() else None


def _is_brief() -> bool:
    help = _help.get()
    return help is not None and help.brief
