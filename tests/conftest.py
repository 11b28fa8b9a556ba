"""Every test runs with rank promotion refused: silent broadcasting is how losses go wrong."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
