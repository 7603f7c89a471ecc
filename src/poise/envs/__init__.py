"""The world: one interface, four backends, and the choice among them."""

from poise.envs.naming import checked_name
from poise.envs.registry import Resolved, make, resolve
from poise.envs.vector import EnvError, VectorEnv
from poise.spec import Backend

__all__ = ["Backend", "EnvError", "Resolved", "VectorEnv", "checked_name", "make", "resolve"]
