"""The options that ``--help`` shows. ``--help-all`` shows all of them; all can always be typed."""

import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

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
LONG = {"train", "resume", "experiment", "sweep", "bench"}  # verbs whose --help is shorter than --help-all
REFUSED = {"stop_at": {"experiment", "sweep"}}  # options that some of these verbs refuse
_brief = ContextVar("brief", default="")  # the verb whose help is brief


def words_of_help(verb: str, options: Sequence[str]) -> tuple[list[str], bool]:
    """The options with ``--help`` for ``--help-all``, and whether the help shall be brief."""
    asked = [option for option in options if option in ("-h", "--help", "--help-all")]
    plain = ["--help" if option == "--help-all" else option for option in options]
    return plain, verb in LONG and bool(asked) and "--help-all" not in asked


def run_briefly(run: Callable[[Callable[..., Any]], None], command: Callable[..., Any], verb: str) -> None:
    """Runs a command whose help lists the options of ``EVERYDAY`` alone, and how to see all of them."""
    token = _brief.set(verb)
    try:
        run(_brief_command(command))
    except SystemExit as end:
        if end.code in (0, None):
            print(f"\nThese are the everyday options; all options: poise {verb} --help-all")
        raise
    finally:
        _brief.reset(token)


def _brief_command(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command without its own options, those in no record, that are not of every day."""

    @functools.wraps(command)
    def brief(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = [p.replace(annotation=shown(name, hints[name])) for name, p in signature.parameters.items()]
    del brief.__wrapped__  # which has the signature with all options
    brief.__annotations__ = {p.name: p.annotation for p in parameters}
    brief.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore
    return brief


def _is_option(hint: Any) -> bool:
    """Whether a parameter is one option: neither positional nor a record of options."""
    markers = getattr(hint, "__metadata__", ())
    inner = typing.get_args(hint)[0] if markers else hint
    return Positional not in markers and not dataclasses.is_dataclass(inner)


def shown(name: str, hint: Any) -> Any:
    """The annotation of an option or of a group; a brief help lists the options of every day alone."""
    verb = _brief.get()
    hidden = verb and (name not in EVERYDAY or verb in REFUSED.get(name, ()))
    return Annotated[hint, Suppress] if hidden and _is_option(hint) else hint


def shortened(text: str) -> str:
    """The text about an option; in a brief help what comes before its first period or semicolon."""
    if not _brief.get():
        return text
    text = re.sub(r" \(docs/[\w.]+\)", "", text)
    first = re.split(r"[.;] ", text)[0]
    return f"{first}." if first != text and text.endswith(".") else first


def about_group() -> str | None:
    """The text about a group of options; None: the docstring of its record."""
    return "" if _brief.get() else None
