"""The contract of all learning rules, on BYOL-Explore's losses, and their messages."""

import jax
import jax.numpy as jnp
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract

LINKS = {"transition_t": jnp.array([1.0, 0.0, 1.0, 1.0])}
PREDICTIONS = jax.random.normal(jax.random.key(0), (3, 4, 4))
TARGETS = jax.random.normal(jax.random.key(1), (5, 4))
MASK = losses.horizon_mask(LINKS["transition_t"], horizons=3)
ERRORS = {"errors": losses.horizon_losses(PREDICTIONS, TARGETS, MASK), "mask": MASK}
PAIR = {"prediction": PREDICTIONS[0, 0], "target": TARGETS[0]}
CHUNK = {"predictions": PREDICTIONS, "targets": TARGETS, "mask": MASK}
CASES = [
    Case(losses.normalised_prediction_loss, PAIR, ("prediction",), {"eps": 1e-2}, {}, tuple(PAIR)),
    Case(
        losses.horizon_mask,
        LINKS,
        static={"horizons": 3},
        values=tuple(LINKS),
        free=("transition_t",),
    ),
    Case(losses.horizon_losses, CHUNK, ("predictions",), {"eps": 1e-2}),
    Case(losses.self_prediction_loss, ERRORS, ("errors",)),
    Case(losses.prediction_uncertainty, ERRORS, values=("errors",)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


def test_errors_name_the_argument():
    predictions, targets, mask = PREDICTIONS, TARGETS, MASK
    with pytest.raises(ValueError, match=r"targets must have 5 .*, one more .* got 4"):
        losses.horizon_losses(predictions, targets[1:], mask)
    with pytest.raises(ValueError, match=r"mask must have .* \[K\], .* got 2"):
        losses.horizon_losses(predictions, targets, mask[:2])
    with pytest.raises(ValueError, match="horizons must .* got 0"):
        losses.horizon_mask(jnp.ones(4), horizons=0)
    for eps in (0.0, -1.0):
        with pytest.raises(ValueError, match="eps must be above 0, got"):
            losses.normalised_prediction_loss(targets[0], targets[1], eps=eps)
        with pytest.raises(ValueError, match="eps must be above 0, got"):
            losses.horizon_losses(predictions, targets, mask, eps=eps)
