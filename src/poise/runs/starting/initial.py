"""The first state of a training that does not start from random networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from poise.algo.state import TrainState
from poise.arrays import filled, named, shapes_with_origin
from poise.checked import ConfigError
from poise.config import Config
from poise.placement import two_devices
from poise.runs.setup import Setup
from poise.runs.starting.demonstrations import cloned, sum_of_file
from poise.runs.starting.source import read_source
from poise.spec import IN_JAX
from poise.store.checkpoint import Trained
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.loop import Start

Arrays = Mapping[str, Any]  # of ``Training.initial``


def read_start(setup: Setup, file: TextOut) -> tuple[Setup, Arrays]:
    """What a new training starts with, and the setup with the sum of where that comes from.

    Raises:
        ConfigError: it does not fit the training.
        CheckpointError: there is no agent, or it was changed or damaged.
    """
    config = setup.config
    if config.demonstrations is not None:
        return _pinned(setup, sum_of_file(config.demonstrations)), cloned(setup, file)
    if config.start_from is None:
        return setup, {}
    source = read_source(config.start_from)
    source.check(config, setup.spec)
    print(source.describe(config.start_parts), file=file, flush=True)
    arrays = source.arrays(config.start_parts)
    if setup.task.backend in IN_JAX and "normalizer.origin" in arrays:  # such environments have none
        arrays["normalizer.obs.mean"] = arrays["normalizer.obs.mean"] + arrays.pop("normalizer.origin")
    return _pinned(setup, source.trained.parameters_sha256()), arrays


def _pinned(setup: Setup, found: str) -> Setup:
    """The setup with the sum of its start.

    Raises:
        ConfigError: it has another one already.
    """
    config = setup.config
    if config.start_sum not in (None, found):
        where = "start_from" if config.demonstrations is None else "demonstrations"
        raise ConfigError(
            f"{where} = {getattr(config, where)!r}: has another sum than start_sum, {found:.12}... instead "
            f"of {config.start_sum:.12}...; name what has that sum, or leave start_sum out"
        )
    return dataclasses.replace(setup, config=dataclasses.replace(config, start_sum=found))


def pinned(config: Config) -> Config:
    """The configuration of several trainings, with the sum of what all of them start from.

    Raises:
        CheckpointError: there is no agent, or it was changed or damaged.
    """
    if config.start_sum is not None or (config.start_from is None and config.demonstrations is None):
        return config
    if config.demonstrations is not None:
        return dataclasses.replace(config, start_sum=sum_of_file(config.demonstrations))
    assert config.start_from is not None
    return dataclasses.replace(config, start_sum=read_source(config.start_from).trained.parameters_sha256())


def first_start(setup: Setup, initial: Arrays) -> Start | None:
    """Where a training begins that has had no iteration; None: with random networks."""
    if not initial:
        return None
    state = two_devices.init(setup.spec, setup.config)
    return Start(_with_parts(state, initial))


def _with_parts(state: TrainState, initial: Arrays) -> TrainState:
    """The state with the parts of an agent that are there. The optimizers know nothing of it yet."""
    own = Trained.of(state)
    agent = filled(shapes_with_origin(own, initial), {**named(own), **initial})
    learner = dataclasses.replace(state.learner, policy=agent.policy, value=agent.value)
    return dataclasses.replace(state, learner=learner, normalizer=agent.normalizer)
