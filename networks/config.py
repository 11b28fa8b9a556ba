"""Configurations of the networks: frozen dataclasses that import no jax."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

Torso = Literal["mlp", "minatar", "nature", "impala"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of a network: all static."""

    # What turns observations into features; ignored if `module` is given.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (120, 84)
    # Separate state-value and advantage streams (arXiv:1511.06581).
    dueling: bool = False
    # Precision inside the network; parameters and outputs stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Your own flax module as `package.module:Name`, called Name(num_actions=A): [B, ...] -> [B, A].
    module: str | None = None


@dataclass(frozen=True)
class ContinuousNetworkConfig:
    """Shapes of actor and critics: all static."""

    # Widths of the layers of the actor and of each critic, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256, 256)
    # Precision inside the networks; parameters and outputs stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class RecurrentNetworkConfig:
    """Shapes of the encoder, the memory and the heads: all static."""

    # What turns an observation into features, before a linear layer makes the latent of them.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Size of the latent of one observation (Atari: 512).
    latent_size: Annotated[int, Ge(1)] = 128
    # Size of the memory over observations and actions (Atari: 256).
    memory_size: Annotated[int, Ge(1)] = 128
    # Widths of the layers between the memory and each of policy and value, in units.
    head_hidden: tuple[Annotated[int, Ge(1)], ...] = (128,)
    # Precision inside the networks; parameters and outputs stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
