import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from poise.distributions import Categorical, DiagGaussian

P = DiagGaussian(jnp.array([0.3, -1.0]), jnp.array([0.5, 2.0]))
Q = DiagGaussian(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.5]))
C = Categorical(jnp.array([0.0, 1.0, -2.0]))
D = Categorical(jnp.array([0.5, 0.5, 0.0]))


def test_gaussian_log_prob_equals_scipy():
    action = jnp.array([0.1, 0.7])
    expected = scipy.stats.norm.logpdf([0.1, 0.7], [0.3, -1.0], [0.5, 2.0]).sum()
    assert P.log_prob(action) == pytest.approx(expected, abs=1e-5)


def test_gaussian_entropy_equals_scipy():
    expected = scipy.stats.norm.entropy([0.3, -1.0], [0.5, 2.0]).sum()
    assert P.entropy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("p", "q"), [(P, Q), (C, D)])
def test_kl_equals_the_mean_log_ratio_of_many_samples(p, q):
    sample = jax.vmap(lambda key: p.sample(key=key))(jax.random.split(jax.random.key(0), 200_000))
    ratio = jax.vmap(lambda a: p.log_prob(a) - q.log_prob(a))(sample)
    assert p.kl(q) == pytest.approx(float(ratio.mean()), abs=4 * float(ratio.std()) / 200_000**0.5)
    assert p.kl(p) == pytest.approx(0, abs=1e-6)


def test_categorical_by_hand():
    probability = np.exp([0.0, 1.0, -2.0]) / np.exp([0.0, 1.0, -2.0]).sum()
    assert C.log_prob(jnp.array(1)) == pytest.approx(np.log(probability[1]), abs=1e-6)
    assert C.entropy() == pytest.approx(scipy.stats.entropy(probability), abs=1e-6)
    assert C.mode() == 1


def test_samples_have_the_distribution_they_claim():
    keys = jax.random.split(jax.random.key(1), 100_000)
    gaussian = jax.vmap(lambda key: P.sample(key=key))(keys)
    np.testing.assert_allclose(gaussian.mean(0), P.mean, atol=0.03)
    np.testing.assert_allclose(gaussian.std(0), P.std, atol=0.03)
    chosen = jax.vmap(lambda key: C.sample(key=key))(keys)
    np.testing.assert_allclose(np.bincount(chosen) / 100_000, jax.nn.softmax(C.logits), atol=0.01)


def test_the_mode_of_a_gaussian_is_its_mean():
    np.testing.assert_array_equal(P.mode(), P.mean)
