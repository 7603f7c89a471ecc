"""The bits of a training do not depend on how many cores the machine has."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from poise.system.threads import THREADS, num_threads, one_blas_thread, start_jax

# Of a training: an orthogonal start, a rollout's acting, and the statistics and gradients of a large batch,
# in shapes where the pool's size shows. NPROC stands for the cores of a larger machine.
PROBE = """
import hashlib, json, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
import jax, numpy as np
from poise.system.threads import num_threads
import poise
from poise.envs import make
from poise.training.loop import iterations

if sys.argv[1] == "raw":
    jax.devices()
config = poise.Config(
    total_steps=2048, num_envs=64,
    ppo=poise.PPO(num_steps=32, num_epochs=1, minibatch_size=2048, recompute_every=None),
    policy=poise.Policy(hidden=(256,)), value=poise.Value(hidden=(256,)),
)
env = make("HalfCheetah-v5", 64)
(progress,) = iterations(config, env)
parts = {
    "start": progress.rollout.action[0], "rollout": progress.rollout.obs,
    "statistics": progress.state.normalizer.obs.mean, "policy": progress.state.learner.policy.mlp.weight[0],
    "value": progress.state.learner.value.mlp.weight[0],
}
digest = {name: hashlib.sha256(np.asarray(x).tobytes()).hexdigest()[:12] for name, x in parts.items()}
print(json.dumps({"threads": num_threads(), **digest}))
"""


def _probe(start: str, cores: int, nproc: int | None = None) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    env |= {} if nproc is None else {"NPROC": str(nproc)}
    command = [sys.executable, "-c", PROBE, start, str(cores)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def _seen(probes: list[subprocess.Popen[str]]) -> list[dict[str, object]]:
    return [json.loads(probe.communicate()[0]) for probe in probes]


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot take cores away")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_one_core_and_eight_give_the_same_bits():
    one, eight = _seen([_probe("poise", 1), _probe("poise", 2, nproc=8)])
    assert one == eight
    assert one["threads"] == THREADS


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot take cores away")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_probe_of_the_bits_sees_eight_cores():
    """JAX started by someone else on eight cores gives other gradients."""
    one, foreign = _seen([_probe("poise", 1), _probe("raw", 2, nproc=8)])
    assert foreign["threads"] == 8
    assert foreign["policy"] != one["policy"]


def test_a_running_jax_is_not_changed_and_its_threads_are_counted():
    before = num_threads()
    start_jax()
    assert num_threads() == before
    assert "PJRT_NPROC" not in os.environ


def test_matrix_products_equal_those_of_one_thread():
    from threadpoolctl import threadpool_info, threadpool_limits

    rng, depends = np.random.default_rng(0), []
    for rows, inner, columns in ((1023, 376, 255), (1, 4096, 1000), (333, 1001, 77)):
        x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((rows, inner), (inner, columns)))
        with threadpool_limits(1, user_api="blas"):
            alone = x.dot(weight).tobytes()
        with threadpool_limits(4, user_api="blas"):
            depends.append(x.dot(weight).tobytes() != alone)
            with one_blas_thread():
                used = {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}
                assert used == {1}
                assert x.dot(weight).tobytes() == alone
    assert any(depends)  # otherwise nothing was shown; which shapes show it depends on the processor
