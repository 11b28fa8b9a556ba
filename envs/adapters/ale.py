"""Atari games of ale_py, preprocessed and stepped by its threads. Imported on first use."""

import dataclasses
import os
from typing import Any

import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec
from bellmax.envs.errors import making
from bellmax.envs.host.pool import PoolBatch, check_pool
from bellmax.envs.options import check_choice, check_options, import_extra, unknown

FRAME = (84, 84)
SCREEN = (210, 160)
_MULTIPLAYER = {"combat", "joust", "maze_craze", "warlords"}  # without a single-player mode
_NO_LIMIT = 2**30  # frames; PoolBatch enforces the time limit


@dataclasses.dataclass(frozen=True)
class AtariProtocol:
    """Evaluation protocol of an Atari game. Each field is an option of the task.

    repeat_action_probability: sticky actions: probability in [0, 1], per frame, that the emulator
      repeats its previous action.
    full_action_space: whether to use all 18 actions; otherwise only those that the game reads.
    noop_max: largest number of no-op frames after a reset, drawn uniformly from 0 to this.
    frameskip: frames for which an action is repeated. The observation is the pixelwise maximum of
      the last two.
    episodic_life: whether a lost life ends an episode. The next episode continues the same game
      and starts with no-op frames; a new game starts only after the last life.
    use_fire_reset: whether FIRE is pressed in the first frame of a game that has that action.
    max_num_frames: time limit of an episode, in frames; frames before the first observation do not
      count.
    """

    repeat_action_probability: float
    full_action_space: bool
    noop_max: int
    frameskip: int = 4
    episodic_life: bool = False
    use_fire_reset: bool = False
    max_num_frames: int = 108_000  # half an hour


PROTOCOLS = {
    # The paper skips 5 frames; later work (Dopamine, DreamerV2) skips 4. Dopamine uses the minimal
    # action set, DreamerV2 all 18 actions.
    "machado2018": AtariProtocol(0.25, full_action_space=True, noop_max=0),
    "dqn_zoo": AtariProtocol(0.0, full_action_space=False, noop_max=30),
}
OPTIONS = ("protocol", *(f.name for f in dataclasses.fields(AtariProtocol)), "num_threads")
# ale_py counts frames in int32, and ends the program when it cannot start more threads.
_RANGES = {
    "noop_max": (0, _NO_LIMIT),
    "frameskip": (1, _NO_LIMIT),
    "max_num_frames": (1, _NO_LIMIT),
    "num_threads": (1, 1024),
}


def make_batch(
    task: str,
    num_envs: int,
    *,
    time_limit: int | None = None,
    timeout: float | None = None,
    render: bool = False,
    protocol: str = "machado2018",
    **options: Any,
) -> PoolBatch:
    """Makes several copies of an Atari game, such as `Breakout`.

    An observation is a single grey frame [84, 84, 1] uint8; `HostVector` stacks frames. Rewards
    are game points. The end of the game terminates an episode, max_num_frames truncates it.

    `machado2018`, the default, is the protocol of Machado et al. 2018, arXiv:1709.06009: sticky
    actions with probability 0.25, all 18 actions, no no-op start, an episode is a whole game. The
    frame skip is 4, where the paper's own agents skip 5.

    `dqn_zoo` is the protocol of DQN Zoo and of Mnih et al. 2015: no sticky actions, the minimal
    action set, up to 30 no-op frames, an episode is a whole game. Deviations: DQN Zoo draws 1 to 30
    no-op frames, and max-pools and resizes colour images where ale_py max-pools and resizes grey
    ones. DQN Zoo's agents treat the loss of a life as the end of an episode when they learn;
    bellmax learns from whole games unless episodic_life is set, which makes each life an episode,
    in evaluations too.

    Args:
      task: one of `list_tasks()`.
      num_envs: N >= 1.
      time_limit: truncates episodes after this number of agent steps, each of frameskip frames.
      timeout: must be None, because the games run in threads of one process.
      render: whether pictures of task 0 can be drawn. Its game then runs a second time, in colour.
      protocol: `machado2018` or `dqn_zoo`.
      **options: fields of `AtariProtocol`, which override the protocol's; num_threads, 1 to 1024,
        by default the number of games or of processors, whichever is smaller.

    Raises:
      UserError: ale_py is not installed, there is no such game or option, or an argument or an
        option is out of range.
    """
    roms = _roms()
    if task not in roms:
        raise unknown("game", task, roms, of="ale")
    name = f"ale/{task}"
    check_pool(name, num_envs, time_limit, timeout)
    check_options(name, options, OPTIONS)
    for option, value in options.items():
        _check_value(option, value)
    threads = options.pop("num_threads", min(num_envs, os.cpu_count() or 1))
    rules = _rules(protocol, options)
    with making(name, options):
        games = _make(roms[task], num_envs, rules, threads)
        pool = _Pool(games, _make(roms[task], 1, rules, 1, colour=True) if render else None)
    spec = EnvSpec(
        name=name,
        observation=specs.BoundedArray((*FRAME, 1), np.uint8, 0, 255, "observation"),
        action=specs.DiscreteArray(int(games.single_action_space.n), np.int32, "action"),
        time_limit=rules.max_num_frames // rules.frameskip,
    )
    return PoolBatch(pool, spec, num_envs, time_limit=time_limit)


def list_tasks() -> list[str]:
    """The single-player games of ale_py, without the prefix `ale/`."""
    return list(_roms())


class _Pool:
    """The thread pool of ale_py. `screen`, if any, plays task 0 with the same seed, in colour."""

    def __init__(self, games: Any, screen: Any):
        self._games: Any = games
        self._screen: Any = screen
        self._picture: np.ndarray | None = None

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        if self._screen:
            self._picture = self._screen.reset(seed=seeds[:1])[0]
        return _last_axis(self._games.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if self._screen:
            self._picture = self._screen.step(actions[:1])[0]
        observation, reward, terminated, truncated, _ = self._games.step(actions)
        return _last_axis(observation), reward, terminated, truncated

    def restart(self, mask: np.ndarray) -> np.ndarray:
        if self._screen and mask[0]:
            self._picture = self._screen.reset(options={"reset_mask": mask[:1]})[0]
        return _last_axis(self._games.reset(options={"reset_mask": mask})[0])

    def render(self) -> np.ndarray:
        if self._picture is None:
            raise UserError("ale draws pictures after a reset, of games made with render=True")
        return self._picture[0, 0].copy()

    def close(self) -> None:
        self._games = self._screen = None  # their destructors end the threads


def _make(rom: str, num_envs: int, rules: AtariProtocol, threads: int, *, colour=False) -> Any:
    """ale_py's AtariVectorEnv of one frame an observation, raw rewards and its own next-step mode.

    ale_py's episodic_life starts a new game after each life; life_loss_info reports the loss of a
    life and continues the game.
    """
    height, width = SCREEN if colour else FRAME
    return import_extra("ale_py.vector_env", "ale").AtariVectorEnv(
        rom,
        num_envs,
        num_threads=threads,
        max_num_frames_per_episode=_NO_LIMIT,
        repeat_action_probability=float(rules.repeat_action_probability),
        full_action_space=rules.full_action_space,
        autoreset_mode="NextStep",
        img_height=height,
        img_width=width,
        grayscale=not colour,
        stack_num=1,
        frameskip=rules.frameskip,
        maxpool=True,
        noop_max=rules.noop_max + 1,  # exclusive upper bound in ale_py
        life_loss_info=rules.episodic_life,
        reward_clipping=False,
        use_fire_reset=rules.use_fire_reset,
    )


def _rules(protocol: str, options: dict[str, Any]) -> AtariProtocol:
    check_choice("protocol", protocol, PROTOCOLS)
    rules = dataclasses.replace(PROTOCOLS[protocol], **options)
    if rules.max_num_frames < rules.frameskip:
        raise UserError(
            must("max_num_frames", f"at least frameskip, {rules.frameskip}", rules.max_num_frames)
        )
    return rules


def _check_value(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _RANGES:
        least, most = _RANGES[name]
        if not number or isinstance(value, float) or not least <= value <= most:
            raise UserError(must(name, f"a whole number from {least} to {most}", repr(value)))
    elif name == "repeat_action_probability":
        if not number or not 0 <= value <= 1:
            raise UserError(must(name, "a number from 0 to 1", repr(value)))
    elif not isinstance(value, bool):
        raise UserError(must(name, "true or false", repr(value)))


def _roms() -> dict[str, str]:
    """ale_py's ROM name of each game, by bellmax's name."""
    import_extra("ale_py", "ale")  # first, so that an error names this package
    roms = sorted(import_extra("ale_py.roms", "ale").get_all_rom_ids())
    return {rom.title().replace("_", ""): rom for rom in roms if rom not in _MULTIPLAYER}


def _last_axis(frames: np.ndarray) -> np.ndarray:
    """View grey frames [N, 1, H, W] as [N, H, W, 1], without a copy."""
    return frames.reshape(len(frames), *FRAME, 1)
