"""Find the documents that share 13 words in a row with an evaluation item.

The rule is that of GPT-3 (Brown et al. 2020, appendix C: 13-grams of lower-case words without punctuation), with the
digits removed as well, since the same problem with other numbers is the same problem. `words` defines it;
`NgramIndex.find` gives the same answer at a speed that a corpus of billions of tokens can afford:

1. The batch becomes one array of lower-case words and blanks in which the words are numbered (`_WordStream`).
2. Every 13 words in a row hold 7 words that begin at a multiple of 7, so only each seventh word begins a look-up, of
   the 7 words there, in a Bloom filter of what the index holds.
3. Where the filter may know these 7 words, the 13-grams around them are looked up in it as well.
4. Of what is left, the 128-bit BLAKE2b digest of all 13 words decides.
"""

import hashlib
import json
import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

NGRAM_WORDS = 13
# 13 words hold 14 - n runs of n words, one of which begins at a multiple of 14 - n. With n = 7 the runs that are
# looked up lie side by side; longer ones would be looked up more often, shorter ones be found in much harmless text.
_RUN_WORDS = (NGRAM_WORDS + 1) // 2
_STRIDE = NGRAM_WORDS + 1 - _RUN_WORDS
_PART_CHARACTERS = 2**19  # arrays of larger parts make the allocator return pages to the system and ask for them again
_FORMAT_VERSION = 1  # of the saved index; another `_RUN_WORDS` or another key is another format
_DIGEST_BYTES = 16
_FILTER_BITS_PER_KEY = 32
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD1342543DE82EF95)  # multipliers of SplitMix64, xxHash64, an LCG

_BLANK, _SEPARATOR = 0x20, 0xFF  # UTF-8 has no byte 0xFF, so a word of it can only be a boundary between documents
_ASCII_BLANKS = bytes(code for code in range(0x80) if chr(code).isspace())
_KEPT = string.ascii_letters.encode() + _ASCII_BLANKS + bytes([_SEPARATOR])
_DELETED = bytes(code for code in range(0x100) if code not in _KEPT)
_LOWER = bytes.maketrans(
    string.ascii_uppercase.encode() + _ASCII_BLANKS,
    string.ascii_lowercase.encode() + bytes([_BLANK]) * len(_ASCII_BLANKS),
)
# The other white space, as the numbers that its UTF-8 bytes spell; none of it takes four bytes.
_WIDE_BLANKS = [chr(code).encode() for code in range(0x80, 0x10000) if chr(code).isspace()]
_TWO_BYTE_BLANKS, _THREE_BYTE_BLANKS = (
    [int.from_bytes(blank, "big") for blank in _WIDE_BLANKS if len(blank) == size] for size in (2, 3)
)
_NO_ASCII_WORD = re.compile(r"[^A-Za-z\s]+")


def words(text: str) -> list[str]:
    """Return the words of a text as decontamination sees them: lower-case ASCII letters between white space.

    Every character that is neither an ASCII letter nor white space (`str.isspace`) is removed before the text is
    split, so "it's" is the word "its", "naïve" is "nave", and a number is no word.
    """
    # Lower-casing comes last: it would make an ASCII "k" of the Kelvin sign.
    return _NO_ASCII_WORD.sub("", text).lower().split()


@dataclass(frozen=True)
class Hit:
    """A document that shares an n-gram with an evaluation set.

    document: its position in the batch. sets: every set that has an n-gram of it, sorted. ngram: the first 13 words of
    it that are in any set, joined by blanks.
    """

    document: int
    sets: tuple[str, ...]
    ngram: str


class NgramIndex:
    """The 13-grams of evaluation sets; made by `build` or `load`. A million of them take about 40 MB."""

    def __init__(self, bloom_filter: np.ndarray, digests: np.ndarray, members: np.ndarray, facts: dict[str, dict]):
        self._filter = bloom_filter  # (bytes,) uint8, a power of two: the Bloom filter of keys of 7 and of 13 words
        self._digests = digests  # (n-grams,) of 16 bytes, sorted
        self._members = members  # (n-grams,) uint64: bit i says that set i, in the order of `facts`, has the n-gram
        self._facts = facts

    @classmethod
    def build(cls, sets: Mapping[str, Iterable[str]]) -> "NgramIndex":
        """Index the 13-grams of evaluation sets, given as name and texts of the items; n-grams do not cross items.

        Raises `ValueError` for more than 64 sets, a set that is one text instead of several, and broken Unicode.
        """
        if len(sets) > 64:
            raise ValueError(f"{len(sets)} evaluation sets, but an index holds at most 64; join some of them")
        facts: dict[str, dict] = {}
        member_of: dict[bytes, int] = {}
        keys = [np.zeros(0, np.uint64)]
        for number, (name, texts) in enumerate(sets.items()):
            if isinstance(texts, str):
                raise ValueError(f"evaluation set '{name}' is one text; give a list with one text per item")
            where, bit, content = f"evaluation set '{name}', item", 1 << number, hashlib.sha256()
            items, ngrams, long_enough = 0, 0, []
            for item_number, text in enumerate(texts):
                items += 1
                content.update(f"{len(text)}/".encode() + _encode(text, item_number, where))
                item = words(text)
                if len(item) >= NGRAM_WORDS:
                    long_enough.append(text)
                for first in range(len(item) - NGRAM_WORDS + 1):
                    digest = _digest(" ".join(item[first : first + NGRAM_WORDS]))
                    member = member_of.get(digest, 0)
                    ngrams += not (member & bit)
                    member_of[digest] = member | bit
            facts[name] = {
                "items": items,
                "items_too_short": items - len(long_enough),
                "ngrams": ngrams,
                "sha256": content.hexdigest(),
            }
            stream = _WordStream(long_enough, where)
            for count in (_RUN_WORDS, NGRAM_WORDS):
                keys.append(stream.keys(stream.uncut(np.arange(stream.word_count), count), count))
        ordered = sorted(member_of)
        return cls(
            _bloom_filter(np.unique(np.concatenate(keys))),
            np.array(ordered, f"S{_DIGEST_BYTES}"),
            np.array([member_of[digest] for digest in ordered], np.uint64),
            facts,
        )

    def describe(self) -> dict[str, dict]:
        """Return per set the number of `items`, of `items_too_short` to have an n-gram, which this rule cannot find,
        of distinct `ngrams`, and the `sha256` of the texts in their order."""
        return {name: dict(facts) for name, facts in self._facts.items()}

    def save(self, path: str | Path) -> None:
        """Write the index as an `.npz` file, as a whole or not at all."""
        partial = Path(f"{path}.partial")
        header = json.dumps({"format_version": _FORMAT_VERSION, "facts": self._facts})
        with open(partial, "wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                header=np.array(header),
                bloom_filter=self._filter,
                digests=self._digests,
                members=self._members,
            )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> "NgramIndex":
        """Read an index that `save` wrote; raises `ValueError` for one of another format."""
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].item())
            if header["format_version"] != _FORMAT_VERSION:
                raise ValueError(
                    f"{path} has format {header['format_version']}, this version reads {_FORMAT_VERSION}; build the "
                    "index again"
                )
            return cls(arrays["bloom_filter"], arrays["digests"], arrays["members"], header["facts"])

    def find(self, texts: Sequence[str], encoded: Sequence[bytes] | None = None) -> list[Hit]:
        """Return one `Hit` for each document that shares an n-gram with an evaluation set, in the order of `texts`.

        N-grams do not cross documents. It costs a few milliseconds per megabyte of prose in batches of a megabyte or
        more. `encoded` are the same texts as UTF-8, where the caller has them. Raises `ValueError` for half of a
        surrogate pair.
        """
        parts = [(first, last, encoded and encoded[first:last]) for first, last in _parts(texts)]
        return [hit for first, last, part in parts for hit in self._find(texts[first:last], first, part)]

    def _find(self, texts: Sequence[str], first_document: int, encoded: Sequence[bytes] | None) -> list[Hit]:
        stream = _WordStream(texts, "document", first_document, encoded)
        firsts = self._candidates(stream)
        if not len(firsts):
            return []
        firsts = stream.uncut(firsts, NGRAM_WORDS)
        ngrams = [stream.join(first, NGRAM_WORDS) for first in firsts.tolist()]
        places = zip(stream.text_numbers(firsts), self._members_of(ngrams), ngrams, strict=True)
        hits = []
        for number, same_document in groupby(places, key=itemgetter(0)):
            matches = [(members, ngram) for _, members, ngram in same_document if members]
            if matches:
                _, ngram = matches[0]
                plain = " ".join(words(texts[number]))
                assert f" {ngram} " in f" {plain} ", f"the fast path and `words` disagree on {texts[number]!r}"
                found = {name for bit, name in enumerate(self._facts) for members, _ in matches if members >> bit & 1}
                hits.append(Hit(first_document + number, tuple(sorted(found)), ngram))
        return hits

    def _candidates(self, stream: "_WordStream") -> np.ndarray:
        """Return the word numbers, in order, at which an n-gram of the index may begin, if no text ends in it."""
        runs = self._possible(stream, np.arange(0, stream.word_count - _RUN_WORDS + 1, _STRIDE), _RUN_WORDS)
        around = (runs[:, None] - np.arange(_STRIDE)[::-1]).ravel()
        around = around[(around >= 0) & (around <= stream.word_count - NGRAM_WORDS)]
        return self._possible(stream, around, NGRAM_WORDS)

    def _possible(self, stream: "_WordStream", firsts: np.ndarray, count: int) -> np.ndarray:
        """Return those of the word numbers `firsts` whose `count` words may be in the index: all whose key is, and
        fewer than one in a thousand of the others."""
        keys = stream.keys(firsts, count)
        for odd in _ODD:
            # Nearly all keys fail at the first bit, so the others cost next to nothing.
            byte, bit = _filter_place(keys, odd, len(self._filter))
            present = (self._filter[byte] >> bit & 1).astype(bool)
            firsts, keys = firsts[present], keys[present]
        return firsts

    def _members_of(self, ngrams: list[str]) -> list[int]:
        """Return the sets that have each n-gram as bits; 0 where none has it."""
        digests = np.array([_digest(ngram) for ngram in ngrams], self._digests.dtype)
        nearest = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        return np.where(self._digests[nearest] == digests, self._members[nearest], 0).tolist()


class _WordStream:
    """The words of several texts in one array of bytes, numbered throughout.

    letters: the words with blanks between them, for every other character is gone; before, between and behind the
    texts stands a separator, which counts as a word. starts: where each word begins. `where` and `first_number` say in
    errors which text is meant.
    """

    def __init__(
        self, texts: Sequence[str], where: str, first_number: int = 0, encoded: Sequence[bytes] | None = None
    ):
        if encoded is None:
            encoded = [_encode(text, number, where) for number, text in enumerate(texts, first_number)]
        self.letters = _normalised(encoded, all(map(str.isascii, texts)))
        blank = self.letters == _BLANK
        self.starts = np.flatnonzero(blank[:-1] > blank[1:])
        self.starts += 1
        self.word_count = len(self.starts)

    def keys(self, firsts: np.ndarray, count: int) -> np.ndarray:
        """Return a 64-bit key, (firsts,) uint64, of the `count` words from each word number on.

        It is made of the first eight letters of every other word: equal words have equal keys, different words may.
        """
        eight_bytes = np.ndarray((len(self.letters) - 7,), "<u8", self.letters, strides=(1,))  # unaligned
        keys = np.zeros(len(firsts), np.uint64)
        for offset in range(0, count, 2):
            letters = eight_bytes[self.starts[firsts + offset]]
            blanks = ~letters & 0x4040404040404040  # 0x40 is in every letter and in the separator, but in no blank
            keys *= _ODD[0]
            # What is below the lowest bit in `blanks` is the word; without a blank this keeps all eight bytes.
            keys += letters & ((blanks & -blanks) - 1)
        return keys

    def uncut(self, firsts: np.ndarray, count: int) -> np.ndarray:
        """Return those of the word numbers `firsts` from which `count` words lie in one text."""
        return firsts[self._separators[np.searchsorted(self._separators, firsts)] - firsts >= count]

    def join(self, first: int, count: int) -> str:
        """Return `count` words of one text joined by blanks."""
        return " ".join(self.letters[self.starts[first] : self.starts[first + count]].tobytes().decode().split())

    def text_numbers(self, firsts: np.ndarray) -> list[int]:
        """Return in which text each word number lies."""
        return (np.searchsorted(self._separators, firsts) - 1).tolist()

    @cached_property
    def _separators(self) -> np.ndarray:
        """The word numbers of the separators; text i is between number i and i + 1."""
        return np.searchsorted(self.starts, np.flatnonzero(self.letters == _SEPARATOR))


def _parts(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Cut a batch into ranges of texts that are large enough for numpy and small enough for the allocator."""
    first = characters = 0
    for end, text in enumerate(texts, 1):
        characters += len(text)
        if characters >= _PART_CHARACTERS or end == len(texts):
            yield first, end
            first, characters = end, 0


def _normalised(texts: list[bytes], is_ascii: bool) -> np.ndarray:
    """Return the letters of `_WordStream`, (bytes,) uint8."""
    # Eight blanks at the end let eight bytes be read from the start of every word.
    joined = bytearray(b" \xff ").join([b"", *texts, bytes([_BLANK] * 8)])
    if not is_ascii:
        _replace_wide_blanks(np.frombuffer(joined, np.uint8))
    return np.frombuffer(joined.translate(_LOWER, _DELETED), np.uint8)


def _encode(text: str, number: int, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} {number} holds half of a surrogate pair at character {error.start}, which is no Unicode "
            "text; repair or drop it"
        ) from error


def _replace_wide_blanks(encoded: np.ndarray) -> None:
    """Put a blank on the first byte of white space beyond ASCII, in place; its other bytes are deleted later on."""
    # The last separator and its blank stand behind every text, so the two bytes that follow a lead byte exist.
    leads = np.flatnonzero(encoded[:-2] >= _WIDE_BLANKS[0][0])
    three = encoded[leads].astype(np.uint32) << 16 | encoded[leads + 1].astype(np.uint32) << 8 | encoded[leads + 2]
    encoded[leads[np.isin(three, _THREE_BYTE_BLANKS) | np.isin(three >> 8, _TWO_BYTE_BLANKS)]] = _BLANK


def _bloom_filter(keys: np.ndarray) -> np.ndarray:
    size = 1 << max(len(keys) * _FILTER_BITS_PER_KEY // 8, 1).bit_length()
    bloom_filter = np.zeros(size, np.uint8)
    for odd in _ODD:
        byte, bit = _filter_place(keys, odd, size)
        np.bitwise_or.at(bloom_filter, byte, np.left_shift(1, bit).astype(np.uint8))
    return bloom_filter


def _filter_place(keys: np.ndarray, odd: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the byte and the bit of each key in a filter of `size` bytes, a power of two."""
    place = keys * odd >> (64 - (8 * size - 1).bit_length())  # the high bits of a product depend on all of the key
    return place >> 3, (place & 7).astype(np.uint8)


def _digest(ngram: str) -> bytes:
    return hashlib.blake2b(ngram.encode(), digest_size=_DIGEST_BYTES).digest()
