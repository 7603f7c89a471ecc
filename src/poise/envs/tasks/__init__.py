"""The tasks of the batch engine: Gymnasium's, each tested against Gymnasium, and those of users."""

import sys

from poise.envs.forms.text import parse
from poise.envs.mujoco import Task
from poise.envs.tasks.humanoid import HumanoidStandupV4, HumanoidStandupV5, HumanoidV4, HumanoidV5
from poise.envs.tasks.inverted_pendulum import (
    InvertedDoublePendulumV4,
    InvertedDoublePendulumV5,
    InvertedPendulumV4,
    InvertedPendulumV5,
)
from poise.envs.tasks.locomotion import (
    AntV4,
    AntV5,
    HalfCheetah,
    HopperV4,
    HopperV5,
    Swimmer,
    Walker2dV4,
    Walker2dV5,
)
from poise.envs.tasks.pusher import PusherV5
from poise.envs.tasks.reacher import ReacherV4, ReacherV5
from poise.envs.vector import EnvError
from poise.errors import message_of

TASKS: dict[str, type[Task]] = {
    "InvertedPendulum-v4": InvertedPendulumV4,
    "InvertedPendulum-v5": InvertedPendulumV5,
    "InvertedDoublePendulum-v4": InvertedDoublePendulumV4,
    "InvertedDoublePendulum-v5": InvertedDoublePendulumV5,
    "Reacher-v4": ReacherV4,
    "Reacher-v5": ReacherV5,
    "Pusher-v5": PusherV5,
    "HalfCheetah-v4": HalfCheetah,
    "HalfCheetah-v5": HalfCheetah,
    "Hopper-v4": HopperV4,
    "Hopper-v5": HopperV5,
    "Walker2d-v4": Walker2dV4,
    "Walker2d-v5": Walker2dV5,
    "Swimmer-v4": Swimmer,
    "Swimmer-v5": Swimmer,
    "Ant-v4": AntV4,
    "Ant-v5": AntV5,
    "Humanoid-v4": HumanoidV4,
    "Humanoid-v5": HumanoidV5,
    "HumanoidStandup-v4": HumanoidStandupV4,
    "HumanoidStandup-v5": HumanoidStandupV5,
}
GYMNASIUMS = frozenset(TASKS)  # tasks that Gymnasium has as well


def find_kind(name: str) -> type[Task] | None:
    """The task that is registered as ``name``, or the class ``module:Name``, whose module is imported."""
    module, _, last = name.rpartition(":")
    if last in TASKS:
        return TASKS[last]
    value = getattr(sys.modules.get(module), last, None)
    return value if isinstance(value, type) and issubclass(value, Task) else None


def new_task(id: str) -> Task:
    """The task of an environment, with its arguments.

    Raises:
        EnvError: it cannot be made.
    """
    named = parse(id).env
    kind = find_kind(named.name)
    assert kind is not None  # it was found by ``resolve``
    try:
        return kind(**named.kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of sys.exit, too
        raise EnvError(f"{id}: making its task raised {message_of(error)}") from error
