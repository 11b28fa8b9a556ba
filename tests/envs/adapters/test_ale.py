"""Atari through the adapter, compared with the bare emulator."""

import functools
import sys

import numpy as np
import pytest

from bellmax import UserError
from bellmax.envs.host import HostVector
from bellmax.envs.options import install_command

ale_py = pytest.importorskip("ale_py")
pytest.importorskip("ale_py.vector_env")
from bellmax.envs.adapters.ale import list_tasks, make_batch  # noqa: E402

NOOP, FIRE = 0, 1  # of Breakout; 2 is right and 3 is left
PLAIN = {"protocol": "dqn_zoo", "noop_max": 0}


def shrinking(new, old):
    """Return [new, old] weights that shrink the rows of a picture by averaging areas."""
    edges = np.arange(new + 1) * old / new
    pixels = np.arange(old)[None]
    high, low = np.minimum(edges[1:, None], pixels + 1), np.maximum(edges[:-1, None], pixels)
    return np.clip(high - low, 0, None) * new / old


ROWS, COLUMNS = shrinking(84, 210), shrinking(84, 160)


class Emulator:
    """Breakout of 4 skipped frames, preprocessed by hand."""

    def __init__(self, rom="breakout", sticky=0.0, pictures=False):
        self.pictures = pictures  # whether to keep pictures, which takes as long as playing
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.setInt("random_seed", 0)
        self.ale.loadROM(ale_py.roms.get_rom_path(rom))
        self.actions = self.ale.getMinimalActionSet()

    def reset(self, noops=0):
        self.ale.reset_game()
        for _ in range(noops):
            self.ale.act(self.actions[NOOP])
        self.frames = [self.ale.getScreenGrayscale()] * 2
        self.picture = self.ale.getScreenRGB()

    def step(self, action):
        """The reward and whether the game is over."""
        reward, pictures = 0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            if self.ale.game_over():
                break
            self.frames = [self.frames[-1], self.ale.getScreenGrayscale()]
            if self.pictures:
                pictures = [*pictures[-1:], self.ale.getScreenRGB()]
        if len(pictures) == 2:
            self.picture = np.maximum(*pictures)
        return reward, self.ale.game_over()

    @property
    def observation(self):
        return ROWS @ np.maximum(*self.frames) @ COLUMNS.T


def assert_shows(observation, emulator):
    """Assert that pictures are equal up to rounding: ale_py weights areas in float32."""
    np.testing.assert_allclose(observation[..., 0], emulator.observation, atol=0.6)


def chase(rng, count):
    """Actions that hit the ball now and then."""
    actions = rng.integers(2, 4, count)
    actions[::7] = FIRE
    return actions


@functools.cache
def games(num_envs, **options):
    """Breakout without any randomness unless the options say so."""
    return make_batch("Breakout", num_envs, **PLAIN | options)


def play(batch, actions, seed=0):
    """The streams of actions [T] or [T, N]; resets come first."""
    first = batch.reset(seed)
    seen = [(first, np.ones(batch.num_envs, bool))]
    seen += [batch.step(np.broadcast_to(action, batch.num_envs)) for action in actions]
    leaves = zip(*(ts for ts, _ in seen), strict=True)
    return type(first)(*map(np.stack, leaves)), np.stack([is_first for _, is_first in seen])


def test_games_equal_the_emulator():
    actions, emulator = chase(np.random.default_rng(0), 400), Emulator()
    batch = games(2)
    ts = batch.reset(0)
    emulator.reset()
    assert ts.observation.shape == (2, 84, 84, 1) and ts.observation.dtype == np.uint8
    assert_shows(ts.observation[1], emulator)
    over, points, ends = False, 0, 0
    for t, action in enumerate(actions):
        ts, is_first = batch.step(np.array([action, action], np.int32))
        np.testing.assert_array_equal(is_first, over)
        if over:
            emulator.reset()
            wanted, over = 0, False
        else:
            wanted, over = emulator.step(action)
        np.testing.assert_array_equal(ts.reward, np.float32(wanted))
        np.testing.assert_array_equal(ts.terminated, over)
        assert ts.reward.dtype == np.float32 and not ts.truncated.any()
        if not over and t % 3 == 0:  # shrinking pictures by hand takes longer than playing
            assert_shows(ts.observation[0], emulator)
        points, ends = points + wanted, ends + over
    assert points > 3 and ends > 0


def test_the_protocols():
    default, plain = make_batch("Breakout", 1), games(1)
    assert default.spec.action.num_values == 18 and plain.spec.action.num_values == 4
    assert default.spec.time_limit == plain.spec.time_limit == 27_000
    assert default.spec.name == "ale/Breakout"
    skipping = make_batch("Breakout", 1, time_limit=100_000, frameskip=5, full_action_space=False)
    assert skipping.spec.time_limit == 21_600 and skipping.spec.action.num_values == 4


def test_sticky_actions():
    """With probability 1 the first action is repeated for ever; with 0 none is repeated."""
    actions = chase(np.random.default_rng(1), 40)
    stuck, _ = play(games(1, repeat_action_probability=1), actions)
    idle, _ = play(games(1), [NOOP] * 40)
    np.testing.assert_array_equal(stuck.observation, idle.observation)
    plain, _ = play(games(2), actions)
    assert np.any(plain.observation != idle.observation)
    np.testing.assert_array_equal(plain.observation[:, 0], plain.observation[:, 1])
    default, _ = play(make_batch("Breakout", 2, full_action_space=False), actions)
    assert np.any(default.observation[:, 0] != default.observation[:, 1])


def test_frames_without_action():
    """The first observation is the emulator's after 0, 1 or 2 of them, which differ in Freeway."""
    batch, emulator = make_batch("Freeway", 6, **PLAIN | {"noop_max": 2}), Emulator("freeway")
    after = []
    for noops in range(4):
        emulator.reset(noops)
        after.append(emulator.observation)
    after = np.stack(after)
    first = batch.reset(1).observation[..., 0]
    equal = np.abs(first[:, None] - after[None]).max((2, 3)) < 1
    np.testing.assert_array_equal(equal.sum(1), 1)
    np.testing.assert_array_equal(equal.any(0), [True, True, True, False])


def test_seeds_repeat_whatever_the_threads():
    actions = chase(np.random.default_rng(2), 60)
    sticky = {"full_action_space": False, "noop_max": 30}
    batch = make_batch("Breakout", 2, num_threads=1, **sticky)
    once, _ = play(batch, actions, seed=5)
    again, _ = play(batch, actions, seed=5)
    threads, _ = play(make_batch("Breakout", 2, num_threads=2, **sticky), actions, seed=5)
    other, _ = play(batch, actions, seed=6)
    for wanted, same, also in zip(once, again, threads, strict=True):
        np.testing.assert_array_equal(wanted, same)
        np.testing.assert_array_equal(wanted, also)
    assert np.any(once.observation != other.observation)


@pytest.mark.parametrize("limits", [{"time_limit": 10}, {"max_num_frames": 43}])
def test_a_time_limit_truncates_and_shows_the_true_last_frame(limits):
    actions = [FIRE, *chase(np.random.default_rng(3), 21)]
    batch = games(1, **limits)
    assert batch.spec.time_limit == 10
    cut, is_first = play(batch, actions)
    whole, _ = play(games(1), actions)
    np.testing.assert_array_equal(np.flatnonzero(cut.truncated[:, 0]), [10, 21])
    np.testing.assert_array_equal(np.flatnonzero(is_first[:, 0]), [0, 11, 22])
    assert not cut.terminated.any()
    np.testing.assert_array_equal(cut.observation[:11], whole.observation[:11])
    second, _ = play(games(1), actions[11:])
    np.testing.assert_array_equal(cut.observation[11:22], second.observation[:11])
    np.testing.assert_array_equal(cut.observation[22], second.observation[0])


def test_a_game_over_at_the_limit_is_a_termination():
    actions = chase(np.random.default_rng(4), 200)
    whole, _ = play(games(1), actions)
    end = int(np.flatnonzero(whole.terminated[:, 0])[0])
    for limit, terminated in [(end, True), (end - 1, False)]:
        cut, is_first = play(games(1, time_limit=limit), actions)
        assert cut.terminated[limit, 0] == terminated != cut.truncated[limit, 0]
        assert is_first[limit + 1, 0] and not is_first[1 : limit + 1].any()
        # The remaining actions apply to a new game, regardless of the other game.
        rest, _ = play(games(1), actions[limit + 1 :])
        np.testing.assert_array_equal(cut.observation[limit + 1 :], rest.observation)


def test_a_life_as_an_episode_continues_the_same_game():
    actions, emulator = chase(np.random.default_rng(0), 250), Emulator()
    batch = games(1, episodic_life=True)
    batch.reset(0)
    emulator.reset()
    lives, lost, over, episodes = 5, False, False, 0
    for t, action in enumerate(actions):
        ts, is_first = batch.step(np.array([action], np.int32))
        assert is_first[0] == (lost or over)
        if over:
            emulator.reset()
            wanted, over = 0, False
        else:
            wanted, over = emulator.step(NOOP if lost else action)
            wanted *= not lost
        lives, lost = emulator.ale.lives(), emulator.ale.lives() < lives
        assert (ts.reward[0], ts.terminated[0]) == (wanted, lost or over)
        if not over and t % 3 == 0:
            assert_shows(ts.observation[0], emulator)
        episodes += lost or over
    assert episodes > 5


def test_arrays_are_never_written_again():
    vector = HostVector(make_batch("Breakout", 2, time_limit=9))
    kept = [vector.reset(0)]
    kept += [vector.step(np.array([1, 3])) for _ in range(60)]
    copies = [[np.copy(leaf) for leaf in ts] for ts in kept]
    for _ in range(60):
        vector.step(np.array([4, 1]))
    for ts, copy in zip(kept, copies, strict=True):
        for leaf, wanted in zip(ts, copy, strict=True):
            np.testing.assert_array_equal(leaf, wanted)


def test_the_stream():
    """Game 0 is lost; game 1, in which no ball is served, is truncated."""
    actions = np.stack([chase(np.random.default_rng(4), 205), np.zeros(205, int)], axis=1)
    batch = games(2, time_limit=200)
    single, is_first = play(batch, actions)
    vector = HostVector(batch, reward_clip=0.5, frame_stack=4)
    assert vector.spec.observation.shape == (84, 84, 4)
    stream = [vector.reset(0), *map(vector.step, actions)]
    total, newest = np.zeros(2, np.float32), [None]
    for t, ts in enumerate(stream):
        before = stream[t - 1].is_last if t else True
        np.testing.assert_array_equal(ts.is_first, before)
        np.testing.assert_array_equal(ts.is_first, is_first[t])
        np.testing.assert_array_equal(ts.discount, 1 - single.terminated[t])
        np.testing.assert_array_equal(ts.truncated, single.truncated[t])
        np.testing.assert_array_equal(ts.is_last, single.terminated[t] | single.truncated[t])
        newest = (
            [
                np.where(is_first[t][:, None, None, None], single.observation[t], old)
                for old in newest[-3:]
            ]
            if t
            else [single.observation[0]] * 3
        )
        newest.append(single.observation[t])
        np.testing.assert_array_equal(ts.observation, np.concatenate(newest, axis=-1))
        total = np.where(is_first[t], 0, total + single.reward[t])
        np.testing.assert_array_equal(ts.episode_return, total)
        np.testing.assert_array_equal(ts.reward, np.minimum(single.reward[t], 0.5))
    assert single.terminated.any(0).tolist() == [True, False] and total.max() == 0
    assert single.truncated.any(0).tolist() == [False, True] and single.reward.max() >= 1


def test_pictures_are_of_task_0():
    actions, emulator = chase(np.random.default_rng(0), 30), Emulator(pictures=True)
    batch = games(2, render=True, time_limit=20)
    batch.reset(0)
    emulator.reset()
    np.testing.assert_array_equal(batch.render(), emulator.picture)
    for t, action in enumerate(actions):
        batch.step(np.array([action, NOOP]))
        _ = emulator.reset() if t == 20 else emulator.step(action)
        np.testing.assert_array_equal(batch.render(), emulator.picture)
    assert batch.render().shape == (210, 160, 3)
    blind = make_batch("Breakout", 1)
    blind.reset(0)
    with pytest.raises(UserError, match="made with render=True"):
        blind.render()


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("breakout", {}, "unknown game 'breakout' of ale; did you mean Breakout"),
        ("MsPacMan", {}, "did you mean MsPacman"),
        (
            "Pong",
            {"frame_skip": 3},
            "unknown option 'frame_skip' of ale/Pong; did you mean frameskip",
        ),
        ("Pong", {"frameskip": 0}, "frameskip must be a whole number from 1 to 1073741824, got"),
        ("Pong", {"noop_max": 3.0}, "noop_max must be a whole number from 0 to 1073741824, got"),
        ("Pong", {"noop_max": 2**40}, "got 1099511627776"),
        ("Pong", {"num_threads": 2**20}, "num_threads must be a whole number from 1 to 1024, got"),
        ("Pong", {"repeat_action_probability": 25}, "must be a number from 0 to 1, got 25"),
        ("Pong", {"episodic_life": 1}, "episodic_life must be true or false, got 1"),
        ("Pong", {"max_num_frames": 3}, "max_num_frames must be at least frameskip, 4, got 3"),
        ("Pong", {"protocol": "machado"}, "got 'machado'; did you mean machado2018"),
        ("Pong", {"timeout": 1.0}, "timeout must be None for ale/Pong, got 1.0; its threads"),
        ("Pong", {"time_limit": 0}, "time_limit must be at least 1 environment step, got 0"),
    ],
)
def test_mistakes_are_explained(task, options, words):
    with pytest.raises(UserError) as error:
        make_batch(task, 1, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("action", "words"),
    [([1, 2, 3], r"must have shape \(2,\), got \(3,\)"), ([0, 4], "must be from 0 to 3, got 4")],
)
def test_wrong_actions_are_explained(action, words):
    batch = games(2)
    batch.reset(0)
    with pytest.raises(UserError, match=words):
        batch.step(np.array(action))


def test_games_are_listed():
    games = list_tasks()
    assert len(games) >= 100 and {"Breakout", "MontezumaRevenge", "UpNDown", "Qbert"} <= set(games)


def test_missing_ale_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError) as error:
        make_batch("Breakout", 1)
    assert str(error.value) == f"ale_py is not installed: {install_command('ale')}"
