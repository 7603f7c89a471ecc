"""The world: one interface, four backends, and the choice among them."""

from poise.envs.registry import Resolved, as_text, make, resolve
from poise.envs.vector import EnvError, VectorEnv
from poise.spec import Backend

__all__ = ["Backend", "EnvError", "Resolved", "VectorEnv", "as_text", "make", "resolve"]
