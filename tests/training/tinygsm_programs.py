"""Small programs in TinyGSM's template, by what they show, with the lines that they become."""

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
}


def source(body: str) -> str:
    """Return the program of a body."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return f'def simple_math_problem() -> int:\n    """\n    A question?\n    """\n{lines}'
