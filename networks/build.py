"""From a config to a network: a pair of pure functions, its output shape checked at build time."""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError
from bellmax.networks.config import NetworkConfig
from bellmax.networks.heads import DuelingHead, QHead, QOutput, QuantileHead, VAHead
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

Torso = Literal["mlp", "minatar", "nature", "impala"]


class Network(NamedTuple):
    """init(key) -> params; apply(params, observations [B, ...]) -> output named tuple.

    A critic's apply takes actions [B, D] too.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[..., Any]


class Head(NamedTuple):
    """What an agent needs of a network's output, and the head that gives it.

    Attributes:
      module: (num_actions, dtype) -> flax module from features [B, D] to the output.
      outputs: name of each field that is read -> its shape without the batch; "A" is num_actions.
      arguments: what a user's own module is given beside num_actions.
    """

    module: Callable[[int, Any], nn.Module]
    outputs: dict[str, tuple[int | str, ...]] = {"q_values": ("A",)}
    arguments: dict[str, Any] = {}


def quantile_head(num_quantiles: int) -> Head:
    """`QuantileHead` of N quantiles: the output has `quantiles` [B, N, A]."""
    return Head(
        lambda actions, dtype: QuantileHead(actions, num_quantiles, dtype),
        outputs={"q_values": ("A",), "quantiles": (num_quantiles, "A")},
        arguments={"num_quantiles": num_quantiles},
    )


def va_head(uniform: bool) -> Head:
    """`VAHead`: the output has `value` [B], `advantage` and `behaviour_logits` [B, A]."""
    each = ("A",)
    return Head(
        lambda actions, dtype: VAHead(actions, uniform, dtype),
        outputs={"q_values": each, "value": (), "advantage": each, "behaviour_logits": each},
    )


class QNetwork(nn.Module):
    """A torso and a head: observations [B, ...] -> the head's named tuple."""

    config: NetworkConfig
    num_actions: int
    head: Callable[[int, Any], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        dtype = jnp.dtype(self.config.dtype)
        torso = make_torso(self.config.torso, self.config.hidden, dtype)
        return self.head(self.num_actions, dtype)(torso(x))


def make_torso(name: Torso, hidden: tuple[int, ...], dtype: Any) -> nn.Module:
    """The torso of a name, inside a module's `__call__`; `hidden` are the widths of an mlp."""
    torsos: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(tuple(hidden), dtype),
        "minatar": lambda: MinAtarConv(dtype),
        "nature": lambda: NatureConv(dtype),
        "impala": lambda: ImpalaResNet(dtype=dtype),
    }
    return torsos[name]()


def check_torso(name: Torso, observation: specs.Array) -> None:
    """Raises UserError if a torso for images is to take what is not [height, width, channels]."""
    if name != "mlp" and len(observation.shape) != 3:
        raise UserError(
            f"agent.network.torso: {name} needs images [height, width, channels], but "
            f"observations have shape {tuple(observation.shape)}; use --agent.network.torso mlp"
        )


def make_q_network(
    config: NetworkConfig, observation: specs.Array, num_actions: int, head: Head | None = None
) -> Network:
    """Builds the q-network of a config for one observation spec.

    Args:
      config: which torso, or the user's own module.
      observation: spec of one observation, unbatched.
      num_actions: A.
      head: what the agent reads of the output; None means q-values, from a plain or a dueling head.

    Returns:
      Network whose apply maps [B, *observation.shape] to a named tuple with `q_values` [B, A] and
      what else the head has.

    Raises:
      UserError: the module cannot be found or built, does not take these observations, or
        answers with another shape; the sentence gives both shapes.
    """
    if head is None:
        plain = DuelingHead if config.dueling else QHead
        head = Head(lambda actions, dtype: plain(actions, dtype), {"q_values": ("A",)})
    elif config.dueling:
        raise UserError("agent.network.dueling: this agent has a head of its own; leave it false")
    if config.module is None:
        module: Any = QNetwork(config, num_actions, head.module)
        check_torso(config.torso, observation)
    else:
        module = _load_module(config.module, {"num_actions": num_actions, **head.arguments})
    dummy = jnp.zeros((1, *observation.shape), observation.dtype)

    def init(key: jax.Array) -> Any:
        return module.init(key, dummy)

    def apply(params: Any, observations: jax.Array) -> Any:
        output = module.apply(params, observations)
        return output if hasattr(output, "q_values") else QOutput(output)

    shapes = {
        name: tuple(num_actions if axis == "A" else axis for axis in shape)
        for name, shape in head.outputs.items()
    }
    _check_shapes(config, init, apply, observation, shapes)
    return Network(init, apply)


def _load_module(path: str, arguments: dict[str, Any]) -> Any:
    where, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(where), name)(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(
            f"agent.network.module: cannot build {path!r} as Name({given}): "
            f"{error}; give it as package.module:Name"
        ) from error


def _check_shapes(
    config: NetworkConfig,
    init: Any,
    apply: Any,
    observation: specs.Array,
    shapes: dict[str, tuple[int | str, ...]],
) -> None:
    """Traces the network on a batch of 2 without computing anything."""
    batch = jax.ShapeDtypeStruct((2, *observation.shape), observation.dtype)
    name = config.module or config.torso
    try:
        params = jax.eval_shape(init, jax.random.key(0))
        if any(leaf.size == 0 for leaf in jax.tree.leaves(params)):  # older jax divides by zero
            raise ValueError("a layer is left without inputs")
        output = jax.eval_shape(apply, params, batch)
    except Exception as error:  # whatever a foreign module raises, the user must read which one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"agent.network: {name} does not take observations of shape {batch.shape}: {reason}"
        ) from error
    for field, shape in shapes.items():
        if not hasattr(output, field):
            raise UserError(f"agent.network: the output of {name} has no {field!r}, which is read")
        found, wanted = tuple(getattr(output, field).shape), (2, *shape)
        if found != wanted:
            raise UserError(
                f"agent.network: {name} maps observations {batch.shape} to {field} of shape "
                f"{found}, but {wanted} is needed, the batch first"
            )
