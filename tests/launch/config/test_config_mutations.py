"""Presets with mistakes planted in them: each is refused in sentences that name it, none crashes.

`--slow` plants 1,000; the fast set has fewer.
"""

import random

import pytest

from bellmax import UserError
from bellmax.launch.config import run_config
from bellmax.launch.config.yaml_files import dump_yaml, parse_yaml
from helpers.mutations import MISTAKES, preset_text, unknown_key, wrong_value

COUNTS = [150, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_each_planted_mistake_is_refused_and_named(tmp_path, count):
    rng, path, presets = random.Random(7), tmp_path / "mutated.yaml", run_config.list_presets()
    for number in range(count):
        name = presets[number % len(presets)]
        mapping = parse_yaml(preset_text(name).encode(), name)
        planted = rng.choice(MISTAKES)(rng, mapping)
        path.write_text(dump_yaml(mapping))
        with pytest.raises(UserError) as caught:
            pytest.fail(f"{number}, {name}, {planted}: accepted {run_config.load(path)}")
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines), (number, name, lines)
        assert [line for line in lines if planted in line], (number, name, planted, lines)


@pytest.mark.parametrize("count", COUNTS)
def test_two_mistakes_are_both_named(tmp_path, count):
    rng, path, presets = random.Random(8), tmp_path / "mutated.yaml", run_config.list_presets()
    for number in range(count // 5):
        mapping = parse_yaml(preset_text(presets[number % len(presets)]).encode(), "preset")
        planted = {wrong_value(rng, mapping), unknown_key(rng, mapping)}
        path.write_text(dump_yaml(mapping))
        with pytest.raises(UserError) as caught:
            run_config.load(path)
        missed = [key for key in planted if key not in str(caught.value)]
        assert not missed, (number, missed, str(caught.value))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_file_is_refused_or_read_but_never_crashes(tmp_path, count):
    rng, path, presets = random.Random(9), tmp_path / "damaged.yaml", run_config.list_presets()
    refused = 0
    for number in range(count):
        text = list(preset_text(presets[number % len(presets)]))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(text))
            text[place : place + rng.randint(0, 3)] = rng.choice(
                "\n\t :-[]{},&*!|>'\"%@`#?0e.~é\x00"
            )
        path.write_text("".join(text))
        try:
            run_config.load(path)
        except UserError as error:
            refused += 1
            assert "Traceback" not in str(error)
    assert refused > count // 4


@pytest.mark.parametrize("name", run_config.list_presets())
def test_values_in_other_words_are_accepted(name, tmp_path):
    """Numbers as text, integers as floats, and keys with dashes are accepted."""
    config = run_config.load(name)

    def in_other_words(value):
        if isinstance(value, dict):
            return {key.replace("_", "-"): in_other_words(item) for key, item in value.items()}
        if isinstance(value, bool) or value is None:
            return value
        return (
            float(value)
            if isinstance(value, int)
            else str(value)
            if isinstance(value, float)
            else value
        )

    plain = run_config.to_dict(config)
    free = plain["env"].pop("options"), plain["env"].pop("randomise")
    mapping = in_other_words(plain)
    mapping["env"] |= {"options": free[0], "randomise": free[1]}
    path = tmp_path / "same.yaml"
    path.write_text(dump_yaml(mapping))
    assert run_config.load(path) == config
