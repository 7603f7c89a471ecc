import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from poise.algo.distributions import Categorical, DiagGaussian

P = DiagGaussian(jnp.array([0.3, -1.0]), jnp.array([0.5, 2.0]))
C = Categorical(jnp.array([0.0, 1.0, -2.0]))


def test_gaussian_log_prob_equals_scipy():
    action = jnp.array([0.1, 0.7])
    expected = scipy.stats.norm.logpdf([0.1, 0.7], [0.3, -1.0], [0.5, 2.0]).sum()
    assert P.log_prob(action) == pytest.approx(expected, abs=1e-5)


def test_gaussian_entropy_equals_scipy():
    expected = scipy.stats.norm.entropy([0.3, -1.0], [0.5, 2.0]).sum()
    assert P.entropy() == pytest.approx(expected, abs=1e-5)


def test_categorical_by_hand():
    probability = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    assert C.log_prob(jnp.array(1)) == pytest.approx(np.log(probability[1]), abs=1e-6)
    assert C.entropy() == pytest.approx(scipy.stats.entropy(probability), abs=1e-6)


def test_samples_have_the_distribution_they_claim():
    keys = jax.random.split(jax.random.key(1), 100_000)
    gaussian = jax.vmap(lambda key: P.draw(jax.random.normal(key, (2,))))(keys)
    np.testing.assert_allclose(gaussian.mean(0), P.mean, atol=0.03)
    np.testing.assert_allclose(gaussian.std(0), P.std, atol=0.03)
    chosen = jax.vmap(lambda key: C.draw(jax.random.gumbel(key, (3,))))(keys)
    np.testing.assert_allclose(np.bincount(chosen) / 100_000, jax.nn.softmax(C.logits), atol=0.01)
