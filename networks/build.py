"""From a config to a network: a pair of pure functions, its output shape checked at build time."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Ge
from dm_env import specs

from bellmax import UserError
from bellmax.networks.heads import DuelingHead, QHead, QOutput
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of a network: all static."""

    # What turns observations into features; ignored if `module` is given.
    torso: Literal["mlp", "minatar", "nature", "impala"] = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (120, 84)
    # Separate state-value and advantage streams (arXiv:1511.06581).
    dueling: bool = False
    # Precision inside the network; parameters and outputs stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Your own flax module as `package.module:Name`, called Name(num_actions=A): [B, ...] -> [B, A].
    module: str | None = None


class Network(NamedTuple):
    """init(key) -> params; apply(params, observations [B, ...]) -> output named tuple."""

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], Any]


class QNetwork(nn.Module):
    """A torso and a Q head: observations [B, ...] -> QOutput or DuelingOutput."""

    config: NetworkConfig
    num_actions: int

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        dtype = jnp.dtype(self.config.dtype)
        torsos: dict[str, Callable[[], nn.Module]] = {
            "mlp": lambda: MLP(tuple(self.config.hidden), dtype),
            "minatar": lambda: MinAtarConv(dtype),
            "nature": lambda: NatureConv(dtype),
            "impala": lambda: ImpalaResNet(dtype=dtype),
        }
        head = DuelingHead if self.config.dueling else QHead
        return head(self.num_actions, dtype)(torsos[self.config.torso]()(x))


def make_q_network(config: NetworkConfig, observation: specs.Array, num_actions: int) -> Network:
    """Builds the q-network of a config for one observation spec.

    Args:
      config: which torso and head, or the user's own module.
      observation: spec of one observation, unbatched.
      num_actions: A.

    Returns:
      Network whose apply maps [B, *observation.shape] to a named tuple with `q_values` [B, A].

    Raises:
      UserError: the module cannot be found or built, does not take these observations, or
        answers with another shape; the sentence gives both shapes.
    """
    if config.module is None:
        module: Any = QNetwork(config, num_actions)
        wanted_rank = {"mlp": None, "minatar": 3, "nature": 3, "impala": 3}[config.torso]
        if wanted_rank is not None and len(observation.shape) != wanted_rank:
            raise UserError(
                f"agent.network.torso: {config.torso} needs images [height, width, channels], but "
                f"observations have shape {tuple(observation.shape)}; use --agent.network.torso mlp"
            )
    else:
        module = _load_module(config.module, num_actions)
    dummy = jnp.zeros((1, *observation.shape), observation.dtype)

    def init(key: jax.Array) -> Any:
        return module.init(key, dummy)

    def apply(params: Any, observations: jax.Array) -> Any:
        output = module.apply(params, observations)
        return output if hasattr(output, "q_values") else QOutput(output)

    _check_shape(config, init, apply, observation, num_actions)
    return Network(init, apply)


def _load_module(path: str, num_actions: int) -> Any:
    where, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(where), name)(num_actions=num_actions)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"agent.network.module: cannot build {path!r} as Name(num_actions={num_actions}): "
            f"{error}; give it as package.module:Name"
        ) from error


def _check_shape(
    config: NetworkConfig, init: Any, apply: Any, observation: specs.Array, num_actions: int
) -> None:
    """Traces the network on a batch of 2 without computing anything."""
    batch = jax.ShapeDtypeStruct((2, *observation.shape), observation.dtype)
    name = config.module or config.torso
    try:
        params = jax.eval_shape(init, jax.random.key(0))
        if any(leaf.size == 0 for leaf in jax.tree.leaves(params)):  # older jax divides by zero
            raise ValueError("a layer is left without inputs")
        q_values = jax.eval_shape(apply, params, batch).q_values
        found = tuple(q_values.shape)
    except Exception as error:  # whatever a foreign module raises, the user must read which one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"agent.network: {name} does not take observations of shape {batch.shape}: {reason}"
        ) from error
    if found != (2, num_actions):
        raise UserError(
            f"agent.network: {name} maps observations {batch.shape} to q-values of shape {found}, "
            f"but {(2, num_actions)} [batch, actions] is needed"
        )
