"""Imports rlax without the deprecation warning that its import causes in jax 0.10 and later.

rlax imports distrax, which imports tensorflow-probability, which accesses the deprecated
`jax.core.pytype_aval_mappings`. Under `python -W error` importing our losses would fail.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "jax.core.pytype_aval_mappings", DeprecationWarning)
    import rlax

__all__ = ["rlax"]
