"""Chooses what a training computes on, the CPU or a GPU, before JAX starts in its process.

The rule of ``choose`` counts the floating-point operations of one gradient step. What is below ``ENOUGH`` is
done on a CPU before a GPU has started its kernels. The numbers follow from these measurements alone, with two
networks of 2 x 64 (one H100, 2026-11-26; two cores of another machine, for HalfCheetah 16 of the same), and
nothing between was measured:

    task, environments, rows of a minibatch   steps/s: GPU   CPU                 MFLOP of a gradient step
    Pendulum-v1 in JAX, 16, 64                      54,800   98,000 to 115,000   3
    Pendulum-v1 in JAX, 2,048, 8,192             1,410,000   about 300,000       430
    HalfCheetah-v5 on the host, 16, 64 or 128       25,900   34,000              4 or 8

``ENOUGH`` is the geometric mean of 3 and 430, rounded; ``MANY`` lies between 16 and 2,048.
"""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax

from poise import envs
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.checked import ConfigError
from poise.config import Config
from poise.envs.naming import JAX_PACKAGES
from poise.envs.packing import empty, map_arrays
from poise.spec import IN_JAX, Spec
from poise.system import gpu
from poise.system.machine import PlatformError, chosen_platforms, start_platform, why_not_started
from poise.system.threads import THREADS, start_jax

ENOUGH = 40e6  # floating-point operations of a gradient step, of both networks
MANY = 256  # environments in JAX, whose steps alone are worth a GPU
UNSEEN = 32  # numbers that an environment in JAX is taken to observe: to ask it, JAX would have to run

# JAX's "bfloat16" and "tensorfloat32" both mean TF32 on a GPU, so the first is named by its algorithm
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "BF16_BF16_F32"}


class Sizes(NamedTuple):
    """What decides how much a GPU has to do at once."""

    num_envs: int
    rows: int  # of a minibatch that are computed at once
    products: int  # multiplications of both networks for one row, forward

    @property
    def work(self) -> int:
        """Floating-point operations of a gradient step.

        A weight is multiplied and added once forward and twice backward.
        """
        return 6 * self.products * self.rows


class Choice(NamedTuple):
    """What a training computes on. ``reason``: in half a sentence; None where there is no choice."""

    on_gpu: bool
    reason: str | None

    def describe(self) -> str:
        """``NVIDIA H100 (a gradient step has 430 MFLOP)``. JAX runs."""
        return f"{gpu.device_name()} ({self.reason})"


SIDE_BY_SIDE = Choice(False, "several trainings side by side; --device gpu puts them all on the GPU")


def choose(backend: str, sizes: Sizes) -> Choice:
    """The rule of ``auto``, for a process that has a GPU.

    Environments on the host: the GPU if a gradient step has at least ``ENOUGH`` operations. Environments in
    JAX: also if there are ``MANY`` of them.
    """
    if sizes.work >= ENOUGH:
        return Choice(True, f"a gradient step has {sizes.work / 1e6:,.0f} MFLOP")
    if backend in IN_JAX and sizes.num_envs >= MANY:
        return Choice(True, f"{sizes.num_envs:,} environments in JAX")
    few = f"a gradient step has {sizes.work / 1e6:,.1f} MFLOP"
    return Choice(False, f"{few}; a GPU is worth it from {ENOUGH / 1e6:.0f} on")


def decide(env: str, backend: envs.Backend, config: Config) -> Choice:
    """``choose`` for a new training.

    Environments on the host are asked what they observe: one is made and closed.

    Raises:
        EnvError: there is no such environment, or it cannot be made.
        ConfigError: an option does not fit it.
    """
    if env.partition(":")[0] in JAX_PACKAGES:  # making one of these starts JAX
        return decide_with(None, "native", config)
    task = envs.resolve(env, backend)
    if task.backend in IN_JAX:
        return decide_with(None, task.backend, config)
    one = envs.make(task.id, 1, "gymnasium" if task.backend == "gymnasium-async" else task.backend)
    try:
        spec = one.spec
    finally:
        one.close()
    config.check_against(spec)
    return decide_with(spec, task.backend, config)


def decide_with(spec: Spec | None, backend: str, config: Config) -> Choice:
    """``choose`` for an environment whose spaces are known. Those of one in JAX are not looked at."""
    if spec is None or backend in IN_JAX:
        spec = Spec.flat("", (UNSEEN,), (1,), (-1.0,), (1.0,))
    rows, length = config.minibatch_size, config.sequence_length(spec)
    if length is not None and config.history == 1:  # a memory reads one step of its sequences after the other
        rows //= length
    return choose(backend, Sizes(config.shape[1], rows, count_products(spec, config)))


def count_products(spec: Spec, config: Config) -> int:
    """Multiplications of both networks for one row, forward: counted in what JAX traces, without starting it.

    Convolutions are matrix products here, and are counted with each pixel that they are applied to.
    """
    config = config.settled(spec)
    key = jax.eval_shape(jax.random.key, 0)
    row = map_arrays(lambda x: x[0], empty(spec, 1))

    def forward(network: Any, obs: Any) -> Any:
        obs = Normalizer.empty(spec).scale(obs, enabled=True, bound=None)
        features, memory = network.encoder(obs), network.memory
        if memory is not None:
            carry = memory.step(jax.numpy.zeros(memory.carry_size), memory.project(features))
            features = jax.numpy.concatenate([features, memory.output(carry)])
        return network.mlp(features)

    count = 0
    for kind, settings in ((Policy, config.policy), (ValueFunction, config.value)):
        seeing_all = settings if spec.id else dataclasses.replace(settings, see=())
        make: Any = partial(kind, spec, seeing_all, history=config.history)
        network = eqx.filter_eval_shape(lambda key, make=make: make(key=key), key)
        count += _products(jax.make_jaxpr(forward)(network, row).jaxpr)
    return count


def _products(jaxpr: Any) -> int:
    """Multiplications in the matrix products of a traced function."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, (result,) = equation.invars[0].aval.shape, equation.outvars
            (contracted, _), _ = equation.params["dimension_numbers"]
            count += math.prod(result.aval.shape) * math.prod(left[axis] for axis in contracted)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                count += _products(getattr(inner, "jaxpr", inner))
    return count


def start(
    asked: Literal["auto", "cpu", "gpu"], decide: Callable[[], Choice], cpu_devices: int = THREADS
) -> Choice:
    """Starts JAX on what the user asked for; without a wish, on what ``decide`` returns if there is a GPU.

    The variable JAX_PLATFORMS decides for ``auto``. Where JAX runs already, its platform stays.

    Raises:
        PlatformError: JAX cannot use what is asked for.
    """
    if gpu.jax_runs():
        return _as_it_runs(asked)
    _user_platforms()
    if asked == "cpu":
        return _start_on_cpu("as --device says", cpu_devices)
    problem = gpu.missing()
    if asked == "gpu":
        if problem is None:
            problem = _start_on_gpu()
        if problem is not None:
            raise PlatformError(f"device = 'gpu': {problem}")
        return Choice(True, "as --device says")
    if platforms := chosen_platforms():
        start_platform(cpu_devices)
        return _told(bool(gpu.kinds()), f"JAX_PLATFORMS = {platforms}")
    if problem is not None:
        start_platform(cpu_devices)  # on what JAX has otherwise
        return _told(bool(gpu.kinds()), problem)
    choice = decide()
    if gpu.jax_runs():  # the environment started it
        return _as_it_runs(asked)
    if not choice.on_gpu:
        return _start_on_cpu(choice.reason, cpu_devices)
    if (problem := _start_on_gpu()) is not None:
        return _start_on_cpu(problem, cpu_devices)
    return choice


def _told(on_gpu: bool, reason: str | None) -> Choice:
    """A choice whose reason is shown only on machines that have a GPU."""
    return Choice(on_gpu, reason if on_gpu or gpu.is_present() else None)


def _as_it_runs(asked: str) -> Choice:
    on_gpu = bool(gpu.kinds())
    if asked == "gpu" and not on_gpu:
        why = gpu.missing() or "JAX runs on the CPU in this process already; start the training before"
        raise PlatformError(f"device = 'gpu': {why}")
    if asked == "cpu" and on_gpu:
        raise PlatformError(
            f"device = 'cpu': JAX runs on {gpu.device_name()} in this process already; start the training "
            "before"
        )
    return _told(on_gpu, "JAX ran in this process already")


def _start_on_cpu(reason: str | None, cpu_devices: int) -> Choice:
    jax.config.update("jax_platforms", "cpu")
    start_platform(cpu_devices)
    return _told(False, reason)


def _start_on_gpu() -> str | None:
    """Starts JAX on a GPU, with its CPU beside it. Returns why that is impossible, as half a sentence."""
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "cuda,cpu")
    with _quiet_plugins() as said:
        try:
            start_jax()
        except Exception as error:  # of any kind, from the plugin
            said.append(why_not_started(error))
    if gpu.jax_runs() and gpu.kinds():
        return None
    jax.config.update("jax_platforms", before)
    why = (said or ["JAX started without it"])[0]
    return f"JAX has a CUDA package, which does not start: {why.splitlines()[0]}"


@contextlib.contextmanager
def _quiet_plugins() -> Iterator[list[str]]:
    """What JAX would print of plugins that fail; the first is the reason of all that follows."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            said.append(str(error) or type(error).__name__ if error else str(record.msg))

    logger, listener = logging.getLogger("jax._src.xla_bridge"), Listener(logging.ERROR)
    before = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.propagate = before


_KEPT_OFF: list[bool] = []  # whether this process keeps itself off the GPU


def keep_off_gpu() -> None:
    """Keeps a process that only starts trainings off the GPU: JAX would take most of its memory there."""
    if not gpu.jax_runs() and not chosen_platforms():
        jax.config.update("jax_platforms", "cpu")
        _KEPT_OFF.append(True)


def _user_platforms() -> str | None:
    """The platforms that the user chose. Lets a process that kept itself off the GPU choose again."""
    if _KEPT_OFF:
        _KEPT_OFF.clear()
        jax.config.update("jax_platforms", None)
    return chosen_platforms()


def check_many(asked: str, precision: str) -> None:
    """Refuses what all of several trainings on this machine would refuse. Does not start JAX.

    Raises:
        PlatformError: there can be no GPU.
        ConfigError: the precision has no effect on a CPU.
    """
    if asked == "gpu" and (problem := gpu.missing()) is not None:
        raise PlatformError(f"device = 'gpu': {problem}")
    if asked == "auto" and not _user_platforms() and precision != "float32":
        raise ConfigError(
            f"matmul_precision = {precision!r}: has no effect on the CPU ({SIDE_BY_SIDE.reason})"
        )


def many_on_gpu(asked: str) -> bool:
    """Whether several trainings on this machine will use its GPU. Does not start JAX."""
    return asked == "gpu" or (asked == "auto" and (_user_platforms() or "cpu").split(",")[0] != "cpu")


_USERS: list[str] = []  # a process may have several trainings at once, all with the same precision
_BEFORE: list[Any] = []  # what was set before the first of them


@contextlib.contextmanager
def precision(asked: str, *, on_gpu: bool) -> Iterator[None]:
    """Sets the precision of matrix products on a GPU until the context ends. On a CPU nothing is set.

    Raises:
        ConfigError: another precision than the usual one, which a CPU does not have.
    """
    if not on_gpu:
        if asked != "float32":
            raise ConfigError(f"matmul_precision = {asked!r}: has no effect on a CPU")
        yield
        return
    if not _USERS:
        _BEFORE.append(jax.config.values["jax_default_matmul_precision"])
    _USERS.append(asked)
    jax.config.update("jax_default_matmul_precision", PRECISIONS[asked])
    try:
        yield
    finally:
        _USERS.pop()
        if not _USERS:
            jax.config.update("jax_default_matmul_precision", _BEFORE.pop())
