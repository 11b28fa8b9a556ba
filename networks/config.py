"""Configurations of the networks: frozen dataclasses that import no jax."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

Torso = Literal["mlp", "minatar", "nature", "impala"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of a network: all static."""

    # Network from observations to features; ignored if `module` is set.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (120, 84)
    # Whether to use separate state-value and advantage streams (arXiv:1511.06581).
    dueling: bool = False
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Your own flax module as `package.module:Name`, called Name(num_actions=A): [B, ...] -> [B, A].
    module: str | None = None


@dataclass(frozen=True)
class ContinuousNetworkConfig:
    """Shapes of actor and critics: all static."""

    # Widths of the layers of the actor and of each critic, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256, 256)
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class RecurrentNetworkConfig:
    """Shapes of the encoder, the memory and the heads: all static."""

    # Network from an observation to features; a linear layer maps these to the latent.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Size of the latent of one observation (Atari: 512).
    latent_size: Annotated[int, Ge(1)] = 128
    # Size of the recurrent state (Atari: 256).
    memory_size: Annotated[int, Ge(1)] = 128
    # Widths of the hidden layers of the policy head and of the value head, in units.
    head_hidden: tuple[Annotated[int, Ge(1)], ...] = (128,)
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
