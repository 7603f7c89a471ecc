"""From a name to an environment: which backend has it (``resolve``), and N of them (``make``)."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from poise.envs.forms.arguments import Arguments, arguments_of
from poise.envs.forms.text import Named, Variant, parse
from poise.envs.naming import (
    JAX_PACKAGES,
    import_module_of,
    is_anothers,
    is_gymnasiums,
    only_here,
    refuse_in_processes,
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


class UnknownEnv(EnvError):
    """There is no environment of this name."""


class Resolved(NamedTuple):
    """The environment and the backend that will be used.

    Attributes:
        id: its text (``poise.envs.forms.text``), in canonical form.
        note: a sentence for the user, if any.
        reading: the spec of the agent that acts or learns in it; it decides whether pixels are numbers.
    """

    id: str
    backend: Literal["mujoco", "native", "mjx", "atari", "gymnasium", "gymnasium-async"]
    note: str | None = None
    reading: Spec | None = None


def resolve(id: Any, backend: Backend = "auto") -> Resolved:
    """The environment and backend that ``make`` would use. No environment is made.

    Args:
        id: as of ``make``.

    Raises:
        EnvError: there is no such environment (the message gives the nearest names), this backend does
            not have it, the module of ``module:name`` cannot be imported, or an argument does not exist.
    """
    variant = parse(as_text(id))
    if only_here(str(variant)) is not None:
        _refuse_gone(variant)
        if backend == "gymnasium-async":
            refuse_in_processes(str(variant), f"backend {backend}")
    name, note = _replace_retired(variant.env.name)
    variant = dataclasses.replace(variant, env=Named(name, variant.env.kwargs))
    if variant.is_plain:
        return _resolve_name(name, backend)._replace(note=note)
    return _resolve_variant(variant, backend, note)


def as_text(env: Any) -> str:
    """The text of an environment that is given as text, a class, a function or an object.

    Raises:
        EnvError: no second environment can be made of it.
    """
    if isinstance(env, str):
        return env
    from poise.envs.forms.given import text_of

    return text_of(env)


def _resolve_name(id: str, backend: Backend) -> Resolved:
    """``resolve`` for a name alone."""
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
                return Resolved(id, "native")
            replaced = True
        offered = sorted(REGISTERED)
    if backend in ("auto", "mujoco", "mjx"):
        from poise.envs.tasks import GYMNASIUMS, TASKS, find_kind

        if (kind := find_kind(id)) is not None:
            if name not in GYMNASIUMS or is_gymnasiums(name, kind.time_limit):
                return Resolved(id, "mjx" if backend == "mjx" else "mujoco")
            replaced = True
        offered = sorted(TASKS)
    if backend in ("native", "mujoco", "mjx"):
        if replaced:
            raise EnvError(
                f"backend {backend} has Gymnasium's own {name}, but something else is registered under that "
                "name; --backend gymnasium trains on it"
            )
        names = [name for name in offered if not name.startswith("<")]  # those that have one
        raise EnvError(f"backend {backend} has no {id}; it has {', '.join(names)}")
    return _resolve_gymnasiums(id, backend)


def _resolve_gymnasiums(id: str, backend: Backend) -> Resolved:
    """An environment that Gymnasium makes. ``id`` may have arguments and wrappers."""
    from poise.envs.forms.making import is_registered

    if backend in ("auto", "atari") and _is_game(id):
        return Resolved(id, "atari")
    if is_registered(id):
        if backend == "atari":
            raise EnvError(_explain_no_game(id))
        resolved: Any = "gymnasium" if backend == "auto" else backend
        return Resolved(id, resolved)
    raise UnknownEnv(_explain_unknown(parse(id).env.name))


def _resolve_variant(variant: Variant, backend: Backend, note: str | None) -> Resolved:
    """``resolve`` with arguments or wrappers."""
    name = variant.env.name
    if name.partition(":")[0] in JAX_PACKAGES:
        raise EnvError(f"{variant}: {name} has neither arguments nor wrappers in poise")
    import_module_of(name)
    own = _is_own(name)
    if not own and backend in ("native", "mujoco", "mjx"):
        raise EnvError(
            f"backend {backend} has {name} only without arguments and wrappers; --backend gymnasium makes "
            f"{variant}"
        )
    if own and variant.wrappers:
        raise EnvError(f"{name} is not an environment of Gymnasium: no wrapper can be around it")
    if not own:
        _resolve_gymnasiums(name, "gymnasium")  # refuses an unknown name
    wrappers = tuple(_fitted_wrapper(wrapper) for wrapper in variant.wrappers)
    kwargs = _arguments(name).fitted(name, variant.env.kwargs) if variant.env.kwargs else {}
    text = str(Variant(Named(name, kwargs), wrappers))
    if own:
        return Resolved(text, _resolve_name(name, backend).backend, note)
    if backend == "auto" and _is_faster_plain(name):
        note = f"{text} is stepped by Gymnasium: poise's own {name} has neither arguments nor wrappers."
    return _resolve_gymnasiums(text, backend)._replace(note=note)


def _refuse_gone(variant: Variant) -> None:
    """Refuses names in angle brackets of which this program has no class or function."""
    from poise.envs.forms.making import HERE
    from poise.envs.native.names import REGISTERED
    from poise.envs.tasks import TASKS

    kept = {*HERE, *REGISTERED, *TASKS}
    gone = [part.name for part in variant.parts if part.name.startswith("<") and part.name not in kept]
    if gone:
        raise EnvError(
            f"{variant}: only the Python program that trained it has {gone[0]}; in Python, give it again: "
            "poise.resume(folder, env=...), agent.evaluate(env=...)"
        )


def _is_own(name: str) -> bool:
    """Whether the name is that of a class of the user that Gymnasium does not step."""
    from poise.envs.native.names import OWN, find_source
    from poise.envs.tasks import GYMNASIUMS, find_kind

    in_jax, is_task = find_source(name) is not None, find_kind(name) is not None
    return (in_jax and name not in OWN) or (is_task and name.rpartition(":")[2] not in GYMNASIUMS)


def _is_faster_plain(name: str) -> bool:
    """Whether poise itself steps the environment of this name."""
    from poise.envs.native.names import OWN
    from poise.envs.tasks import GYMNASIUMS

    return name in OWN or name in GYMNASIUMS


def _fitted_wrapper(wrapper: Named) -> Named:
    from poise.envs.forms.making import find_wrapper

    arguments = arguments_of(find_wrapper(wrapper.name), first=True)
    return Named(wrapper.name, arguments.fitted(wrapper.name, wrapper.kwargs))


def _arguments(name: str) -> Arguments:
    """The arguments of the environment of a name, whose module is imported."""
    from poise.envs.forms.making import gymnasium_arguments
    from poise.envs.native.names import find_source
    from poise.envs.tasks import find_kind

    if _is_own(name):
        maker: Any = find_source(name) or find_kind(name)
        return arguments_of(maker)
    return gymnasium_arguments(name)


def read_arguments(env: str, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of an environment from a command line, each word ``key=text``, by their annotations.

    Raises:
        EnvError: there is no such environment or argument, or a text is not such a value.
    """
    if not words:
        return {}
    name, _ = _replace_retired(parse(env).env.name)
    if name.partition(":")[0] in JAX_PACKAGES:
        raise EnvError(f"{name} has neither arguments nor wrappers in poise")
    import_module_of(name)
    if not _is_own(name):
        _resolve_gymnasiums(name, "gymnasium")  # refuses an unknown name
    arguments, values = _arguments(name), {}
    for word in words:
        key, _, text = word.partition("=")
        values[key] = arguments.read(name, key, text)
    return values


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
    id: Any,
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
        id: a registered id, or ``module:name`` of an id, a class or a function, whose module is imported.
            Arguments and wrappers may follow (``poise.envs.forms.text``). Or the class, the function, or an
            object of Gymnasium.
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

    if name in GYMNASIUMS or not name or set(name) & set(":()<>+"):
        reason = "it is Gymnasium's" if name in GYMNASIUMS else "a name has no colon, bracket or +"
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

    return MujocoEnv(id, new_task(id), num_envs)
