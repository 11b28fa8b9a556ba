"""Configurations of the networks: frozen dataclasses that import no jax.

They are hashed, as static arguments; options, which may be lists, are compared alone.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

Torso = Literal["mlp", "minatar", "nature", "impala"]
Norm = Literal["none", "layer"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of a network: all static."""

    # Network from observations to features; ignored if `module` is set.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (120, 84)
    # Normalisation before each activation of the torso: `layer` is layer normalisation
    # (arXiv:1607.06450), which makes learning without a target network stable (arXiv:2407.04811).
    norm: Norm = "none"
    # Whether to use separate state-value and advantage streams (arXiv:1511.06581).
    dueling: bool = False
    # Recurrent cell between torso and head, or none; see sequence_length and burn_in of the agent.
    memory: Literal["none", "gru", "lstm"] = "none"
    # Size of the cell's output (R2D2 on Atari: 512); ignored without memory.
    memory_size: Annotated[int, Ge(1)] = 128
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Your own flax module as `package.module:Name`, called Name(num_actions=A, **options):
    # [B, ...] -> [B, A].
    module: str | None = None
    # Further arguments of your own module, by name.
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ContinuousNetworkConfig:
    """Shapes of actor and critics: all static."""

    # Widths of the layers of the actor and of each critic, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256, 256)
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Your own flax module of the actor, as `package.module:Name`, called
    # Name(action_size=D, num_heads=K, **options): [B, ...] -> [B, K, D] in [-1, 1].
    actor: str | None = None
    # Your own flax module of each critic, as `package.module:Name`, called
    # Name(num_heads=K, **options): [B, ...] and actions [B, D] in [-1, 1] -> [B, K].
    critic: str | None = None
    # Further arguments of your own modules, by name.
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class RecurrentNetworkConfig:
    """Shapes of the encoder, the memory and the heads: all static."""

    # Network from an observation to features; a linear layer maps these to the latent.
    torso: Torso = "mlp"
    # Widths of the mlp's layers, in units.
    hidden: tuple[Annotated[int, Ge(1)], ...] = (256,)
    # Normalisation before each activation of the torso: `layer` is layer normalisation
    # (arXiv:1607.06450).
    norm: Norm = "none"
    # Size of the latent of one observation (Atari: 512).
    latent_size: Annotated[int, Ge(1)] = 128
    # Size of the recurrent state (Atari: 256).
    memory_size: Annotated[int, Ge(1)] = 128
    # Widths of the hidden layers of the policy head and of the value head, in units.
    head_hidden: tuple[Annotated[int, Ge(1)], ...] = (128,)
    # Precision of the computation; parameters and outputs are float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
