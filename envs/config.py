"""The environment's part of a run's configuration. Importing this module does not import jax."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Gt, Interval


@dataclass(frozen=True)
class EnvConfig:
    """The task, the number of copies of it, and how observations and rewards are processed."""

    # Task. JAX environments: bellmax/<Task>, gymnax/<Task>, brax/<task>, craftax/<Task>,
    # jumanji/<Task>, navix/<Task>, pgx/<game>, playground/<Task>, xminigrid/<Task>. Host
    # environments, stepped in Python: ale/<Game>, bsuite/<id>/<number>, envpool/<Task>,
    # dm_control/<domain>-<task>, gymnasium/<Task>, minigrid/<Task>. Your own, of either kind:
    # module.path:factory.
    name: str = "bellmax/CartPole"
    # Environments that are stepped in parallel.
    num_envs: Annotated[int, Interval(ge=1, le=65536)] = 8
    # Time limit: episodes are truncated after this number of environment steps, at most the task's
    # own limit, which an option of the task may change; None keeps that.
    time_limit: Annotated[int, Interval(ge=1)] | None = None
    # Rewards are clipped to plus or minus this value in training, in reward units; None does not
    # clip.
    reward_clip: Annotated[float, Gt(0)] | None = None
    # Whether observations are normalised by their running mean and standard deviation.
    normalise_observations: bool = False
    # Whether the log has `coverage`, the number of distinct cells visited in training, for tasks
    # whose states map to cells: bellmax/DeepSea, bellmax/NoisyGrid, xminigrid.
    coverage: bool = False
    # JAX environments per new episode that is computed at a step: with 16, a batch of 1024
    # environments computes 64 resets at each step instead of 1024, and environments that end at the
    # same step share an initial state if more than 64 do. Above 1 for tasks whose reset is slow,
    # such as craftax.
    optimistic_resets: Annotated[int, Interval(ge=1, le=65536)] = 1
    # Latest observations that are concatenated on the last axis; 1 is no stacking.
    frame_stack: Annotated[int, Interval(ge=1, le=64)] = 1
    # Options of the task, by name, such as size: 20 for bellmax/DeepSea. Values are those of YAML:
    # text, numbers, true or false, null, and lists and sections of these.
    options: dict[str, Any] = field(default_factory=dict)
    # Domain randomisation: parameters of the task, by name, that are drawn uniformly from low,high
    # at the start of each episode (in the parameter's own unit, low <= high), such as friction:
    # [0.1, 3] for brax/hopper. Evaluation episodes are randomised too. All other parameters keep
    # their nominal value.
    randomise: dict[str, tuple[float, float]] = field(default_factory=dict)
    # Seconds that a host environment may take for a step or a reset before it is recreated; each
    # environment then runs in its own process. None sets no timeout and steps in the run's process.
    timeout: Annotated[float, Gt(0)] | None = None
