"""Who may import whom: leaves below, programs on top, and no circle in between."""

import ast
import sys

import pytest

from tests.conftest import PROJECT

LIBRARIES = sorted((PROJECT / "training").glob("*/**/*.py"))
PROGRAMS = sorted(path for path in (PROJECT / "training").glob("*.py") if path.name != "__init__.py")
# Readers of text and programs, which the data of fine-tuning is checked with: they need neither PyTorch nor data.
READERS = {"training.evals.interpreter"} | {
    f"training.evals.{name}"
    for name in (
        "answers calculations equations program_check program_expressions program_functions program_scan "
        "program_values program_walk"
    ).split()
}
ALLOWED = {
    "core": {"core"},
    "data": {"core", "data", *READERS},
    "analysis": {"core", "data", "analysis"},
    "evals": {"core", "data", "analysis", "evals"},
    "rl": {"core", "data", "analysis", "evals", "rl"},
    "publishing": {"core", "data", "analysis", "evals", "publishing"},
    "experiments": {"core", "data", "analysis", "evals", "rl", "experiments"},
}


def imported(path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            package = (PROJECT / module.replace(".", "/")).is_dir() and module.startswith("training")
            names |= {f"{module}.{alias.name}" for alias in node.names} if package else {module}
    return names


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_library_imports_only_what_lies_below_it(path):
    for name in imported(path):
        if name.startswith("training."):
            layer = name.split(".")[1]
            allowed = ALLOWED[path.relative_to(PROJECT / "training").parts[0]]
            assert layer in allowed or name in allowed, f"{path.name} imports {name}"
        assert name.split(".")[0] not in ("tests", "benchmarks")


@pytest.mark.parametrize("name", sorted(READERS))
def test_readers_stand_on_the_standard_library_and_the_rule_of_injection(name):
    for module in imported(PROJECT / (name.replace(".", "/") + ".py")):
        top = module.split(".")[0]
        assert module in READERS or top == "tokenization" or top in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_program_imports_no_program(path):
    programs = {f"training.{other.stem}" for other in PROGRAMS}
    assert not imported(path) & programs


@pytest.mark.parametrize("folder", ["tokenization", "modeling"])
def test_leaves_import_nothing_of_this_project_but_themselves(folder):
    for path in (PROJECT / folder).glob("*.py"):
        others = {"training", "tests", "benchmarks", "tokenization", "modeling"} - {folder}
        assert not {name.split(".")[0] for name in imported(path)} & others, path.name


def test_analysis_needs_no_torch():
    for path in (PROJECT / "training" / "analysis").glob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers"}, path.name
