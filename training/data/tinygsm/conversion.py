"""Turn the programs of TinyGSM (Liu et al. 2023, arXiv:2312.09241) into worked text that is true, without a teacher.

A program is run exactly and in floats, and what its result depends on is written out, one equation a line. Every line
is read back by the reader that evaluations use, and recomputed, before a row leaves.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from tokenization.injection import find_facts
from training.data.tinygsm.numbers_in_words import decimals_of, numbers_in
from training.data.tinygsm.program_trace import trace
from training.data.tinygsm.quantities import (
    Disagreement,
    Exact,
    Quantity,
    Unwritable,
    given_numbers,
    operations_behind,
)
from training.data.tinygsm.worked_text import Worked, expected_numbers, step_lines, work_out
from training.evals.answers import read_answer, read_numbers
from training.evals.equations import find_equations
from training.evals.program_check import Program, Refused, check_program
from training.evals.program_functions import OverBudget

STYLES = ("equations", "labelled", "prose", "program")
GATES = ("parse", "subset", "evaluations_disagree", "result", "literals", "question", "equations")

LARGEST_RESULT = 10**9
MOST_DECIMALS = 2  # of an answer
SHORTEST_QUESTION = 20  # characters
# Numbers up to twelve are counted without being told; beyond, what everybody knows of the calendar, clocks and money.
LARGEST_COUNTED = 12
KNOWN_NUMBERS = frozenset(
    map(Fraction, (24, 25, 26, 28, 29, 30, 31, 36, 48, 50, 52, 60, 90, 100, 144, 180, 360, 365, 366, 1000, 3600, 5280))
)
# What a told count is multiplied with to give a number that everybody knows: 14 days are two weeks.
_MEASURES = {7: "week", 12: "dozen foot feet inch year", 16: "pound ounce", 24: "day", 60: "hour minute", 2000: "ton"}
_SIZES = {word: size for size, words in _MEASURES.items() for word in words.split()} | {"fahrenheit": 32}
_MEASURE = re.compile(rf"\b({'|'.join(_SIZES)})(?:s|es|ly)?\b")
_AFTERNOON = re.compile(r"(?<![a-z])p\.? ?m\b")
_OWED = re.compile(r"\b(?:owe[sd]?|owing|debts?|below|negative|deficit|loss(?:es)?)\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\?|\b(?:how (?:many|much|long|far|old|tall|fast)|what|find|calculate|determine|compute|express|solve)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ConversionSettings:
    """How rows are written. style: one of `STYLES`. long_multiplication: products of several digits are worked out in
    one-digit products. max_operations: rows with more steps are dropped. seed: chooses the sentences of prose."""

    style: str = "labelled"
    long_multiplication: bool = False
    max_operations: int = 12
    seed: int = 0

    def __post_init__(self):
        if self.style not in STYLES:
            raise ValueError(f"style is '{self.style}'; choose {', '.join(STYLES)}")
        if self.style == "program" and self.long_multiplication:
            raise ValueError("long_multiplication is text beside the program; choose another style, or leave it out")
        if self.max_operations < 1:
            raise ValueError(f"max_operations is {self.max_operations}; a row has at least one")


@dataclass(frozen=True)
class Row:
    """A question with its worked answer.

    text: the answer, whose last line is `#### ` and `answer`. steps: its equations. facts: each multiplication fact
    that it holds, as `6*9`, the smaller factor first.
    """

    question: str
    text: str
    answer: str
    style: str
    steps: list[str]
    facts: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Refusal:
    """Why there is no row. gate: the one of `GATES` that stopped it. reason: a few words to count by."""

    gate: str
    reason: str


def convert_program(
    question: str, code: str, style: str = "labelled", long_multiplication: bool = False, seed: int = 0
) -> Row | Refusal:
    """Return the row that a program makes, or why it makes none; never raises, whatever the strings.

    What a program says is written whatever it is; whether the row is worth learning from (`Converter`) is not asked.

    >>> print(convert_program("…", "def f():\\n    boxes_per_week = 24 * 6\\n    return boxes_per_week + 15").text)
    boxes per week = 24 * 6 = 144
    144 + 15 = 159
    #### 159
    """
    traced = _traced(code)
    if isinstance(traced, Refusal):
        return traced
    settings = ConversionSettings(style, long_multiplication, seed=seed)
    return _written(question, code, *traced, settings)


class Converter:
    """Turns (question, code) into a row, or tells which of `GATES` stopped it; they are tried in their order."""

    def __init__(self, settings: ConversionSettings):
        self.settings = settings

    def __call__(self, question: str, code: str) -> Row | Refusal:
        traced = _traced(code)
        if isinstance(traced, Refusal):
            return traced
        program, result = traced
        if reason := _unwanted_result(result, question, self.settings.max_operations):
            return Refusal("result", reason)
        if unknown := _unknown_number(result, question):
            return Refusal("literals", unknown)
        if len(question.strip()) < SHORTEST_QUESTION:
            return Refusal("question", "short")
        if not _ASKS.search(question):
            return Refusal("question", "asks nothing")
        return self.write(question, code, program, result)

    def write(self, question: str, code: str, program: Program, result: Quantity) -> Row | Refusal:
        """Return the row of a program that came through all gates but the last."""
        return _written(question, code, program, result, self.settings)

    def convert_all(self, rows: Iterable[tuple[str, str]]) -> Iterator[Row | Refusal]:
        """Yield what becomes of each (question, code), in their order."""
        return (self(*row) for row in rows)


def _traced(code: str) -> tuple[Program, Quantity] | Refusal:
    try:
        program = check_program(code)
        return program, trace(program)
    except Refused as refused:
        return Refusal("parse" if str(refused) == "syntax" else "subset", str(refused))
    except Disagreement as disagreement:
        return Refusal("evaluations_disagree", str(disagreement))
    except (OverBudget, Unwritable) as unwritable:
        return Refusal("subset", str(unwritable))
    except (ArithmeticError, LookupError, NameError) as error:
        return Refusal("subset", type(error).__name__)
    except TypeError as error:
        # Only what a program gives back is told apart; other messages may be Python's own.
        return Refusal("subset", str(error) if str(error).startswith("result: ") else "TypeError")
    except (ValueError, AssertionError, RecursionError, MemoryError) as error:
        return Refusal("subset", type(error).__name__)


def _unwanted_result(result: Quantity, question: str, max_operations: int) -> str:
    number = result.exact
    operations = len(operations_behind(result))
    if abs(number) >= LARGEST_RESULT:
        return "large"
    if (decimals := decimals_of(number)) is None or decimals > MOST_DECIMALS:
        return "decimals"
    if number < 0 and not _OWED.search(question) and not any(told and told < 0 for told in read_numbers(question)):
        return "negative"
    if operations == 0:
        return "no operation"
    return "many operations" if operations > max_operations else ""


def _unknown_number(result: Quantity, question: str) -> str:
    """Return "unknown number" if the program calculates with one that neither the question nor common sense gives."""
    asked = [abs(number) for number in given_numbers(result) if abs(number) > LARGEST_COUNTED]
    asked = [number for number in asked if number not in KNOWN_NUMBERS]
    if not asked:
        return ""
    known = numbers_in(question)
    asked = [number for number in asked if number not in known]
    return "unknown number" if any(not _follows(number, known, question.lower()) for number in asked) else ""


def _follows(number: Exact, known: set[Exact], question: str) -> bool:
    """Return whether everybody comes from the numbers of a question to this one, without a step that is worth a line.

    It may be a percentage's complement or its sum with the whole, an amount in cents, a measure in a smaller unit, or
    an hour after noon.
    """
    if not known.isdisjoint((100 - number, number - 100, Fraction(number) / 100)):
        return True
    if number < 24 and number - 12 in known and _AFTERNOON.search(question):
        return True
    sizes = {_SIZES[word] for word in _MEASURE.findall(question)}
    return any(number == size or Fraction(number) / size in known for size in sizes)


def _written(
    question: str, code: str, program: Program, result: Quantity, settings: ConversionSettings
) -> Row | Refusal:
    try:
        question.encode("utf-8")
        worked = work_out(result, settings.long_multiplication)
    except Unwritable as unwritable:
        return Refusal("equations", str(unwritable))
    except UnicodeEncodeError:
        return Refusal("question", "surrogate")
    if settings.style == "program":
        text = f"{_without_docstring(code, program.tree)}\n#### {worked.answer}"
        if not _answers(text, worked):
            return Refusal("equations", "answer misread")
        if not all(one.is_true for one in find_equations(text)):
            return Refusal("equations", "false comment")
        return row_of(question, text, worked.answer, settings.style, worked.equations)
    for with_labels in (True, False) if settings.style != "equations" else (False,):
        lines = step_lines(worked, settings.style, with_labels, settings.seed)
        text = "\n".join([*lines, f"#### {worked.answer}"])
        # A name such as `half_of_x` can make of a true equation another one, or none; then the numbers stand alone.
        if _is_true(text, worked) and _answers(text, worked):
            return row_of(question, text, worked.answer, settings.style, worked.equations)
    return Refusal("equations", "equations misread")


def _is_true(text: str, worked: Worked) -> bool:
    """Return whether reading the text finds all equations that were meant, no other, and each is true."""
    found = find_equations(text)
    return [one.stated for one in found] == expected_numbers(worked) and all(one.is_true for one in found)


def _answers(text: str, worked: Worked) -> bool:
    answer = read_answer(text).strict
    return answer is not None and float(answer) == float(worked.answer)


def row_of(question: str, text: str, answer: str, style: str, steps: list[str]) -> Row:
    """Return a row with the facts of its text."""
    return Row(question, text, answer, style, steps, [f"{fact.a}*{fact.b}" for _, _, fact in find_facts(text)])


def _without_docstring(code: str, function: ast.FunctionDef) -> str:
    """Return the program without the question in it, and without what stands behind the function."""
    lines = code.replace("\r\n", "\n").split("\n")[: function.end_lineno]
    first, *others = function.body
    is_docstring = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    # A statement may stand in the same line, before it or behind it.
    stands_alone = lines[first.lineno - 1][: first.col_offset].isspace()
    if is_docstring and stands_alone and others and others[0].lineno > first.end_lineno:
        del lines[first.lineno - 1 : first.end_lineno]
    return "\n".join(line.rstrip() for line in lines)
