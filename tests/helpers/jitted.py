"""`jax.jit` for tests: programs that compile quickly; the losses and agents under it.

Op by op a rule compiles each of its operations, and a rule with a scan inside compiles at every
call; tests of numbers call `jitted.retrace(...)` instead, which compiles once for its shapes and
static options. Checks of Python numbers that come by keyword stay, because these are static;
numbers that come by position are traced.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bellmax import losses

# Without XLA's optimisations a program that runs once compiles in a third of the time.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
# With the default optimisations: for tests of rounding, which depends on vectorised sums.
FULL = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}
full_jit = functools.partial(jax.jit, compiler_options=FULL)
# As users compile, whatever tests/conftest.py sets: for tests to the bit of programs that differ.
user_jit = functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True})


@functools.cache
def compiled(function, **static):
    """`function` with these options, under jit; the same object for the same arguments."""
    return quick_jit(functools.partial(function, **static))


def _call(function, *arrays, **options):
    plain = str, bool, int, float, type(None)
    static = {name: x for name, x in options.items() if isinstance(x, plain)}
    traced = {name: x for name, x in options.items() if name not in static}
    return compiled(function, **static)(*arrays, **traced)


class _Jitted:
    def __getattr__(self, name):
        return functools.partial(_call, getattr(losses, name))


jitted = _Jitted()


def compile_agent(agent):
    """The agent with its functions under jit; not for use inside another compiled program."""
    names = [name for name in ("init", "learn", "observe", "prepare") if getattr(agent, name)]
    functions = {name: quick_jit(getattr(agent, name)) for name in names}
    return agent._replace(**functions, act=quick_jit(agent.act, static_argnames="evaluate"))


def compile_bonus(bonus):
    """Like `compile_agent`, for an exploration bonus."""
    functions = {name: quick_jit(getattr(bonus, name)) for name in ("init", "reward", "loss")}
    return bonus._replace(**functions, update=quick_jit(bonus.update))


def random_like(tree, seed, scale=1.0):
    """Arrays of the same shapes, drawn from a normal distribution."""
    generator = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(scale * generator.normal(size=x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, tree)
