"""Compiling without optimisation, where a program runs for less time than compiling it takes."""

import contextlib

import jax

_OPTION = "jax_disable_most_optimizations"
QUICK = {"xla_backend_optimization_level": 0}  # the same, as an option of `Lowered.compile`


@contextlib.contextmanager
def compiles_soon():
    """Compile without most optimisations inside the block."""
    before = jax.config.values[_OPTION]
    jax.config.update(_OPTION, True)
    try:
        yield
    finally:
        jax.config.update(_OPTION, before)


def compiled(function, *args):
    """A function compiled quickly for arguments like these; it takes no others."""
    return jax.jit(function).lower(*args).compile(QUICK)
