"""`bellmax record` shows the episodes of `bellmax evaluate`, one picture per observation."""

import dataclasses
import os
import re
import subprocess
import sys
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from PIL import Image, ImageSequence

from bellmax import UserError
from bellmax.envs import EnvSpec, TimeStep, make
from bellmax.launch.cli import main
from bellmax.launch.config.run_config import load
from bellmax.launch.reporting.video import write_video
from bellmax.launch.studies.evaluate import restore
from bellmax.launch.training.checkpoints import Checkpoints
from bellmax.launch.training.experiment import build

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")  # of the extra `video`

CUES, LENGTH, ACTIONS = 4, 5, 3
PAYS = np.random.default_rng(0).uniform(-1, 1, (CUES, LENGTH, ACTIONS)).astype(np.float32)


class RecallState(NamedTuple):
    cue: jax.Array
    time: jax.Array
    last: jax.Array  # action + 3 * luck


@dataclasses.dataclass(frozen=True)
class Recall:
    """Shows a cue only at the first step; rewards depend on it, and on chance at every step.

    Its picture shows the whole state.
    """

    spec = EnvSpec("test/Recall", specs.Array((CUES,), np.float32), specs.DiscreteArray(ACTIONS))

    def observe(self, state):
        return 9.0 * jax.nn.one_hot(state.cue, CUES) * (state.time == 0)

    def reset(self, key):
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        state = RecallState(jax.random.randint(key, (), 0, CUES), zero, zero)
        return state, TimeStep(self.observe(state), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        luck = jax.random.randint(key, (), 0, 4)
        reward = jnp.asarray(PAYS)[state.cue, state.time, action] + luck
        state = RecallState(state.cue, state.time + 1, action + ACTIONS * luck)
        over = state.time == LENGTH
        return state, TimeStep(self.observe(state), reward, over, jnp.zeros((), bool))

    def draw(self, env_state):
        assert all(isinstance(x, np.ndarray) and x.shape == () for x in env_state)
        return np.tile(np.array(env_state, np.uint8) * 20, (4, 6, 1))


class Blind(Recall):
    draw = None


class NoPictures(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, True, False, {}


DQN = "{name: dqn, batch_size: 8, network: {hidden: [8]}}"
RECURRENT = """
  name: byol_explore
  policy_loss: ppo
  predictor_hidden: [8]
  network: {hidden: [16], latent_size: 8, memory_size: 8, head_hidden: []}"""


def untrained(folder, env, agent=DQN, more="", seeds=2):
    """A run with two checkpoints, 100 and 200, the first of them the best; nothing is learned."""
    folder.mkdir()
    text = f"seed: 3\nseeds: {seeds}\nagent: {agent}\nenv: {env}\n"
    text += "replay: {capacity: 1000}\n" + more
    (folder / "config.yaml").write_text(text)
    experiment = build(load(folder, trust=True))
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    for step, seed in ((100, 0), (200, 70)):
        state = experiment._replace(seeds=[s + seed for s in experiment.seeds]).init()
        checkpoints.save(step, state, metric=float(-step), extra={})
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    variables = "MUJOCO_GL", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT"
    for name in (*variables, "IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"):
        monkeypatch.setenv(name, "")  # so that the value is restored
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recall(tmp_path_factory):
    env = f'{{name: "{__name__}:Recall", num_envs: 16, normalise_observations: true}}'
    folder = tmp_path_factory.mktemp("record") / "recall"
    return untrained(folder, env, RECURRENT, "rollout_length: 5\nwarmup_steps: 0\n")


def frames(path):
    """The pictures of a gif, [N, H, W, 3]."""
    with Image.open(path) as file:
        return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(file)])


def told(capsys):
    """(return, length) of each episode, from the output."""
    out = capsys.readouterr().out
    found = re.findall(r"episode \d+: return (-?[\d.]+), ([\d,]+) steps", out)
    return [(float(r), int(n)) for r, n in found], out


def evaluated(run, seed, checkpoint="latest", episodes=3):
    """Returns and lengths of the evaluator."""
    experiment = build(load(run, trust=True), episodes=episodes)
    step, state, _ = restore(run, experiment, checkpoint)
    episodes = experiment.evaluate(state, step)
    experiment.close()
    i = experiment.seeds.index(seed)
    return np.asarray(episodes.episode_return[i]), np.asarray(episodes.episode_length[i])


@pytest.mark.parametrize(("seed", "checkpoint"), [(3, "latest"), (4, "best")])
def test_episodes_are_those_of_evaluate_with_memory_and_statistics(
    recall, capsys, seed, checkpoint
):
    words = ["--episodes", "3", "--seed", str(seed), "--checkpoint", checkpoint]
    assert main(["record", str(recall), "--trust", *words, "--out", "a.gif"]) == 0
    episodes, out = told(capsys)
    step = 200 if checkpoint == "latest" else 100
    assert f"a.gif: 18 pictures of seed {seed} at step {step}, 30 a second" in out
    shown = frames("a.gif").reshape(3, LENGTH + 1, -1, 3)
    assert (shown == shown[:, :, :1]).all()
    cues, times, codes = np.moveaxis(shown[:, :, 0] // 20, -1, 0)
    np.testing.assert_array_equal(times, [range(LENGTH + 1)] * 3)
    t = np.arange(LENGTH)
    luck, actions = np.divmod(codes[:, 1:].astype(int), ACTIONS)
    assert len(np.unique(luck, axis=0)) == 3
    sums = [PAYS[cues[k, 0], t, actions[k]].sum() + luck[k].sum() for k in range(3)]
    np.testing.assert_allclose([r for r, _ in episodes], sums, atol=0.006)
    returns, lengths = evaluated(recall, seed, checkpoint if checkpoint == "best" else int(step))
    np.testing.assert_allclose(sums, returns, atol=1e-5)
    assert [n for _, n in episodes] == lengths.tolist() == [LENGTH] * 3


def test_memory_is_carried(recall):
    """All observations but the first are equal: without memory the actions would be equal too."""
    words = ["--seed", "4", "--episodes", "8", "--checkpoint", "100", "--out", "a.gif"]
    assert main(["record", str(recall), "--trust", *words]) == 0
    codes = frames("a.gif").reshape(8, LENGTH + 1, -1, 3)[:, 2:, 0, 2] // 20
    actions = codes % ACTIONS
    assert (actions != actions[:, :1]).any(axis=1).all()


@pytest.mark.slow
def test_a_trained_run_of_catch_from_the_command_line(tmp_path, capsys):
    (tmp_path / "catch.yaml").write_text(
        f"steps: 64\nwarmup_steps: 32\nagent: {DQN}\nevaluate_every: 0\n"
        "env: {name: bellmax/Catch, num_envs: 2}\nevaluation_episodes: 2\n"
    )
    assert main(["train", "catch.yaml", "--out", "run"]) == 0
    capsys.readouterr()
    before = {path for path in tmp_path.rglob("*")}
    assert main(["record", "run", "--trust"]) == 0
    episodes, out = told(capsys)
    assert {path for path in tmp_path.rglob("*")} - before == {tmp_path / "run" / "episodes.gif"}
    returns, _ = evaluated(tmp_path / "run", 0)
    assert episodes == [(returns[0], 9)]
    assert "run/episodes.gif: 10 pictures of seed 0 at step 64, 10 a second" in out
    shown = frames("run/episodes.gif")
    assert len(shown) == 10  # bsuite's nine steps and the first picture
    catch = make("bellmax/Catch")
    first = [catch.draw(catch.reset(jax.random.key(0))[0]._replace(ball_x=x)) for x in range(5)]
    assert [(shown[0] == picture).all() for picture in first].count(True) == 1
    # The ball, in orange, is a row of 25 pixels lower at each step.
    balls = [np.nonzero((p == [230, 159, 0]).all(-1))[0] for p in shown[:-1]]
    np.testing.assert_array_equal(np.diff([rows.mean() for rows in balls]), 25)
    caught = (shown[-1] == [0, 158, 115]).all(-1).any()
    assert caught == (returns[0] == 1)


@pytest.mark.slow
def test_minatar_with_stacked_frames_draws_what_it_shows(tmp_path, capsys):
    pytest.importorskip("gymnax")
    env = "{name: gymnax/Breakout-MinAtar, num_envs: 2, frame_stack: 2, time_limit: 4}"
    run = untrained(tmp_path / "run", env)
    assert main(["record", "run", "--trust", "--episodes", "2", "--fps", "5"]) == 0
    episodes, _ = told(capsys)
    returns, lengths = evaluated(run, 3)
    assert episodes == list(zip(returns[:2].tolist(), lengths[:2].tolist(), strict=True))
    shown = frames("run/episodes.gif")
    assert len(shown) == sum(lengths[:2]) + 2 and shown.shape[1:] == (250, 250, 3)
    task = make("gymnax/Breakout-MinAtar")
    _, ts = task.reset(jax.random.key(0))
    paddle = (shown[0][12::25, 12::25] == [86, 180, 233]).all(-1)
    np.testing.assert_array_equal(paddle, ts.observation[..., 0])
    with Image.open("run/episodes.gif") as file:
        assert file.info["duration"] == 200 and file.info["loop"] == 0


def test_a_task_of_gymnasium(tmp_path, capsys):
    pytest.importorskip("pygame")
    run = untrained(tmp_path / "run", "{name: gymnasium/CartPole-v1, num_envs: 2}", seeds=1)
    assert main(["record", "run", "--trust", "--episodes", "2"]) == 0
    episodes, _ = told(capsys)
    returns, lengths = evaluated(run, 3)
    assert episodes[0] == (returns[0], lengths[0]) and episodes[0][0] == episodes[0][1]
    shown = frames("run/episodes.gif")
    assert len(shown) == sum(n for _, n in episodes) + 2
    assert shown.shape[1:] == (400, 600, 3) and (shown[0] != shown[1]).any()
    # At the start of the second episode the pole is upright again: another first picture.
    second = episodes[0][1] + 1
    assert (shown[second] != shown[0]).any() and (shown[second] != shown[second - 1]).any()


def test_a_cut_episode_is_reported(recall, capsys):
    assert (
        main(["record", str(recall), "--trust", "--max-steps", "2", "--out", "new/below/A.GIF"])
        == 0
    )
    episodes, out = told(capsys)
    assert episodes[0][1] == 2 and "2 steps, then cut; --max-steps" in out
    assert len(frames("new/below/A.GIF")) == 3
    assert (
        main(["record", str(recall), "--trust", "--max-steps", str(LENGTH), "--out", "a.gif"]) == 0
    )
    assert "cut" not in told(capsys)[1]


def test_a_runs_own_limit_of_evaluations_counts(tmp_path, capsys):
    env = f'{{name: "{__name__}:Recall", num_envs: 2}}'
    untrained(tmp_path / "run", env, more="evaluation_max_steps: 3\n")
    assert main(["record", "run", "--trust"]) == 0
    assert told(capsys)[0][0][1] == 3


MISTAKES = [
    ("record nothing", ["no run nothing"]),
    ("record", ["RUN must be given first"]),
    ("record run --episodes 0", ["--episodes", "[1, 65536]", "got '0'"]),
    ("record run --max-steps 0", ["--max-steps", "got '0'"]),
    ("record run --checkpoint bst", ["--checkpoint", "latest, best or an integer", "'bst'"]),
    ("record run --checkpoint 7", ["no checkpoint 7", "saved: 100, 200"]),
    ("record run --seed 5", ["run has no seed 5; its seeds are 3 to 4"]),
    ("record run --seed x", ["--seed", "'x'"]),
    ("record run --out a.avi", ["suffix", "'.avi'", ".gif, .mp4"]),
    ("record run --out a", ["suffix", "'a'"]),
    ("record run --out a.git", ["did you mean .gif?"]),
    ("record run --out folder.gif", ["folder.gif is a folder"]),
    ("record run --out plain/a.gif", ["plain cannot be the folder of a video", "not a folder"]),
    ("record run --fps 0", ["--fps", "[1, 50]", "got 0"]),
    ("record run --fps 60", ["--fps", "[1, 50] for a .gif", "mp4"]),
    ("record run --frames 3", ["unknown option '--frames'"]),
    ("record blind", ["test/Recall cannot draw pictures"]),
    ("record host", ["cannot draw pictures"]),
]


@pytest.fixture(scope="module")
def mistaken(recall, tmp_path_factory):
    """A folder with runs and other files."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "run").symlink_to(recall)
    (folder / "folder.gif").mkdir()
    (folder / "plain").write_text("a file")
    for run, task in (("blind", "Blind"), ("host", "NoPictures")):
        untrained(folder / run, f'{{name: "{__name__}:{task}", num_envs: 2}}', seeds=1)
    return folder


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    mistaken, monkeypatch, capsys, arguments, parts
):
    monkeypatch.chdir(mistaken)
    before = sorted(mistaken.rglob("*")), sorted((mistaken / "run").rglob("*"))
    assert main([*arguments.split(), "--trust"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert not [part for part in parts if part not in said.err], said.err
    assert before == (sorted(mistaken.rglob("*")), sorted((mistaken / "run").rglob("*")))


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_video_needs_an_extra(recall, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["record", str(recall), "--trust", "--out", name]) == 2
    assert '[video]"' in capsys.readouterr().err


def test_an_mp4_shows_the_same_and_is_padded_to_even_sizes(tmp_path):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    pictures = [np.full((33, 51, 3), (200, 40, 10 * i), np.uint8) for i in range(8)]
    assert write_video(tmp_path / "a.mp4", pictures, 25) == 8
    command = [ffmpeg, "-v", "error", "-i", "a.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path).stdout
    read = np.frombuffer(raw, np.uint8).reshape(8, 34, 52, 3).astype(int)
    assert np.abs(read[:, :33, :51] - np.stack(pictures)).max() < 12  # it is not exact
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_gif_keeps_equal_pictures_and_more_colours_than_it_can_hold(tmp_path):
    same = np.zeros((5, 7, 3), np.uint8)
    other = same.copy()
    other[2, 3] = 255
    assert write_video(tmp_path / "a.gif", [same, same, other, same], 50) == 4
    np.testing.assert_array_equal(frames(tmp_path / "a.gif"), [same, same, other, same])
    with Image.open(tmp_path / "a.gif") as file:
        assert file.info["duration"] == 20 and file.info["loop"] == 0  # for ever
    ramp = np.stack(np.meshgrid(*[np.arange(40) * 6] * 2), -1)
    smooth = np.concatenate([ramp, np.full((40, 40, 1), 90)], axis=-1).astype(np.uint8)
    write_video(tmp_path / "b.gif", [smooth], 50)
    distance = np.abs(frames(tmp_path / "b.gif")[0].astype(int) - smooth)
    assert 0 < distance.mean() < 8


def test_thirty_pictures_a_second_are_thirty_in_a_gif_too(tmp_path):
    """Delays are whole hundredths of a second, so one picture in three is shown longer."""
    write_video(tmp_path / "a.gif", [np.full((4, 4, 3), i, np.uint8) for i in range(30)], 30)
    with Image.open(tmp_path / "a.gif") as file:
        delays = [frame.info["duration"] for frame in ImageSequence.Iterator(file)]
    assert len(delays) == 30 and set(delays) == {30, 40} and abs(sum(delays) - 1000) <= 10


# imageio_ffmpeg leaves its end of the pipe open if ffmpeg dies.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_what_ffmpeg_cannot_write_is_one_sentence_and_leaves_the_one_before(
    tmp_path, monkeypatch, name
):
    """ffmpeg that fails at once, one that writes nothing, and one that loses all but 3 pictures."""
    path, picture = tmp_path / name, np.zeros((64, 64, 3), np.uint8)
    path.write_bytes(b"before")
    fake, real = tmp_path / "ffmpeg", imageio_ffmpeg.get_ffmpeg_exe()
    lose = '[ "$1" = -y ] || exec REAL "$@"; { head -c 36864; cat > /dev/null; } | REAL "$@"'
    for script, words in [
        ("exit 1", "ffmpeg cannot write .*a.unfinished"),
        ('[ "$1" = -y ] || exec REAL "$@"; cat > /dev/null', "ffmpeg cannot write .*a.unfinished"),
        (lose, "ffmpeg wrote 3 of 200 pictures to .*a.unfinished"),
    ]:
        fake.write_text("#!/bin/sh\n" + script.replace("REAL", real) + "\n")
        fake.chmod(0o755)
        monkeypatch.setattr(imageio_ffmpeg._io, "get_ffmpeg_exe", lambda: str(fake))
        with pytest.raises(UserError, match=words):
            write_video(path, [picture] * 200, 10)
        assert path.read_bytes() == b"before" and set(tmp_path.iterdir()) == {path, fake}


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_video_that_stops_leaves_the_one_before(tmp_path, name):
    path, picture = tmp_path / name, np.zeros((8, 8, 3), np.uint8)
    path.write_bytes(b"before")

    def pictures(then):
        yield picture
        yield then

    for then, words in [
        (picture[:4], r"one size, \[8, 8, 3\], got \[4, 8, 3\]"),
        (picture.astype(int), "must be .* uint8, got .* int64"),
    ]:
        with pytest.raises(UserError, match=words):
            write_video(path, pictures(then), 10)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="must be"):
        write_video(tmp_path / "new" / name, pictures(picture[0]), 10)


def test_mujoco_draws_without_a_screen_unless_the_user_sets_a_backend(recall, monkeypatch):
    words = ["record", str(recall), "--out", "a.avi"]  # before anything is imported
    monkeypatch.setattr(sys, "platform", "linux")
    for given, wanted in [(None, "egl"), ("osmesa", "osmesa")]:
        if given:
            monkeypatch.setenv("MUJOCO_GL", given)
        assert main(words) == 2
        assert os.environ["MUJOCO_GL"] == wanted
