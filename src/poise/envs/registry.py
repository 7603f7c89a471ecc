"""From a name to an environment: which backend has it (``resolve``), and N of them (``make``)."""

import re
from typing import Any, Literal, NamedTuple

from poise.envs.naming import (
    JAX_PACKAGES,
    checked_name,
    import_module_of,
    is_anothers,
    is_gymnasiums,
    unknown,
)
from poise.envs.vector import EnvError, VectorEnv
from poise.spec import Backend, Spec
from poise.system.interrupts import refuse_imported_script

# Gymnasium's MuJoCo tasks that had a -v2 or a -v3; True: poise runs -v2 as -v4
_OLD_TASKS = {
    "InvertedPendulum": True,
    "Reacher": True,
    "HalfCheetah": True,
    "Hopper": True,
    "Walker2d": True,
    "InvertedDoublePendulum": False,
    "Ant": False,
    "Swimmer": False,
    "Pusher": False,
    "Humanoid": False,
    "HumanoidStandup": False,
}


class Resolved(NamedTuple):
    """The environment and the backend that will be used.

    Attributes:
        note: a sentence for the user, if any.
        reading: the spec of the agent that acts or learns in it; it decides whether pixels are numbers.
    """

    id: str
    backend: Literal["mujoco", "native", "mjx", "atari", "gymnasium", "gymnasium-async"]
    note: str | None = None
    reading: Spec | None = None


def resolve(id: str, backend: Backend = "auto") -> Resolved:
    """The environment and backend that ``make`` would use. No environment is made.

    Raises:
        EnvError: there is no such environment (the message gives the nearest names), this backend does
            not have it, or the module of ``module:name`` cannot be imported.
    """
    id, note = _replace_retired(checked_name(id))
    if id.partition(":")[0] in JAX_PACKAGES:
        return _resolve_packaged(id, backend)
    name = import_module_of(id)
    offered: list[str] = []
    replaced = False  # whether the user registered another environment under the name
    # Each backend is imported only if the ones before it do not have the environment.
    if backend in ("auto", "native"):
        from poise.envs.native.names import REGISTERED, find

        if (task := find(id)) is not None:
            if is_gymnasiums(name, task.spec.time_limit):
                return Resolved(id, "native", note)
            replaced = True
        offered = sorted(REGISTERED)
    if backend in ("auto", "mujoco", "mjx"):
        from poise.envs.tasks import GYMNASIUMS, TASKS

        if (kind := TASKS.get(name)) is not None:
            if name not in GYMNASIUMS or is_gymnasiums(name, kind.time_limit):
                return Resolved(id, "mjx" if backend == "mjx" else "mujoco", note)
            replaced = True
        offered = sorted(TASKS)
    if backend in ("native", "mujoco", "mjx"):
        if replaced:
            raise EnvError(
                f"backend {backend} has Gymnasium's own {name}, but something else is registered under that "
                "name; --backend gymnasium trains on it"
            )
        raise EnvError(f"backend {backend} has no {id}; it has {', '.join(offered)}")

    from poise.envs.forms.making import is_registered

    if backend in ("auto", "atari") and _is_game(id):
        return Resolved(id, "atari", note)
    if is_registered(id):
        if backend == "atari":
            raise EnvError(_explain_no_game(id))
        return Resolved(id, "gymnasium" if backend == "auto" else backend, note)
    raise EnvError(_explain_unknown(id))


def _resolve_packaged(id: str, backend: Backend) -> Resolved:
    """An environment in JAX of a package, such as ``gymnax:CartPole-v1``."""
    from poise.envs.native.names import find

    if backend not in ("auto", "native"):
        raise EnvError(f"backend {backend} has no {id}: it is written in JAX, and runs on backend native")
    find(id)
    return Resolved(id, "native")


def _replace_retired(id: str) -> tuple[str, str | None]:
    """``id``, or its -v4 if that is the same task, and a note that says so."""
    match = re.fullmatch(r"(\w+)-v([23])", id)
    if match is None or match[1] not in _OLD_TASKS or is_anothers(id):
        return id, None
    name, version = match.groups()
    if version == "2" and _OLD_TASKS[name]:
        return (
            f"{name}-v4",
            f"{id} is run as {name}-v4: the same task and model, on a MuJoCo that is maintained.",
        )
    raise EnvError(
        f"{id} needs mujoco-py, which is retired, and it differs from {name}-v4 (Ant's observation, for "
        f"example); choose {name}-v5"
    )


def _is_game(id: str) -> bool:
    from poise.envs.atari import settings_of

    return settings_of(id) is not None


def _explain_no_game(id: str) -> str:
    return (
        f"backend atari has the games of ale-py as that registers them, such as ALE/Pong-v5, and {id} is "
        "something else; --backend gymnasium trains on it"
    )


def _explain_unknown(id: str) -> str:
    from poise.envs.gymnasium import registered_ids
    from poise.envs.native.names import REGISTERED, find
    from poise.envs.tasks import TASKS

    if find(id) is not None:
        return f"Gymnasium has no {id}; backend native has it"
    return unknown(id, [*registered_ids(), *REGISTERED, *TASKS])


def make(
    id: str,
    num_envs: int,
    backend: Backend = "auto",
    *,
    timeout: float | None = None,
    restart: bool = False,
    first: int = 0,
    reading: Spec | None = None,
) -> VectorEnv:
    """``num_envs`` environments ``id``, stepped together.

    Args:
        id: a registered id, or ``module:name`` of an id or a class. The module is imported.
        num_envs: how many.
        backend: ``auto`` takes the fastest one on a CPU that has the environment: native (JAX), then mujoco
            (batch engine), then atari (ale-py's vector environment), then gymnasium.
        timeout: seconds for a step or a reset (gymnasium-async only); None: no limit.
        restart: whether an environment that fails is made again (gymnasium-async only); otherwise the fault
            is raised.
        first: the number of the first environment in error messages (atari, gymnasium and gymnasium-async).
        reading: the spec of an agent, as in ``Resolved``; None: there is none yet.

    Raises:
        EnvError: there is no such environment, this backend does not have it, or its spaces are not
            supported.
    """
    refuse_imported_script()
    resolved = resolve(id, backend)
    match resolved.backend:
        case "native" | "mjx":
            return _make_in_jax(resolved.id, num_envs, mjx=resolved.backend == "mjx")
        case "mujoco":
            return _make_mujoco(resolved.id, num_envs)
        case "atari":
            from poise.envs.atari import AtariEnv

            return AtariEnv(resolved.id, num_envs, first=first)
        case "gymnasium" | "gymnasium-async":
            from poise.envs.gymnasium import GymnasiumEnv

            options = {"processes": True, "timeout": timeout, "restart": restart}
            options = options if resolved.backend == "gymnasium-async" else {}
            return GymnasiumEnv(resolved.id, num_envs, first=first, reading=reading, **options)


def register(name: str, env: Any) -> None:
    """Register an environment as ``name``, for ``poise train module:name`` and ``poise.train``.

    One that was registered under this name before is replaced.

    Args:
        name: not one of Gymnasium's, and without a colon.
        env: a class derived from ``poise.Task`` or ``poise.JaxEnv``, or a function that makes a ``JaxEnv``.

    Raises:
        EnvError: the name is not free, or a part of the environment is missing.
    """
    from poise.envs.tasks import GYMNASIUMS, TASKS, Task

    if name in GYMNASIUMS or ":" in name or not name:
        reason = "it is Gymnasium's" if name in GYMNASIUMS else "a name has no colon"
        raise EnvError(f"{name!r} cannot be registered: {reason}")
    is_task = isinstance(env, type) and issubclass(env, Task)
    needed = ("model", "frame_skip") if is_task else ()
    if isinstance(env, type):
        missing = [part for part in needed if not hasattr(env, part)]
        missing += sorted(getattr(env, "__abstractmethods__", ()))
        if missing:
            raise EnvError(f"{name}: {env.__name__} has no {', '.join(missing)}")
    if is_task:
        kind: Any = env
        TASKS[name] = kind
        return
    from poise.envs.native.names import register_jax_env

    maker: Any = env
    register_jax_env(name, maker)


def _make_in_jax(id: str, num_envs: int, *, mjx: bool) -> VectorEnv:
    from poise.envs.native.names import find, find_task
    from poise.envs.native.vector import NativeEnv

    task = find_task(id) if mjx else find(id)
    assert task is not None  # it was found by ``resolve``
    return NativeEnv(task, num_envs)


def _make_mujoco(id: str, num_envs: int) -> VectorEnv:
    from poise.envs.mujoco import MujocoEnv
    from poise.envs.tasks import new_task

    return MujocoEnv(id, new_task(id, import_module_of(id)), num_envs)
