"""`env.coverage`: the cells that training visited, against sets kept by hand, and in the log."""

import dataclasses
import json
import shutil
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from matplotlib.figure import Figure

from bellmax import UserError
from bellmax.envs import (
    CartPole,
    DeepSea,
    EnvConfig,
    EnvSpec,
    Pendulum,
    Randomised,
    TimeStep,
    make_vector_env,
    vectorise,
)
from bellmax.launch.cli import main
from bellmax.launch.reporting.metrics import read_metrics
from helpers import scripted

SIZE, NUM_ENVS, STEPS = 5, 3, 60


def play(env, actions):
    """The stream [T + 1, N, ...] and the visited cells [T + 1, C] after each vector step."""
    stream, states = jax.jit(lambda actions: scripted.play(env, actions))(actions)
    return jax.device_get((stream, states.visited))


def assert_sets(visited, sets):
    assert [set(np.flatnonzero(row).tolist()) for row in visited] == sets


@pytest.mark.parametrize(("time_limit", "frame_stack"), [(None, 1), (3, 2), (9, 1)])
def test_visited_are_the_cells_of_a_set(time_limit, frame_stack):
    """The position follows from the rules, because it is not in the final observation."""
    sea = DeepSea(size=SIZE)
    env = vectorise(sea, NUM_ENVS, time_limit=time_limit, frame_stack=frame_stack, coverage=True)
    actions = np.random.default_rng(1).integers(0, 2, (STEPS, NUM_ENVS)).astype(np.int32)
    stream, visited = play(env, actions)
    assert visited.shape == (STEPS + 1, (SIZE + 1) * SIZE)
    place, ended = [(0, 0)] * NUM_ENVS, [False] * NUM_ENVS
    seen, sets = {0}, [{0}]
    for t in range(STEPS):
        for i in range(NUM_ENVS):
            row, column = place[i]
            right = not ended[i] and actions[t, i] == sea.action_mapping[row, column]
            moved = row + 1, min(max(column + (1 if right else -1), 0), SIZE - 1)
            place[i] = (0, 0) if ended[i] else moved
            ended[i] = place[i][0] == min(SIZE, time_limit or SIZE)
            seen.add(place[i][0] * SIZE + place[i][1])
        np.testing.assert_array_equal(stream.is_last[t + 1], ended)
        sets.append(set(seen))
    assert_sets(visited, sets)
    deepest = max(sets[-1]) // SIZE
    assert deepest == (3 if time_limit == 3 else SIZE) and len(sets[-1]) > len(sets[2])


@dataclasses.dataclass(frozen=True)
class Jumps:
    """Jumps `stride` places on a ring of 30 and shows its own; starts at a random even one."""

    changed: Mapping[str, float | jax.Array] = dataclasses.field(default_factory=dict)
    num_cells = 30
    parameters = {"stride": 1.0}
    spec = EnvSpec("test/Jumps", specs.Array((1,), np.float32), specs.DiscreteArray(2))

    def with_parameters(self, values):
        return Jumps(dict(values))

    def cell(self, env_state):
        return env_state

    def reset(self, key):
        place = 2 * jax.random.randint(key, (), 0, 3)
        no = jnp.zeros((), bool)
        return place, TimeStep(1.0 * place[None], jnp.zeros(()), no, no)

    def step(self, place, action, key):
        stride = jnp.int32(jnp.float32(self.changed.get("stride", 1.0)))
        place = (place + action * stride) % 30
        no = jnp.zeros((), bool)
        return place, TimeStep(1.0 * place[None], jnp.zeros(()), no, no)


def test_cells_are_found_inside_randomised():
    jumps = Randomised(Jumps(), {"stride": (1.0, 6.0)})
    env = vectorise(jumps, NUM_ENVS, time_limit=4, frame_stack=3, coverage=True)
    actions = np.random.default_rng(2).integers(0, 2, (STEPS, NUM_ENVS)).astype(np.int32)
    stream, visited = play(env, actions)
    places = stream.observation[..., -1].astype(int)
    sets = [set(places[: t + 1].ravel().tolist()) for t in range(STEPS + 1)]
    assert_sets(visited, sets)
    assert 10 < len(sets[-1]) < 30 and any(place % 2 for place in sets[-1])


@pytest.mark.parametrize(
    "env", [CartPole(), Randomised(Pendulum(), {"mass": (0.5, 2.0)})], ids=["plain", "randomised"]
)
def test_states_without_cells_are_refused(env):
    sentence = f"env.coverage: the states of {env.spec.name} cannot be counted; the task lacks"
    with pytest.raises(UserError, match=sentence) as caught:
        vectorise(env, 2, time_limit=5, coverage=True)
    assert "\n" not in str(caught.value)


def test_no_leaf_without_it_and_none_in_evaluations():
    config = EnvConfig("bellmax/DeepSea", num_envs=2)
    counted = dataclasses.replace(config, coverage=True)
    key = jax.random.key(0)
    plain, seen, evaluated = (
        make_vector_env(c, evaluation=e).reset(key)[0]
        for c, e in ((config, False), (counted, False), (counted, True))
    )
    assert plain.visited == evaluated.visited == ()
    assert len(jax.tree.leaves(seen)) == len(jax.tree.leaves(plain)) + 1
    jax.tree.map(np.testing.assert_array_equal, seen._replace(visited=()), plain)


PRESET = f"""
steps: 960
warmup_steps: 48
log_every: 6
evaluate_every: 0
checkpoint_every: 0
evaluation_episodes: 1
rollout_length: 3
seeds: 2
agent: {{name: dqn, batch_size: 4, epsilon_end: 1.0, network: {{hidden: [4]}}}}
env: {{name: bellmax/DeepSea, num_envs: 2, options: {{size: {SIZE}}}}}
replay: {{capacity: 100}}
"""


def train(folder, *options):
    folder.with_suffix(".yaml").write_text(PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
        source = str(folder.with_suffix(".yaml"))
        assert main(["train", source, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A run with `env.coverage`."""
    return train(tmp_path_factory.mktemp("coverage") / "with", "--env.coverage")


@pytest.fixture
def uncounted(counted, tmp_path):
    """The same run without coverage."""
    shutil.copytree(counted, tmp_path / "without")
    rows = [json.loads(line) for line in (counted / "metrics.jsonl").read_text().splitlines()]
    rows = [json.dumps({k: v for k, v in row.items() if k != "coverage"}) for row in rows]
    (tmp_path / "without" / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "without"


def curves(run):
    rows = [row for row in read_metrics(run) if row["kind"] == "train"]
    return [[row["coverage"] for row in rows if row["seed"] == seed] for seed in (0, 1)]


def test_the_log_counts_each_seed_and_never_falls(counted):
    one, other = curves(counted)
    assert len(one) == len(other) == 960 // 6 and one != other
    for curve in (one, other):
        assert 1 < curve[0] <= 1 + 3 * 2  # three vector steps of two environments
        assert all(0 <= new - old <= 6 for old, new in zip(curve, curve[1:], strict=False))
        assert curve[-1] == 1 + 2 + 3 + 4 + 5 + 5  # column <= row, and the row below the bottom


def test_only_rows_of_training_have_coverage(counted):
    rows = read_metrics(counted)
    assert all(("coverage" in row) == (row["kind"] == "train") for row in rows)
    assert {row["kind"] for row in rows} == {"train", "evaluation"}


@pytest.mark.slow
def test_coverage_changes_nothing_else(counted, tmp_path):
    with_it, plain = read_metrics(counted), read_metrics(train(tmp_path / "without"))
    beside = {"coverage", "timing"}
    assert [{k: v for k, v in row.items() if k not in beside} for row in with_it] == [
        {k: v for k, v in row.items() if k != "timing"} for row in plain
    ]


def test_plot_draws_it(counted, uncounted, tmp_path, monkeypatch, capsys):
    figures, save = [], Figure.savefig
    keep = lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", keep)
    command = ["plot", "--metric", "coverage", "--out", str(tmp_path / "seen")]
    assert main([*command, str(counted)]) == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    drawn = [line.get_ydata() for line in axes.lines[:2]]
    np.testing.assert_array_equal(drawn, curves(counted))
    assert "coverage" in axes.get_ylabel()
    capsys.readouterr()
    assert main([*command, str(uncounted)]) == 2
    assert "there is no coverage in the metrics of" in capsys.readouterr().err


def test_a_task_without_cells_is_one_sentence_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bellmax.launch.distributed.devices.configure_jax", lambda **_: None)
    command = ["train", "dqn/cartpole", "--env.coverage", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "bellmax/CartPole cannot be counted" in said
