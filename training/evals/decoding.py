"""How replies are decoded: the settings of a recipe, and when a reply is over."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenization.gpt2_bpe import byte_to_character
from training.evals.answers import ANSWER_MARK

_MARK = re.compile(ANSWER_MARK.pattern.encode())


@dataclass(frozen=True)
class Decoding:
    """Hold the decoding settings, which both arms share and every result records.

    max_new_tokens: most tokens of a reply; the context may leave fewer. stop_strings: texts before which a reply ends.
    one_answer: end a reply before a second `####`. repetition_penalty: as in CTRL (Keskar et al. 2019), over prompt
    and reply; 1 is off. no_repeat_ngram_size: no run of so many tokens stands twice in prompt and reply; 0 is off.
    samples: replies to each question. temperature: 0 takes the likeliest token. top_p, top_k: sample from the
    likeliest tokens only, which together have this probability, or from so many; 1 and 0 are off. suppress_facts:
    never generate a fact token.
    """

    max_new_tokens: int = 256
    stop_strings: list[str] = field(default_factory=lambda: ["\nUser:"])
    one_answer: bool = True
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    suppress_facts: bool = False

    def __post_init__(self):
        stops = self.stop_strings
        if isinstance(stops, str) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ValueError(f"stop_strings ({stops!r}) must be a list of strings that are not empty; [] is off")
        for name, lowest in (("max_new_tokens", 1), ("samples", 1), ("no_repeat_ngram_size", 0), ("top_k", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} ({value!r}) must be a whole number of at least {lowest}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty ({self.repetition_penalty}) must be above 0; 1.0 turns it off")
        if not self.temperature >= 0:
            raise ValueError(f"temperature ({self.temperature}) must not be negative; 0 takes the likeliest token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p ({self.top_p}) must lie in (0, 1]; 1.0 turns it off")
        if self.temperature == 0:
            if self.samples > 1:
                raise ValueError(
                    f"samples ({self.samples}) at temperature 0 would all be the same; set temperature, or samples: 1"
                )
            if self.top_p < 1 or self.top_k > 0:
                raise ValueError(
                    f"top_p ({self.top_p}) and top_k ({self.top_k}) change nothing at temperature 0; "
                    "set temperature, or leave them out"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values; `Decoding(**settings)` reads them back."""
        return asdict(self)


class OpenReply:
    """Follow a reply token by token until something ends it.

    Text is kept as bytes, because a token may hold a part of a character, or of a stop string, or several of them.
    `finish` is None until the end, then one of end_of_text, stop_string, second_answer and length.
    """

    def __init__(self, decoding: Decoding, limit: int, end_of_text_id: int):
        self.ids: list[int] = []
        self.finish: str | None = None
        self._written = b""
        self._limit, self._end_of_text_id = limit, end_of_text_id
        self._stops = [stop.encode() for stop in decoding.stop_strings]
        self._one_answer = decoding.one_answer

    @property
    def room(self) -> int:
        """How many more tokens it may have."""
        return self._limit - len(self.ids)

    @property
    def text(self) -> str:
        """The reply, without what ended it."""
        return self._written.decode("utf-8", "replace")

    def add(self, token_id: int, token: bytes) -> None:
        """Take in the next token, unless the reply is over."""
        if self.finish is not None:
            return
        if token_id == self._end_of_text_id:
            self.finish = "end_of_text"
            return
        self.ids.append(token_id)
        self._written += token
        if ends := self._ends(len(token)):
            position, self.finish = min(ends)
            self._written = self._written[:position]
        elif self.room == 0:
            self.finish = "length"

    def _ends(self, new_bytes: int) -> list[tuple[int, str]]:
        """Return where a stop begins that the newest bytes complete, and which kind it is."""
        text, before = self._written, len(self._written) - new_bytes
        # What came before held no stop, so one that is there now reaches into the newest bytes.
        found = [(text.find(stop, max(0, before + 1 - len(stop))), "stop_string") for stop in self._stops]
        if self._one_answer and b"#" in text[before:]:
            found += [(mark.start(), "second_answer") for mark in list(_MARK.finditer(text))[1:2]]
        return [end for end in found if end[0] >= 0]


class TokenBytes:
    """Look up the bytes of tokens by their ids, in a tokenizer with GPT-2's byte alphabet."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._bytes = {character: byte for byte, character in byte_to_character().items()}
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token_id: int) -> bytes:
        if token_id not in self._known:
            token = self._tokenizer.convert_ids_to_tokens(token_id)
            # Added tokens are written as they are, and may hold characters outside of the alphabet.
            in_alphabet = all(character in self._bytes for character in token)
            self._known[token_id] = bytes(map(self._bytes.get, token)) if in_alphabet else token.encode()
        return self._known[token_id]
