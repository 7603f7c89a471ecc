"""A training in several processes: process 0 leads and has the run folder, the others follow it."""

import contextlib
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from poise.checked import ConfigError
from poise.config import Config
from poise.envs.forms.text import parse
from poise.envs.naming import JAX_PACKAGES
from poise.own.naming import check_networks, import_named
from poise.own.network import import_networks
from poise.placement import device
from poise.runs.folders import same_directory
from poise.runs.options import Options
from poise.runs.peers.meeting import agree, announce, job, meet, receive_start, told_runs
from poise.runs.peers.options import PeerOptions
from poise.runs.reacting import Run
from poise.runs.session import (
    Changes,
    Job,
    check_name,
    cpu_devices,
    execute,
    made_world,
    proceed,
    resolved,
)
from poise.runs.setup import Conditions
from poise.system.compile_cache import keep_compiled
from poise.system.peers import Peers
from poise.training.loop import check_devices, choose_layout, follow


@dataclass(frozen=True)
class Followed:
    """The end of a training that another process has led."""

    process: int
    steps: int  # environment steps of the training


def execute_with_peers(
    env: str, config: Config, options: Options, conditions: Conditions, meeting: PeerOptions
) -> Run | Followed:
    """``execute``, in one of the processes of a training."""
    if not meeting.others:
        return execute(env, config, options, conditions)
    name = parse(env).env.name
    if ":" not in name or name.partition(":")[0] in JAX_PACKAGES:
        options.check_against(resolved(env, options.backend).backend)
    assert meeting.processes is not None
    check_devices(config.env_groups, options.devices, meeting.processes)
    ours = job("train", env, options.backend, config, options)
    with meet(meeting, conditions) as peers:
        if peers.leads:
            announce(peers, ours)
            return execute(env, config, options, _with(conditions, peers, meeting))
        agree(peers, ours)
        with same_directory():
            import_networks(config)
        decide = partial(device.decide, env, options.backend, config)
        return _follow(peers, env, config, options, conditions, decide)
    raise AssertionError


def proceed_with_peers(
    run: Path, changes: Changes, conditions: Conditions, meeting: PeerOptions
) -> Run | Followed:
    """``proceed``, in one of the processes of a training. Those that follow need no folder."""
    if not meeting.others:
        return proceed(run, changes, conditions)
    with meet(meeting, conditions) as peers:
        if peers.leads:
            return proceed(run, changes, _with(conditions, peers, meeting))
        repeated = {"env", "network", "curriculum"}  # names that each process needs
        for name, value in dataclasses.asdict(changes).items():
            if value is not None and name not in repeated:
                raise ConfigError(f"{name} = {value!r}: is for process 0 alone, which tells it to the others")
        with same_directory():
            import_named(changes.network)
        facts = agree(peers, None)
        check_name(Path("the run of process 0"), facts["env"], changes.env)
        config = Config.from_dict(facts["config"])
        check_networks(changes.network, config.own_networks, "the run of process 0")
        options = Options.from_dict({**facts["options"], "backend": facts["backend"]})
        decide = partial(device.decide, facts["env"], options.backend, config)
        return _follow(peers, facts["env"], config, options, conditions, decide)
    raise AssertionError


def _with(conditions: Conditions, peers: Peers, meeting: PeerOptions) -> Conditions:
    return dataclasses.replace(conditions, peers=peers, peer_options=meeting.typed())


def _follow(
    peers: Peers, env: str, config: Config, options: Options, conditions: Conditions, decide: Any
) -> Followed:
    """The part of a process that does not lead. ``config`` decides how JAX starts."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(same_directory())
        placed = device.start(options.device, decide, cpu_devices(env, options.backend, config, options))
        stack.enter_context(device.precision(options.matmul_precision, on_gpu=placed.on_gpu))
        keep_compiled(options.compile_cache)
        task = resolved(env, options.backend)
        config, spec, start = receive_start(peers)
        world = made_world(Job(task, config, options, placed), conditions, stack)
        if world.spec != spec:
            raise ConfigError(f"{env} is {world.spec} on process {peers.index}, {spec} on process 0")
        layout = choose_layout(config, world, options.devices)
        assert layout is not None
        conditions.guard.began = True
        iterations = follow(config, world, start, layout, told_runs(peers))
    return Followed(peers.index, iterations * config.rollout_size)
