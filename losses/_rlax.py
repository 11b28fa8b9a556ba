"""rlax, imported without the deprecation warning that it sets off in jax 0.10 and later.

rlax imports distrax, which imports tensorflow-probability, which still looks up
`jax.core.pytype_aval_mappings`. Under `python -W error` that would end the import of our losses.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "jax.core.pytype_aval_mappings", DeprecationWarning)
    import rlax

__all__ = ["rlax"]
