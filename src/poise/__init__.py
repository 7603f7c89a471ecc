"""poise: Proximal Policy Optimization that trains, shows and keeps an agent with one command.

    import poise

    run = poise.train("Reacher-v4", total_steps=100_000, seed=0)
    agent = poise.load(run)
    action = agent.act(obs)

Each name is loaded when it is first used, so that ``import poise`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poise.agents.agent import Agent, load
    from poise.agents.answers import Distribution
    from poise.agents.evaluation import Evaluation, PlayedStep
    from poise.agents.export import export
    from poise.agents.film import video
    from poise.api import experiment, resume, session, sweep, train
    from poise.config import PPO, Config, Normalize, Policy, Value
    from poise.envs import make
    from poise.envs.mujoco import Task
    from poise.envs.native.jax_env import JaxEnv
    from poise.envs.registry import register
    from poise.errors import PoiseError
    from poise.health.diagnosis import diagnose
    from poise.health.difference import Difference, diff
    from poise.health.inspection import Inspection, check
    from poise.runs.driving.stops import Stop, StopAt
    from poise.runs.options import Options
    from poise.runs.session import Run
    from poise.settings.presets import PRESETS
    from poise.spec import Spec
    from poise.studies.comparison import Comparison, compare
    from poise.studies.report.report import report
    from poise.studies.results import Experiment, Scores
    from poise.studies.sweep.results import Sweep
    from poise.training.iteration import Progress
    from poise.training.loop import Start, iterations
    from poise.training.starting.curriculum import CurriculumState

_HOME = {
    "Agent": "agents.agent",
    "load": "agents.agent",
    "Config": "config",
    "PPO": "config",
    "Policy": "config",
    "Value": "config",
    "Normalize": "config",
    "diagnose": "health.diagnosis",
    "make": "envs",
    "JaxEnv": "envs.native.jax_env",
    "Task": "envs.mujoco",
    "register": "envs.registry",
    "PoiseError": "errors",
    "Evaluation": "agents.evaluation",
    "PlayedStep": "agents.evaluation",
    "Distribution": "agents.answers",
    "report": "studies.report.report",
    "export": "agents.export",
    "Progress": "training.iteration",
    "iterations": "training.loop",
    "Start": "training.loop",
    "Stop": "runs.driving.stops",
    "StopAt": "runs.driving.stops",
    "session": "api",
    "CurriculumState": "training.starting.curriculum",
    "PRESETS": "settings.presets",
    "Options": "runs.options",
    "Run": "runs.session",
    "train": "api",
    "experiment": "api",
    "sweep": "api",
    "compare": "studies.comparison",
    "check": "health.inspection",
    "diff": "health.difference",
    "video": "agents.film",
    "Experiment": "studies.results",
    "Scores": "studies.results",
    "Sweep": "studies.sweep.results",
    "Comparison": "studies.comparison",
    "Inspection": "health.inspection",
    "Difference": "health.difference",
    "resume": "api",
    "Spec": "spec",
}

__all__ = [
    "PPO",
    "PRESETS",
    "Agent",
    "Comparison",
    "Config",
    "CurriculumState",
    "Difference",
    "Distribution",
    "Evaluation",
    "Experiment",
    "Inspection",
    "JaxEnv",
    "Normalize",
    "Options",
    "PlayedStep",
    "PoiseError",
    "Policy",
    "Progress",
    "Run",
    "Scores",
    "Spec",
    "Start",
    "Stop",
    "StopAt",
    "Sweep",
    "Task",
    "Value",
    "check",
    "compare",
    "diagnose",
    "diff",
    "experiment",
    "export",
    "iterations",
    "load",
    "make",
    "register",
    "report",
    "resume",
    "session",
    "sweep",
    "train",
    "video",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'poise' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"poise.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
