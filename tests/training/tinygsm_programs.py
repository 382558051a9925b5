"""Small programs in TinyGSM's template, by what they show, with the lines that they become.

And a reader of equations that shares nothing with the one under test.
"""

import ast
import operator
import re
from collections.abc import Iterator
from fractions import Fraction

_SIGNS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_EQUATION = re.compile(r"(?<![\w.])([(\d-][-+*/()\d. ]*?[-+*/][-+*/()\d. ]*?) ?= ?(-?\d+(?:\.\d+)?)")

# name: (lines of the body, lines of the answer as labelled equations)
PROGRAMS: dict[str, tuple[str, str]] = {
    "one product": ("pencils = 24 * 6\nreturn pencils", "pencils = 24 * 6 = 144\n#### 144"),
    "steps without a name": (
        "total_cost = 2 * 30 + 8\nreturn total_cost",
        "2 * 30 = 60\ntotal cost = 60 + 8 = 68\n#### 68",
    ),
    "dead code": ("unused = 3 * 5\nused = 3 + 5\nreturn used", "used = 3 + 5 = 8\n#### 8"),
    "given numbers": ("boxes = 6\nper_box = 9\nresult = boxes * per_box\nreturn result", "6 * 9 = 54\n#### 54"),
    "loop": (
        "total = 0\nfor day in range(1, 4):\n    total += 2 * day\nreturn total",
        "total = 2 * 1 = 2\n2 * 2 = 4\ntotal = 2 + 4 = 6\n2 * 3 = 6\ntotal = 6 + 6 = 12\n#### 12",
    ),
    "while": (
        "saved = 5\nweeks = 0\nwhile saved < 17:\n    saved += 5\n    weeks += 1\nreturn weeks",
        "weeks = 1 + 1 = 2\nweeks = 2 + 1 = 3\n#### 3",
    ),
    "choice": (
        "price = 40\nif price > 30:\n    price = price - 10\nelse:\n    price = 0\nreturn price",
        "price = 40 - 10 = 30\n#### 30",
    ),
    "percent": (
        "discount = 80 * 0.15\nprice = 80 - discount\nreturn price",
        "discount = 80 * 0.15 = 12\nprice = 80 - 12 = 68\n#### 68",
    ),
    "rounded up": (
        "import math\nbuses = math.ceil(50 / 8)\nreturn buses",
        "buses = 50 / 8 = 6.25, rounded up to 7\n#### 7",
    ),
    "rounded up, without end": (
        "import math\nbuses = math.ceil(50 / 7)\nreturn buses",
        "buses = 50 / 7 = 7.14, rounded up to 8\n#### 8",
    ),
    "whole division": ("full = 50 // 8\nreturn full", "full = 50 / 8 = 6.25, rounded down to 6\n#### 6"),
    "remainder": (
        "left = 50 % 8\nreturn left",
        "50 / 8 = 6.25, rounded down to 6\n6 * 8 = 48\nleft = 50 - 48 = 2\n#### 2",
    ),
    "rounded to cents": ("price = round(10 / 3, 2)\nreturn price", "price = 10 / 3 = 3.33\n#### 3.33"),
    "repeating step": (
        "each = 10 / 3\nall_of_them = each * 6\nreturn all_of_them",
        "all of them = (10 / 3) * 6 = 20\n#### 20",
    ),
    "repeating answer": ("each = 10 / 3\nreturn each", "each = 10 / 3 = 3.33\n#### 3.33"),
    "power": ("area = 5 ** 2\nreturn area", "area = 5 * 5 = 25\n#### 25"),
    "root": (
        "import math\nside = math.sqrt(144)\nreturn side * 4",
        "side: the square root of 144 is 12\n12 * 4 = 48\n#### 48",
    ),
    "debt": ("balance = 3 - 8\nreturn balance", "balance = 3 - 8 = -5\n#### -5"),
    "absolute": ("gap = abs(3 - 8)\nreturn gap * 2", "gap = 8 - 3 = 5\n5 * 2 = 10\n#### 10"),
    "largest": ("best = max(3 * 4, 10)\nreturn best - 2", "best = 3 * 4 = 12\n12 - 2 = 10\n#### 10"),
    "sum of a list": (
        "prices = [3, 4, 5]\ntotal = sum(prices)\nreturn total",
        "3 + 4 = 7\ntotal = 7 + 5 = 12\n#### 12",
    ),
    "dictionary": (
        "costs = {'tea': 3, 'cake': 4}\ntotal = costs['tea'] * 2 + costs['cake']\nreturn total",
        "3 * 2 = 6\ntotal = 6 + 4 = 10\n#### 10",
    ),
    "comprehension": (
        "total = sum(n * 2 for n in [3, 5])\nreturn total",
        "3 * 2 = 6\n5 * 2 = 10\ntotal = 6 + 10 = 16\n#### 16",
    ),
    "factorial": ("import math\nways = math.factorial(4)\nreturn ways", "4 * 3 = 12\nways = 12 * 2 = 24\n#### 24"),
    "common divisor": (
        "from math import gcd\nsize = gcd(12, 18)\nreturn size * 2",
        "size: the greatest common divisor of 12 and 18 is 6\n6 * 2 = 12\n#### 12",
    ),
    "camel case": ("numBoxesPerDay = 4 + 3\nreturn numBoxesPerDay", "boxes per day = 4 + 3 = 7\n#### 7"),
    "rounded up by signs": (
        "boxes = 50 * 2\nreturn -(-boxes // 8)",
        "boxes = 50 * 2 = 100\n100 / 8 = 12.5, rounded up to 13\n#### 13",
    ),
    "rounded down twice": (
        "days = 365 // 7\nreturn int(days / 3)",
        "days = 365 / 7 = 52.14, rounded down to 52\n52 / 3 = 17.33, rounded down to 17\n#### 17",
    ),
    "rounded money": (
        "return round(19.99 * 3 * 1.07, 2)",
        "19.99 * 3 = 59.97\n59.97 * 1.07 = 64.1679, rounded to 64.17\n#### 64.17",
    ),
    "quotient and remainder": (
        "quotient, rest = divmod(100, 7)\nreturn quotient + rest",
        "quotient = 100 / 7 = 14.29, rounded down to 14\n14 * 7 = 98\nrest = 100 - 98 = 2\n14 + 2 = 16\n#### 16",
    ),
    "negative between": (
        "left = 5 - 12\nowed = left * 3\nreturn 100 + owed",
        "left = 5 - 12 = -7\nowed = (-7) * 3 = -21\n100 - 21 = 79\n#### 79",
    ),
    "augmented": (
        "total = 0\ntotal += 12 * 4\ntotal -= 8\ntotal /= 5\nreturn total",
        "total = 12 * 4 = 48\ntotal = 48 - 8 = 40\ntotal = 40 / 5 = 8\n#### 8",
    ),
    "half power": (
        "side = 2.25 ** 0.5\nreturn side * 4",
        "side: the square root of 2.25 is 1.5\n1.5 * 4 = 6\n#### 6",
    ),
    "whole root": (
        "import math\nside = math.isqrt(169)\nreturn side * 4",
        "side: the square root of 169 is 13\n13 * 4 = 52\n#### 52",
    ),
    "combinations": (
        "import math\nreturn math.comb(5, 2) + math.perm(6, 2)",
        "5 * 4 = 20\n20 / 2 = 10\n6 * 5 = 30\n10 + 30 = 40\n#### 40",
    ),
    "nothing left": ("return 7 * 8 - 56", "7 * 8 = 56\n56 - 56 = 0\n#### 0"),
    "small": ("return 0.0004 / 3 * 2", "(0.0004 / 3) * 2 = 0.000267\n#### 0.000267"),
}


def source(body: str) -> str:
    """Return the program of a body."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return f'def simple_math_problem() -> int:\n    """\n    A question?\n    """\n{lines}'


def program(*lines: str) -> str:
    """Return the program of some lines, which may use `math`."""
    return source("\n".join(("import math", *lines)))


def result_in_python(code: str) -> int | float:
    """What CPython says; only for the programs below, which are ours."""
    names: dict = {}
    exec(code, names)
    return names["simple_math_problem"]()


def equations(text: str) -> Iterator[tuple[str, Fraction, Fraction, Fraction]]:
    """Yield each equation, the value of its expression, the number that it states, and how far that may be rounded."""
    for line in text.split("\n"):
        for match in _EQUATION.finditer(line):
            _, _, decimals = match[2].partition(".")
            rounding = Fraction(1, 2 * 10 ** len(decimals)) if decimals and "/" in match[1] else Fraction(0)
            yield match[0], _value(match[1]), Fraction(match[2]), rounding


def _value(expression: str) -> Fraction:
    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(ast.get_source_segment(expression, node))
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        return _SIGNS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(expression, mode="eval").body)
