"""GPT-2's byte-pair encoding, derived from the packaged merges: nothing is downloaded.

The results are cached and shared; copy them before changing them.
"""

from functools import cache
from importlib.resources import files

from tokenization.mul_facts import END_OF_TEXT, END_OF_TEXT_ID

# GPT-2's split into words, numbers, punctuation and blanks, with possessive quantifiers where no match could be given
# back.
PRETOKEN_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# The same split with every digit on its own, apart also from the blank before it, so that a digit has one id wherever
# it stands.
DIGIT_PATTERN = PRETOKEN_PATTERN.replace(r" ?\p{N}++", r"\p{N}")
# For an engine to which `$` is the end of a line.
DIGIT_PATTERN_BY_LINES = DIGIT_PATTERN.replace(r"\s++$|", "")


@cache
def byte_to_character() -> dict[int, str]:
    """Return GPT-2's printable stand-in for each of the 256 bytes, in the order of the bytes' ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@cache
def merges() -> list[tuple[str, str]]:
    """Return the 50,000 merges, first learnt first, as pairs of pieces in printable characters."""
    text = files("tokenization.gpt2").joinpath("merges.txt").read_text(encoding="utf-8")
    # Not splitlines(): some pieces hold characters that it takes for line ends.
    _, *lines = text.removesuffix("\n").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines]
    assert len(pairs) == 50_000 and all(len(pair) == 2 for pair in pairs), "merges.txt is not the file of GPT-2"
    return pairs


@cache
def vocabulary() -> dict[str, int]:
    """Return GPT-2's 50,257 tokens in printable characters with their ids: bytes, merges, end of text."""
    tokens = [*byte_to_character().values(), *(left + right for left, right in merges())]
    return {token: token_id for token_id, token in enumerate(tokens)} | {END_OF_TEXT: END_OF_TEXT_ID}


@cache
def ranks() -> dict[bytes, int]:
    """Return the 50,256 byte strings with their ids, which are also the order in which they merge; tiktoken's form."""
    character_to_byte = {character: byte for byte, character in byte_to_character().items()}
    return {
        bytes(character_to_byte[character] for character in token): token_id
        for token, token_id in vocabulary().items()
        if token_id != END_OF_TEXT_ID
    }
