"""One environment of Gymnasium from its text, and what this program alone has."""

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from poise.envs.forms.arguments import ANY, Argument, Arguments, arguments_of, takes
from poise.envs.forms.text import Named, parse
from poise.envs.naming import import_module, import_module_of, nearest
from poise.envs.vector import EnvError

HERE: dict[str, Callable[..., Any]] = {}  # classes and functions that no module has, by names such as <Tank>


def is_registered(id: str) -> bool:
    """Whether Gymnasium has the name in ``id``; of ``module:name`` (module imported already), the name.

    A class of that name in the module is registered here, without arguments and without a time limit. A
    function of that name makes an environment.
    """
    name = parse(id).env.name
    if find_function(name) is not None:
        return True
    try:
        gym.spec(registered_name(name))
    except gym.error.Error:
        module, _, last = name.rpartition(":")
        kind = getattr(sys.modules.get(module), last, None)
        if not (isinstance(kind, type) and issubclass(kind, gym.Env)):
            return False
        gym.register(registered_name(name), kind)
    return True


def registered_name(id: str) -> str:
    """Its id in Gymnasium's registry: the name in ``module:name``, or ``module.Class`` for a class."""
    module, _, name = parse(id).env.name.rpartition(":")
    return f"{module}.{name}" if module and name not in gym.registry else name


def find_function(name: str) -> Callable[..., Any] | None:
    """What makes the environment: the function ``module:name``, or what this program alone has."""
    if name in HERE:
        return HERE[name]
    module, _, last = name.rpartition(":")
    value = getattr(sys.modules.get(module), last, None)
    return value if callable(value) and not isinstance(value, type) and last not in gym.registry else None


def find_wrapper(name: str) -> Callable[..., Any]:
    """The class or function that wraps an environment: ``module:Name``, or what this program alone has.

    Raises:
        EnvError: there is none of that name, or it is something else.
    """
    if name in HERE:
        return HERE[name]
    module, _, last = name.rpartition(":")
    if not (module and last):
        raise EnvError(
            f"wrapper {name}: must be module:Name, for example gymnasium.wrappers:FlattenObservation"
        )
    import_module(f"wrapper {name}", module)
    value = getattr(sys.modules[module], last, None)
    if value is None:
        near = nearest(last, vars(sys.modules[module]))
        raise EnvError(f"wrapper {name}: module {module} has no {last!r}{near}")
    if not callable(value):
        raise EnvError(
            f"wrapper {name} is an object ({type(value).__name__}), and must be a class or a function that "
            "takes an environment"
        )
    return value


def gymnasium_arguments(name: str) -> Arguments:
    """The arguments with which Gymnasium makes the environment of this name."""
    if (function := find_function(name)) is not None:
        return arguments_of(function)
    spec = gym.spec(registered_name(name))
    try:
        maker: Any = (
            load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        )
        own = arguments_of(maker)
    except Exception:  # of its module; making it says what is wrong
        own = ANY
    known = {
        key: Argument(each.hint, each.is_required and key not in spec.kwargs)
        for key, each in own.known.items()
    }
    return Arguments({**known, "max_episode_steps": Argument(int)}, own.open)


def make_plain(id: str, *, render_mode: str | None = None) -> gym.Env:
    """One environment, as Gymnasium makes it, with its arguments and wrappers.

    Raises:
        EnvError: a function or a wrapper returned something else.
    """
    variant = parse(id)
    name = variant.env.name
    if name.rpartition(":")[0]:  # not yet imported in a process of its own
        importlib.import_module(name.rpartition(":")[0])
        is_registered(name)
    else:
        import_module_of(name)
    if find_function(name) is not None:
        env = _call(variant.env, render_mode)
    else:
        with warnings.catch_warnings():
            # "-v4 is out of date": the user chose this version
            warnings.filterwarnings("ignore", message=".*out of date.*")
            how = {"disable_env_checker": True} if render_mode is None else {"render_mode": render_mode}
            env = gym.make(registered_name(name), **how, **variant.env.kwargs)
    for wrapper in variant.wrappers:
        env = _checked(wrapper.name, find_wrapper(wrapper.name)(env, **wrapper.kwargs))
    return env


def _call(named: Named, render_mode: str | None) -> gym.Env:
    """What a function makes.

    Raises:
        EnvError: it takes no render mode, and one is wanted.
    """
    function = find_function(named.name)
    assert function is not None
    if render_mode is not None and not takes(function, "render_mode"):
        raise EnvError(f"{named.name} has no argument render_mode, which a video needs")
    drawing = {} if render_mode is None else {"render_mode": render_mode}
    return _checked(named.name, function(**named.kwargs, **drawing))


def own_kinds() -> dict[str, type]:
    """The classes of poise from which environments are derived, as far as they are loaded."""
    homes = {"Task": "poise.envs.mujoco", "JaxEnv": "poise.envs.native.jax_env"}
    return {name: getattr(sys.modules[home], name) for name, home in homes.items() if home in sys.modules}


def advice_for_own(env: Any) -> str:
    """What to give instead of a function that makes a ``poise.JaxEnv`` or a ``poise.Task``, in a clause."""
    kind, kinds = type(env).__name__, own_kinds()
    if "JaxEnv" in kinds and isinstance(env, kinds["JaxEnv"]):
        return (
            f"; {kind} is an environment in JAX: give the class itself, with env_kwargs, or the name under "
            "which poise.register has the function"
        )
    if "Task" in kinds and isinstance(env, kinds["Task"]):
        return f"; {kind} is a poise.Task: give the class itself, with env_kwargs"
    return ""


def _checked(name: str, env: Any) -> gym.Env:
    if isinstance(env, gym.Env):
        return env
    many = "; one environment is expected, and --num-envs says how many"
    raise EnvError(
        f"{name} returned {type(env).__name__}, and must return a gymnasium.Env"
        f"{many if isinstance(env, gym.vector.VectorEnv) else advice_for_own(env)}"
    )
