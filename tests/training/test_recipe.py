from dataclasses import dataclass, field

import pytest

from training.core.recipe import parse_recipe, resolved


@dataclass(frozen=True)
class Example:
    steps: int = 1
    rate: float = 0.1
    fast: bool = False
    name: str | None = None
    parts: list[str] = field(default_factory=list)


def parse(tmp_path, text, *arguments):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    return parse_recipe([Example], [str(recipe), *arguments])[0]


def test_command_line_beats_recipe_and_recipe_beats_default(tmp_path):
    example = parse(tmp_path, "steps: 5\nrate: 0.5\n", "--steps", "7")
    assert (example.steps, example.rate, example.fast) == (7, 0.5, False)


def test_config_flag_names_the_recipe_too(tmp_path):
    (tmp_path / "r.yaml").write_text("steps: 5\n", encoding="utf-8")
    assert parse_recipe([Example], ["--rate", "2", "--config", str(tmp_path / "r.yaml")])[0] == Example(
        steps=5, rate=2.0
    )


def test_scientific_notation_that_yaml_reads_as_text_becomes_a_number(tmp_path):
    assert parse(tmp_path, "rate: 6e-4\n").rate == 6e-4


def test_whole_float_becomes_an_int(tmp_path):
    steps = parse(tmp_path, "steps: 10.0\n").steps
    assert steps == 10
    assert isinstance(steps, int)


def test_mappings_in_lists_reach_the_dataclass(tmp_path):
    assert parse(tmp_path, "parts: [{path: a}]\n").parts == [{"path": "a"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz: 5\n", "unknown key 'stepz' (did you mean 'steps'?)"),
        ("steps: 1.5\n", "steps must be int, but is 1.5"),
        ("steps: many\n", "steps must be int, but is 'many'"),
        ("steps: true\n", "steps must be int, but is True"),
        ("fast: maybe\n", "fast must be bool, but is 'maybe'"),
        ("fast: 3\n", "fast must be bool, but is 3"),
        ("- a\n- b\n", "key: value"),
        ("steps: [1]\n", "steps must be int, but is [1]"),
        ("steps: null\n", "steps must be int, but is None"),
        ("parts: a\n", "parts must be list, but is 'a'"),
        ("name: 5\n", "name must be null or str, but is 5"),
        ("1: 2\n", "unknown key '1'"),
        ("steps: 1\nsteps: 2\n", "'steps' stands twice"),
        ("steps: [1\n", "not valid YAML"),
    ],
)
def test_bad_recipe_is_refused_with_what_was_seen(tmp_path, text, words):
    with pytest.raises(ValueError, match="recipe.yaml") as error:
        parse(tmp_path, text)
    assert words in str(error.value)


def test_missing_recipe_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        parse_recipe([Example], [str(tmp_path / "nowhere.yaml")])


def test_recipe_behind_an_option_is_told_to_come_first():
    with pytest.raises(ValueError, match="the recipe comes first: recipe.yaml"):
        parse_recipe([Example], ["--steps", "1", "recipe.yaml"])


@pytest.mark.parametrize("option", ["--step", "--stepz=3"])
def test_unknown_and_abbreviated_options_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        parse(tmp_path, "rate: 1\n", option, "3")


def test_resolved_holds_every_key(tmp_path):
    assert resolved(Example(steps=3)) == {"steps": 3, "rate": 0.1, "fast": False, "name": None, "parts": []}
