"""One environment of Gymnasium from its name."""

import importlib
import sys
import warnings

import gymnasium as gym

from poise.envs.naming import import_module_of


def is_registered(id: str) -> bool:
    """Whether ``id`` is registered with Gymnasium; of ``module:name`` (module imported already), the name.

    A class of that name in the module is registered here, without arguments and without a time limit.
    """
    try:
        gym.spec(registered_name(id))
    except gym.error.Error:
        module, _, name = id.rpartition(":")
        kind = getattr(sys.modules.get(module), name, None)
        if not (isinstance(kind, type) and issubclass(kind, gym.Env)):
            return False
        gym.register(registered_name(id), kind)
    return True


def registered_name(id: str) -> str:
    """Its id in Gymnasium's registry: the name in ``module:name``, or ``module.Class`` for a class."""
    module, _, name = id.rpartition(":")
    return f"{module}.{name}" if module and name not in gym.registry else name


def make_plain(id: str) -> gym.Env:
    """One environment, as Gymnasium makes it, with its wrappers."""
    if id.rpartition(":")[0]:  # not yet imported in a process of its own
        importlib.import_module(id.rpartition(":")[0])
        is_registered(id)
    else:
        import_module_of(id)
    with warnings.catch_warnings():
        # "-v4 is out of date": the user chose this version
        warnings.filterwarnings("ignore", message=".*out of date.*")
        return gym.make(registered_name(id), disable_env_checker=True)
