"""Exact solutions of preference games on a small set of answers.

`p` [K, K] has the probability that answer i is preferred to j; p[i, j] + p[j, i] = 1, and 1/2 on
the diagonal.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from bellmax import must
from bellmax.losses._checks import NUMBER, Spec, check_arrays, check_scalars, promote, widen

_STAGES = 200
_MOST_ANSWERS = 10


def nash_md_step(
    pi: chex.Array,
    ref: chex.Array,
    p: chex.Array,
    *,
    tau: chex.Numeric = 0.1,
    eta: chex.Numeric = 0.1,
) -> jax.Array:
    """One step of Nash-MD on probabilities.

    `mix ~ pi^(1 - eta tau) * ref^(eta tau)`, then `mix * exp(eta * P(. > mix))`, normalised. The
    last iterate converges, up to a distance of order eta^2 in KL, as its fixed point plays against
    the mixture.

    Args:
      pi: [K] float above 0 that sums to 1, the policy.
      ref: [K] float above 0 that sums to 1, the reference.
      p: [K, K] float in [0, 1], preferences of rows over columns.
      tau: at least 0, regularisation.
      eta: above 0, step size, with eta * tau at most 1.

    Returns:
      [K] float32 or wider, the next policy.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2023, arXiv:2312.00886, eq. 4 and 5.
    """
    check_arrays(pi=Spec(pi, "K"), ref=Spec(ref, "K"), p=Spec(p, "KK", NUMBER))
    check_scalars(tau=tau, eta=eta, from_zero=("tau",), above_zero=("eta",))
    pi, ref, p, tau, eta = promote(pi, ref, p, tau, eta)
    mix = jax.nn.softmax((1.0 - eta * tau) * jnp.log(pi) + eta * tau * jnp.log(ref))
    return jax.nn.softmax(jnp.log(mix) + eta * _against(p, mix))


def _against(p: jax.Array, pi: jax.Array) -> jax.Array:
    # Not a matrix product, which accelerators may round to TF32 or bfloat16.
    return jnp.sum(p * pi[None, :], axis=1)


def regularised_equilibrium(
    p: chex.Array, ref: chex.Array, *, tau: chex.Numeric = 0.1
) -> jax.Array:
    """Equilibrium of the regularised game: `pi ~ ref * exp(P(. > pi) / tau)`.

    Newton's method on log-probabilities, along a path of falling temperatures from at least 1.

    Args:
      p: [K, K] float in [0, 1], preferences of rows over columns.
      ref: [K] float above 0 that sums to 1, the reference.
      tau: above 0, regularisation; towards 0 the result approaches `minimax_winner`, and below 0.01
        float32 loses digits.

    Returns:
      [K] float32 or wider, probabilities, with exact gradients in all arguments.

    Raises:
      ValueError: a rank, dtype, size or range differs from the above; names the argument.

    Source: Munos et al. 2023, arXiv:2312.00886; the equation of the equilibrium is derived here.
    """
    check_arrays(p=Spec(p, "KK", NUMBER), ref=Spec(ref, "K"))
    check_scalars(tau=tau, above_zero=("tau",))
    p, ref, tau = promote(p, ref, tau)
    held = jax.tree.map(jax.lax.stop_gradient, (p, ref, tau))
    start = jnp.maximum(held[2], 1.0)

    def step(logits, fraction):
        now = start * (held[2] / start) ** fraction
        return _newton(logits, held[0], held[1], now), None

    # The end is repeated, to converge there.
    fractions = np.minimum(np.arange(1, _STAGES + 11) / _STAGES, 1.0)
    logits, _ = jax.lax.scan(step, jnp.log(held[1]), jnp.asarray(fractions, p.dtype))
    # The derivative of one more step at the solution is that of the solution.
    return jax.nn.softmax(_newton(jax.lax.stop_gradient(logits), p, ref, tau))


def _newton(logits: jax.Array, p: jax.Array, ref: jax.Array, tau: jax.Array) -> jax.Array:
    pi = jax.nn.softmax(logits)
    residual = logits - jnp.log(ref) - _against(p, pi) / tau
    # The residual of a constant in the logits is that constant.
    spread = jnp.diag(pi) - pi[:, None] * pi[None, :]
    slope = jnp.eye(pi.size, dtype=p.dtype) - jnp.sum(p[:, :, None] * spread[None], axis=1) / tau
    return logits - jnp.linalg.solve(jax.lax.stop_gradient(slope), residual)


def minimax_winner(p: chex.Array) -> jax.Array:
    """The minimax winner: a mixture of answers that no answer beats by more than 1/2.

    Solves the game on every set of answers and takes the solution that the others gain least
    against. It is unique without ties.

    Args:
      p: [K, K] float in [0, 1], preferences of rows over columns, K at most 10; no gradient.

    Returns:
      [K] float32 or wider, probabilities.

    Raises:
      ValueError: a rank, dtype or size differs from the above; names the argument.

    Source: Fishburn 1984; Swamy et al. 2024, arXiv:2401.04056.
    """
    check_arrays(p=Spec(p, "KK", NUMBER))
    size = jnp.shape(p)[0]
    if size > _MOST_ANSWERS:
        allowed = f"at most {_MOST_ANSWERS} entries along its axis [K]"
        raise ValueError(must("p", allowed, size, verb="have"))
    gain = jax.lax.stop_gradient(widen(p)) - 0.5
    members = (np.arange(1, 2**size)[:, None] >> np.arange(size)) & 1 == 1
    candidates = jax.vmap(lambda on: _solution(gain, on))(jnp.asarray(members))
    # What the best answer gains against each mixture, and what a mixture has below 0.
    excess = jnp.max(jnp.sum(gain[None] * candidates[:, None, :], axis=-1), axis=1)
    wrong = jnp.maximum(excess, -jnp.min(candidates, axis=1))
    best = candidates[jnp.argmin(jnp.where(jnp.isfinite(wrong), wrong, jnp.inf))]
    best = jnp.maximum(best, 0.0)
    return best / jnp.sum(best)


def _solution(gain: jax.Array, on: jax.Array) -> jax.Array:
    """[K] mixture on some answers against which they all gain the same; 0 elsewhere."""
    size = gain.shape[0]
    inside = on.astype(gain.dtype)
    # Answers left out have an equation x = 0, the last row asks for a sum of 1.
    left = gain * inside[:, None] * inside[None, :] + jnp.diag(1.0 - inside)
    top = jnp.concatenate([left, -inside[:, None]], axis=1)
    bottom = jnp.concatenate([inside, jnp.zeros(1, gain.dtype)])[None]
    system = jnp.concatenate([top, bottom])
    wanted = jnp.zeros(size + 1, gain.dtype).at[size].set(1.0)
    # Ties make systems singular; the pseudo-inverse still gives a mixture.
    return jnp.sum(jnp.linalg.pinv(system, rtol=1e-5) * wanted[None, :], axis=1)[:size] * inside
