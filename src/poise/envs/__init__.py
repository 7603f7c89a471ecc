"""The world: one interface, three backends, and the choice among them."""

import re
from typing import Literal, NamedTuple

from poise.envs.naming import checked_name, import_module_of, is_anothers, is_gymnasiums, unknown
from poise.envs.vector import EnvError, VectorEnv
from poise.errors import message_of
from poise.spec import Backend
from poise.system.interrupts import refuse_imported_script

__all__ = ["Backend", "EnvError", "Resolved", "VectorEnv", "checked_name", "make", "resolve"]

# Gymnasium's MuJoCo tasks that once had a -v2 or -v3; True: poise takes -v2 for -v4
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
    """The environment and backend that will be used, and a sentence where that needs one."""

    id: str
    backend: Literal["mujoco", "native", "gymnasium", "gymnasium-async"]
    note: str | None = None


def _modern(id: str) -> tuple[str, str | None]:
    """``id`` with a retired version replaced where the task is the same, and a note that says so."""
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
        f"{id} needs mujoco-py, which is retired, and is not the same task as {name}-v4 in every part "
        f"(Ant's observation differs, for one); choose {name}-v5"
    )


def resolve(id: str, backend: Backend = "auto") -> Resolved:
    """What ``make`` would make, found without making it.

    Raises:
        EnvError: no such environment (the nearest names are given), or none for this backend, or the
            module of ``module:name`` cannot be imported.
    """
    id, note = _modern(checked_name(id))
    name = import_module_of(id)
    offered: list[str] = []
    changed = False  # whether somebody registered something else under the name
    # Each check imports its backend only if those before did not settle the matter.
    if backend in ("auto", "native"):
        from poise.envs.classic import NATIVE_TASKS

        if (task := NATIVE_TASKS.get(id)) is not None:
            if is_gymnasiums(id, task.spec.time_limit):
                return Resolved(id, "native", note)
            changed = True
        offered = sorted(NATIVE_TASKS)
    if backend in ("auto", "mujoco"):
        from poise.envs.tasks import GYMNASIUMS, TASKS

        if (kind := TASKS.get(name)) is not None:
            if name not in GYMNASIUMS or is_gymnasiums(name, kind.time_limit):
                return Resolved(id, "mujoco", note)
            changed = True
        offered = sorted(TASKS)
    if backend in ("native", "mujoco"):
        if changed:
            raise EnvError(
                f"backend {backend} has Gymnasium's own {name}, and something else is registered under that "
                "name; --backend gymnasium trains on it"
            )
        raise EnvError(f"backend {backend} has no {id}; it has {', '.join(offered)}")

    from poise.envs.gymnasium import is_registered

    if is_registered(id):
        return Resolved(id, "gymnasium" if backend == "auto" else backend, note)
    raise EnvError(_unknown(id))


def _unknown(id: str) -> str:
    from poise.envs.classic import NATIVE_TASKS
    from poise.envs.gymnasium import registered_ids
    from poise.envs.tasks import TASKS

    if id in NATIVE_TASKS:
        return f"Gymnasium has no {id}; backend native has"
    return unknown(id, [*registered_ids(), *NATIVE_TASKS, *TASKS])


def make(
    id: str,
    num_envs: int,
    backend: Backend = "auto",
    *,
    timeout: float | None = None,
    restart: bool = False,
    first: int = 0,
) -> VectorEnv:
    """``num_envs`` environments ``id``.

    ``auto`` takes the fastest backend that has it: native (JAX), then mujoco (batch engine), then
    gymnasium. Where each has a process of its own (gymnasium-async), ``timeout`` is the seconds it has for
    a step or a reset, and ``restart`` says whether one that fails is made again; otherwise the fault is
    raised. ``first``: the number of the first, as faults of Gymnasium's environments name them.

    Raises:
        EnvError: there is no such environment, or not for this backend, or its spaces are not
            supported.
    """
    refuse_imported_script()
    found = resolve(id, backend)
    match found.backend:
        case "native":
            from poise.envs.classic import NATIVE_TASKS
            from poise.envs.native import NativeEnv

            return NativeEnv(NATIVE_TASKS[found.id], num_envs)
        case "mujoco":
            from poise.envs.mujoco import MujocoEnv
            from poise.envs.tasks import TASKS

            task = TASKS[import_module_of(found.id)]
            try:
                made = task()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise EnvError(f"{found.id}: making its task raised {message_of(error)}") from error
            return MujocoEnv(found.id, made, num_envs)
        case "gymnasium" | "gymnasium-async":
            from poise.envs.gymnasium import GymnasiumEnv

            if found.backend == "gymnasium":
                return GymnasiumEnv(found.id, num_envs, first=first)
            return GymnasiumEnv(
                found.id, num_envs, processes=True, timeout=timeout, restart=restart, first=first
            )
