"""What the processes of one training tell each other before it begins, so that they compute the same."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load, save

from poise.algo.state import state_shapes
from poise.arrays import filled, named, part, prefixed, shapes_with_origin
from poise.checked import ConfigError, flat
from poise.config import Config
from poise.runs.options import Options
from poise.runs.peers.options import PeerOptions
from poise.runs.setup import Conditions, Setup
from poise.spec import Spec
from poise.system.machine import made_with, versions
from poise.system.peers import Ended, Peers, joined
from poise.system.terminal import print
from poise.training.iteration import Progress
from poise.training.loop import Start

MOVED = (
    "device",
    "devices",
    "matmul_precision",
    "compile_cache",
)  # options of a training that all processes share


def meet(meeting: PeerOptions, conditions: Conditions) -> AbstractContextManager[Peers]:
    """While the context is open, this process is one of them. Waits for the others."""
    address, count, index = meeting.coordinator, meeting.processes, meeting.process
    assert address is not None
    assert count is not None
    assert index is not None
    what = "waits for the others at" if index == 0 else "follows process 0 at"
    print(f"process {index} of {count} {what} {address}", file=conditions.file, flush=True)
    return joined(address, count, index, conditions.guard)


def job(verb: str, env: str, backend: str, config: Config, options: Options) -> dict[str, Any]:
    """What is computed, as JSON has it: the same in all processes."""
    shared = {name: getattr(options, name) for name in MOVED}
    facts = {"command": verb, "env": env, "backend": backend, "config": config.to_dict(), "options": shared}
    return json.loads(json.dumps({**facts, "versions": versions()}))


def announce(peers: Peers, facts: Mapping[str, Any]) -> None:
    """Tells the others the ``job``.

    Raises:
        ConfigError: one of them was started with another one.
    """
    peers.tell(facts)
    for problem in peers.answers("job"):
        if problem is not None:
            raise ConfigError(problem)


def agree(peers: Peers, ours: Mapping[str, Any] | None) -> dict[str, Any]:
    """The leader's ``job``. ``ours``: that of this process; None: it has none of its own.

    Raises:
        ConfigError: they differ.
    """
    facts, _ = peers.hear()
    if facts["command"] == "train" and ours is None:
        ours = {"command": "resume"}
    problem = _difference(peers.index, facts, {"versions": versions()} if ours is None else ours)
    peers.answer("job", problem)
    if problem is not None:
        raise ConfigError(problem)
    return facts


def _difference(index: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first fact of ``ours`` that the leader has not, in a sentence."""
    leader, here = flat(dict(theirs)), flat(dict(ours))
    for name, value in here.items():
        if leader.get(name) != value:
            short = re.sub(r"^(config|options)\.", "", name)
            return (
                f"{short} = {value!r:.80} on process {index}, {leader.get(name)!r:.80} on process 0: all "
                "processes of a training must have the same"
            )
    return None


def send_start(conditions: Conditions, setup: Setup, start: Start | None) -> None:
    """Gives the others what they start with. A line says where their bits may differ.

    Raises:
        ConfigError: another process computes on another kind of device.
    """
    peers = conditions.peers
    if peers is None:
        return
    own = made_with()
    for index, machine in enumerate(peers.answers("machine"), 1):
        if machine["device"] != own["device"]:
            raise ConfigError(
                f"process {index} computes on {machine['device']}, process 0 on {own['device']}: all must "
                "have the same"
            )
        if machine["fingerprint"] != own["fingerprint"]:
            print(
                f"not exact: process {index} runs on another processor or system ({machine['processor']}); "
                "the last bits may differ from those of one machine",
                file=conditions.file,
                flush=True,
            )
    arrays: dict[str, Any] = {}
    if start is not None:
        arrays = prefixed("state", named(start.state)) | prefixed("world", start.world or {})
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    peers.tell({"config": setup.config.to_dict(), "spec": setup.spec.to_dict()}, content)


def receive_start(peers: Peers) -> tuple[Config, Spec, Start | None]:
    """Configuration and spaces of the leader, and where it starts."""
    peers.answer("machine", made_with())
    message, content = peers.hear()
    config, spec, arrays = Config.from_dict(message["config"]), Spec.from_dict(message["spec"]), load(content)
    if not arrays:
        return config, spec, None
    state = part("state", arrays)
    shapes = shapes_with_origin(state_shapes(spec, config), state)
    return config, spec, Start(filled(shapes, state), part("world", arrays) or None)


def teller(peers: Peers | None) -> Callable[[int, int], None]:
    """What lets the others compute some iterations; it is given those before them, and their number."""

    def tell(number: int, count: int) -> None:
        if peers is not None:
            peers.tell({"run": [number, count]})

    return tell


def told_runs(peers: Peers) -> Iterator[tuple[int, int]]:
    """What ``teller`` tells, to the end of the training.

    Raises:
        Ended: it has ended early.
    """
    while True:
        try:
            message, _ = peers.hear()
        except Ended as end:
            if end.exit_code:
                raise
            return
        number, count = message["run"]
        yield number, count


def led(training: Iterator[Progress | None], peers: Peers | None) -> Iterator[Progress | None]:
    """The training of a leader. At its end the others are free.

    Raises:
        LostPeer: another process is gone.
    """
    with _losses(peers):
        yield from training
    if peers is not None:
        peers.leave("it is finished", 0)


@contextlib.contextmanager
def _losses(peers: Peers | None) -> Iterator[None]:
    """A computation of several processes fails if one is gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if peers is None or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise peers.lost(error) from error
