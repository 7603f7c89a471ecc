"""The name that a user typed for an environment: check it, import its module, or say what to type instead."""

import difflib
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from poise.envs.forms.text import parse
from poise.envs.vector import EnvError
from poise.errors import message_of
from poise.system.extras import needs

# how ids begin that a package registers when it is imported: the module to name, and the package
PACKAGES = {
    "ALE/": ("ale_py", "ale-py"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "popgym-": ("popgym", "popgym"),
    "highway-": ("highway_env", "highway-env"),
    "Fetch": ("gymnasium_robotics", "gymnasium-robotics"),
    "HandManipulate": ("gymnasium_robotics", "gymnasium-robotics"),
    "HandReach": ("gymnasium_robotics", "gymnasium-robotics"),
    "AdroitHand": ("gymnasium_robotics", "gymnasium-robotics"),
    "FrankaKitchen": ("gymnasium_robotics", "gymnasium-robotics"),
    "PointMaze": ("gymnasium_robotics", "gymnasium-robotics"),
    "AntMaze": ("gymnasium_robotics", "gymnasium-robotics"),
    "dm_control/": ("shimmy", "shimmy[dm-control]"),
}
# the extra that has a module
EXTRAS = {"ale_py": "atari", "minatar": "minatar", "minigrid": "minigrid", "popgym": "popgym"}
# the word before the colon of an environment in JAX, which is also the name of an extra: the package
JAX_PACKAGES = {"gymnax": "gymnax", "craftax": "craftax", "playground": "mujoco_playground", "brax": "brax"}


def names_module(text: str) -> bool:
    """Whether the text of an environment names a module of the user, ``tank:Tank``: its code would run.

    The module may be that of a wrapper.
    """
    variant = parse(text)
    named = [wrapper.name for wrapper in variant.wrappers]
    if variant.env.name.partition(":")[0] not in JAX_PACKAGES:
        named.append(variant.env.name)
    return any(":" in name for name in named)


def reaches_outside(text: str) -> str | None:
    """Why the user has to repeat the text of an environment that a folder or a file names; None: no reason.

    The beginning of a sentence, such as "names a Python module; to import and run it".
    """
    if names_module(text):
        return "names a Python module; to import and run it"
    return "names a file or a module in an argument; to use it" if parse(text).names_file else None


def only_here(text: str) -> str | None:
    """The first name of something that only a running program has, ``<Tank>``; None without one."""
    return next((part.name for part in parse(text).parts if part.name.startswith("<")), None)


def refuse_in_processes(text: str, where: str) -> None:
    """Refuses what only this program has for processes that it starts. ``where``: what starts them.

    Raises:
        EnvError: says to put it into a module.
    """
    if (name := only_here(text)) is not None:
        word = re.sub(r"-\d+>|\W", "", name)
        raise EnvError(
            f"{text}: {name} is in this program alone, and the processes of {where} cannot import it; put it "
            f"into a module, my_envs.py, and give its name: my_envs:{'make' if word == 'lambda' else word}"
        )


def not_registered_in(text: str, where: str) -> str:
    """What to do about an id that is registered here, but not in the processes of ``where``."""
    return (
        f"{text}: is registered in this process, but not in those of {where}, which run neither the cells of "
        "a notebook nor the code under the main guard; put its class and gymnasium.register(...) into a "
        f"module, my_envs.py, and name it my_envs:{text}"
    )


def import_module_of(id: str) -> str:
    """The name in ``id``. The module in ``module:name`` is imported, which registers the name.

    Of an id of an extra, such as ``ALE/Pong-v5``, the extra's module is imported, if it is installed.

    Raises:
        EnvError: ``id`` is the path of a file, or the module cannot be imported.
    """
    module, colon, name = id.rpartition(":")
    if (advice := _advice_for_file(id)) is not None:
        raise EnvError(advice)
    if colon and not (module and name):
        raise EnvError(f"{id}: write module:Name, for example tank:Tank")
    if not module and _registered(id) is None:
        package, _ = _package_of(id) or ("", "")
        module = package if package in EXTRAS and is_installed(package) else ""
    if module:
        import_module(id, module)
    return name


def import_module(id: str, module: str) -> None:
    """Imports the module of ``id``.

    Raises:
        EnvError: it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        raise EnvError(_missing(id, module, error)) from error
    except BaseException as error:  # code at the top of the module may raise anything
        raise EnvError(f"{id}: its module cannot be imported: {message_of(error)}") from error


def _advice_for_file(id: str) -> str | None:
    """What to type if ``id`` names a file instead of a module; otherwise None."""
    match = re.fullmatch(r"(?P<folder>.*[/\\])?(?P<module>[^/\\:]+)\.py(?::(?P<name>\w[\w.-]*))?", id)
    if match is None:
        return None
    module, name = match["module"], match["name"] or "Name"
    folder = match["folder"]
    where = f"in the folder {folder}" if folder and folder != "./" else "in its folder"
    return (
        f"{id}: is a file; name its module and the environment: {where} type {module}:{name}, where {name} "
        "is a class or a registered id"
    )


def is_installed(module: str) -> bool:
    """Whether a module can be imported, as far as can be told without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _missing(id: str, module: str, error: ModuleNotFoundError) -> str:
    if (package := f"{error.name}".partition(".")[0]) in EXTRAS:
        return f"{id}: {needs(EXTRAS[package])}"
    if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
        return (
            f"{id}: its module cannot be imported: there is no {module}.py here, and no package {module} is "
            "installed; start poise in the folder of the file, or install the package"
        )
    return f"{id}: its module cannot be imported: {message_of(error)}"


def unknown(id: str, known_ids: Iterable[str]) -> str:
    """Why there is no environment ``id``, and what to type instead."""
    module, _, name = id.rpartition(":")
    ids = dict.fromkeys(known_ids)
    if module and (reason := _in_module(id, module, name)) is not None:
        return reason
    if not module and (reason := _in_package(id)) is not None:
        return reason
    same = [other for other in ids if other.lower() == name.lower()]
    prefix = f"{module}:" if module else ""
    if same:
        return f"there is no environment {id!r}; upper and lower case count: {prefix}{same[0]}"
    near = nearest(name, ids)
    if module:
        return f"there is no environment {id!r}{near}"
    return (
        f"there is no environment {id!r}{near}. If a package or a module of yours registers it, type the "
        f"module too: module:{name}"
    )


def nearest(name: str, ids: Iterable[str]) -> str:
    """The ids that are most like a name, in a clause; empty without one."""
    lower = {other.lower(): other for other in ids}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.7)
    return f"; the nearest names are {', '.join(lower[n] for n in near)}" if near else ""


def _in_package(id: str) -> str | None:
    """What to type for an id of a package that is not imported; None if it is no such id."""
    if (source := _package_of(id)) is None:
        return None
    module, package = source
    if module in EXTRAS:
        return None if is_installed(module) else f"{id}: {needs(EXTRAS[module])}"
    install = "" if is_installed(module) else f", after uv pip install {shlex.quote(package)}"
    return f"{id} is registered by the package {package}; name its module: {module}:{id}{install}"


def _package_of(id: str) -> tuple[str, str] | None:
    """The module that registers ids that begin like this one, and its package or extra."""
    return next((source for start, source in PACKAGES.items() if id.startswith(start)), None)


def from_package(id: str) -> str:
    """An id with the module of the package that registers it, if ids of the package need that."""
    module, _ = _package_of(id) or ("", "")
    return f"{module}:{id}" if module and module not in EXTRAS else id


def _in_module(id: str, module: str, name: str) -> str | None:
    """What ``name`` in an imported module is, if it is not an environment; None if nothing is known."""
    value = getattr(sys.modules.get(module), name, None)
    if value is None:
        return _similar_in_module(id, module, name)
    if isinstance(value, type):
        return other_class(id, value)
    return f"{id} is an object ({type(value).__name__}), not an environment's class or id"


def _similar_in_module(id: str, module: str, name: str) -> str | None:
    """The environment classes of an imported module whose names are similar, in a sentence."""
    import gymnasium as gym

    namespace = vars(sys.modules[module]) if module in sys.modules else {}
    in_jax = sys.modules.get("poise.envs.native.jax_env")  # not imported for this alone
    bases = (gym.Env,) if in_jax is None else (gym.Env, in_jax.JaxEnv)
    kinds = [n for n, v in namespace.items() if isinstance(v, type) and issubclass(v, bases)]
    own = [n for n in kinds if namespace[n].__module__ == module]
    same = [other for other in own if other.lower() == name.lower()]
    if same:
        return f"there is no environment {id!r}; upper and lower case count: {module}:{same[0]}"
    near = difflib.get_close_matches(name, own, n=3, cutoff=0.5) or own[:3]
    if near:
        return f"module {module} has no {name!r}; it has {', '.join(f'{module}:{n}' for n in near)}"
    return None


def other_class(id: str, cls: type) -> str:
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__}
    if "gym" in roots:
        return (
            f"{id} is a class of gym, which is retired; derive it from gymnasium.Env: reset(self, *, "
            "seed=None, options=None) returns (obs, info), step returns (obs, reward, terminated, truncated, "
            "info)"
        )
    return (
        f"{id} is a class that is not derived from gymnasium.Env; write class {cls.__name__}(gymnasium.Env), "
        "or (poise.JaxEnv) if it is written in JAX"
    )


def is_gymnasiums(name: str, time_limit: int | None) -> bool:
    """Whether ``name`` is registered as Gymnasium itself registers it, or not at all.

    False if the user registered something else under this name, or with other arguments, wrappers or another
    time limit than ``time_limit``.
    """
    spec = _registered(name)
    if spec is None:
        return True
    _, _, cls = _entry_point(spec).partition(":")
    as_shipped = _is_of_gymnasium(spec) and cls.lower() == f"{name.partition('-')[0].lower()}env"
    changed = spec.kwargs or spec.additional_wrappers or spec.max_episode_steps != time_limit
    return as_shipped and not changed


def is_anothers(name: str) -> bool:
    """Whether ``name`` is registered, but neither by Gymnasium itself nor as its retired task.

    gymnasium-robotics registers those again, which need mujoco-py.
    """
    spec = _registered(name)
    retired = spec is not None and _entry_point(spec).startswith("gymnasium_robotics.envs.mujoco")
    return spec is not None and not _is_of_gymnasium(spec) and not retired


def _registered(name: str) -> Any:
    """The registry entry of ``name``; None if there is none or if Gymnasium is not loaded."""
    registry: dict[str, Any] = getattr(sys.modules.get("gymnasium"), "registry", {})
    return registry.get(name)


def _entry_point(spec: Any) -> str:
    entry = spec.entry_point
    if isinstance(entry, str):
        return entry
    return f"{getattr(entry, '__module__', '')}:{getattr(entry, '__name__', '')}"


def _is_of_gymnasium(spec: Any) -> bool:
    return _entry_point(spec).startswith(("gymnasium.envs.", "gymnasium.envs:"))
