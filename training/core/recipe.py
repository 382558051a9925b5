"""Recipes: flat YAML files and command lines, parsed into dataclasses by TRL's parser, with errors that name the
key."""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

import yaml

PROJECT_PACKAGES = ("modeling", "tokenization", "training")


def parse_recipe(dataclass_types: Sequence[type], argv: Sequence[str] | None = None) -> tuple:
    """Parse `recipe.yaml --key value …` into one instance per dataclass.

    The recipe is the first positional argument (or TRL's `--config FILE`); the command line beats the recipe, the
    recipe beats the defaults. Raises `ValueError` for a key that no dataclass knows and for a value of the wrong
    type, and `FileNotFoundError` for a recipe that is not there.
    """
    from trl import TrlParser  # it brings PyTorch along, which the workers that prepare a corpus must not pay for

    arguments = [str(argument) for argument in (sys.argv[1:] if argv is None else argv)]
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
        checked = {key: check_type(recipe, key, value, hints[key]) for key, value in values.items()}
        parser.set_defaults_with_config(**checked)
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        if recipe is None and argument.endswith((".yaml", ".yml")) and not previous.startswith("--"):
            raise ValueError(f"the recipe comes first: {argument} --key value …")
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
        values = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, but holds {type(values).__name__}")
    return values


def recipe_sha256(path: str | Path) -> str:
    """Return a hash of the keys and values of a recipe file; comments and the order of keys do not count."""
    content = json.dumps(read_recipe(path), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def resolved(*groups: Any) -> dict[str, Any]:
    """Return every key of the parsed dataclasses with its final value, as plain JSON types."""
    values: dict[str, Any] = {}
    for group in groups:
        raw = group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
        values |= {key: _plain(value) for key, value in raw.items()}
    return values


def run_program(main: Callable, dataclass_types: Sequence[type]) -> None:
    """Parse the command line and run `main`, and exit with its return value.

    An error in the arguments, or one of input that this project raised itself later (`ValueError`,
    `FileNotFoundError`), is printed as one line and ends the program with status 2; anything else keeps its traceback,
    for it is a bug or belongs to a library.
    """
    try:
        groups = parse_recipe(dataclass_types)
    except (ValueError, TypeError, OSError) as error:  # also Transformers' own complaints about its arguments
        _exit_with(error)
    try:
        status = main(*groups)
    except (ValueError, FileNotFoundError) as error:
        if not is_about_input(error):
            raise
        _exit_with(error)
    sys.exit(status)


def is_about_input(error: Exception) -> bool:
    """Return whether this project itself raised the error, and so has told the user what to do."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    project = Path(__file__).resolve().parents[2]
    return any(Path(innermost.filename).is_relative_to(project / package) for package in PROJECT_PACKAGES)


def _exit_with(error: Exception) -> typing.NoReturn:
    sys.stdout.flush()
    print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    sys.exit(2)


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
    match = difflib.get_close_matches(str(key).replace("-", "_"), list(known), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def check_type(where: object, key: str, value: Any, hint: Any) -> Any:
    """Return a YAML value as the type its field declares, for YAML values bypass the parser's own conversion.

    `where` names the file or entry in the `ValueError` that a value of another type gets.
    """
    kinds = set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, UnionType) else {hint}
    kinds = {typing.get_origin(kind) or kind for kind in kinds}
    if not kinds <= {bool, int, float, str, list, tuple, dict, type(None)}:
        return value  # an enumeration of Transformers, which checks by itself
    if isinstance(value, str) and kinds <= {int, float, type(None)}:
        with contextlib.suppress(ValueError):  # YAML reads 6e-4 as a string
            value = float(value)
    if isinstance(value, float) and float not in kinds and int in kinds and value.is_integer():
        value = int(value)
    if type(value) is int and float in kinds and int not in kinds:
        value = float(value)
    if isinstance(value, list) and tuple in kinds:
        value = tuple(value)
    # JSON on the command line and in Transformers' own fields stands for a mapping.
    if type(value) not in kinds and not (isinstance(value, str) and dict in kinds):
        names = {"NoneType": "null", "tuple": "list"}
        wanted = " or ".join(sorted(names.get(kind.__name__, kind.__name__) for kind in kinds))
        raise ValueError(f"{where}: {key} must be {wanted}, but is {value!r}")
    return value


class _RecipeLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of a silent choice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
