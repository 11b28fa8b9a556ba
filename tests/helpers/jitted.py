"""`bellmax.losses` under `jax.jit`, each rule compiled once for its shapes and static options.

Op by op a rule with a scan inside compiles again at every call, and any rule compiles each of its
operations; tests of numbers call `jitted.retrace(...)` instead. Checks of Python numbers that come
by keyword stay, because these are static; numbers that come by position are traced.
"""

import functools

import jax

from bellmax import losses


class _Jitted:
    def __getattr__(self, name):
        return functools.partial(_call, getattr(losses, name))


def _call(function, *arrays, **options):
    plain = str, bool, int, float, type(None)
    static = {name: x for name, x in options.items() if isinstance(x, plain)}
    traced = {name: x for name, x in options.items() if name not in static}
    return compiled(function, **static)(*arrays, **traced)


@functools.cache
def compiled(function, **static):
    """`function` with these options, under jit; the same object for the same arguments."""
    return jax.jit(functools.partial(function, **static))


jitted = _Jitted()
