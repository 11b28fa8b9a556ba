"""rlax for tests that compare with it, without the deprecation warning that its import sets off.

rlax imports distrax, and this tensorflow-probability, which looks up a deprecated name of jax.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "jax.core.pytype_aval_mappings", DeprecationWarning)
    import rlax

__all__ = ["rlax"]
