"""rlax, imported when the first of its functions is called: the import takes half a second.

rlax imports distrax, which imports tensorflow-probability, which accesses the deprecated
`jax.core.pytype_aval_mappings`. Under `python -W error` that import would fail in jax 0.10 and
later.
"""

import importlib
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax


class _Lazy(ModuleType):
    """A module whose attributes are those of the module of its name, imported at the first."""

    def __getattr__(self, name: str) -> Any:
        with warnings.catch_warnings(), jax.ensure_compile_time_eval():  # not part of a trace
            warnings.filterwarnings("ignore", "jax.core.pytype_aval_mappings", DeprecationWarning)
            module = importlib.import_module(self.__name__)
        return getattr(module, name)


if TYPE_CHECKING:
    import rlax
else:
    rlax = _Lazy("rlax")

__all__ = ["rlax"]
