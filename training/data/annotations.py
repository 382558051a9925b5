"""The calculator annotations of GSM8K's solutions, such as `<<6*9=54>>`: left out, or made the whole answer."""

import re

from training.evals.answers import ANSWER_MARK, canonical, read_answer
from training.evals.equations import find_equations

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_ANNOTATION = re.compile(r"<<([^<>=\n]*=[^<>\n]*)>>")


class NoEquations(ValueError):
    """A reply whose annotations do not make an answer; the message is a few words to count by."""


def strip_annotations(text: str) -> str:
    """Return a solution of GSM8K without its calculator annotations.

    >>> strip_annotations("He has 6*9=<<6*9=54>>54 pencils.")
    'He has 6*9=54 pencils.'
    """
    return _ANNOTATION.sub("", text)


def annotations_as_equations(text: str) -> str:
    """Return the annotations of a solution of GSM8K alone, an equation a line, and the line with its answer.

    An annotation without any operation, as `<<5=5>>`, is left out. Raises `NoEquations` when one is false or no
    equation, or when there is none or no answer.

    >>> annotations_as_equations("He has 6*9=<<6*9=54>>54 pencils.\\n#### 54")
    '6*9 = 54\\n#### 54'
    """
    lines = []
    for annotation in _ANNOTATION.findall(text):
        left, _, right = (part.strip() for part in annotation.partition("="))
        if left == right or (_NUMBER.fullmatch(left) and _NUMBER.fullmatch(right) and float(left) == float(right)):
            continue
        line = f"{left} = {right}"
        # Between parentheses a fact is an equation of its own; the last one found is the outermost.
        found = find_equations(line)
        if not found or (found[-1].start, found[-1].end) != (0, len(canonical(line))):
            raise NoEquations("unreadable annotation")
        if not all(equation.is_true for equation in found):
            raise NoEquations("false annotation")
        lines.append(line)
    if not lines:
        raise NoEquations("no annotation")
    mark = ANSWER_MARK.search(text)
    if mark is None or read_answer(text).strict is None:
        raise NoEquations("no answer")
    answer = text[mark.end() :].strip().split("\n", 1)[0]
    return "\n".join([*lines, f"#### {answer}"])
