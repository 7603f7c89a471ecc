"""poise: Proximal Policy Optimization that trains, shows and keeps an agent with one command.

    import poise

    run = poise.train("Reacher-v4", total_steps=100_000, seed=0)
    agent = poise.load(run.folder)
    action = agent.act(obs)

Each name is loaded when it is first used, so that ``import poise`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poise.agent import Agent, load
    from poise.config import PPO, Config, Normalize, Policy, Value
    from poise.diagnosis import diagnose
    from poise.envs import make
    from poise.envs.mujoco import Task
    from poise.envs.tasks import register
    from poise.errors import PoiseError
    from poise.evaluation import Evaluation
    from poise.experiments.report import report
    from poise.exporting import export
    from poise.loop import Progress, iterations
    from poise.presets import PRESETS
    from poise.run import Run, resume, train
    from poise.spec import Spec

_HOME = {
    "Agent": "agent",
    "load": "agent",
    "Config": "config",
    "PPO": "config",
    "Policy": "config",
    "Value": "config",
    "Normalize": "config",
    "diagnose": "diagnosis",
    "make": "envs",
    "Task": "envs.mujoco",
    "register": "envs.tasks",
    "PoiseError": "errors",
    "Evaluation": "evaluation",
    "report": "experiments.report",
    "export": "exporting",
    "Progress": "loop",
    "iterations": "loop",
    "PRESETS": "presets",
    "Run": "run",
    "train": "run",
    "resume": "run",
    "Spec": "spec",
}

__all__ = [
    "PPO",
    "PRESETS",
    "Agent",
    "Config",
    "Evaluation",
    "Normalize",
    "PoiseError",
    "Policy",
    "Progress",
    "Run",
    "Spec",
    "Task",
    "Value",
    "diagnose",
    "export",
    "iterations",
    "load",
    "make",
    "register",
    "report",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'poise' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"poise.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
