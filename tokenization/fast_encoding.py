"""The engines that can do GPT-2's plain encoding of a corpus, and the proof that one gives the ids of another.

Both are built from the packaged merges and take `<|endoftext|>` for text. tiktoken is the measure of what is right;
gigatoken remembers how it encoded every word, which makes it many times faster on a corpus.
"""

import base64
import random
import reprlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tiktoken

from tokenization import gpt2_bpe
from tokenization.mul_facts import END_OF_TEXT, END_OF_TEXT_ID, FACTS

DEFAULT_ENGINE = "tiktoken"
ENGINES = (DEFAULT_ENGINE, "gigatoken")
DIGIT_ENGINE = "tiktoken, digit by digit"  # of one control only, and no choice of a recipe

# gigatoken 0.10 remembers every word that it meets, without bound. Begun anew after this many tokens, at about a tenth
# of a second each time, it takes some tens of megabytes on prose or code and below 300 MB on words of random letters.
_TOKENS_PER_MEMORY = 16_000_000


@cache
def open_engine(name: str) -> "TiktokenEngine | GigatokenEngine | DigitEngine":
    """Return the process's one engine of that name; raise ValueError if it does not exist or is not installed."""
    if name == DIGIT_ENGINE:
        return DigitEngine()
    if name not in ENGINES:
        raise ValueError(f"the encoder's engine must be one of {', '.join(ENGINES)}, not {name!r}")
    return TiktokenEngine() if name == "tiktoken" else GigatokenEngine()


# GPT-2's pattern without its look-aheads, which cost tiktoken half of its time. They matter in runs of white space
# alone: all of a run but its last character is one piece, and at the end of a text all of it.
_PATTERN_WITHOUT_RUNS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
# White space beyond ASCII, as the numbers that its UTF-8 bytes spell.
_WIDE_BLANKS = [0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
_WIDE_BLANKS = np.array(
    [int.from_bytes(chr(code).encode().ljust(3, b"\0"), "big") for code in _WIDE_BLANKS], np.uint32
)
_BYTES_PER_RUN = 150  # where runs are closer, taking them apart costs more than it saves
_REMEMBERED_RUN = 8  # bytes; the few short ones are most of them


class TiktokenEngine:
    """Encode plain text with tiktoken, one document at a time."""

    def __init__(self):
        self._encoding = _encoding("gpt2-from-packaged-merges", gpt2_bpe.PRETOKEN_PATTERN)
        self._without_runs = _encoding("gpt2-without-runs", _PATTERN_WITHOUT_RUNS)
        self._ids_of_run: dict[bytes, np.ndarray] = {}

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text, uint16 of shape (tokens,); raise ValueError for a lone surrogate."""
        return _ids_or_refusal(self._encoding, text)

    def encode_documents(
        self, texts: Sequence[str], encoded: Sequence[bytes] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, uint16 of shape (tokens,), and their numbers, int64 of shape (texts,)."""
        encoded = [_utf8(text) for text in texts] if encoded is None else encoded
        runs = _runs_of_blanks(encoded)
        return _joined([self._encode_around_runs(*document) for document in zip(texts, encoded, runs, strict=True)])

    def _encode_around_runs(self, text: str, encoded: bytes, runs: list[tuple[int, int]] | None) -> np.ndarray:
        if runs is None or len(runs) * _BYTES_PER_RUN > len(encoded):
            return _ids(self._encoding, text)
        if not runs:
            return _ids(self._without_runs, text)
        pieces, position = [], 0
        for start, end in runs:
            # The last blank of a run belongs to what follows.
            end -= end < len(encoded)
            pieces.append(_ids(self._without_runs, encoded[position:start].decode()))
            pieces.append(self._run(encoded[start:end]))
            position = end
        return np.concatenate([*pieces, _ids(self._without_runs, encoded[position:].decode())])

    def _run(self, blanks: bytes) -> np.ndarray:
        if len(blanks) > _REMEMBERED_RUN:
            return _ids(self._encoding, blanks.decode())
        if blanks not in self._ids_of_run:
            self._ids_of_run[blanks] = _ids(self._encoding, blanks.decode())
        return self._ids_of_run[blanks]


class DigitEngine:
    """Encode text as GPT-2 does, with every digit of a number on its own and apart from the blank before it."""

    def __init__(self):
        self._encoding = _encoding("gpt2-digit-by-digit", gpt2_bpe.DIGIT_PATTERN)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text, uint16 of shape (tokens,); raise ValueError for a lone surrogate."""
        return _ids_or_refusal(self._encoding, text)

    def encode_documents(
        self, texts: Sequence[str], encoded: Sequence[bytes] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, uint16 of shape (tokens,), and their numbers, int64 of shape (texts,)."""
        return _joined([self.encode(text) for text in texts])


def _encoding(name: str, pattern: str) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name=name,
        pat_str=pattern,
        mergeable_ranks=gpt2_bpe.ranks(),
        special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
        explicit_n_vocab=END_OF_TEXT_ID + 1,
    )


def _joined(documents: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    return np.concatenate([np.empty(0, np.uint16), *documents]), lengths


def _ids_or_refusal(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    try:
        return _ids(encoding, text)
    except UnicodeEncodeError as error:
        raise _half_a_pair(error) from error


def _runs_of_blanks(encoded: Sequence[bytes]) -> list[list[tuple[int, int]] | None]:
    """Return where two or more blanks in a row begin and end in each text, None for one with blanks beyond ASCII."""
    data = np.frombuffer(b"\xff".join([*encoded, b""]), np.uint8)  # a byte that UTF-8 does not have
    ends = np.cumsum([len(text) + 1 for text in encoded])
    blank = (data == 32) | (data - np.uint8(9) < 5)  # bytes wrap around: tab to carriage return
    pairs = np.flatnonzero(blank[:-1] & blank[1:])
    breaks = np.flatnonzero(np.diff(pairs) > 1)
    firsts = pairs[np.append(0, breaks + 1)] if len(pairs) else pairs
    lasts = pairs[np.append(breaks, len(pairs) - 1)] + 2 if len(pairs) else pairs
    runs: list[list[tuple[int, int]] | None] = [[] for _ in encoded]
    documents = np.searchsorted(ends, firsts, side="right")
    offsets = ends - [len(text) + 1 for text in encoded]
    for document, first, last in zip(documents.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
        runs[document].append((first - int(offsets[document]), last - int(offsets[document])))
    for document in np.searchsorted(ends, _wide_blanks(data), side="right").tolist():
        runs[document] = None
    return runs


def _wide_blanks(data: np.ndarray) -> np.ndarray:
    """Return where white space beyond ASCII begins in UTF-8."""
    leads = np.flatnonzero((data >= 0xC2) & (data <= 0xE3))
    leads = leads[leads < len(data) - 2]  # each text has a separator behind it, and a lead byte another
    three = data[leads].astype(np.uint32) << 16 | data[leads + 1].astype(np.uint32) << 8 | data[leads + 2]
    return leads[np.isin(three, _WIDE_BLANKS) | np.isin(three & 0xFFFF00, _WIDE_BLANKS)]


def _ids(encoding: tiktoken.Encoding, text: str) -> np.ndarray:
    return encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)


class GigatokenEngine:
    """Encode plain text with gigatoken on one thread, because preparation gives every worker one core."""

    def __init__(self):
        try:
            import awkward
            import gigatoken
        except ImportError as error:
            raise ValueError(
                f"the encoder gigatoken cannot be imported ({error}); pip install 'mul-fact-tokens[fast]' "
                "or use encoder: tiktoken"
            ) from error
        self._awkward, self._gigatoken = awkward, gigatoken
        self._rank_file = b"".join(
            base64.b64encode(token) + b" %d\n" % rank for token, rank in gpt2_bpe.ranks().items()
        )
        self._tokenizer = None
        self._tokens_left = 0

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text, uint16 of shape (tokens,); raise ValueError for a lone surrogate."""
        ids = self._ready_tokenizer().encode(_utf8(text))
        self._tokens_left -= len(ids)
        return ids.astype(np.uint16)

    def encode_documents(
        self, texts: Sequence[str], encoded: Sequence[bytes] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts, uint16 of shape (tokens,), and their numbers, int64 of shape (texts,)."""
        encoded = [_utf8(text) for text in texts] if encoded is None else list(encoded)
        documents = self._ready_tokenizer().encode_batch(encoded, parallel=False)
        ids = np.asarray(self._awkward.flatten(documents, axis=1))
        self._tokens_left -= len(ids)
        return ids.astype(np.uint16), np.asarray(self._awkward.num(documents, axis=1)).astype(np.int64)

    def _ready_tokenizer(self):
        if self._tokens_left <= 0:
            self._tokenizer = None  # the old memory goes before the new one comes
            with TemporaryDirectory() as folder:
                path = Path(folder, "gpt2.tiktoken")
                path.write_bytes(self._rank_file)
                self._tokenizer = self._gigatoken.Tokenizer.from_tiktoken(path, pretokenizer="gpt2", special_tokens={})
            self._tokens_left = _TOKENS_PER_MEMORY
        return self._tokenizer


def prove_engine(name: str, sample: Sequence[str] = ()) -> None:
    """Hold an engine against tiktoken on texts made to find a difference, and on a sample of the corpus.

    Every text is encoded in a batch twice, because an engine may remember the first time, and each of the built-in
    ones on its own; takes less than a second plus the time of the sample. Raises ValueError with the first text whose
    ids differ, and for an engine that does not exist or is not installed.
    """
    engine, measure = open_engine(name), open_engine(DEFAULT_ENGINE)
    if engine is measure:
        return
    difficult = _difficult_texts()
    texts = [*difficult, *sample]
    expected, expected_lengths = measure.encode_documents(texts)
    expected_ends = np.cumsum(expected_lengths)
    for _ in range(2):
        ids, lengths = engine.encode_documents(texts)
        if (ids.dtype, lengths.dtype) != (np.uint16, np.int64):
            raise ValueError(
                f"the encoder {name} gives ids of {ids.dtype} and lengths of {lengths.dtype} instead of uint16 and "
                "int64; use encoder: tiktoken"
            )
        if np.array_equal(ids, expected) and np.array_equal(lengths, expected_lengths):
            continue
        documents = np.split(ids, np.cumsum(lengths))  # the last holds what belongs to no text
        for text, right, got in zip(texts, np.split(expected, expected_ends), documents, strict=False):
            _refuse_difference(name, text, got, right)
        raise ValueError(
            f"the encoder {name} gives {len(ids)} ids in {len(lengths)} documents, tiktoken {len(expected)} in "
            f"{len(texts)}; use encoder: tiktoken"
        )
    for text, right in zip(difficult, np.split(expected, expected_ends), strict=False):
        _refuse_difference(name, text, engine.encode(text), right)


def _refuse_difference(name: str, text: str, ids: np.ndarray, expected: np.ndarray) -> None:
    if np.array_equal(ids, expected):
        return
    common = min(len(ids), len(expected))
    first = int(np.argmax(np.append(ids[:common] != expected[:common], True)))
    raise ValueError(
        f"the encoder {name} differs from tiktoken on {_SHORT.repr(text)}: from token {first} on it gives "
        f"{_SHORT.repr(ids[first:].tolist())} instead of {_SHORT.repr(expected[first:].tolist())}; "
        "use encoder: tiktoken"
    )


def _difficult_texts() -> list[str]:
    """Return some three thousand texts, mostly short, of 1.4 megabytes together, the same every time."""
    blanks = [chr(c) for c in (*range(9, 14), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, 0x180E, *range(0x2000, 0x2010))]
    blanks += ["\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff", "\r\n", "  ", "\n\n", " \t "]
    endings = [cased for ending in "s t d m ll ve re".split() for cased in (ending, ending.upper(), ending.title())]
    contractions = [quote + ending for quote in ("'", "’", "‘", "＇", "''", "' ") for ending in endings]
    # The last two are the only kind in which a piece of GPT-2's reaches from a letter into a combining mark.
    letters = [" the", "www.example.org/?q=1&r=%20", "C:\\n", "\u0640", "\u200f", "e\u0301", "י\u05c1", "ا\u0610"]
    letters += "a Zz don't x^2 ﬁ ß İ Ωя 日本語 한국어 ไทย हिन्दी עברית العربية 𝒳".split()
    digits = ["7", "0123456789", "٠١٢", "०१२", "１２", "½", "²", "Ⅷ", "①", "〇", "𝟘𝟙", "3.14", "1,000", "#### 42"]
    emoji = ["😀", "👩‍👩‍👧", "👍🏽", "🇫🇷", "❤\ufe0f", "#\ufe0f\u20e3"]
    controls = [chr(c) for c in (0, 1, 7, 8, 0x1B, 0x7F, 0x80, 0x9F, 0xAD)]
    unusual = [chr(c) for c in (0xE000, 0xFDD0, 0xFFFD, 0xFFFE, 0xFFFF, 0x378, 0xE0001, 0xF0000, 0x10FFFF)]
    names = [END_OF_TEXT, "<|", *(fact.name for fact in FACTS[::11]), "<MUL_", "<MUL_9_6_54>"]
    marks = [*"!.,;:-_*/=<>()\"'`", "...", "***", "--", "\ufe0f", "“", "×"]
    pieces = blanks + contractions + letters + digits + emoji + controls + unusual + names + marks

    texts = ["", *pieces]
    texts += [form.format(piece) for piece in pieces for form in (" {}", "{} ", "a{}b", "a {0}{0}1", "\n{} \n")]
    texts += ["\n".join(left + right for right in pieces) for left in pieces]
    rng = random.Random(50_256)
    texts += ["".join(rng.choices(pieces, k=rng.randint(2, 12))) for _ in range(500)]
    # Long runs, at the lengths where implementations change their ways. Old versions of tiktoken take the square of a
    # word's length, so that only a few are very long.
    for run in [" ", "\t", "\n", "\r\n", " \n", "\u00a0", "\u3000", *"aZé日0٣=-😀\x00"]:
        long_runs = [run * count for count in (15, 16, 17, 300)]
        texts += [before + middle + after for middle in long_runs for before in ("", "a") for after in ("", "b")]
        texts.append(run * 2_000)
    texts += [" " * 70_000, "a" + "\n" * 9_000 + "b", "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=50_000))]
    # What counts as a letter, a digit or a blank, character by character.
    return texts + ["".join(f"a{chr(c)} {chr(c)}1" for c in range(s, s + 256)) for s in range(0, 0xD800, 256)]


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlist = 100, 12


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _half_a_pair(error) from error


def _half_a_pair(error: UnicodeEncodeError) -> ValueError:
    return ValueError(
        f"the text holds {error.object[error.start]!r}, half of a surrogate pair, which UTF-8 cannot write; "
        "repair the document first, e.g. text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
    )
