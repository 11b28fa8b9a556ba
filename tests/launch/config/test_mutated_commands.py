"""1,500 mutated configurations through `show-config` and 100 through `train`, seeded: no traceback.

Every exit code is right, and every message names a field, a file or a line.
"""

import contextlib
import io
import random
import re

import pytest

from bellmax import UserError
from bellmax.launch.cli import main
from bellmax.launch.config import run_config
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml
from helpers.mutations import LETTERS, MISTAKES, preset_text

COUNTS = [60, pytest.param(1500, marks=pytest.mark.slow)]
TRAINED = 100
# Values that are odd, of which many are allowed.
ODD = [
    *("010", "1:30", "2024-01-02", "yes", "!!bool maybe", "!!int x", "&a [*a]", "{a: {b: [1]}}"),
    *("1e400", "-0.0", ".inf", ".nan", "1e-400", "0x10", "9" * 400, "x" * 3000, "é→😀", "''"),
    *("[]", "{}", "null", "[[[[[]]]]]", "'@'", '"\\0"', "os:system", "*missing", "1_0", "- 1"),
]
SMALL = """
steps: 400
warmup_steps: 64
log_every: 200
evaluate_every: 0
evaluation_episodes: 2
evaluation_max_steps: 20
checkpoint_every: 0
agent: {name: dqn, batch_size: 8, network: {hidden: [4]}}
env: {name: bellmax/CartPole, num_envs: 4}
replay: {capacity: 500}
"""


def damaged(rng, text):
    """Text with a few letters replaced."""
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters))
        letters[place : place + rng.randint(0, 3)] = rng.choice(LETTERS)
    return "".join(letters)


def odd_value(rng, text):
    """Text with an odd value in the place of one."""
    lines = text.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if re.match(r" *[\w-]+: [^{]", line)])
    lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice(ODD)}"
    return "\n".join(lines)


def mistake(rng, text):
    """Text with a wrong key or value, as `test_config_mutations` plants them."""
    mapping = parse_yaml(text.encode(), "preset")
    rng.choice(MISTAKES)(rng, mapping)
    return dump_yaml(mapping)


def run(words):
    """Return the exit code, stdout and the lines on stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue().splitlines()


def check(number, path, text, code, lines):
    """Assert that a command read a good file, or refused a bad one in sentences that say where."""
    case = number, text, lines
    try:
        run_config.load(path)
        accepted = True
    except UserError:
        accepted = False
    assert not [line for line in lines if "Traceback" in line], case
    if not accepted:
        assert code == 2 and lines, case
        # What the code of an agent lacks is said of agent.name, whoever names it.
        starts = f"bellmax: {path}", "bellmax: agent.name"
        assert all(line.startswith(starts) for line in lines), case
        assert all(len(line) < 2200 for line in lines), case
    return accepted


@pytest.mark.parametrize("count", COUNTS)
def test_show_config_prints_or_refuses_each(tmp_path, count):
    rng, path, presets = random.Random(22), tmp_path / "mutated.yaml", run_config.list_presets()
    accepted = 0
    for number in range(count):
        mutate = rng.choice((damaged, odd_value, mistake))
        text = mutate(rng, preset_text(presets[number % len(presets)]))
        path.write_text(text, newline="")
        code, out, lines = run(["show-config", str(path)])
        if check(number, path, text, code, lines):
            accepted += 1
            assert code == 0 and out and not lines, (number, text, lines)
            again = tmp_path / "again.yaml"
            again.write_text(out)
            assert run_config.load(again) == run_config.load(path), (number, text)
    assert count // 20 < accepted < count - count // 4


@pytest.mark.slow
def test_train_trains_or_refuses_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, path, number, trained = random.Random(23), tmp_path / "mutated.yaml", 0, 0
    plain = dump_yaml(parse_yaml(SMALL.encode(), "small"))
    while number < TRAINED:
        text = rng.choice((damaged, odd_value, mistake))(rng, plain)
        path.write_text(text, newline="")
        try:
            config = run_config.load(path)
            if config.steps > 2000 or config.env.num_envs > 64 or config.seeds > 4:
                continue  # it would take long
        except UserError:
            pass
        number += 1
        out = tmp_path / f"run{number}"
        code, _, lines = run(["train", str(path), "--out", str(out)])
        if check(number, path, text, code, lines):
            case = number, text, lines
            assert code in (0, 1, 2) and (code == 0) == (not lines), case
            assert code or (out / "policy").is_dir(), case
            field = r"bellmax: .*(agent|env|replay|host|seed|loss|steps|wandb|loggers|there is no)"
            assert code == 0 or all(re.match(field, line) for line in lines), case
            trained += code == 0
        else:
            assert not out.exists(), (number, text)
    assert trained > 3
