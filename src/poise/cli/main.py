"""The command ``poise``: finds the verb, runs it, and turns errors and interrupts into exit codes."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tyro

from poise.checked import ConfigError, flat
from poise.cli.agents import evaluate, export, video
from poise.cli.arguments import registry, with_env_arguments
from poise.cli.everyday import run_help, words_of_help
from poise.cli.health import check, diff, doctor
from poise.cli.lists import Completion, completion, envs, presets, runs
from poise.cli.mistyped import as_typed, refuse_unknown, refuse_unknown_verb, with_usual_names
from poise.cli.settings import config, settings_of, translate
from poise.cli.studies import bench, compare, experiment_command, report, reproduce, sweep_command
from poise.cli.train import env_name, resume_command, train_command
from poise.cli.words import refuse_misread, with_lists_joined
from poise.config import Config
from poise.errors import PoiseError, StorageError, shortened, with_notes
from poise.runs.options import Options
from poise.settings.files import NOTHING
from poise.settings.presets import PRESETS
from poise.store.files import is_full
from poise.system.interrupts import Guard, guarded
from poise.system.pulse import announced
from poise.system.streams import lasting_output
from poise.system.terminal import print

MAKE_ENVS = "train", "experiment", "sweep", "check", "bench"  # verbs with --env.KEY
LONGEST_ERROR = 4000  # characters on the terminal
DESCRIPTION = """Proximal Policy Optimization: train an agent with one command.

poise VERB --help explains a verb and its options; poise --version prints the version."""


@contextlib.contextmanager
def _until_first_words() -> Iterator[None]:
    """Prints "loading" on a terminal every few seconds, until the verb prints something itself.

    JAX alone takes seconds to load on a busy machine.
    """
    streams = sys.stdout, sys.stderr
    if not sys.stderr.isatty():
        yield
        return

    def say(line: str) -> None:
        if not any(getattr(stream, "was_written", False) for stream in streams):
            os.write(2, f"{line}\n".encode())

    with announced("loading", say):
        yield


def _refuse_values_of_flags(arguments: list[str]) -> None:
    """Refuses ``--normalize.obs=no``, for which tyro's message does not name the option.

    Raises:
        ConfigError: a flag has a value.
    """
    flags = {"json", "prune"}
    for record in (Config(), Options()):
        flags |= {name for name, value in flat(dataclasses.asdict(record)).items() if isinstance(value, bool)}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if equals and argument.startswith("--") and name.replace("-", "_") in flags:
            group, dot, last = name.rpartition(".")
            raise ConfigError(
                f"--{name} = {value!r}: takes no value; write --{name} or --{group}{dot}no-{last}"
            )


def _commands(verb: str, options: list[str], guard: Guard) -> dict[str, Callable[..., Any]]:
    """The verbs. The defaults of ``verb`` are those of the preset or the file that ``options`` names."""
    may_be_preset = verb == "train" and not PRESETS.keys().isdisjoint(options)
    settings = settings_of(options) if verb in ("train", "experiment", "sweep") else NOTHING
    settings.refuse_networks({option.partition("=")[0].removeprefix("--") for option in options})
    target = (env_name(options) if may_be_preset else "") or settings.env or ""
    return {
        "train": train_command(target, guard=guard, settings=settings),
        "resume": resume_command(guard),
        "evaluate": evaluate,
        "doctor": doctor,
        "video": video,
        "export": export,
        "experiment": experiment_command(settings),
        "sweep": sweep_command(settings),
        "reproduce": reproduce,
        "compare": compare,
        "report": report,
        "diff": diff,
        "check": check,
        "bench": bench,
        "runs": runs,
        "presets": presets,
        "config": config,
        "translate": translate,
        "envs": envs,
        "completion": completion,
    }


def _needs_word(verb: str, command: Callable[..., Any], options: list[str]) -> bool:
    """Whether the verb needs a word that is no option. A file may name the ENV of ``poise train``."""
    first = next(iter(inspect.signature(command).parameters.values()))
    return settings_of(options).env is None if verb == "train" else first.default is first.empty


def _run(arguments: list[str], guard: Guard) -> None:
    """Runs the verb."""
    arguments = with_usual_names(arguments)
    verb, *options = arguments or [""]
    options, help = words_of_help(verb, options)
    if arguments == ["--version"]:
        print(f"poise {importlib.metadata.version('poise')}")
        return
    if verb in MAKE_ENVS:
        options = with_env_arguments(options)
    _refuse_values_of_flags(options)
    commands = _commands(verb, options, guard)
    if verb and not verb.startswith("-"):
        refuse_unknown_verb(verb, commands)
    if verb in commands and verb != "completion":
        refuse_unknown(verb, commands[verb], options)
        options = with_lists_joined(commands[verb], options)
        if not {"-h", "--help"}.intersection(options):
            refuse_misread(verb, commands[verb], options, needs=_needs_word(verb, commands[verb], options))
        run = functools.partial(tyro.cli, prog=f"poise {verb}", args=options)
        if help is None:
            run(commands[verb])
        else:
            run_help(run, commands[verb], help)
        return
    listed = verb != "completion"
    shown = {name: _in_a_line(command) if listed else command for name, command in commands.items()}

    def parse(arguments: list[str]) -> None:
        tyro.extras.subcommand_cli_from_dict(
            shown,
            prog="poise",
            description=DESCRIPTION,
            args=arguments,
        )

    try:
        parse(arguments or ["--help"])
    except Completion as shell:
        parse(["--tyro-print-completion", str(shell)])


def _run_verb(arguments: list[str], guard: Guard) -> None:
    """``_run``; an error of JAX that it finds no platform is explained."""
    try:
        _run(arguments, guard)
    except PoiseError:
        raise
    except Exception:
        if "jax" in sys.modules:
            from poise.system.machine import check_platform

            check_platform()
        raise


def _in_a_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command for the list of verbs: its help is the first paragraph alone."""

    @functools.wraps(command)
    def brief(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    brief.__doc__ = (command.__doc__ or "").split("\n\n")[0]
    return brief


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0 success; 1 the run or its environment failed; 2 wrong arguments or files; 75 the disk is full, try again
    later; 130 interrupted by Ctrl-C and 143 by SIGTERM.
    """
    active: Guard | None = None
    words = sys.argv[1:] if arguments is None else arguments
    with lasting_output():
        try:
            with guarded() as guard, registry, _until_first_words():
                active = guard
                _run_verb(words, guard)
        except PoiseError as error:
            message = as_typed(with_notes(error), everywhere=isinstance(error, ConfigError))
            print(f"poise: {shortened(message, LONGEST_ERROR)}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:  # also raised by Ray, whatever the signal was
            early = words[:1] == ["train"] and active is not None and not active.began
            more = " before the training began: there is nothing to resume" if early else ""
            print(f"poise: interrupted{more}", file=sys.stderr)
            return 128 + ((active and active.number) or signal.SIGINT)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):  # of JAX
                raise
            print("poise: not enough memory", file=sys.stderr)
            return 1
        except OSError as error:
            if not is_full(error):
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"poise: {where}the disk is full; make room and try again", file=sys.stderr)
            return StorageError.exit_code
        return 0
