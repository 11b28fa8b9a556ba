"""Losses of one pair of answers, the first preferred: GPO's family, with DPO and IPO, and RPO.

All take `rho`, the margin of the pair in log-ratios, from `preference_margin`. Its two log-ratios
are sums, or both means, over the tokens of an answer; see `sequence_log_prob`.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from bellmax import must
from bellmax.losses._checks import Spec, check_arrays, check_scalars, one_of, promote
from bellmax.losses.sequence._shared import MAX_EXPONENT


def _exponential(z: jax.Array) -> jax.Array:
    # Linear where exp would overflow: still convex, and never without a gradient.
    inside = jnp.minimum(-z, MAX_EXPONENT)
    return jnp.exp(inside) * (1.0 + (-z - inside))


# A margin of exactly 1 has no gradient, as the limit from above; `maximum` would give half of it.
_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "logistic": lambda z: jax.nn.softplus(-z),
    "squared": lambda z: jnp.square(z - 1.0),
    "hinge": lambda z: jnp.where(z < 1.0, 1.0 - z, 0.0),
    "truncated_quadratic": lambda z: jnp.where(z < 1.0, jnp.square(1.0 - z), 0.0),
    "exponential": _exponential,
    "savage": lambda z: jnp.square(jax.nn.sigmoid(-z)),
}


def preference_margin(
    log_pi_w: chex.Numeric,
    log_pi_l: chex.Numeric,
    log_ref_w: chex.Numeric,
    log_ref_l: chex.Numeric,
) -> jax.Array:
    """Margin of a pair: `rho = (log_pi_w - log_ref_w) - (log_pi_l - log_ref_l)`.

    Args:
      log_pi_w: [] float, log-probability of the preferred answer under the policy, in nats.
      log_pi_l: [] float, that of the other answer.
      log_ref_w: [] float, log-probability of the preferred answer under the reference; a constant
        to the gradient.
      log_ref_l: [] float, that of the other answer; a constant to the gradient.

    Returns:
      [] float32 or wider, in nats.

    Raises:
      ValueError: a rank or dtype differs from the above; names the argument.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.
    """
    arrays = {"log_pi_w": log_pi_w, "log_pi_l": log_pi_l}
    arrays |= {"log_ref_w": log_ref_w, "log_ref_l": log_ref_l}
    check_arrays(**{name: Spec(x, "") for name, x in arrays.items()})
    log_pi_w, log_pi_l, log_ref_w, log_ref_l = promote(*arrays.values())
    return (log_pi_w - log_pi_l) - jax.lax.stop_gradient(log_ref_w - log_ref_l)


def gpo_loss(
    rho: chex.Numeric, *, beta: chex.Numeric = 0.1, function: str = "logistic"
) -> jax.Array:
    """Generalised preference optimisation: `f(beta * rho)` of a function f with `f'(0) < 0`.

    | function | f(z) | stops pushing |
    |---|---|---|
    | logistic (DPO) | log(1 + exp(-z)) | never |
    | squared (IPO, scaled) | (z - 1)^2 | at z = 1, and pulls back beyond |
    | hinge (SLiC) | max(0, 1 - z) | from z = 1 on |
    | truncated_quadratic | max(0, 1 - z)^2 | from z = 1 on |
    | exponential | exp(-z); linear beyond exp(30) | never |
    | savage | (1 + exp(z))^-2, not convex | never; outliers push less |

    The strength of the pull towards the reference, relative to the push, is `f''(0) / abs(f'(0))`:
    logistic 1/2, squared 1, hinge 0, exponential 1. It acts where the pairs are, not where the
    policy is: it is a KL penalty only for pairs drawn from the policy.

    Args:
      rho: [] float, from `preference_margin`, in nats.
      beta: above 0; the larger, the closer the optimum is to the reference.
      function: a name from the table; static.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Tang et al. 2024, arXiv:2402.05749. TRL and EasyDeL have the logistic, squared (in
      `ipo_loss`'s scale) and hinge losses.
    """
    check_arrays(rho=Spec(rho, ""))
    check_scalars(beta=beta, above_zero=("beta",))
    one_of("function", function, _FUNCTIONS)
    rho, beta = promote(rho, beta)
    return _FUNCTIONS[function](beta * rho)


def dpo_loss(rho: chex.Numeric, *, beta: chex.Numeric = 0.1) -> jax.Array:
    """Direct preference optimisation: `-log sigmoid(beta * rho)`, `gpo_loss` with "logistic".

    Args:
      rho: [] float, from `preference_margin`, in nats.
      beta: above 0; the optimum under Bradley-Terry labels of rewards r is `ref * exp(r / beta)`.

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7. TRL's `sigmoid`; averaged log-ratios
      make it TRL's `sigmoid_norm`.
    """
    return gpo_loss(rho, beta=beta)


def ipo_loss(rho: chex.Numeric, *, tau: chex.Numeric = 0.1) -> jax.Array:
    """Identity preference optimisation: `(rho - 1 / (2 tau))^2`.

    It is `gpo_loss(rho, beta=2 * tau, function="squared") / (4 * tau^2)`: the same minimiser,
    another scale.

    Args:
      rho: [] float, from `preference_margin`, in nats; TRL and EasyDeL give means over tokens,
        the paper's formula has sums.
      tau: above 0; strength of the regularisation.

    Returns:
      [] float32 or wider, in nats^2.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17. TRL's and EasyDeL's `ipo`, whose `beta` is
      tau.
    """
    check_arrays(rho=Spec(rho, ""))
    check_scalars(tau=tau, above_zero=("tau",))
    rho, tau = promote(rho, tau)
    return jnp.square(rho - 1.0 / (2.0 * tau))


def noisy_label_loss(
    rho: chex.Numeric,
    *,
    epsilon: chex.Numeric,
    beta: chex.Numeric = 0.1,
    function: str = "logistic",
    unbiased: bool = False,
) -> jax.Array:
    """A loss of `gpo_loss` for labels that are swapped with probability epsilon.

    With z = beta * rho: `(1 - epsilon) f(z) + epsilon f(-z)`. With `unbiased`, the expected loss
    over swaps is that of clean labels: `((1 - epsilon) f(z) - epsilon f(-z)) / (1 - 2 epsilon)`.

    Args:
      rho: [] float, from `preference_margin`, in nats.
      epsilon: in [0, 1/2), probability that a label is swapped.
      beta: above 0.
      function: a name of `gpo_loss`; static.
      unbiased: which of the two; static.

    Returns:
      [] float32 or wider; may be negative with `unbiased`.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Ray Chowdhury et al. 2024, arXiv:2403.00409, for `unbiased`. TRL's `label_smoothing`
      of its `sigmoid` and `robust` losses.
    """
    check_scalars(epsilon=epsilon, from_zero=("epsilon",), below_one=("epsilon",))
    if isinstance(epsilon, int | float) and epsilon >= 0.5:
        raise ValueError(must("epsilon", "below 1/2", epsilon))
    loss = gpo_loss(rho, beta=beta, function=function)
    (rho,) = promote(rho)
    loss, swapped, epsilon = promote(loss, gpo_loss(-rho, beta=beta, function=function), epsilon)
    if unbiased:
        return ((1.0 - epsilon) * loss - epsilon * swapped) / (1.0 - 2.0 * epsilon)
    return (1.0 - epsilon) * loss + epsilon * swapped


def rpo_loss(
    rho: chex.Numeric,
    log_pi_w: chex.Numeric,
    *,
    beta: chex.Numeric = 0.01,
    eta: chex.Numeric = 0.005,
) -> jax.Array:
    """Regularised preference optimisation: DPO plus the likelihood of the preferred answer.

    `dpo_loss(rho) - eta * log_pi_w`.

    Args:
      rho: [] float, from `preference_margin`, in nats.
      log_pi_w: [] float, log-probability of the preferred answer under the policy, in nats. TRL
        takes the mean over all preferred tokens of a batch, not a sum per answer.
      beta: above 0, default 0.01 (paper).
      eta: at least 0, default 0.005 (paper).

    Returns:
      [] float32 or wider.

    Raises:
      ValueError: a rank, dtype or range differs from the above; names the argument.

    Source: Liu et al. 2024, arXiv:2405.16436. TRL's `rpo_alpha` is eta.
    """
    check_arrays(log_pi_w=Spec(log_pi_w, ""))
    check_scalars(eta=eta, from_zero=("eta",))
    loss, log_pi_w, eta = promote(dpo_loss(rho, beta=beta), log_pi_w, eta)
    return loss - eta * log_pi_w
