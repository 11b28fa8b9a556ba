"""Builds networks from configs: pairs of pure functions with checked output shapes."""

import importlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.networks.config import NetworkConfig
from bellmax.networks.heads import DuelingHead, QHead, QOutput, QuantileHead, VAHead
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

Torso = Literal["mlp", "minatar", "nature", "impala"]
_NATURE_SIZE = 36  # its three convolutions reduce 36 pixels to one


class Network(NamedTuple):
    """init(key) -> params; apply(params, observations [B, ...]) -> output named tuple.

    A critic's apply takes actions [B, D] too.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[..., Any]


class Head(NamedTuple):
    """The head of a network, and the outputs that an agent requires of it.

    Attributes:
      module: (num_actions, dtype) -> flax module from features [B, D] to the output.
      outputs: name of each required field -> its shape without the batch; "A" is num_actions.
      arguments: keyword arguments of a user's own module in addition to num_actions.
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
    num_values: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        dtype = jnp.dtype(self.config.dtype)
        torso = make_torso(self.config.torso, self.config.hidden, dtype, self.num_values)
        return self.head(self.num_actions, dtype)(torso(x))


def make_torso(name: Torso, hidden: tuple[int, ...], dtype: Any, num_values: int = 0) -> nn.Module:
    """Makes a torso by name, inside a module's `__call__`.

    Args:
      name: of the torso.
      hidden: widths of an mlp's layers.
      dtype: of the computation.
      num_values: of an mlp's observations if they are numbers, see `count_values`.
    """
    torsos: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(tuple(hidden), dtype, num_values),
        "minatar": lambda: MinAtarConv(dtype),
        "nature": lambda: NatureConv(dtype),
        "impala": lambda: ImpalaResNet(dtype=dtype),
    }
    return torsos[name]()


def count_values(observation: specs.Array) -> int:
    """Return the number of values of a DiscreteArray observation; 0 for other observations."""
    return observation.num_values if isinstance(observation, specs.DiscreteArray) else 0


def reader_of(observation: specs.Array) -> Callable[[Any], Any]:
    """What turns a batch of observations into the input of a user's own module.

    Several arrays that are packed into one (bellmax.envs.packed) are given by name.
    """
    return getattr(observation, "unpack", lambda batch: batch)


def check_single(observation: specs.Array) -> None:
    """Raises UserError if an observation is several arrays, which need a network of one's own."""
    if hasattr(observation, "unpack"):
        hint = (
            "a network of your own gets them by name (agent.network.module, or actor and critic), "
            "--env.options.observation-key chooses one"
        )
        raise UserError(must("observations", "one array for this network", observation, hint))


def check_arrays(observation: specs.Array, what: str) -> None:
    """Raises UserError if observations are numbers; `what` names a network without embedding."""
    if count := count_values(observation):
        raise UserError(
            must(
                f"observations for {what}",
                "arrays",
                f"one of {count} numbers",
                "agents with q-values and recurrent agents embed them",
            )
        )


def check_torso(name: Torso, observation: specs.Array) -> None:
    """Raises UserError if a torso gets images of another layout, or needs images and gets none."""
    check_single(observation)
    shape = tuple(observation.shape)
    if _is_channels_first(shape):
        raise UserError(
            must(
                "agent.network: observations",
                "images [height, width, channels]",
                f"{list(shape)}, which looks like [channels, height, width]",
                "move the first axis to the end in the environment, as np.moveaxis(image, 0, -1) "
                "does, and stack frames with env.frame_stack",
            )
        )
    if name == "nature" and len(shape) == 3 and min(shape[:2]) < _NATURE_SIZE:
        raise UserError(
            must(
                "agent.network.torso",
                f"impala or minatar for images of shape {list(shape)}",
                "nature",
                f"it needs {_NATURE_SIZE} x {_NATURE_SIZE} pixels",
            )
        )
    if name != "mlp" and len(observation.shape) != 3:
        raise UserError(
            must(
                "agent.network.torso",
                f"mlp for observations of shape {tuple(observation.shape)}",
                name,
                "it needs images [height, width, channels]",
            )
        )


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a shape looks like an image with at most 16 channels, channels first."""
    return len(shape) == 3 and shape[0] <= 16 and min(shape[1:]) >= 24


def make_q_network(
    config: NetworkConfig, observation: specs.Array, num_actions: int, head: Head | None = None
) -> Network:
    """Builds the q-network of a config for one observation spec.

    Args:
      config: names the torso or the user's own module.
      observation: spec of one observation, unbatched.
      num_actions: A.
      head: outputs that the agent requires; None means q-values, from a plain or a dueling head.

    Returns:
      Network whose apply maps [B, *observation.shape] to a named tuple with `q_values` [B, A] and
      the other outputs of the head. A user's own module gets the arrays of a packed observation by
      name.

    Raises:
      UserError: the module cannot be found or built, does not accept these observations, or
        returns a wrong shape; the message gives both shapes.
    """
    if head is None:
        plain = DuelingHead if config.dueling else QHead
        head = Head(lambda actions, dtype: plain(actions, dtype), {"q_values": ("A",)})
    elif config.dueling:
        allowed, hint = "false for this agent", "it has a head of its own"
        raise UserError(must("agent.network.dueling", allowed, "true", hint))
    if config.module is None:
        check_torso(config.torso, observation)
        module: Any = QNetwork(config, num_actions, head.module, count_values(observation))
    else:
        arguments = {"num_actions": num_actions, **head.arguments}
        module = load_module(config.module, arguments, config.options)
    dummy = jnp.zeros((1, *observation.shape), observation.dtype)
    read = reader_of(observation)

    def init(key: jax.Array) -> Any:
        return module.init(key, read(dummy))

    def apply(params: Any, observations: jax.Array) -> Any:
        output = module.apply(params, read(observations))
        return output if hasattr(output, "q_values") else QOutput(output)

    shapes = {
        name: tuple(num_actions if axis == "A" else axis for axis in shape)
        for name, shape in head.outputs.items()
    }
    _check_shapes(config, init, apply, observation, shapes)
    return Network(init, apply)


def load_module(
    path: str, arguments: dict[str, Any], options: dict[str, Any], key: str = "module"
) -> nn.Module:
    """Builds the user's own flax module.

    Args:
      path: `package.module:Name`.
      arguments, options: keyword arguments, of the agent and of the user.
      key: of agent.network that names it.

    Raises:
      UserError: there is no such module, it cannot be built, or it is not of flax.linen.
    """
    where, _, name = path.partition(":")
    given = arguments | options
    try:
        made = getattr(importlib.import_module(where), name)(**given)
    except Exception as error:  # the user's code may raise any
        shown = ", ".join(f"{key}={value}" for key, value in given.items())
        raise UserError(
            f"agent.network.{key}: cannot build {path!r} as Name({shown}): "
            f"{type(error).__name__}: {error}; give it as package.module:Name, and arguments of "
            "its own in agent.network.options"
        ) from error
    if not isinstance(made, nn.Module):
        # Compared by name, because importing these packages takes a tenth of a second and more.
        bases = [f"{cls.__module__}." for cls in type(made).__mro__]
        known = ("flax.nnx", "equinox", "haiku", "torch")
        kind = next((f" of {p}" for p in known if any(b.startswith(f"{p}.") for b in bases)), "")
        got = f"{path!r}, a {type(made).__name__}{kind}"
        hint = "write it as a flax.linen.Module with @nn.compact"
        raise UserError(must(f"agent.network.{key}", "a flax.linen module", got, hint))
    return made


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
        if any(
            leaf.size == 0 for leaf in jax.tree.leaves(params)
        ):  # older versions of jax divide by zero
            raise ValueError("a layer is left without inputs")
        output = jax.eval_shape(apply, params, batch)
    except Exception as error:  # the user's module may raise any exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shape = observation if hasattr(observation, "unpack") else f"of shape {batch.shape}"
        raise UserError(
            f"agent.network: {name} does not accept observations {shape}: {reason}"
        ) from error
    for field, shape in shapes.items():
        if not hasattr(output, field):
            raise UserError(
                f"agent.network: the output of {name} has no {field!r}; the agent needs it"
            )
        found, wanted = tuple(getattr(output, field).shape), (2, *shape)
        if found != wanted:
            raise UserError(
                must(
                    f"agent.network: {field} of {name}",
                    f"shape {wanted} for observations {batch.shape}",
                    found,
                    "the first axis is the batch",
                    verb="have",
                )
            )
