"""Adam in blocks is Adam: the same steps as Optax takes, and loops that XLA does not divide among threads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo import descent
from poise.algo.descent import clipping, descend_in_blocks, direction, moments
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.networks import Policy
from poise.algo.state import make_optimizer
from poise.algo.update import descend
from poise.config import PPO, Config
from poise.config import Policy as PolicyConfig
from poise.spec import Spec

SPEC = Spec.flat("probe", (3,), (2,), (-1.0, -1.0), (1.0, 1.0))


def begun(hidden, max_grad_norm=0.5):
    """A policy, the state of its optimizer, and the settings of the first iteration."""
    policy = PolicyConfig(std="independent", hidden=hidden)
    ppo = PPO(num_steps=25, max_grad_norm=max_grad_norm)
    config = Config(total_steps=400, num_envs=4, ppo=ppo, policy=policy).settled(SPEC)
    policy = Policy(SPEC, config.policy, key=jax.random.key(0))
    return policy, make_optimizer(None).init(policy), Hyperparameters.of(config, 0)


def test_two_steps_worked_by_hand():
    """mu = 0.1 g, nu = 0.001 g^2; corrected they are g and g^2, so the first step is the sign of g."""
    mu, nu = moments(jnp.zeros(2), jnp.zeros(2), jnp.array([3.0, -0.5]))
    np.testing.assert_allclose(mu, [0.3, -0.05], rtol=1e-6)
    np.testing.assert_allclose(nu, [0.009, 0.00025], rtol=1e-4)
    np.testing.assert_allclose(direction(mu, nu, jnp.array(1)), [1.0, -1.0], rtol=1e-4)
    # then g = 0: mu = 0.27 and nu = 0.008991, corrected by 1 - 0.81 and 1 - 0.998001
    mu, nu = moments(mu, nu, jnp.zeros(2))
    step = (0.27 / 0.19) / (np.sqrt(0.008991 / 0.001999) + 1e-5)
    np.testing.assert_allclose(direction(mu, nu, jnp.array(2))[0], step, rtol=1e-4)


def test_a_gradient_is_clipped_by_the_norm_of_all_its_numbers():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    assert clipping(gradient, 10.0) == 1
    assert clipping(gradient, 0.5) == pytest.approx(0.1)
    assert clipping(gradient, None) == 1


@pytest.mark.parametrize("block", [5, 64, 10_000], ids=["blocks and rests", "few blocks", "rests alone"])
@pytest.mark.parametrize("limit", [None, 0.5, 1e6])
def test_in_blocks_the_steps_are_those_of_optax(block, limit, monkeypatch):
    monkeypatch.setattr(descent, "BLOCK", block)
    policy, opt, hyper = begun((8, 16), limit)
    assert hyper.std_rate != 1
    plain, blocks = policy, policy
    opt_plain, opt_blocks = opt, opt
    rng = np.random.default_rng(0)
    monkeypatch.setattr("poise.algo.update.is_large", lambda params: False)
    for _ in range(5):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), policy)
        plain, opt_plain = descend(plain, opt_plain, gradient, 1e-2, hyper)
        blocks, opt_blocks = descend_in_blocks(blocks, opt_blocks, gradient, 1e-2, hyper)
    assert jax.tree.structure(opt_plain) == jax.tree.structure(opt_blocks)
    assert jax.tree.structure(plain) == jax.tree.structure(blocks)
    for ours, theirs in zip(
        jax.tree.leaves((blocks, opt_blocks)), jax.tree.leaves((plain, opt_plain)), strict=True
    ):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)
    assert not np.allclose(plain.log_std, policy.log_std)


@pytest.mark.parametrize("divided", [False, True])
def test_xla_divides_no_loop_among_threads(divided, monkeypatch):
    """``divided``: the loops of Optax, which it does divide: so the test can tell."""
    if divided:
        monkeypatch.setattr("poise.algo.update.is_large", lambda params: False)
    policy, opt, hyper = begun((512, 512))

    def steps(policy, opt, gradient):
        step = lambda now, _: (descend(*now, gradient, 1e-3, hyper), None)  # noqa: E731
        return jax.lax.scan(step, (policy, opt), None, length=3)[0]

    compiled = jax.jit(steps).lower(policy, opt, policy).compile().as_text()
    assert ('"outer_dimension_partitions":["' in compiled) is divided
