"""Videos of complete episodes of a checkpoint's greedy policy."""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.agents import ActInput, Agent, Params
from bellmax.envs import (
    EnvConfig,
    EnvSpec,
    VectorState,
    VectorTimeStep,
    is_host_env,
    make_host_vector,
    make_task,
    make_vector_env,
)
from bellmax.envs.wrappers import find_drawing
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.reporting.metrics import log_file
from bellmax.launch.reporting.video import check_video, write_video
from bellmax.launch.runners.evaluation import DEFAULT_MAX_STEPS, make_greedy
from bellmax.launch.runners.random import numpy_seeds, stream
from bellmax.launch.studies.evaluate import check_seed, restore_policy_inputs
from bellmax.launch.training.experiment import build

# pygame opens no window, plays no sound and prints no greeting.
_PYGAME = {
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
FPS, BOARD_FPS = 30, 10  # default pictures per second: of physics, and of image observations
Shown = tuple[np.ndarray, VectorTimeStep]


class Player(NamedTuple):
    """An environment in which an agent plays episodes one after the other.

    play(params, statistics, key, step, episode) yields a picture [H, W, 3] uint8 and the time step,
        leaves [1, ...], for every step of this episode and of those after it.
    spec: spec of the task. close: frees the environment.
    """

    play: Callable[[Params, Any, jax.Array, jax.Array, int], Iterator[Shown]]
    spec: EnvSpec
    close: Callable[[], None]


def record_run(
    run: Path,
    *,
    episodes: int = 1,
    checkpoint: str | int = "latest",
    seed: int | None = None,
    out: Path | None = None,
    fps: int | None = None,
    max_steps: int | None = None,
    log: bool = False,
    trust: bool = False,
    say: Callable[[str], object] = lambda sentence: None,
) -> Path:
    """Write a video of episodes, and report the return and the length of each.

    For JAX environments episode i is the i-th that `evaluate_run` plays for this seed and
    checkpoint; for host environments only the first episode is the same. The video shows every
    observation, the final one included.

    Args:
      run: the run's folder.
      episodes: number of episodes, 1 or more.
      checkpoint: "latest", "best" or a step.
      seed: seed of the learner; None is the run's first.
      out: a .gif or an .mp4, both with the extra `video`; RUN/episodes.gif by default.
      fps: pictures a second; 30 by default, 10 where the observation has rows and columns.
      max_steps: environment steps after which an episode is cut, 1 or more; by default the limit
        of the run's evaluations.
      log: whether the video is given to the loggers of the run's configuration too.
      trust: whether the run's configuration may name code of the user's own.
      say: takes lines for the user.

    Returns:
      The file written.

    Raises:
      UserError: the run has no such seed or checkpoint, the task draws no pictures, `check_video`
        refuses the file, or an extra is missing.
    """
    _draw_without_screen()
    out = run / "episodes.gif" if out is None else out
    check_video(out, fps)
    config = load_to_play(run, trust=trust)
    seed = config.seed if seed is None else seed
    check_seed(run, config, seed)
    with contextlib.ExitStack() as stack:
        experiment = build(config, episodes=1)
        stack.callback(experiment.close)
        make_player = _on_host if is_host_env(config.env) else _on_device
        player = make_player(config.env, experiment.agent, episodes)
        stack.callback(player.close)
        step, all_inputs, warning = restore_policy_inputs(run, experiment, checkpoint)
        if warning:
            say(warning)
        inputs = jax.tree.map(lambda x: x[experiment.seeds.index(seed)], all_inputs)
        key = jax.random.fold_in(stream(jax.random.key(seed), "evaluation"), step)
        limit = max_steps or config.evaluation_max_steps or player.spec.time_limit
        fps = fps or (BOARD_FPS if len(player.spec.observation.shape) > 1 else FPS)
        play = functools.partial(player.play, *inputs, key, jnp.int32(step))
        pictures = _film(play, episodes, limit or DEFAULT_MAX_STEPS, say)
        count = write_video(out, pictures, fps)
    say(f"{out}: {count:,} pictures of seed {seed} at step {step:,}, {fps} a second")
    if log:
        names = log_file(run, config, "episodes", out)
        say(f"given to {', '.join(names) or 'no logger: the configuration names none'}")
    return out


def _film(
    play: Callable[[int], Iterator[Shown]],
    episodes: int,
    limit: int,
    say: Callable[[str], object],
) -> Iterator[np.ndarray]:
    """Yield the pictures of all episodes; report the return and length of each at its end."""
    for episode in range(episodes):
        seen: Any = None
        for picture, seen in itertools.islice(play(episode), limit + 1):
            yield picture
            if seen.is_last[0]:
                break
        cut = "" if seen.is_last[0] else ", then cut; --max-steps sets the limit"
        say(
            f"episode {episode + 1}: return {float(seen.episode_return[0]):.2f}, "
            f"{int(seen.episode_length[0]):,} steps{cut}"
        )


def _on_device(config: EnvConfig, agent: Agent, episodes: int) -> Player:
    """Return a player; episode i has the keys of environment i in `make_evaluator`."""
    task, draw = find_drawing(make_task(config))
    env = make_vector_env(config, num_envs=1, evaluation=True, env=task)

    def key_of(key: jax.Array, episode: Any) -> jax.Array:
        return jax.random.split(key, episodes)[episode][None]

    @jax.jit
    def begin(statistics: Any, key: jax.Array, episode: Any) -> tuple[VectorState, VectorTimeStep]:
        return env.reset(key_of(stream(key, "reset"), episode), statistics=statistics)

    @jax.jit
    def advance(params, state, seen, memory, key, step, episode) -> Any:
        act_key, env_key = jax.random.split(key)
        shown = seen.observation, memory, seen.is_first, act_key, step
        inputs = ActInput(*shown, **agent.extras(seen))
        output = agent.act(params, inputs, evaluate=True)
        return *env.step(state, output.action, key_of(env_key, episode)), output.memory

    def play(
        params: Params, statistics: Any, key: jax.Array, step: jax.Array, episode: int
    ) -> Iterator[Shown]:
        state, seen = begin(statistics, key, episode)
        memory = agent.initial_memory(1)
        for now in itertools.count():
            yield draw(jax.device_get(jax.tree.map(lambda x: x[0], state.env_state))), seen
            at = jax.random.fold_in(key, now)
            state, seen, memory = advance(params, state, seen, memory, at, step, episode)

    return Player(play, env.spec, lambda: None)


def _on_host(config: EnvConfig, agent: Agent, episodes: int) -> Player:
    """Return a player; only its first episode has the same seed as in `HostEvaluator`."""
    env = make_host_vector(config, num_envs=1, evaluation=True, render=True)
    greedy = jax.jit(make_greedy(agent))

    def play(
        params: Params, statistics: Any, key: jax.Array, step: jax.Array, episode: int
    ) -> Iterator[Shown]:
        seen = env.reset(numpy_seeds(stream(key, "reset"), episodes)[episode])
        memory = agent.initial_memory(1)
        for now in itertools.count():
            yield env.render(), seen
            shown = seen.observation, memory, seen.is_first
            at = jax.random.fold_in(key, now)
            action, memory = greedy((params, statistics), *shown, at, step, agent.extras(seen))
            seen = env.step(np.asarray(action))

    return Player(play, env.spec, env.close)


def _draw_without_screen() -> None:
    """Set variables that MuJoCo and pygame read when they are first imported."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
    for name, value in _PYGAME.items():
        os.environ.setdefault(name, value)
