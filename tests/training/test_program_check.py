import ast

import pytest

from tests.training.hostile_programs import AROUND, PARSER, body, returns
from training.evals import program_check
from training.evals.program_check import MAX_CHARACTERS, MAX_LOOPS, MAX_NODES, Refused, check_program, imported_names
from training.evals.program_scan import MAX_BRACKETS

# What makes the parser run out of stack or memory, or raise what is no SyntaxError.
PARSER_BOMBS = """
    a_megabyte and_chain attribute_chain braces_never_closed brackets_never_closed brackets_over_lines calls_of_calls
    comparison_chain conditional_chain conditional_chain_of_texts conditional_chain_without_blanks elif_chain
    indentation_bomb indented_by_1000 nested_calls not_chain nul_outside_texts number_of_many_digits parentheses_3000
    parentheses_61 power_tower_of_signs subscript_chain sum_of_20000_terms sum_over_continued_lines tilde_chain
    too_long unary_minus_20000 unary_minus_apart
""".split()


@pytest.mark.parametrize("source", (PARSER | AROUND).values(), ids=PARSER | AROUND)
def test_what_is_wrong_around_a_function_is_refused_before_it_runs(source):
    with pytest.raises(Refused, match="."):
        check_program(source)


@pytest.mark.parametrize("name", PARSER_BOMBS)
def test_parser_never_sees_what_could_exhaust_it(name, monkeypatch):
    monkeypatch.setattr(program_check.ast, "parse", lambda *_, **__: pytest.fail("the parser was called"))
    with pytest.raises(Refused):
        check_program(PARSER[name])


def test_program_knows_its_names():
    program = check_program(
        body(
            *["import math as m", "a, (b, c[0]) = 1, (2, 3)", "for d in [1]:", "    e: int = 5", "f += 1"],
            before="from math import floor as g\nimport fractions\n",
        ).replace("def f", "def answer")
    )
    assert program.name == "answer"
    assert program.imports == {"g": "math.floor", "fractions": "fractions"}
    assert program.local == {"m", "a", "b", "d", "e", "f"}


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("import math", {"math": "math"}),
        ("import math as m, typing", {"m": "math", "typing": "typing"}),
        ("from math import ceil, pi as p", {"ceil": "math.ceil", "p": "math.pi"}),
        ("from fractions import Fraction as F", {"F": "fractions.Fraction"}),
        ("from typing import List", {"List": "typing.List"}),
    ],
)
def test_import_binds_its_names(statement, names):
    assert imported_names(ast.parse(statement).body[0]) == names


@pytest.mark.parametrize(
    "statement",
    """import os|import math.os|import mathx|from os import path|from math import *|from math import sumprod
    from . import math|from .math import pi|from typing import NamedTuple|from fractions import gcd""".replace(
        "\n    ", "|"
    ).split("|"),
)
def test_import_of_anything_else_is_refused(statement):
    with pytest.raises(Refused, match="import"):
        imported_names(ast.parse(statement).body[0])


@pytest.mark.parametrize(
    "hint", ["int", "float", "None", "list", "dict[str, float]", "(int, float)", "tuple[int, int]"]
)
def test_type_of_the_result_may_be_told(hint):
    assert check_program(f"def f() -> {hint}:\n    return 1\n").name == "f"


@pytest.mark.parametrize("hint", ["List[int]", "Dict[str, List[int]]", "Optional[float]", "Union[int, float]", "Any"])
def test_type_of_the_result_has_to_be_imported(hint):
    source = f"def f() -> {hint}:\n    return 1\n"
    assert check_program(f"from typing import Any, Dict, List, Optional, Union\n{source}").name == "f"
    with pytest.raises(Refused, match="annotation"):
        check_program(source)


@pytest.mark.parametrize(
    ("escape", "length"),
    [(r"\$", 2), (r"\d\%", 4), (r"\\$", 2), (r"\n", 1), (r"\x41", 1), (r"\101", 1), (r"\8", 2), ("\\\n", 0)],
)
@pytest.mark.parametrize("prefix", ["", "u", "f"])
def test_unknown_escape_means_itself(prefix, escape, length):
    function = check_program(returns(f"len({prefix}'{escape}')")).tree
    (text,) = [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)] or [""]
    assert len(text) == length


def test_raw_text_is_left_alone():
    function = check_program(returns(r"len(r'\$\n')")).tree
    assert r"\$\n" in [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)]


def test_lines_keep_their_numbers():
    program = check_program(body(r'"""\$5', r'\% """', "return 1"))
    assert [statement.lineno for statement in program.body] == [2, 4]


@pytest.mark.parametrize(
    ("at_the_limit", "beyond"),
    [
        (returns("(" * MAX_BRACKETS + "1" + ")" * MAX_BRACKETS), returns("[" * (MAX_BRACKETS + 1))),
        ("def f():\n" + "    x\n" * ((MAX_NODES - 1) // 2), "def f():\n" + "    x\n" * (MAX_NODES // 2 + 1)),
        (body("return 1").ljust(MAX_CHARACTERS, "\n"), body("return 1").ljust(MAX_CHARACTERS + 1, "\n")),
        (
            "def f():\n" + "".join(" " * n + "for i in []:\n" for n in range(1, MAX_LOOPS + 1)) + " " * 20 + "pass\n",
            "def f():\n" + "".join(" " * n + "for i in []:\n" for n in range(1, MAX_LOOPS + 2)) + " " * 20 + "pass\n",
        ),
    ],
    ids=["brackets", "nodes", "characters", "loops"],
)
def test_bound_holds_to_the_last(at_the_limit, beyond):
    assert check_program(at_the_limit).name == "f"
    with pytest.raises(Refused):
        check_program(beyond)


@pytest.mark.parametrize("spec", ["", ":.2f", ":,", ":02d", ":>8.1f", ":,.2f", ":.1%", ":g", ":<20"])
def test_usual_format_is_allowed(spec):
    assert check_program(body("x = 5", f'print(f"${{x{spec}}} {{{{x}}}}")', "return x")).name == "f"


@pytest.mark.parametrize("call", ["zip([1], [2])", "enumerate([1])", "reversed([1])"])
def test_iterator_stands_only_where_it_is_read_at_once(call):
    assert check_program(body(f"for x in {call}:", "    pass")).name == "f"
    assert check_program(returns(f"list({call})")).name == "f"
    assert check_program(returns(f"[x for x in {call}]")).name == "f"
    for line in (f"x = {call}", f"return {call}", f"return max({call}, 1)", f"return round({call})", f"print({call})"):
        with pytest.raises(Refused, match="as a value"):
            check_program(body(line))


def test_generator_stands_beside_nothing_that_could_change_it():
    assert check_program(returns("sum((x for x in [1]), 5)")).name == "f"
    assert check_program(returns("next((x for x in [1]), None)")).name == "f"
    with pytest.raises(Refused, match="beside a generator"):
        check_program(body("a = [1]", "return sum((x for x in a), a.append(1) or 5)"))


@pytest.mark.parametrize(
    "behind",
    [
        *("f()\n", "print(f())\n", "x = f()\nprint(x)\n", "x = y = f()\n", "'text'\n", "# text\n"),
        'print(f"{f():.2f}")\n',
        "if __name__ == '__main__':\n    x = f()\n    if __name__ == '__main__':\n        print('=', x)\n",
    ],
)
def test_function_may_be_used_behind_it(behind):
    assert check_program(body("return 1", behind=behind)).name == "f"
