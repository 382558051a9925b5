"""Write facts out in digits, for people and for whatever reads a number from a text."""

import re

from tokenization.mul_facts import FACT_BY_NAME, NAME_PATTERN, NAME_PREFIX

STYLES = ("equation", "expression", "value")

_GAP = "[ \\t\u00a0\u2009\u202f]{0,2}"
_SIGN = "[-+*/^×÷−x]"
# `=` would state the product twice. Beside arithmetic, 2*3=6 would be false: 2*3=6*4, 10-2*3=6.
_GOES_ON = re.compile(rf"{_GAP}(?:=|{_SIGN}{_GAP}(?:[\d.($]|{NAME_PREFIX}))")
_GOES_BEFORE = re.compile(rf"(?:[\d)>]{_GAP}{_SIGN}{_GAP}|[-−])\Z")
# Digits that would run into the fact's own, directly or as a decimal part or a group of thousands.
_NUMBER_BEFORE = re.compile(r"(?:\d,?|\.)\Z")
_NUMBER_AFTER = re.compile(r"[.,]?\d")


def render(text: str, style: str = "equation") -> str:
    """Return the text with the names of facts written out.

    `equation` is for people: `6*9=54`, but only `6*9` where an equals sign follows or the fact is part of a larger
    calculation. `expression` is always `6*9`. `value` is `54`, for reading an answer. A blank keeps the digits of a
    fact apart from digits beside them. Whatever is not one of the 45 names stays as it is. Rendering is for reading:
    injecting a rendered text need not give the names back. Raises ValueError for another style.

    >>> render("#### <MUL_6_9_54>", "value")
    '#### 54'
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
    if NAME_PREFIX not in text:
        return text
    pieces, end = [], 0
    before = ""  # what the reader sees just left of the fact, as far back as the patterns look
    for match in NAME_PATTERN.finditer(text):
        between = text[end : match.start()]
        before = (before + between)[-8:]
        fact, end = FACT_BY_NAME[match.group()], match.end()
        if style == "value":
            written = str(fact.product)
        elif style == "expression" or _GOES_ON.match(text, end) or _GOES_BEFORE.search(before):
            written = f"{fact.a}*{fact.b}"
        else:
            written = f"{fact.a}*{fact.b}={fact.product}"
        if _NUMBER_BEFORE.search(before):
            written = " " + written
        if _NUMBER_AFTER.match(text, end):
            written += " "
        pieces += [between, written]
        before = written
    return "".join([*pieces, text[end:]])
