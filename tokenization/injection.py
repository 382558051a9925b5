"""The injection rule: which multiplications in a text become one token.

`a OP b`, alone or with `= c`, becomes `<MUL_a_b_c>` when a and b are one ASCII digit 1-9 each, OP is `*`, `×` or `x`,
at most two blanks (never a newline) fill each gap, every number is a whole number written out to its end, and nothing
beside the expression binds tighter than its own multiplication. What is not rewritten consumes nothing, two rewritten
expressions never overlap, and a second pass finds nothing more.

The fragments below are the rule. Three forms are composed from them, and the tests hold the three equal: `inject`, one
search with the product checked in Python, for corpora; `inject_by_enumeration`, the rule as one closed pattern without
any Python logic; `rewriting_steps`, the same for an engine that replaces by constants only, which is how
`tokenizer.json` carries the rule.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

import numpy as np

from tokenization.mul_facts import (
    FACT_BY_FACTORS,
    FACT_BY_NAME,
    FACTS,
    FIRST_FACT_ID,
    NAME_PATTERN,
    NAME_PREFIX,
    MulFact,
)

RULE_VERSION = "1"
MODES = ("weak", "strict")
OPERATORS = "*×x"

# Only syntax that Python's re and Oniguruma read alike: ASCII classes spelt out, lookbehinds of fixed width.
_DIGITS = range(1, 10)
_BLANKS = " \t\u00a0\u2009\u202f"  # space, tab, no-break, thin and narrow no-break
_BLANK = f"[{_BLANKS}]".replace("\t", r"\t")
_GAP = _BLANK + "{0,2}"
_EQUALS = f"{_GAP}={_GAP}"
_NUMBER = "[0-9]+(?:[.,][0-9]+)*"
_NUMBER_ENDS = "(?![0-9])(?![.,][0-9])"
# A choice of operators narrows what is rewritten, never what the text means: with any of them a number is a factor.
_IS_FACTOR = f"{_GAP}[{OPERATORS}]{_GAP}[0-9]"
# The second factor is a whole number, no letter clings to it, and no power or percent sign takes it first.
_SECOND_FACTOR_ENDS = rf"(?![0-9A-Za-z_])(?![.,][0-9])(?!{_GAP}(?:\*\*|\^|%))"


def _first_factor_begins(passed: str = "") -> str:
    """Compose what must stand left of the first factor, to be tried after `passed`, a pattern of fixed width."""
    longer_number_or_identifier = ["[0-9A-Za-z_.]", "[0-9],"]
    operator_that_binds_first = [f"[*/^×÷%]{_BLANK * blanks}" for blanks in range(3)]
    # A blank must follow this x, or it would be a letter; a digit or a fact's name before it makes it an operator.
    product_that_binds_first = [f"[0-9>]{_BLANK * left}x{_BLANK * right}" for left in range(3) for right in (1, 2)]
    forbidden = longer_number_or_identifier + operator_that_binds_first + product_that_binds_first
    return "".join(f"(?<!{fragment}{passed})" for fragment in forbidden)


def _result(number: str) -> str:
    """Compose `= number`, where the number is whole and is itself no factor: `6*6=4*9` states no result."""
    return f"{_EQUALS}{number}{_NUMBER_ENDS}(?!{_IS_FACTOR})"


def _multiplication_sign(operators: str) -> str:
    return f"{_GAP}[{operators}]{_GAP}"


def _every_product(mode: str, operators: str, first: str, second: str, facts: Collection[MulFact] = FACTS) -> str:
    """Spell out the ordered pairs of these facts, each with the result that it demands; `first` and `second` wrap the
    factors."""

    def demanded(product: int) -> str:
        right_result = _result(str(product))
        return right_result if mode == "strict" else f"(?:{right_result}|(?!{_result(_NUMBER)}))"

    sign = _multiplication_sign(operators)
    partners = {a: [b for b in _DIGITS if FACT_BY_FACTORS[a, b] in facts] for a in _DIGITS}
    return "|".join(
        first.format(a) + sign + second.format("|".join(f"{b}{_SECOND_FACTOR_ENDS}{demanded(a * b)}" for b in of_a))
        for a, of_a in partners.items()
        if of_a
    )


def canonical_operators(operators: str) -> str:
    """Return the operators in the order of `OPERATORS`; raise ValueError unless they are a non-empty subset of it."""
    chosen = set(operators) if isinstance(operators, str) else set()
    if not chosen or len(chosen) < len(operators) or not chosen <= set(OPERATORS):
        raise ValueError(f"operators must be a non-empty subset of {OPERATORS!r}, each once, not {operators!r}")
    return "".join(operator for operator in OPERATORS if operator in operators)


def check_mode(mode: str | None) -> None:
    """Raise ValueError unless the mode exists."""
    if mode not in MODES:
        raise ValueError(f"the injection mode must be one of {', '.join(MODES)}, not {mode!r}")


@cache
def _search(mode: str, operators: str) -> re.Pattern[str]:
    """Compile the search of `inject`: every guard of the rule, and the result, if one is stated, as a group."""
    check_mode(mode)
    sign = _multiplication_sign(canonical_operators(operators))
    # The pattern opens with a digit, not with the guards, and looks for a sign at once: CPython then skips quickly
    # over everything but digits, which is what makes prose cheap.
    left = f"([1-9])(?={sign}[1-9]){_first_factor_begins('[1-9]')}"
    stated = _result(f"({_NUMBER})")
    return re.compile(f"{left}{sign}([1-9]){_SECOND_FACTOR_ENDS}" + (stated if mode == "strict" else f"(?:{stated})?"))


def _name_if_right(match: re.Match[str]) -> str:
    a, b, stated = match.groups()
    fact = FACT_BY_FACTORS[int(a), int(b)]
    return fact.name if stated is None or stated == str(fact.product) else match.group()


def inject(text: str, mode: str = "weak", operators: str = OPERATORS) -> str:
    """Return the text with every multiplication that the rule accepts replaced by the name of its fact.

    `weak` rewrites bare expressions and absorbs a right `= c`; `strict` rewrites only with a right `= c`. A stated
    result that is wrong leaves the expression alone in both. `operators` is any non-empty subset of `*×x`. Raises
    ValueError for a mode or operator that does not exist.

    >>> inject("6 * 9 = 54, and 9x6, but 6*9=55")
    '<MUL_6_9_54>, and <MUL_6_9_54>, but 6*9=55'
    """
    return _search(mode, operators).sub(_name_if_right, text)


def rewrite(
    text: str, name: Callable[[MulFact, int], str | None], mode: str = "weak", operators: str = OPERATORS
) -> str:
    """Return the text with every multiplication that the rule accepts replaced by what `name` says.

    name: is given the fact and the character at which its expression begins, and returns None to leave it alone.
    Raises like `inject`.
    """

    def replacement(match: re.Match[str]) -> str:
        own_name = _name_if_right(match)
        return (name(FACT_BY_NAME[own_name], match.start()) or match.group()) if own_name in FACT_BY_NAME else own_name

    return _search(mode, operators).sub(replacement, text)


def find_facts(text: str, mode: str = "weak", operators: str = OPERATORS) -> list[tuple[int, int, MulFact]]:
    """Find where the facts of a text stand: `(start, end, fact)` for each, in characters, in their order.

    With the names in these places the text is the injected one. Names that already stand in the text are found too,
    because they become the same tokens. Raises like `inject`.

    >>> [(start, end, fact.name) for start, end, fact in find_facts("now 6 * 9 = 54, but 6*9=55")]
    [(4, 14, '<MUL_6_9_54>')]
    """
    found = [
        (match.start(), match.end(), FACT_BY_NAME[name])
        for match in _search(mode, operators).finditer(text)
        if (name := _name_if_right(match)) in FACT_BY_NAME
    ]
    if NAME_PREFIX in text:
        found += [(match.start(), match.end(), FACT_BY_NAME[match.group()]) for match in NAME_PATTERN.finditer(text)]
        found.sort(key=lambda place: place[0])
    return found


def count_facts(text: str, mode: str = "weak", operators: str = OPERATORS) -> np.ndarray:
    """Count the facts that the injected text holds.

    Names that already stand in the text count too, because they become the same tokens.
    Returns int64 counts of shape (45,) in the order of `FACTS`. Raises like `inject`.
    """
    counts = np.zeros(len(FACTS), dtype=np.int64)
    injected = inject(text, mode, operators)
    if NAME_PREFIX in injected:
        for name in NAME_PATTERN.findall(injected):
            counts[FACT_BY_NAME[name].id - FIRST_FACT_ID] += 1
    return counts


# What `inject` rewrites holds a digit, blanks, a sign, blanks and a digit, and that is quickly found in UTF-8. These
# bytes may lie between a digit and the last byte of the sign, and the two are at most so far apart.
_IN_GAP = np.isin(np.arange(256), list(_BLANKS.encode() + b"".join(sign.encode()[:-1] for sign in OPERATORS)))
_REACH = max(len(f"{blank}{blank}{sign}".encode()) for blank in _BLANKS for sign in OPERATORS)
_SIGN_ENDS = [sign.encode()[-1] for sign in OPERATORS]
_BYTES_AT_ONCE = 2**20  # fresh memory for whole batches would cost more time than the search


def may_hold_facts(texts: Sequence[str | bytes]) -> np.ndarray:
    """Tell which texts could hold a fact, several times faster than `count_facts` on batches of some megabytes.

    Texts may be given as UTF-8. Returns bool of shape (texts,). False is certain: such a text counts zero for all
    modes and operators. True says that the text holds a sign between two digits, or what may open a name, as little
    prose does.
    """
    documents = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in texts]
    margin = b"\n" * _REACH
    data = np.frombuffer(b"\n".join([margin, *documents, margin]), np.uint8)
    found = []
    for start in range(0, len(data), _BYTES_AT_ONCE):
        part = data[start : start + _BYTES_AT_ONCE]
        is_sign = part == _SIGN_ENDS[0]
        for sign_end in _SIGN_ENDS[1:]:
            is_sign |= part == sign_end
        signs = start + np.flatnonzero(is_sign)
        found.append(_beside_a_digit(data, _beside_a_digit(data, signs, -1), 1))
        brackets = start + np.flatnonzero(part == ord(NAME_PREFIX[0]))
        found.append(brackets[data[brackets + 1] == ord(NAME_PREFIX[1])])
    ends = len(margin) + np.cumsum([1 + len(document) for document in documents])
    result = np.zeros(len(documents), bool)
    result[np.searchsorted(ends, np.concatenate(found), side="right")] = True
    return result


def _beside_a_digit(data: np.ndarray, signs: np.ndarray, direction: int) -> np.ndarray:
    """Return those positions of signs from which a digit 1-9 follows in that direction, at once or after blanks."""
    found = []
    for distance in range(1, _REACH + 1):
        byte = data[signs + direction * distance]
        found.append(signs[byte - ord("1") < 9])  # bytes wrap around, so this is no smaller byte
        signs = signs[_IN_GAP[byte]]
    return np.concatenate(found)


@cache
def _enumeration(mode: str, operators: str) -> re.Pattern[str]:
    check_mode(mode)
    products = _every_product(mode, canonical_operators(operators), first="{}", second="(?:{})")
    return re.compile(f"{_first_factor_begins()}(?:{products})")


def inject_by_enumeration(text: str, mode: str = "weak", operators: str = OPERATORS) -> str:
    """Inject by the rule as one pattern that matches exactly what is rewritten; equal to `inject`, and slower.

    Nothing is decided outside the pattern, so this is the form to read, and to hold the other two against.
    """

    def name(match: re.Match[str]) -> str:
        a, b = [int(digit) for digit in re.findall("[0-9]", match.group())[:2]]
        return FACT_BY_FACTORS[a, b].name

    return _enumeration(mode, operators).sub(name, text)


# A tokenizer's normalizer replaces by constants, with no groups, so it first marks the sign of every accepted
# expression and then replaces digit-mark-digit. A mark is a Unicode noncharacter and its tag; the same character in
# the text is given another tag for as long as the steps run, so that no text can forge a mark.
_MARKER = "\ufdd0"
_MARK = _MARKER + "\ufdd1"
_NO_MARK = _MARKER + "\ufdd2"


def rewriting_steps(
    mode: str, operators: str, names: Mapping[str, str] | None = None
) -> list[tuple[re.Pattern[str] | str, str]]:
    """Return the rule as replacements to apply in order: (compiled pattern or literal text, what replaces each match).

    names: what stands for each fact that is rewritten, by the fact's own name; all facts by their own unless given.
    The patterns are written for Oniguruma and for Python's re alike. Raises ValueError like `inject`.
    """
    check_mode(mode)
    operators = canonical_operators(operators)
    names = {fact.name: fact.name for fact in FACTS} if names is None else names
    facts = [FACT_BY_NAME[name] for name in names]
    products = _every_product(mode, operators, first="(?<={})", second="(?=(?:{}))", facts=facts)
    accepted_sign = (
        f"(?<=[1-9])(?={_multiplication_sign(operators)}[1-9]){_first_factor_begins('[1-9]')}(?:{products})"
    )
    # A number that opens the next accepted expression is a factor, though its sign is a mark by now.
    absorbed_result = f"(?<={_MARK}[1-9]){_result('[0-9]+')}(?!{_MARK})"
    replacements = [(f"{a}{_MARK}{b}", names[fact.name]) for (a, b), fact in FACT_BY_FACTORS.items() if fact in facts]
    return [
        (_MARKER, _NO_MARK),
        (re.compile(accepted_sign), _MARK),
        (re.compile(absorbed_result), ""),
        *replacements,
        (_NO_MARK, _MARKER),
    ]
