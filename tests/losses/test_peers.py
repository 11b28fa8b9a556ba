"""Our quantile regression against that of a maintained PyTorch library, on the same numbers.

No other implementation of Munchausen learning can be installed with a current JAX: DI-engine, the
only one on PyPI, needs numpy below 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def torch_and_loss():
    import torch
    from sb3_contrib.common.utils import quantile_huber_loss

    return torch, quantile_huber_loss


@pytest.mark.parametrize(("quantiles", "atoms"), [(5, 5), (1, 9), (32, 7)])
def test_quantile_regression_equals_pytorch_in_value_and_gradient(torch_and_loss, quantiles, atoms):
    torch, quantile_huber_loss = torch_and_loss
    generator = np.random.default_rng(quantiles)
    dist = generator.normal(size=(8, quantiles)) * 2
    target = generator.normal(size=(8, atoms)) * 2
    current = torch.tensor(dist, requires_grad=True)
    # Summed over quantiles, averaged over atoms and batch; its threshold is 1. Its own fractions
    # would be in float32.
    fractions = torch.tensor((np.arange(quantiles) + 0.5) / quantiles).view(1, -1, 1)
    theirs = quantile_huber_loss(current, torch.tensor(target), fractions)
    theirs.backward()
    with jax.enable_x64(True):
        tau = jnp.asarray(losses.quantile_midpoints(quantiles), jnp.float64)

        def ours(dist):
            one = jax.vmap(losses.quantile_regression, (0, None, 0))
            return jnp.mean(one(dist, tau, jnp.asarray(target)))

        value, gradient = jax.value_and_grad(ours)(jnp.asarray(dist))
        np.testing.assert_allclose(value, theirs.item(), rtol=1e-12)
        np.testing.assert_allclose(gradient, current.grad.numpy(), rtol=1e-12, atol=1e-15)
