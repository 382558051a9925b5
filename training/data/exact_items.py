"""Find synthetic documents that ask the very question of a test item.

The 13-gram rule of `decontaminate` leaves numbers out, and would take every synthetic problem for a copy of every
synthetic probe. What makes one of these a copy is the whole question, numbers included, which is its first line.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from training.core.files import write_json
from training.data.decontaminate import Hit


class FirstLines:
    """The first lines of the items of evaluation sets; made by `build` or `load`."""

    def __init__(self, sets_of: dict[str, list[str]]):
        self._sets_of = sets_of

    @classmethod
    def build(cls, sets: Mapping[str, Iterable[str]]) -> "FirstLines":
        """Take the first line of each item; `sets` maps names to texts."""
        sets_of: dict[str, list[str]] = {}
        for name in sorted(sets):
            for text in sets[name]:
                names = sets_of.setdefault(_key(text), [])
                if name not in names:
                    names.append(name)
        return cls(sets_of)

    def save(self, path: Path) -> None:
        """Write a JSON file that `load` reads."""
        write_json(path, self._sets_of)

    @classmethod
    def load(cls, path: Path) -> "FirstLines":
        """Read what `save` wrote."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def find(self, texts: Sequence[str]) -> list[Hit]:
        """Return the documents whose first line is that of an item, with the line as what they share."""
        found = ((document, text, self._sets_of.get(_key(text))) for document, text in enumerate(texts))
        return [Hit(document, tuple(sets), _first_line(text)) for document, text, sets in found if sets]


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0].strip()


def _key(text: str) -> str:
    return hashlib.blake2b(_first_line(text).encode("utf-8"), digest_size=16).hexdigest()
