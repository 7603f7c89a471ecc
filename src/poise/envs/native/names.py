"""The environments in JAX by their names: those of poise, of users, and of packages (``gymnax:NAME``)."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from poise.envs.forms.text import parse
from poise.envs.naming import JAX_PACKAGES, is_installed, nearest
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.envs.native.pendulum import Pendulum
from poise.envs.vector import EnvError
from poise.errors import message_of
from poise.system.extras import needs

REGISTERED: dict[str, Callable[..., JaxEnv]] = {
    "Pendulum-v0": lambda: Pendulum(0),
    "Pendulum-v1": lambda: Pendulum(1),
}
OWN = frozenset(REGISTERED)
_MADE: dict[str, tuple[Any, JaxTask]] = {}  # by text: from what it was made, and the task


def register_jax_env(name: str, env: Callable[[], JaxEnv]) -> None:
    """Give an environment in JAX an id. One that was registered under this name before is replaced.

    Raises:
        EnvError: the name is not free.
    """
    if name in OWN or ":" in name or not name:
        reason = "poise has one of that name" if name in OWN else "a name has no colon"
        raise EnvError(f"{name!r} cannot be registered: {reason}")
    REGISTERED[name] = env


def find(id: str) -> JaxTask | None:
    """The environment in JAX with this id, which may have arguments; None if there is none.

    The module of an id is imported already.

    It is made once, because what is compiled for it belongs to the object.

    Raises:
        EnvError: it cannot be made, or it is one of a package that is not installed or does not have it.
    """
    named = parse(id).env
    source = find_source(named.name)
    if source is None:
        return None
    if id not in _MADE or _MADE[id][0] is not source:
        try:
            env = source(**named.kwargs)
        except (KeyboardInterrupt, EnvError):
            raise
        except Exception as error:
            raise EnvError(f"{id}: making it raised {message_of(error)}") from error
        if not isinstance(env, JaxEnv):
            raise EnvError(f"{id}: is registered as an environment in JAX, but made {type(env).__name__}")
        _MADE[id] = source, JaxTask.of(id, env)
    return _MADE[id][1]


_TASKS: dict[str, tuple[Any, JaxTask]] = {}  # as _MADE, of tasks of the batch engine on MJX


def find_task(id: str) -> JaxTask:
    """A task of the batch engine on MJX. It is made once.

    Raises:
        EnvError: MJX is not installed, or it cannot simulate the task's model.
    """
    from poise.envs.tasks import find_kind, new_task

    kind = find_kind(parse(id).env.name)
    if id not in _TASKS or _TASKS[id][0] is not kind:
        if not is_installed("mujoco.mjx"):
            raise EnvError(f"backend mjx {needs('mjx')}")
        from poise.envs.native.mjx import make_task

        _TASKS[id] = kind, JaxTask.of(id, make_task(id, new_task(id)), backend="mjx")
    return _TASKS[id][1]


def find_source(id: str) -> Callable[..., JaxEnv] | None:
    """What makes the environment of this name; None if it is not in JAX."""
    word, _, packaged = id.partition(":")
    if word in JAX_PACKAGES:
        return _of_package(id, word, packaged)
    module, _, name = id.rpartition(":")
    if name in REGISTERED:
        return REGISTERED[name]
    value = getattr(sys.modules.get(module), name, None)
    return value if isinstance(value, type) and issubclass(value, JaxEnv) else None


_PACKAGED: dict[str, Callable[[], JaxEnv]] = {}


def _of_package(id: str, word: str, name: str) -> Callable[[], JaxEnv]:
    if id not in _PACKAGED:
        adapter = load_package(word)
        if name not in adapter.names():
            raise EnvError(f"{word} has no environment {name!r}{nearest(name, adapter.names())}")
        _PACKAGED[id] = lambda: adapter.make(name)
    return _PACKAGED[id]


def load_package(word: str) -> Any:
    """The module that makes the environments of a package: ``names()`` and ``make(name)``.

    Raises:
        EnvError: the package is not installed.
    """
    if not is_installed(JAX_PACKAGES[word]):
        raise EnvError(f"{word}: {needs(word)}")
    return importlib.import_module(f"poise.envs.native.{word}")
