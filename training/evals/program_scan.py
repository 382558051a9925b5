"""Look at the text of an untrusted program before the parser does: nesting, words, and how its texts are written.

The parser itself can be made to exhaust the stack or the memory, and releases of Python differ in what they read, most
of all in f-strings. What is refused here is refused alike everywhere.
"""

import re
from collections.abc import Iterable

from training.evals.program_functions import Refused

MAX_BRACKETS = 60  # within each other
MAX_SIGNS = 240  # operators, brackets and the like in one line, each of which may deepen the tree
MAX_BRANCHES = 60  # `elif`, each of which lies within the one before
MAX_INDENTATION = 160  # characters
MAX_WORD = 80  # characters of a name or number

_QUOTES = "|".join(
    rf"{quote}(?:[^{end}\\]|\\[\s\S]{more})*{quote}"
    for quote, end, more in (
        ('"{3}', '"', '|"(?!"")'),
        ("'{3}", "'", "|'(?!'')"),
        ('"', r'"\n', ""),
        ("'", r"'\n", ""),
    )
)
# Grammar that no allowed program has, some of which takes the parser long, or differs between releases of Python.
_FORBIDDEN = "async|await|class|del|except|finally|global|lambda|nonlocal|raise|try|with|yield"
# Taken to its end, because the parser warns of a number that a word follows at once, as in `1.if`.
_NUMBER = r"(?>0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9]+)?)"
# What is without meaning here (names, commas, blanks) is skipped in runs; a text begins no later than its prefix.
_TOKEN = re.compile(
    rf"(?P<deepening>\b(?:if|else|not|and|or|in|is|for)\b(?![\"']))|(?P<branch>\belif\b)"
    rf"|(?P<forbidden>\b(?:{_FORBIDDEN})\b)"
    rf"|(?P<string>(?P<prefix>\b[A-Za-z]{{0,2}})?(?P<quoted>{_QUOTES}))"
    rf"|(?P<plain>(?:(?<!\w)(?:[^\W\d]\w*|{_NUMBER})(?![\w\"'])[ ,;]*)|[ \t,;]+)"
    r"|(?P<line>\n[ \t]*+(?!\\))|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<joined>\\\n)|(?P<comment>\#[^\n]*)"
    r"|(?P<sign>->|:=|\*\*=?|//=?|<<=?|>>=?|[-+*/%@&|^=<>!]=?|[.:~])|(?P<other>[\s\S])"
)
_PREFIXES = frozenset(["", "u", "r", "f", "rf", "fr"])
_ESCAPE = re.compile(
    r"""\\(?:[\n\\'"abfnrtv]|[0-3][0-7]{0,2}|[4-7][0-7]?(?![0-7])|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}"""
    r"|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|(?P<wrong>[4-7xuUN])|(?P<unknown>))"
)
# An f-string that every Python reads alike: in its fields no quotes, backslashes, comments or braces, no `!r` or `=`.
_F_STRING = re.compile(r"""(?:[^{}\\]|\\[^N{}]|\{\{|\}\}|\{[^{}\\"'#\n!=:]+(?::[^{}\\"'#\n!=:]*)?\})*""")
_FIELD = re.compile(r"\{\{|\{([^{}:]+)(?::([^{}]*))?\}")
_ODD_FIELD = re.compile(r"\bfor\b|^[ \t]*\*")  # a bare generator, and a star
_FORMAT = re.compile(r"[<>^]?[0-9]{0,2},?(?:\.[0-9])?[dfg%]?")


def scan(source: str) -> list[int]:
    """Refuse what the parser must not see, in time linear in the length.

    Returns where to write a backslash twice: an escape that Python does not know, as in "\\$5", means itself, but the
    parser warns of it, and warnings belong to the whole process.
    """
    depth = signs = branches = 0
    doubled: list[int] = []
    for token in _TOKEN.finditer(source):
        kind = token.lastgroup
        if kind == "plain":
            word = token.group()
            if len(word) > MAX_WORD and len(word.rstrip(" \t,;")) > MAX_WORD:
                raise Refused("word too long")
            if not word.isascii():  # which letters make a name depends on the release of Unicode
                raise Refused("name not in ASCII")
        elif kind == "sign" or kind == "deepening":
            signs += 1
        elif kind == "line":
            if token.end() - token.start() > MAX_INDENTATION:
                raise Refused("indentation")
            if depth <= 0:
                depth = signs = 0
        elif kind == "open":
            depth += 1
            signs += 1
        elif kind == "close":
            depth -= 1
        elif kind == "string":
            doubled += _check_text(token)
        elif kind == "branch":
            branches += 1
        elif kind == "forbidden":
            raise Refused(f"keyword {token.group()}")
        elif kind == "other":
            raise Refused(f"character {token.group()!a}")
        if depth > MAX_BRACKETS or signs > MAX_SIGNS or branches > MAX_BRANCHES:
            raise Refused("nesting")
    return doubled


def _check_text(token: re.Match[str]) -> Iterable[int]:
    """Refuse a text that not every Python reads alike, and return where its backslashes are to be doubled."""
    prefix, quoted = (token["prefix"] or "").lower(), token["quoted"]
    if prefix not in _PREFIXES:
        raise Refused("prefix of a text")
    if "f" in prefix:
        if not _F_STRING.fullmatch(quoted):
            raise Refused("f-string")
        for field in _FIELD.finditer(quoted):
            if field[1]:
                if _ODD_FIELD.search(field[1]) or not _FORMAT.fullmatch(field[2] or ""):
                    raise Refused("f-string")
                scan(field[1])
    if "\\" not in quoted or "r" in prefix:
        return ()
    start = token.start("quoted")
    escapes = list(_ESCAPE.finditer(quoted))
    if any(escape["wrong"] for escape in escapes):
        raise Refused("escape")
    return [start + escape.start() for escape in escapes if escape["unknown"] is not None]
