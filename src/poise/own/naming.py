"""Classes of the user, named as ``module:Class``. A file alone never makes Python import one.

A name is known to this process once the user has given it: in a call, or on the command line. A class that
a configuration names is looked up among these names only.
"""

import difflib
import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from poise.checked import ConfigError
from poise.errors import message_of
from poise.system.terminal import typed

Network = str | type | Sequence[str | type]  # as the user repeats them: names or classes

_named: set[str] = set()  # by the user, in this process


def name_of(given: Any, option: str) -> Any:
    """``module:Class`` of a class, which is then known; anything else as it is.

    Raises:
        ConfigError: no other process could import the class by its name.
    """
    if not isinstance(given, type):
        return given
    module, name = given.__module__, given.__qualname__
    if module == "__main__":
        raise ConfigError(in_the_program(name, option, "nets"))
    if getattr(sys.modules.get(module), name, None) is not given:
        raise ConfigError(
            f"{option}: {module}.{name} is not this class; give one that is defined at the top of its module"
        )
    _named.add(f"{module}:{name}")
    return f"{module}:{name}"


def in_the_program(name: str, option: str, module: str) -> str:
    """Why what is in ``__main__`` is refused, and what to do. ``module``: an example of where to move it."""
    return (
        f"{option}: {name} is defined in the program itself, where no other process finds it; move it into a "
        f"module, such as {module}.py, and give {module}.{name}"
    )


def names_in(network: Network) -> tuple[str, ...]:
    """The names of networks that the user repeats.

    Raises:
        ConfigError: as ``name_of``.
    """
    given = [network] if isinstance(network, str | type) else network
    return tuple(name_of(each, "network") for each in given)


def name_problem(name: str) -> str | None:
    """What is wrong with a name as ``module:Class``, or None. Imports nothing."""
    if match := re.fullmatch(r"(?:.*/)?(\w+)\.py(?::(\w+))?", name):
        return f"is a file; write its module and the class, such as {match[1]}:{match[2] or 'Net'}"
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        return "must be module:Class, such as nets:Net"
    return None


def import_named(names: Iterable[str], option: str = "network") -> None:
    """Imports the modules of names that the user has given.

    Raises:
        ConfigError: a name is not ``module:Class``, its module cannot be imported, or has no such class.
    """
    for name in names:
        if problem := name_problem(name):
            raise ConfigError(f"{option} = {name!r}: {problem}")
        module, _, wanted = name.partition(":")
        try:
            found = vars(importlib.import_module(module))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # code at the top of the module may raise anything
            raise ConfigError(_not_imported(name, module, option, error)) from error
        if not isinstance(found.get(wanted), type):
            near = difflib.get_close_matches(wanted, [n for n, v in found.items() if isinstance(v, type)], 1)
            meant = f"; did you mean {module}:{near[0]}?" if near else ""
            raise ConfigError(f"{option} = {name!r}: module {module} has no class {wanted}{meant}")
        _named.add(name)


def _not_imported(name: str, module: str, option: str, error: BaseException) -> str:
    why = message_of(error)
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        why = (
            f"there is no {module}.py here, and no package {module} is installed; start poise in the folder "
            "of the file, or install the package"
        )
    return f"{option} = {name!r}: its module cannot be imported: {why}"


def class_of(name: str) -> type:
    """The class with this name, if the user has named it in this process.

    Raises:
        ConfigError: the name comes from a file alone.
    """
    if name not in _named:
        raise ConfigError(_to_repeat([name]))
    module, _, wanted = name.partition(":")
    return getattr(sys.modules[module], wanted)


def unnamed(names: Iterable[str]) -> list[str]:
    """Those of the names that the user has not given in this process."""
    return [name for name in names if name not in _named]


def _to_repeat(names: Sequence[str]) -> str:
    plural, given = ("s", list(names)) if len(names) > 1 else ("", names[0])
    return (
        f"its network{plural} {' and '.join(map(repr, names))} must be named again, since a file alone never "
        f"makes poise import a module: {typed('--network', *names)} (in Python: network={given!r})"
    )


def check_networks(repeated: Iterable[str], there: Iterable[str], where: object) -> None:
    """Checks that the user has named the networks that ``where`` has, and repeats no others.

    Raises:
        ConfigError: names what to write.
    """
    names = list(there)
    if other := [name for name in repeated if name not in names]:
        has = f"its own network is {' and '.join(names)}" if names else "it has no network of your own"
        raise ConfigError(f"network = {other[0]!r}: does not belong to {where}; {has}")
    if unnamed(names):
        raise ConfigError(f"{where}: {_to_repeat(names)}")
