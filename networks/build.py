"""Builds networks from configs: pairs of pure functions with checked output shapes."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.networks.config import NetworkConfig, Norm, Torso
from bellmax.networks.heads import (
    CategoricalHead,
    DuelingHead,
    ImplicitQuantileHead,
    QHead,
    QOutput,
    QuantileHead,
    VAHead,
)
from bellmax.networks.torsos import MLP, ImpalaResNet, MinAtarConv, NatureConv

_NATURE_SIZE = 36  # its three convolutions reduce 36 pixels to one


class Network(NamedTuple):
    """init(key) -> params; apply(params, observations [B, ...]) -> output named tuple.

    A critic's apply takes actions [B, D] too, that of a network with an `ImplicitQuantileHead` may
    take fractions [B, N].
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[..., Any]


class Head(NamedTuple):
    """The head of a network, and the outputs that an agent requires of it.

    Attributes:
      module: (num_actions, dtype) -> flax module from features [B, D] to the output.
      outputs: name of each required field -> its shape without the batch; "A" is num_actions.
      arguments: keyword arguments of a user's own module in addition to num_actions.
      inputs: name of each further input that the module takes after the features, and may lack ->
        its shape without the batch. A user's own module takes them after the observations.
      has_last_layer: whether the head has the torso's last dense layer: the features are those
        before it, and `module` gets its width as third argument.
    """

    module: Callable[..., nn.Module]
    outputs: dict[str, tuple[int | str, ...]] = {"q_values": ("A",)}
    arguments: dict[str, Any] = {}
    inputs: dict[str, tuple[int, ...]] = {}
    has_last_layer: bool = False


def quantile_head(num_quantiles: int) -> Head:
    """`QuantileHead` of N quantiles: the output has `quantiles` [B, N, A]."""
    return Head(
        lambda actions, dtype: QuantileHead(actions, num_quantiles, dtype),
        outputs={"q_values": ("A",), "quantiles": (num_quantiles, "A")},
        arguments={"num_quantiles": num_quantiles},
    )


def categorical_head(num_atoms: int, v_min: float, v_max: float) -> Head:
    """`CategoricalHead` of M atoms: the output has `logits` [B, A, M]."""
    grid = {"num_atoms": num_atoms, "v_min": v_min, "v_max": v_max}
    return Head(
        lambda actions, dtype: CategoricalHead(actions, **grid, dtype=dtype),
        outputs={"q_values": ("A",), "logits": ("A", num_atoms)},
        arguments=grid,
    )


def implicit_quantile_head(num_quantiles: int, embedding_size: int = 64) -> Head:
    """`ImplicitQuantileHead` with the torso's last layer: may take `fractions` [B, N]."""
    return Head(
        lambda actions, dtype, width: ImplicitQuantileHead(
            actions, num_quantiles, embedding_size, width, dtype
        ),
        outputs={"q_values": ("A",), "quantiles": (num_quantiles, "A")},
        arguments={"num_quantiles": num_quantiles},
        inputs={"fractions": (num_quantiles,)},
        has_last_layer=True,
    )


def va_head(uniform: bool) -> Head:
    """`VAHead`: the output has `value` [B], `advantage` and `behaviour_logits` [B, A]."""
    each = ("A",)
    return Head(
        lambda actions, dtype: VAHead(actions, uniform, dtype),
        outputs={"q_values": each, "value": (), "advantage": each, "behaviour_logits": each},
    )


class QNetwork(nn.Module):
    """A torso and a head: observations [B, ...] and the head's inputs -> its named tuple."""

    config: NetworkConfig
    num_actions: int
    head: Callable[..., nn.Module]
    num_values: int = 0
    has_last_layer: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *inputs: jax.Array) -> Any:
        name, hidden, dtype = self.config.torso, self.config.hidden, jnp.dtype(self.config.dtype)
        options = {"norm": self.config.norm, "last_layer": not self.has_last_layer}
        torso = make_torso(name, hidden, dtype, self.num_values, **options)
        width = (last_width(name, hidden),) if self.has_last_layer else ()
        return self.head(self.num_actions, dtype, *width)(torso(x), *inputs)


def last_width(name: Torso, hidden: tuple[int, ...]) -> int:
    """Return the width of a torso's last dense layer; 0 for an mlp without layers."""
    torsos = {"minatar": MinAtarConv, "nature": NatureConv, "impala": ImpalaResNet}
    if name == "mlp":
        return hidden[-1] if hidden else 0
    return torsos[name].width


def make_torso(
    name: Torso,
    hidden: tuple[int, ...],
    dtype: Any,
    num_values: int = 0,
    *,
    norm: Norm = "none",
    last_layer: bool = True,
) -> nn.Module:
    """Makes a torso by name, inside a module's `__call__`.

    Args:
      name: of the torso.
      hidden: widths of an mlp's layers.
      dtype: of the computation.
      num_values: of an mlp's observations if they are numbers, see `count_values`.
      norm: normalisation before each activation.
      last_layer: whether the torso has its last dense layer.
    """
    width = last_width(name, hidden) if last_layer else 0
    layers = tuple(hidden) if last_layer else tuple(hidden)[:-1]
    torsos: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: MLP(layers, dtype, num_values, norm),
        "minatar": lambda: MinAtarConv(dtype, width=width, norm=norm),
        "nature": lambda: NatureConv(dtype, width=width, norm=norm),
        "impala": lambda: ImpalaResNet(dtype=dtype, width=width, norm=norm),
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
    head = value_head(config, head)
    if config.memory != "none":
        raise UserError(must("agent.network.memory", "none for this agent", config.memory))
    if config.module is None:
        check_torso(config.torso, observation)
        count = count_values(observation)
        module: Any = QNetwork(config, num_actions, head.module, count, head.has_last_layer)
    else:
        arguments = {"num_actions": num_actions, **head.arguments}
        module = load_module(config.module, arguments, config.options)
    dummy = jnp.zeros((1, *observation.shape), observation.dtype)
    read = reader_of(observation)

    def init(key: jax.Array) -> Any:
        return module.init(key, read(dummy))

    def apply(params: Any, observations: jax.Array, *inputs: jax.Array) -> Any:
        output = module.apply(params, read(observations), *inputs)
        return output if hasattr(output, "q_values") else QOutput(output)

    shapes = {
        name: tuple(num_actions if axis == "A" else axis for axis in shape)
        for name, shape in head.outputs.items()
    }
    _check_shapes(config, init, apply, observation, shapes)
    if head.inputs:
        _check_shapes(config, init, apply, observation, shapes, head.inputs)
    return Network(init, apply)


def value_head(config: NetworkConfig, head: Head | None) -> Head:
    """Return an agent's head, or a plain or dueling one if it is None.

    Raises:
      UserError: the config wants a dueling head and the agent has another.
    """
    if head is None:
        plain = DuelingHead if config.dueling else QHead
        return Head(lambda actions, dtype: plain(actions, dtype), {"q_values": ("A",)})
    if config.dueling:
        allowed, hint = "false for this agent", "it has a head of its own"
        raise UserError(must("agent.network.dueling", allowed, "true", hint))
    return head


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
    inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> None:
    """Traces the network on a batch of 2 without computing anything."""
    batch = jax.ShapeDtypeStruct((2, *observation.shape), observation.dtype)
    more = [jax.ShapeDtypeStruct((2, *shape), jnp.float32) for shape in inputs.values()]
    given = "".join(f" and {key} of shape {(2, *shape)}" for key, shape in inputs.items())
    name = config.module or config.torso
    try:
        params = jax.eval_shape(init, jax.random.key(0))
        if any(
            leaf.size == 0 for leaf in jax.tree.leaves(params)
        ):  # older versions of jax divide by zero
            raise ValueError("a layer is left without inputs")
        output = jax.eval_shape(apply, params, batch, *more)
    except Exception as error:  # the user's module may raise any exception
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shape = observation if hasattr(observation, "unpack") else f"of shape {batch.shape}"
        raise UserError(
            f"agent.network: {name} does not accept observations {shape}{given}: {reason}"
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
                    f"shape {wanted} for observations {batch.shape}{given}",
                    found,
                    "the first axis is the batch",
                    verb="have",
                )
            )
