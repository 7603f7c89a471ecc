"""One training whose environments are spread over the processes of a cluster.

In each iteration every process gets the parameters as arrays, and returns each group's rollout as arrays,
with a snapshot of its world. A process that dies is replaced: its groups start at their last snapshots, and
what it had not finished is collected again, to the same bits.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from poise import envs
from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.algo.state import TrainState, state_shapes
from poise.arrays import filled, named, shapes_with_origin
from poise.checked import ConfigError
from poise.config import Config
from poise.envs.naming import not_registered_in
from poise.envs.registry import UnknownEnv
from poise.errors import PoiseError
from poise.own.network import import_networks
from poise.spec import IN_JAX, Episode, Spec
from poise.system import cluster
from poise.system.machine import fingerprint
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.collector import Collected, Group
from poise.training.groups import groups, joined_worlds, merged, parted_worlds
from poise.training.host import HostCollector
from poise.types import Rollout

MOST_DEATHS = 5  # of the workers of one group, without a rollout of the group in between
SCARCE = 10.0  # seconds without a core for a worker, after which a line says so
PATIENCE = 30.0  # seconds after which the groups of a dead worker go to the other workers


class WorkerError(PoiseError):
    """Workers die again and again."""

    exit_code = 1


class _Report(NamedTuple):
    """The answer of a worker that has made the environments of a group."""

    spec: Spec
    backend: str
    world: dict[str, Any] | None  # where the world is, if it could not be restored exactly; None: it was
    fingerprint: str


@dataclass(frozen=True)
class WorkerSettings:
    """How many processes step the environments, and what they do if an environment hangs or fails."""

    count: int
    env_timeout: float  # seconds for a step or a reset (gymnasium-async)
    restart: bool  # whether an environment that fails is made again


def check_workers(count: int, config: Config, backend: str, ray: str | None) -> None:
    """Refuses settings with which environments cannot be spread.

    Raises:
        ConfigError: there are more workers than groups, or the backend has no separate environments, or a
            cluster is given without workers.
        ClusterError: Ray is not installed, or ``ray`` is not an address.
    """
    if ray is not None and not count:
        raise ConfigError(
            f"ray = {ray!r}: has no effect on one training without --workers; with --seeds, and in poise "
            "experiment, sweep and reproduce, it spreads the trainings"
        )
    if count and backend in IN_JAX:
        raise ConfigError(
            f"workers = {count}: must be 0 on backend {backend}, where the environments are compiled "
            "with the networks; --backend gymnasium has some to spread"
        )
    if count > config.env_groups:
        raise ConfigError(
            f"workers = {count}: must be <= {config.env_groups}, the groups of the environments; "
            f"--env-groups {count} makes as many (the result depends on that number)"
        )
    if count:
        cluster.check(ray or cluster.LOCAL)


class _Worker:
    """Holds the environments of some groups, in a process of its own."""

    def __init__(self, path: Sequence[str], task: envs.Resolved, config: Config, settings: WorkerSettings):
        # Only the learner uses an accelerator: a worker acts in NumPy, and must not take the GPU's memory.
        jax.config.update("jax_platforms", "cpu")
        cluster.settle_in(path)
        self._task, self._config, self._settings = task, config, settings
        self._parts: dict[int, HostCollector] = {}
        self._shapes: Any = None

    def pid(self) -> int:
        """The id of this process, which shows that it answers."""
        return os.getpid()

    def begin(self, group: Group, world: Mapping[str, Any] | None) -> _Report | PoiseError:
        """Makes the environments of a group. ``world``: is restored; None before the first rollout."""
        try:
            import_networks(self._config)  # of the process that trains, whose user has named them
            settings = self._settings
            # asked again: a resume restores after the first start, and a moved group may come back
            if (earlier := self._parts.pop(group.index, None)) is not None:
                earlier.close()
            env = envs.make(
                self._task.id,
                group.num_envs,
                self._task.backend,
                timeout=settings.env_timeout,
                restart=settings.restart,
                first=group.first,
                reading=self._task.reading,
            )
            self._parts[group.index] = part = HostCollector(env, self._config, group)
            exact = world is None or part.restore(world)
            return _Report(env.spec, env.backend, None if exact else part.snapshot(), fingerprint())
        except UnknownEnv:  # it was found where the training runs
            return envs.EnvError(not_registered_in(self._task.id, "--workers"))
        except PoiseError as error:
            return error  # raised, it would arrive wrapped in an error of Ray

    def collect(
        self, index: int, parameters: Mapping[str, np.ndarray], iteration: int
    ) -> dict[str, Any] | PoiseError:
        """The rollout of one group, and a snapshot of its world after it."""
        try:
            part = self._parts[index]
            if self._shapes is None:  # the modules are rebuilt from plain arrays
                self._shapes = state_shapes(part.spec, self._config.settled(part.spec))
            acting = _acting(shapes_with_origin(self._shapes, parameters))
            state = filled(acting, parameters)
            collected = part.collect(state["policy"], state["normalizer"], iteration)
            return _packed(collected) | {"world": part.snapshot()}
        except PoiseError as error:
            return error


def _acting(state: TrainState) -> dict[str, Any]:
    """The parts of a state that a process needs to act."""
    return {"policy": state.learner.policy, "normalizer": state.normalizer}


def _packed(collected: Collected) -> dict[str, Any]:
    """A rollout as plain arrays and numbers."""
    return {
        **vars(jax.tree.map(np.asarray, collected.rollout)),
        "episodes": [dataclasses.astuple(episode) for episode in collected.episodes],
        "physics": collected.physics_seconds,
        "crashes": collected.crashes,
        "notes": collected.notes,
        "exact": collected.exact,
    }


def _unpacked(data: Mapping[str, Any]) -> Collected:
    rollout = Rollout(**{field.name: data[field.name] for field in dataclasses.fields(Rollout)})
    episodes = [Episode(*e) for e in data["episodes"]]
    return Collected(rollout, episodes, data["physics"], data["crashes"], data["notes"], data["exact"])


class Workers:
    """Collects each group in a process of the cluster that was ``cluster.joined``.

    Raises:
        PoiseError: a process could not make its environments.
        WorkerError: the processes die again and again.
    """

    def __init__(self, task: envs.Resolved, config: Config, settings: WorkerSettings, file: TextOut):
        self._arguments = cluster.search_path(), task, config, settings
        self._config, self._file = config, file
        self._groups = groups(config)
        self._worlds: list[dict[str, Any] | None] = [None] * len(self._groups)
        self._notes: list[str] = []
        self._deaths = dict.fromkeys(range(len(self._groups)), 0)  # in a row, of each group's workers
        self._no_core = -PATIENCE  # when there was last no core for a replacement
        self._foreign = False  # whether a worker has another processor or other versions
        self._workers = [cluster.Process(_Worker, *self._arguments) for _ in range(settings.count)]
        self._home = {group.index: self._workers[group.index % settings.count] for group in self._groups}
        try:
            reports = self._begin(self._groups)
        except BaseException:  # raised again
            self.close()
            raise
        self.spec, self.num_envs = reports[0].spec, config.shape[1]
        count = f"{len(self._groups)} groups on {settings.count} worker{'s' * (settings.count > 1)}"
        self.backend = f"{reports[0].backend.partition(' (')[0]}, {count}"

    def collect(self, policy: Policy, normalizer: Normalizer, iteration: int) -> Collected:
        exact = True
        # stored once in the cluster, not sent again for every group
        arrays = {n: np.asarray(a) for n, a in named({"policy": policy, "normalizer": normalizer}).items()}
        parameters = cluster.share(arrays)
        done: dict[int, dict[str, Any]] = {}

        def ask(group: Group) -> Any:
            return self._home[group.index].ask("collect", group.index, parameters, iteration)

        waiting = {ask(group): group for group in self._groups}
        while waiting:
            for promise, group, result in self._answers(waiting):
                if isinstance(result, cluster.Lost):
                    # The replacement starts where the group was after its last rollout. All that is collected
                    # follows from that, the parameters and the iteration, so the bits are the same.
                    reports = self._begin(self._renew(self._home[group.index], result))
                    exact = exact and all(report.world is None for report in reports.values())
                    moved = [s for s in self._groups if s.index in reports]
                    waiting = {p: s for p, s in waiting.items() if s not in moved}
                    # a group whose rollout has arrived needs only its world, which ``_begin`` restored
                    waiting |= {ask(s): s for s in moved if s.index not in done}
                    break  # the promises of this round are out of date
                del waiting[promise]
                done[group.index], self._worlds[group.index] = result, result.pop("world")
                self._deaths[group.index] = 0
        parts = [_unpacked(done[group.index]) for group in self._groups]
        # groups of one worker play one after the other, the workers side by side: the slowest counts
        seconds = dict.fromkeys(map(id, self._workers), 0.0)
        for group, part in zip(self._groups, parts, strict=True):
            seconds[id(self._home[group.index])] += part.physics_seconds or 0.0
        together = merged(parts)
        notes, self._notes = (*self._notes, *together.notes), []
        exact = exact and together.exact
        return together._replace(physics_seconds=max(seconds.values()), notes=notes, exact=exact)

    def snapshot(self) -> dict[str, Any] | None:
        return joined_worlds(self._worlds)

    def restore(self, arrays: Mapping[str, Any]) -> bool:
        self._worlds = list(parted_worlds(arrays, len(self._groups)))
        return all(report.world is None for report in self._begin(self._groups).values())

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _answers(self, waiting: Mapping[Any, Group]) -> Iterator[tuple[Any, Group, Any]]:
        """The answers that have arrived; waits at most a second for the first.

        Raises:
            PoiseError: a process answered with this error.
        """
        for promise in cluster.ready(list(waiting), 1.0):
            result = cluster.answer(promise)
            if isinstance(result, PoiseError):
                raise result
            yield promise, waiting[promise], result

    def _begin(self, chosen: Sequence[Group]) -> dict[int, _Report]:
        """Makes the environments of these groups in their processes, and restores their worlds.

        If a process dies meanwhile, all of its groups get another. Returns the reports by index of the group.
        """
        reports: dict[int, _Report] = {}
        since, announced = time.monotonic(), False
        waiting = {self._ask_to_begin(group): group for group in chosen}
        while waiting:
            if not announced and time.monotonic() - since > SCARCE:
                announced = True
                wanted = f"waiting for {len(self._workers)} workers to start, each on a core of its own"
                print(f"{wanted}; the cluster has {cluster.room()}", file=self._file, flush=True)
            for promise, group, result in self._answers(waiting):
                if isinstance(result, cluster.Lost):
                    moved = self._renew(self._home[group.index], result)
                    waiting = {p: s for p, s in waiting.items() if s not in moved}
                    waiting |= {self._ask_to_begin(s): s for s in moved}
                    break
                del waiting[promise]
                reports[group.index] = result
                # not restored exactly: from here on its world is the one that the worker has
                self._worlds[group.index] = result.world or self._worlds[group.index]
                self._compare(result.fingerprint)
        return reports

    def _compare(self, theirs: str) -> None:
        """Shows once that a worker's machine differs from this one."""
        if theirs != fingerprint() and not self._foreign:
            self._foreign = True
            line = "a worker has another processor or other versions: its last bits are not this machine's"
            print(line, file=self._file, flush=True)

    def _ask_to_begin(self, group: Group) -> Any:
        return self._home[group.index].ask("begin", group, self._worlds[group.index])

    def _renew(self, dead: cluster.Process, why: cluster.Lost) -> list[Group]:
        """Replaces ``dead`` by a new process or, if the cluster has no core for it, by one that lives.

        Returns the groups of ``dead``, which must start again.
        """
        moved = [group for group in self._groups if self._home[group.index] is dead]
        for group in moved:
            self._deaths[group.index] += 1
        if max(self._deaths.values()) > MOST_DEATHS:
            count = max(self._deaths.values())
            raise WorkerError(f"workers of one group died {count} times in a row; the last: {why.why}")
        dead.kill()  # it may hang and not be dead: two processes must not step one environment
        place = self._workers.index(dead)
        fresh = cluster.Process(_Worker, *self._arguments)
        others = [worker for worker in self._workers if worker is not dead]
        # Without others there is nothing but to wait for a core, however long.
        if not others or self._has_core(fresh):
            self._workers[place] = fresh
            self._notes.append("a worker died; another took its place")
        else:
            fresh.kill()
            self._workers, fresh = others, others[place % len(others)]
            self._notes.append(f"a worker died, and there is no core for another; {len(others)} go on")
        self._home |= {group.index: fresh for group in moved}
        return moved

    def _has_core(self, fresh: cluster.Process) -> bool:
        """Whether a new process answers in time. After one that did not, the next get less time."""
        recently = time.monotonic() - self._no_core < PATIENCE
        if cluster.ready([fresh.ask("pid")], 1.0 if recently else PATIENCE):
            return True
        self._no_core = time.monotonic()
        return False
