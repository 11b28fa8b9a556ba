"""A run that fails at its start is one sentence, and its folder can be used again."""

import sys
from pathlib import Path

import pytest

from bellmax.launch.cli import main
from bellmax.launch.training.folders import check_new, emptied_on_failure, is_unused
from helpers.small import SMALL

MINE = """
from bellmax.agents import ValueConfig, make_value_agent

def make(config: ValueConfig, spec):
    def loss_function(network, params, target_params, steps):
        return network.apply(params, steps.observation[:, 0]).q_values.mean()
    return make_value_agent(config, spec, loss_function)

def open_logger(folder, config):
    (folder / "mine.csv").write_text("step")
    raise PermissionError("no token")
"""
LOSS = "the function (mine.py, line 5) must return a ValueLoss with loss [8], priority [8], "
LOSS += "q_value [8], mask [8], got float32 of shape []"
LOGGER = "loggers: mine:open_logger cannot be opened: PermissionError: no token (mine.py, line 11)"


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--logger", "mine:open_logger"], LOGGER), (["--agent.name", "mine:make"], LOSS)],
)
def test_a_failed_start_is_a_sentence_and_frees_the_folder(
    tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("small.yaml").write_text(SMALL)
    Path("mine.py").write_text(MINE)
    out = tmp_path / "out"
    assert main(["train", "small.yaml", "--out", "out", *options]) == 2
    assert capsys.readouterr().err == f"bellmax: {message}\n"
    assert not list(out.iterdir())
    check_new(out)


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints/400", "policy/seed-0.msgpack"])
def test_a_run_that_has_learned_is_kept(tmp_path, kept):
    with pytest.raises(KeyboardInterrupt), emptied_on_failure(tmp_path):
        (tmp_path / "config.yaml").write_text("steps: 1")
        (tmp_path / "metrics.jsonl").touch()
        (tmp_path / "checkpoints").mkdir()
        assert is_unused(tmp_path)
        (tmp_path / kept).parent.mkdir(exist_ok=True)
        (tmp_path / kept).write_text("{}")
        raise KeyboardInterrupt
    assert (tmp_path / "config.yaml").exists() and (tmp_path / kept).exists()
