"""The Python API: `bellmax.train` and the methods of its Run."""

import dataclasses
import shutil
import signal
import sys
import tempfile

import jax
import numpy as np
import pytest
import yaml

import bellmax
from bellmax import UserError
from bellmax.launch.reporting.metrics import read_metrics
from helpers.small import SMALL

CONFIG = {**yaml.safe_load(SMALL), "steps": 800, "evaluation_max_steps": 20}
CONFIG["agent"] |= {"max_gradient_norm": 10}  # so that the norm is logged
SEEN = []  # what `on_interval` was called with


class Kept:
    """A logger that records its calls."""

    def __init__(self):
        self.seen = []

    def log(self, step, metrics):
        self.seen.append((step, metrics))

    def close(self):
        self.seen.append("closed")


LOGGER = Kept()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of seeds 3 and 4, which no test changes."""
    SEEN.clear()
    out = tmp_path_factory.mktemp("api") / "run"
    report = {"on_interval": lambda *given: SEEN.append(given), "loggers": [LOGGER]}
    return bellmax.train(CONFIG, out, seed=3, **{"seeds": np.int64(2)}, **report)


@pytest.fixture
def copy(run, tmp_path):
    """A copy of it."""
    return bellmax.load_run(shutil.copytree(run.path, tmp_path / "copy"))


def test_a_run_is_that_of_the_configuration(run):
    assert (run.config.seed, run.config.seeds, run.config.agent.batch_size) == (3, 2, 8)
    assert bellmax.load_run(str(run.path)).config == run.config
    assert str(run.path) in repr(run)


def test_on_interval_and_loggers_get_the_same(run):
    assert LOGGER.seen == [*SEEN, "closed"]
    trained = [step for step, metrics in SEEN if "train/loss" in metrics]
    evaluated = [step for step, metrics in SEEN if "evaluation/episode_return" in metrics]
    assert trained == [84, *range(100, 801, 100)] and evaluated == [400, 800]
    step, last = [found for found in SEEN if "train/loss" in found[1]][-1]
    losses = [row["loss"] for row in read_metrics(run.path) if row["step"] == 800 and "loss" in row]
    np.testing.assert_allclose(last["train/loss"], np.mean(losses), rtol=1e-6)
    np.testing.assert_allclose(last["train/loss_std"], np.std(losses), rtol=1e-6)
    assert last["train/epsilon"] == pytest.approx(1 - 0.95 * 800 / 10_000)
    assert last["train/learning_rate"] == 2.5e-4 and last["train/gradient_norm"] > 0
    assert last["timing/steps_per_second"] > 0


def test_metrics_are_columns(run, monkeypatch):
    rows = [row for row in read_metrics(run.path) if row["kind"] == "train"]
    frame = run.metrics()
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if not installed
    for columns in (frame, run.metrics()):
        assert columns["step"].tolist() == [row["step"] for row in rows]
        assert columns["loss"].tolist() == [row["loss"] for row in rows]
        assert (columns["steps_per_second"] > 0).all()
    assert isinstance(run.metrics()["loss"], np.ndarray)
    assert set(run.metrics("evaluation")["seed"]) == {3, 4}
    with pytest.raises(UserError, match="kind must be train or evaluation, got 'test'"):
        run.metrics("test")


def test_what_is_not_finite_is_nan(copy):
    with (copy.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 900, "seed": 3, "loss": null}\n')
    assert np.isnan(np.asarray(copy.metrics()["loss"])[-1])


def test_evaluate_is_the_evaluation_of_the_run(run):
    logged = {row["seed"]: row for row in read_metrics(run.path) if row["kind"] == "evaluation"}
    every = run.evaluate(4)
    assert every.step == 800 and every.seeds.tolist() == [3, 4]
    assert every.episode_return.shape == every.cut.shape == (2, 4)
    means = [logged[seed]["episode_return"] for seed in (3, 4)]
    np.testing.assert_allclose(every.episode_return.mean(axis=1), means)
    np.testing.assert_array_equal(run.evaluate(4, seed=4).episode_return, every.episode_return[1:])
    with pytest.raises(UserError, match="has no seed 5; its seeds are 3 to 4"):
        run.evaluate(seed=5)


def test_a_policy_acts_by_its_values_without_a_key(run):
    policy, (obs, first) = run.policy(4), inputs(run, 5)
    action, memory = policy.act(obs, (), first)
    q_values = policy.values(obs, (), first).q_values
    assert q_values.shape == (5, 2) and memory == ()
    np.testing.assert_array_equal(action, q_values.argmax(axis=1))
    np.testing.assert_array_equal(action, policy.act(obs, (), first, jax.random.key(1))[0])
    # As a list of float64 rows too.
    np.testing.assert_array_equal(action, policy.act(obs.tolist(), (), [True] * 5)[0])


def inputs(run, n):
    shape = 4 * run.config.env.frame_stack
    return np.random.default_rng(0).normal(size=(n, shape)), np.ones(n, bool)


def test_a_wrong_observation_is_a_sentence_with_both_shapes(run):
    policy, (obs, first) = run.policy(), inputs(run, 3)
    for call in (policy.act, policy.values):
        with pytest.raises(UserError, match=r"shape \(3, 32\), .*got \(3, 31\)"):
            call(obs[:, :31], (), first)
        with pytest.raises(UserError, match=r"shape \(3, 32\), .*got \(32,\); add an axis"):
            call(obs[0], (), first)
        with pytest.raises(UserError, match=r"float32 of shape \(3, 32\), got int32 of shape"):
            call(obs.astype(int), (), first)
        with pytest.raises(UserError, match=r"is_first must be of shape \(N,\), got \(\)"):
            call(obs, (), True)


def test_plot_gives_a_figure_and_writes_it_where_asked(run, tmp_path):
    figure = run.plot(tmp_path / "curve.png")
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "curve.svg"]
    run.plot(metric="loss")
    with pytest.raises(UserError, match="there is no regret"):
        run.plot(metric="regret")


def test_record_writes_a_video(run, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    assert run.record(tmp_path / "a.gif", max_steps=3) == tmp_path / "a.gif"
    assert (tmp_path / "a.gif").read_bytes().startswith(b"GIF")


def test_resume_trains_on_and_prints_if_asked(copy, capsys):
    before = len(copy.metrics())
    seen = []
    assert copy.resume(900, progress=True, on_interval=lambda step, _: seen.append(step)) is copy
    assert copy.config.steps == 900 and set(seen) == {900} and len(copy.metrics()) == before + 2
    assert "resuming" in capsys.readouterr().out
    with pytest.raises(
        UserError, match="agent.discount must be .* as in .*, got 0.5; a resumed run can change"
    ):
        copy.resume(1000, agent={"discount": 0.5})


def test_without_a_folder_nothing_is_left_printed_or_set(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = dict(jax.config.values)
    run = bellmax.train(CONFIG, seeds=2, steps=100)
    assert jax.config.values == settings and capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [run.path]
    assert len(run.metrics("evaluation")) == 2
    del run
    assert not list(tmp_path.iterdir())


class Pruned(Exception):
    """Raised by a search that stops a run."""


def test_on_interval_stops_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def stop(step, metrics):
        raise Pruned

    with pytest.raises(Pruned) as caught:
        bellmax.train(CONFIG, seeds=2, on_interval=stop)
    (kept,) = tmp_path.iterdir()
    assert caught.value.__notes__ == [f"the run is kept in {kept}; bellmax.load_run opens it"]
    assert bellmax.load_run(kept).metrics()["step"].tolist() == [84, 84]


@pytest.fixture
def heeds_ctrl_c():
    """Install the usual handler of Ctrl-C, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_saves_and_raises_keyboard_interrupt(tmp_path):
    def interrupt(step, metrics):
        if step == 100:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        bellmax.train(CONFIG, tmp_path / "run", seeds=2, on_interval=interrupt)
    run = bellmax.load_run(tmp_path / "run")
    assert run.metrics()["step"].tolist()[-1] == 100
    steps = run.resume(200).metrics()["step"]
    assert steps.tolist()[-1] == 200


def test_a_logger_that_raises_is_a_warning(copy):
    class Broken(Kept):
        def log(self, step, metrics):
            raise ConnectionError("no network")

    with pytest.warns(
        UserWarning, match=r"Broken failed .ConnectionError: no network .*test_api.py, line \d+"
    ):
        copy.resume(900, loggers=[Broken()])


def test_load_config_takes_all_sources_and_overrides(tmp_path):
    values = {"agent": {"n_step": 3}, "env.num_envs": 4, "agent.network": {"hidden": (8,)}}
    config = bellmax.load_config("dqn/cartpole", steps=np.int64(70_000), **values)
    assert (config.steps, config.agent.n_step, config.env.num_envs) == (70_000, 3, 4)
    assert config.agent.network.hidden == (8,)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(CONFIG))
    sources = (tmp_path / "a.yaml", str(tmp_path / "a.yaml"), CONFIG)
    one, other, third = (bellmax.load_config(source, seed=1) for source in sources)
    assert one == other == third == bellmax.load_config(one)
    assert bellmax.load_config(one, seed=2) == dataclasses.replace(one, seed=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agent": {"lr": 1}}, "unknown key 'agent.lr'; did you mean agent.learning_rate?"),
        ({"steps": "many"}, "steps must be an integer in .*, got 'many'"),
        ({"env.num_envs": 0}, "env.num_envs must be"),
        (
            {"agent": {"name": Pruned}},
            "agent.name must be text, module:name, got the class .*Pruned",
        ),
        ({"agent.network.module": len}, "network.module must be text, module:name, got the funct"),
        ({"loggers": [object()]}, "loggers must be an object with log.* and close.*, got object"),
        ({"loggers": [Kept]}, "loggers must be an object with .*, got the class Kept"),
        ({"loggers": ["own"]}, "loggers must be of the form module.path:name, or csv.*, got 'own'"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        bellmax.train(CONFIG, tmp_path / "new", **given)
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_a_method_is_one_sentence(run):
    with pytest.raises(UserError, match="checkpoint must be latest, best or a step, got 'bst'"):
        run.evaluate(checkpoint="bst")
    for steps in (100, np.int64(100), True):
        with pytest.raises(UserError, match="steps must be at least 800, those that .* has taken"):
            run.resume(steps)
    with pytest.raises(UserError, match="there is no policy"):
        run.policy(7)


def test_a_failed_start_leaves_an_empty_folder_and_no_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("bellmax.launch.training.train.open_loggers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bellmax.train(CONFIG)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError):
        bellmax.train(CONFIG, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_in_use_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="holds a run already"):
        bellmax.train(CONFIG, run.path)
    with pytest.raises(UserError, match="there is no run"):
        bellmax.load_run(tmp_path / "nothing")
