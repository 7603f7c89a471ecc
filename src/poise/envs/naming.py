"""The name that a user typed for an environment: check it, import its module, or say what to type instead."""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

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
    "dm_control/": ("shimmy", "shimmy"),
}
# the extra that has a module
EXTRAS = {"ale_py": "atari", "minatar": "minatar", "minigrid": "minigrid", "popgym": "popgym"}
# the word before the colon of an environment in JAX, which is also the name of an extra: the package
JAX_PACKAGES = {"gymnax": "gymnax", "craftax": "craftax", "playground": "mujoco_playground", "brax": "brax"}
REGISTER = 'gymnasium.register("Mine-v0", {})'


def checked_name(env: object) -> str:
    """``env``, if it is a name.

    Raises:
        EnvError: it is an environment, a class or a function. The message says how to register it.
    """
    if isinstance(env, str):
        return env
    if isinstance(env, type) or inspect.isroutine(env):
        thing = getattr(env, "__name__", "make")
        kind = f"the {'class' if isinstance(env, type) else 'function'} {thing}"
        maker = thing if thing.isidentifier() else "make"
    else:
        kind, maker = f"an object ({type(env).__name__})", "make"
    raise EnvError(
        f"env is {kind}, and must be a name: each environment and each process makes its own. "
        f"Write {REGISTER.format(maker)}, where {maker} is the class or a function that returns a new "
        'environment, then give "Mine-v0"'
    )


def names_module(id: str) -> bool:
    """Whether an id names a module of the user, such as ``tank:Tank``: its code would run."""
    return ":" in id and id.partition(":")[0] not in JAX_PACKAGES


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
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except ModuleNotFoundError as error:
            raise EnvError(_missing(id, module, error)) from error
        except BaseException as error:  # code at the top of the module may raise anything
            raise EnvError(f"{id}: its module cannot be imported: {message_of(error)}") from error
    return name


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
    install = "" if is_installed(module) else f", after uv pip install {package}"
    return f"{id} is registered by the package {package}; name its module: {module}:{id}{install}"


def _package_of(id: str) -> tuple[str, str] | None:
    """The module that registers ids that begin like this one, and its package or extra."""
    return next((source for start, source in PACKAGES.items() if id.startswith(start)), None)


def _in_module(id: str, module: str, name: str) -> str | None:
    """What ``name`` in an imported module is, if it is not an environment; None if nothing is known."""
    value = getattr(sys.modules.get(module), name, None)
    if value is None:
        return _similar_in_module(id, module, name)
    if isinstance(value, type):
        return _other_class(id, value)
    new = f"{name[:1].upper()}{name[1:]}-v0".replace("_", "-")
    if callable(value):
        return (
            f'{id} is a function; give it an id: gymnasium.register("{new}", {name}) in {module}.py, then '
            f"type {module}:{new}"
        )
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


def _other_class(id: str, cls: type) -> str:
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
    """Whether ``name`` is registered, but not by Gymnasium itself."""
    spec = _registered(name)
    return spec is not None and not _is_of_gymnasium(spec)


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
