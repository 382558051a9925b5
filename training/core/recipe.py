"""Recipes: flat YAML files and command lines, parsed into dataclasses by TRL's parser, with errors that name the
key."""

import dataclasses
import difflib
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml
from trl import TrlParser

PROJECT_PACKAGES = ("modeling", "tokenization", "training")


def parse_recipe(dataclass_types: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Parse `recipe.yaml --key value …` into one instance per dataclass.

    The recipe is the first positional argument (or TRL's `--config FILE`); the command line beats the recipe, the
    recipe beats the defaults. Raises `ValueError` for a key that no dataclass knows and for a value of the wrong
    type, and `FileNotFoundError` for a recipe that is not there.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    recipe = _take_recipe_path(arguments)
    fields = {field.name: field for cls in dataclass_types for field in dataclasses.fields(cls) if field.init}
    parser = TrlParser(dataclass_types)
    if recipe is not None:
        values = read_recipe(recipe)
        for key in values:
            if key not in fields:
                raise ValueError(
                    f"{recipe}: unknown key '{key}'{_suggest(key, fields)}; remove it or correct its name"
                )
        hints = {}
        for cls in dataclass_types:
            hints |= typing.get_type_hints(cls)
        checked = {key: _check_type(recipe, key, value, hints[key]) for key, value in values.items()}
        parser.set_defaults_with_config(**checked)
    for argument in arguments:
        name = argument.split("=", 1)[0]
        if name.startswith("--") and name[2:].replace("-", "_") not in {*fields, "help"}:
            # argparse accepts abbreviations and would turn a typing error into another key.
            raise ValueError(f"unknown option '{name}'{_suggest(name[2:], fields)}; see --help")
    return parser.parse_args_into_dataclasses(args=arguments)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a YAML recipe as a mapping; raises `FileNotFoundError` or `ValueError` with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at '{path}'; recipes are YAML files such as recipes/baseline.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, but holds {type(values).__name__}")
    return values


def resolved(*groups: Any) -> dict[str, Any]:
    """Return every key of the parsed dataclasses with its final value, as plain JSON types."""
    values: dict[str, Any] = {}
    for group in groups:
        raw = group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
        values |= {key: _plain(value) for key, value in raw.items()}
    return values


def run_program(main: Callable, dataclass_types: Sequence[type]) -> None:
    """Parse the command line and run `main`, and exit with its return value.

    An error of input that this project raised itself (`ValueError`, `FileNotFoundError`) is printed as one line and
    ends the program with status 2; anything else keeps its traceback, for it is a bug or belongs to a library.
    """
    try:
        status = main(*parse_recipe(dataclass_types))
    except (ValueError, FileNotFoundError) as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1]
        project = Path(__file__).resolve().parents[2]
        if not any(Path(innermost.filename).is_relative_to(project / package) for package in PROJECT_PACKAGES):
            raise
        sys.stdout.flush()
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status)


def _take_recipe_path(arguments: list[str]) -> str | None:
    """Remove the recipe from `arguments` and return it."""
    if "--config" in arguments:
        index = arguments.index("--config")
        if index + 1 == len(arguments):
            raise ValueError("--config needs the path of a recipe")
        del arguments[index]
        return arguments.pop(index)
    if arguments and not arguments[0].startswith("-"):
        return arguments.pop(0)
    return None


def _suggest(key: str, known: typing.Iterable[str]) -> str:
    match = difflib.get_close_matches(key.replace("-", "_"), list(known), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def _check_type(recipe: str | Path, key: str, value: Any, hint: Any) -> Any:
    """Return a YAML value as the type its field declares; YAML values bypass the parser's own conversion."""
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, UnionType) else {hint}
    if value is None or isinstance(value, (list, dict)):
        return value
    if isinstance(value, bool):
        acceptable = bool in kinds or kinds & {Any, str}
    elif int in kinds and float not in kinds and isinstance(value, float):
        acceptable = value.is_integer()
        value = int(value) if acceptable else value
    elif isinstance(value, str) and kinds <= {int, float, type(None)}:
        try:  # YAML reads 6e-4 as a string
            value = next(kind for kind in (int, float) if kind in kinds)(value)
            acceptable = True
        except ValueError:
            acceptable = False
    else:
        acceptable = not (isinstance(value, str) and kinds <= {bool, type(None)})
        acceptable &= not (isinstance(value, (int, float)) and kinds <= {bool, type(None)})
    if not acceptable:
        wanted = " or ".join(sorted(getattr(kind, "__name__", str(kind)) for kind in kinds))
        raise ValueError(f"{recipe}: {key} must be {wanted}, but is {value!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
