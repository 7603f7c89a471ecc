"""The text of an environment that a program gives as a class, a function or an object."""

import contextlib
import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from poise.envs.forms.arguments import arguments_of
from poise.envs.forms.changed import refuse_changed
from poise.envs.forms.making import HERE, own_kinds
from poise.envs.forms.text import Named, Variant, as_json_values, combine, parse
from poise.envs.naming import from_package, other_class
from poise.envs.vector import EnvError

FORMS = (
    "must be a name, a class derived from gymnasium.Env, poise.Task or poise.JaxEnv, a function that makes "
    "a gymnasium.Env, or an environment that gymnasium.make has made"
)


def text_of(env: Any) -> str:
    """The text of an environment.

    What is in a module gets the name ``module:Name``. Of anything else, this program keeps the class or the
    function, under a name in angle brackets.

    Raises:
        EnvError: no second environment can be made of it.
    """
    if isinstance(env, str):
        return env
    if isinstance(env, gym.Env):
        return _text_of_object(env)
    if isinstance(env, gym.vector.VectorEnv):
        raise EnvError(
            f"env is a vector of environments ({type(env).__name__}): give what makes one of them, and "
            "num_envs=N"
        )
    if isinstance(env, type):
        return _text_of_class(env)
    if isinstance(env, functools.partial) and env.func is gym.make:
        return _text_of_make(env)
    if callable(env):
        return _named(env)
    raise EnvError(f"env is an object ({type(env).__name__}), and {FORMS}")


def text_of_wrapper(wrapper: Any) -> str:
    """The text of a wrapper: a name, a class or a function that takes an environment.

    Raises:
        EnvError: it is something else.
    """
    if isinstance(wrapper, str):
        return wrapper
    if not callable(wrapper) or isinstance(wrapper, gym.Env):
        raise EnvError(
            f"wrappers: an object ({type(wrapper).__name__}) must be the name module:Name, a class or a "
            "function that takes an environment"
        )
    return _named(wrapper)


def _keep(name: str, made: Any, kept: dict[str, Any]) -> str:
    """Keeps a class or a function under its name in angle brackets; under the same one if it is the same."""
    number, every = 1, _all_kept()
    while True:
        text = f"<{name}>" if number == 1 else f"<{name}-{number}>"
        if text not in every or _same(every[text], made):
            kept[text] = made
            return text
        number += 1


def again(saved: str, env: Any, wrappers: Sequence[Any]) -> str:
    """The text of what is given once more for a training on ``saved``.

    What only the program of that training had, this program keeps under the same name.

    Raises:
        EnvError: something else is given.
    """
    variant = parse(saved)
    base = _again(variant.env, env, text_of)
    if len(wrappers) != len(variant.wrappers):
        return combine(base, {}, texts_of(wrappers))
    pairs = zip(variant.wrappers, wrappers, strict=True)
    return combine(base, {}, [_again(part, wrapper, text_of_wrapper) for part, wrapper in pairs])


def is_by_name(saved: str, env: Any) -> bool:
    """Whether an agent of ``saved`` acts in what the text of ``env`` makes: in any class that poise steps
    itself, and in what ``saved`` was made of. It acts in other functions and objects as they are.
    """
    own = isinstance(env, type) and issubclass(env, tuple(own_kinds().values()))
    return own or is_once_more(saved, env)


def is_once_more(saved: str, env: Any) -> bool:
    """Whether ``env`` is the class or the function of which the environment ``saved`` was made.

    What only the program of that training had, this program then keeps under the same name. There a class or
    a function of that name counts. A lambda has no name.
    """
    if isinstance(env, gym.Env) or not callable(env):
        return False
    part, kept = parse(saved).env, _kept_of(env)
    if not part.name.startswith("<"):
        return kept.get(part.name) is env or _name_in_module(env) in (part.name, str(part))
    if part.name in kept:
        once_more = _same(kept[part.name], env) or _are_alike(kept[part.name], env)
    else:
        once_more = part.name != "<lambda>" and re.sub(r"-\d+>$", ">", part.name) == f"<{_bare_name(env)}>"
    if once_more:
        kept[part.name] = env
    return once_more


def _are_alike(one: Any, other: Any) -> bool:
    """Whether both have the same name at the top of a module: a cell of a notebook that was run once more."""
    names = [(getattr(each, "__module__", ""), getattr(each, "__qualname__", "<>")) for each in (one, other)]
    return names[0] == names[1] and "<" not in names[0][1]


def _again(part: Named, given: Any, text: Callable[[Any], str]) -> str:
    if isinstance(given, str):
        return given
    if part.name.startswith("<") and callable(given):
        _kept_of(given)[part.name] = given
        return str(part)
    repeated = parse(text(given))  # whose arguments are those of the training
    return str(part) if repeated == Variant(Named(part.name)) else str(repeated)


def _text_of_class(cls: type) -> str:
    if issubclass(cls, gym.Wrapper):
        raise EnvError(
            f"env is the wrapper {cls.__name__}: give the environment, and wrappers=[{cls.__name__}]"
        )
    if not issubclass(cls, (gym.Env, *own_kinds().values())):
        raise EnvError(other_class(f"env = {cls.__name__}", cls))
    return _named(cls)


def _kept_of(made: Any) -> dict[str, Any]:
    """Where the class or function is kept."""
    kinds = own_kinds()
    if isinstance(made, type) and "Task" in kinds and issubclass(made, kinds["Task"]):
        from poise.envs.tasks import TASKS

        return TASKS
    if isinstance(made, type) and "JaxEnv" in kinds and issubclass(made, kinds["JaxEnv"]):
        from poise.envs.native.names import REGISTERED

        return REGISTERED
    return HERE


def _all_kept() -> dict[str, Any]:
    """What is kept anywhere: a name stands for one class, whatever steps it."""
    homes = {"poise.envs.tasks": "TASKS", "poise.envs.native.names": "REGISTERED"}
    own = [getattr(sys.modules[home], name) for home, name in homes.items() if home in sys.modules]
    return {name: made for kept in (*own, HERE) for name, made in kept.items()}


def _named(made: Callable[..., Any]) -> str:
    """The text of a class or a function, which may have arguments already (``functools.partial``)."""
    return _name_in_module(made) or _keep(_bare_name(made), made, _kept_of(made))


def _name_in_module(made: Any) -> str | None:
    """The text of what a module has; None of anything else."""
    if isinstance(made, functools.partial) and not made.args and (name := _in_module(made.func)):
        with contextlib.suppress(EnvError):  # of a value that no text has
            return str(Variant(Named(name, as_json_values(made.keywords, name))))
    return _in_module(made)


def _bare_name(made: Any) -> str:
    """The name of a class or a function, without what the text of an environment cannot have."""
    inner = made.func if isinstance(made, functools.partial) else made
    return re.sub(r"[^\w.-]", "", getattr(inner, "__name__", type(inner).__name__)) or "make"


def _in_module(made: Any) -> str | None:
    """``module:Name``, if another process can import it so."""
    module, name = getattr(made, "__module__", None), getattr(made, "__qualname__", "")
    if module in (None, "__main__", "__mp_main__") or not name.isidentifier():
        return None
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return None
    return f"{module}:{name}" if found and getattr(sys.modules.get(module), name, None) is made else None


def _same(one: Any, other: Any) -> bool:
    """Whether two functions do the same, as far as their code and what they hold tell."""
    if one is other:
        return True
    try:
        return bool(_content(one) == _content(other))
    except Exception:  # of a comparison of what they hold
        return False


def _content(made: Any) -> Any:
    if isinstance(made, functools.partial):
        return _content(made.func), made.args, made.keywords
    code = getattr(made, "__code__", None)
    if code is None:
        return id(made)
    return (
        code,
        made.__defaults__,
        made.__kwdefaults__,
        [cell.cell_contents for cell in made.__closure__ or ()],
    )


def _text_of_make(env: functools.partial[Any]) -> str:
    """Of ``functools.partial(gymnasium.make, ID, ...)``."""
    kwargs = {key: value for key, value in env.keywords.items() if key != "render_mode"}
    if len(env.args) == 1 and isinstance(env.args[0], str) and "disable_env_checker" not in kwargs:
        with contextlib.suppress(EnvError):  # of a value that no text has
            return str(Variant(Named(from_package(env.args[0]), as_json_values(kwargs, "env"))))
    return _named(env)


def _call_of(env: gym.Env) -> str:
    """The calls that make an environment and its wrappers, without their arguments."""
    name = type(env).__name__
    return f"{name}({_call_of(env.env)}, ...)" if isinstance(env, gym.Wrapper) else f"{name}(...)"


def _text_of_object(env: gym.Env) -> str:
    """An environment that its ``spec`` describes: id, changed arguments and wrappers.

    Raises:
        EnvError: no second one can be made, or it would have other settings.
    """
    name = type(env.unwrapped).__name__
    spec = env.spec
    if spec is None or spec.id not in gym.registry:
        raise EnvError(
            f"env is an object ({name}) that gymnasium.make has not made, so that no second one can be made: "
            f"give {'a function' if isinstance(env, gym.Wrapper) else 'its class, or a function'} that "
            f"returns a new one: lambda: {_call_of(env)}"
        )
    refuse_changed(env, spec)
    usual = gym.registry[spec.id]
    kwargs = {
        key: value
        for key, value in spec.kwargs.items()
        if key != "render_mode" and not (key in usual.kwargs and _same_value(usual.kwargs[key], value))
    }
    if spec.max_episode_steps != usual.max_episode_steps:
        kwargs["max_episode_steps"] = -1 if spec.max_episode_steps is None else spec.max_episode_steps
    around = spec.additional_wrappers[len(usual.additional_wrappers) :]
    wrappers = tuple(_text_of_layer(env, layer) for layer in around)
    return str(Variant(Named(from_package(spec.id), as_json_values(kwargs, "env")), wrappers))


def _same_value(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # of arrays
        return False


def _text_of_layer(env: gym.Env, layer: Any) -> Named:
    """A wrapper in the spec of an environment.

    Raises:
        EnvError: the arguments with which it was made are not known.
    """
    cls: Any = None
    while isinstance(env, gym.Wrapper):
        if f"{type(env).__module__}:{type(env).__name__}" == layer.entry_point:
            cls = type(env)
        env = env.env
    if layer.kwargs is None and _has_more_than_env(cls):
        raise EnvError(
            f"env has the wrapper {layer.name}, whose arguments are not known, so that no second one can be "
            "made: give a function that makes and wraps it, or derive the wrapper from "
            "gymnasium.utils.RecordConstructorArgs as well"
        )
    named = parse(_named(cls)).env.name
    return Named(named, as_json_values(layer.kwargs or {}, layer.name))


def _has_more_than_env(wrapper: type) -> bool:
    arguments = arguments_of(wrapper, first=True)
    return bool(arguments.known) or arguments.open


def texts_of(wrappers: Sequence[Any]) -> tuple[str, ...]:
    """The texts of wrappers, in order.

    Raises:
        EnvError: ``wrappers`` is something else.
    """
    if isinstance(wrappers, str) or not isinstance(wrappers, Sequence):
        raise EnvError(f"wrappers = {wrappers!r:.100}: must be a list, from the innermost on")
    return tuple(map(text_of_wrapper, wrappers))
