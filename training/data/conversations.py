"""Conversations as ids and a mask of what is learnt: the one encoder of supervised fine-tuning.

A conversation is the text of the chat template, cut where its roles change. Everything up to `Assistant:` is one
segment, the reply with its leading blank another, and each is encoded alone: no merge and no fact crosses a border, so
the prompt of an evaluation is a prefix of the training example, id for id, and both arms learn the same characters.
The end of text behind each reply is an id, never text.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tokenization import CorpusEncoder, may_hold_facts
from training.data.rows import fields_of

Message = dict[str, str]

ROLES = ("system", "user", "assistant")
# The columns that make a conversation, in the order in which they are looked for.
SHAPES = (("messages",), ("prompt", "completion"), ("question", "answer"))


class MalformedRow(ValueError):
    """A row whose columns are there and whose content is no conversation to learn from."""


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation's ids, and which of them are learnt.

    input_ids: (tokens,) int32. completion_mask: (tokens,) bool, true for replies and the end of text behind each.
    ends: (exchanges, 4) int64, what has passed at the end of each reply: tokens; tokens of plain GPT-2, without any
    injection; bytes of text; bytes of replies with their leading blanks. No end of text counts as bytes.
    """

    input_ids: np.ndarray
    completion_mask: np.ndarray
    ends: np.ndarray

    @property
    def exchanges(self) -> int:
        return len(self.ends)

    @property
    def plain_tokens(self) -> int:
        """The length that decides what is kept, cut and packed: the same in both arms."""
        return int(self.ends[-1, 1])

    def shortened(self, max_length: int) -> "EncodedConversation | None":
        """Return as many whole exchanges from the first on as `max_length` plain tokens hold, None if not even one.

        Nothing is cut inside a turn, so that every reply that is left has its end.
        """
        count = int(np.searchsorted(self.ends[:, 1], max_length, side="right"))
        if count in (0, self.exchanges):
            return self if count else None
        tokens = int(self.ends[count - 1, 0])
        return EncodedConversation(self.input_ids[:tokens], self.completion_mask[:tokens], self.ends[:count])


class ConversationEncoder:
    """Encodes many conversations at once for a tokenizer of ours, or for another one with GPT-2's ids.

    Special names that somebody typed are ordinary text. Raises `ValueError` for a tokenizer without an end of text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token, which ends every reply; load the "
                "one of the checkpoint"
            )
        self._tokenizer = tokenizer
        self._end = np.array([tokenizer.eos_token_id], np.int32)
        # Many times faster than the tokenizer, and the same ids: loading a tokenizer of ours checks it.
        self._fast = tokenizer.corpus_encoder() if hasattr(tokenizer, "corpus_encoder") else None
        self._plain = CorpusEncoder("baseline")

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[EncodedConversation]:
        """Return the encoding of each conversation; they are taken as `check_messages` gives them."""
        segments = [_segments(messages) for messages in conversations]
        texts = [text for conversation in segments for text in conversation]
        encoded = [text.encode("utf-8") for text in texts]
        ids, plain_lengths = self._ids(texts, encoded)
        encodings = []
        first = 0
        for conversation in segments:
            last = first + len(conversation)
            encodings.append(self._join(ids[first:last], plain_lengths[first:last], encoded[first:last]))
            first = last
        return encodings

    def _ids(self, texts: list[str], encoded: list[bytes]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the ids of each text, and how many plain GPT-2 has, (texts,) int64."""
        plain, lengths = self._plain.encode_plain_documents(texts, encoded)
        if self._fast is None:
            batch = self._tokenizer(
                texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
            )
            # The backend remembers the switch; whoever calls it directly would go on splitting.
            self._tokenizer.backend_tokenizer.encode_special_tokens = self._tokenizer.split_special_tokens
            return [np.array(ids, np.int32) for ids in batch["input_ids"]], lengths
        ids = np.split(plain, np.cumsum(lengths)[:-1]) if texts else []
        if self._fast.settings.splits_digits:
            return [self._fast.encode(text) for text in texts], lengths
        changed = np.flatnonzero(may_hold_facts(encoded)).tolist() if self._fast.settings.rewrites else []
        for index in changed:
            ids[index] = self._fast.encode(texts[index])
        return ids, lengths

    def _join(self, ids: list[np.ndarray], plain_lengths: np.ndarray, encoded: list[bytes]) -> EncodedConversation:
        pieces = [part for index, each in enumerate(ids) for part in ((each, self._end) if index % 2 else (each,))]
        lengths = np.array([len(each) for each in ids], np.int64).reshape(-1, 2)  # (exchanges, prompt and reply)
        lengths[:, 1] += 1
        text_bytes = np.array([len(each) for each in encoded], np.int64).reshape(-1, 2)
        per_exchange = (lengths.sum(1), plain_lengths.reshape(-1, 2).sum(1) + 1, text_bytes.sum(1), text_bytes[:, 1])
        return EncodedConversation(
            input_ids=np.concatenate(pieces, dtype=np.int32),
            completion_mask=np.repeat(np.arange(lengths.size) % 2 == 1, lengths.ravel()),
            ends=np.stack(per_exchange, axis=1).cumsum(0),
        )


def encode_conversation(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> EncodedConversation:
    """Encode one conversation; `ConversationEncoder` is the way to encode many.

    Raises `MalformedRow`, a `ValueError`, for one that nothing can be learnt from; see `check_messages`.
    """
    return ConversationEncoder(tokenizer).encode([check_messages(messages, "the conversation")])[0]


def check_messages(messages: Any, where: str, column: str = "messages") -> list[Message]:
    """Return the messages with role and content only.

    At most one system message comes first, then user and assistant take turns, and the assistant has the last word.
    Raises `MalformedRow`, which names the row, the column and the message, for anything else.
    """
    if not isinstance(messages, (list, tuple)):
        raise MalformedRow(f"{where}: {column} holds {_kind(messages)}, not a list of messages with role and content")
    if not messages:
        raise MalformedRow(f"{where}: {column} is empty; drop the row")
    checked = [_check_message(message, f"{where}: {column}[{index}]") for index, message in enumerate(messages)]
    roles = [message["role"] for message in checked]
    if "assistant" not in roles:
        raise MalformedRow(
            f"{where}: {column} has no assistant message, so there is nothing to learn from it; drop the row"
        )
    for index, role in enumerate(roles):
        place = f"{where}: {column}[{index}]"
        expected = "user" if index == 0 or roles[index - 1] != "user" else "assistant"
        if role == "system" and index > 0:
            raise MalformedRow(f"{place} is a system message; there may be one, and it comes first")
        if role == "system" or role == expected:
            continue
        if index == 0 or roles[index - 1] == "system":
            raise MalformedRow(f"{place} is the assistant's, but a user speaks first; add the question")
        raise MalformedRow(f"{place} is the second {role} message in a row; join the two, or drop the row")
    if roles[-1] != "assistant":
        raise MalformedRow(f"{where}: {column} ends with a user message that has no reply; remove that message")
    return checked


@dataclass(frozen=True)
class ConversationColumns:
    """Which columns hold a conversation.

    Either `messages`, a list of {role, content}; or `prompt` and `completion`, both text or both lists of messages; or
    `question` and `answer`, texts. Each is the name of a column or a template such as `{Body} {Question}`; what is
    left out has the name of its key. With none of them, `find` looks for columns of these names.
    """

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self):
        named = [shape for shape in SHAPES if any(getattr(self, key) is not None for key in shape)]
        if len(named) > 1:
            raise ValueError(
                f"columns of {' and of '.join('/'.join(shape) for shape in named)} are named; a conversation comes "
                "from one of these, so remove the others"
            )
        for key in named[0] if named else ():
            object.__setattr__(self, key, getattr(self, key) or key)
            try:
                fields = _template_fields(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key} is {getattr(self, key)!r}, a malformed template: {error}") from error
            if not all(fields):
                raise ValueError(f"{key} is {getattr(self, key)!r}; a template names its fields, as in '{{question}}'")
        if self.messages and "{" in self.messages:
            raise ValueError(f"messages is {self.messages!r}; it is the name of a column that holds a list")

    @property
    def shape(self) -> tuple[str, ...]:
        """The keys that are set, empty while it is open which columns there are."""
        return next((shape for shape in SHAPES if getattr(self, shape[0])), ())

    @property
    def needed(self) -> list[str]:
        """The columns that rows must have."""
        return [field for key in self.shape for field in _template_fields(getattr(self, key))]

    @classmethod
    def find(cls, row: Mapping[str, Any], where: str) -> "ConversationColumns":
        """Return the first of `SHAPES` that a row has; raises `ValueError` that names its columns if it has none."""
        for shape in SHAPES:
            if set(shape) <= set(row):
                return cls(**{key: key for key in shape})
        raise ValueError(
            f"{where} has the columns {', '.join(map(str, row)) or 'none'}, which hold no messages, no prompt and "
            "completion, and no question and answer; name the columns, as in `question: Problem`"
        )

    def read(self, row: Mapping[str, Any], where: str) -> list[Message]:
        """Return the conversation of a row.

        Raises `ValueError` for a column that is not there, and `MalformedRow` for what is in it.
        """
        if missing := [field for field in self.needed if field not in row]:
            raise ValueError(
                f"{where} has no column '{missing[0]}'; it has {', '.join(map(str, row))}; correct "
                f"{' or '.join(self.shape)}"
            )
        if self.messages:
            return check_messages(row[self.messages], where, self.messages)
        first, second = self.shape
        asked, replied = (_value(row, getattr(self, key), where) for key in self.shape)
        if isinstance(asked, list) != isinstance(replied, list):
            raise MalformedRow(
                f"{where}: one of {first} and {second} is text and the other a list of messages; make both of one kind"
            )
        if isinstance(asked, list):
            return check_messages([*asked, *replied], where, f"{first} and {second} together")
        asked = _check_text(asked, f"{where}: column '{getattr(self, first)}'")
        replied = _check_text(replied, f"{where}: column '{getattr(self, second)}'")
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": replied}]


def _segments(messages: Sequence[Message]) -> list[str]:
    """Return prompt and reply of each exchange in turn; the end of text behind each reply is not written."""
    segments, prompt = [], ""
    for message in messages:
        if message["role"] == "system":
            prompt = message["content"] + "\n"
        elif message["role"] == "user":
            prompt += f"User: {message['content']}\nAssistant:"
        else:
            segments += [prompt, " " + message["content"]]
            prompt = ""
    return segments


def _check_message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        had = ", ".join(map(str, message)) if isinstance(message, Mapping) else _kind(message)
        raise MalformedRow(f"{where} needs role and content, but has {had}; rename them or drop the row")
    role = message["role"]
    if role not in ROLES:
        raise MalformedRow(f"{where} has the role {role!r}; the roles are {', '.join(ROLES)}")
    return {"role": role, "content": _check_text(message["content"], f"{where}.content")}


def _check_text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        hint = "" if text is None else ", or write a template such as '{answer}'"
        raise MalformedRow(f"{where} is {_kind(text)}, not text; repair or drop the row{hint}")
    if not text or text.isspace():
        raise MalformedRow(f"{where} is empty; repair or drop the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedRow(
            f"{where} holds half of a surrogate pair at character {error.start}; repair or drop the row"
        ) from error
    return text


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    if "{" not in column:
        return row[column]
    try:
        return fields_of(dict(row), column, where)
    except ValueError as error:
        raise MalformedRow(str(error)) from error


def _template_fields(column: str) -> list[str]:
    """Return the columns that a template needs, or the one column that a name is."""
    if "{" not in column:
        return [column]
    names = [name for _, name, _, _ in string.Formatter().parse(column) if name is not None]
    return [re.split(r"[.\[]", name, maxsplit=1)[0] for name in names]


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
