"""What is evaluated: the model and tokenizer of a checkpoint, ours or a stock GPT-2's, and one way to encode text."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.hub import resolve_revision

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from tokenization.mul_facts import END_OF_TEXT, END_OF_TEXT_ID, VOCABULARY_SIZE
from tokenization.tokenization_mul_facts import CHAT_TEMPLATE
from training.core.checkpoint import list_checkpoints
from training.core.provenance import sha256_of_weights
from training.core.recipe import is_about_input


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode and its tokenizer.

    name: what the user called it. bf16: whether the model computes under bf16 autocast; its weights stay fp32. commit:
    that of the Hub which the weights and the tokenizer come from.
    """

    model: DomainGPT2ForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str = ""
    bf16: bool = False
    commit: str | None = None

    @property
    def condition(self) -> str | None:
        """The arm, which the tokenizer carries; None for a stock GPT-2."""
        return getattr(self.tokenizer, "condition", None)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """The most tokens of one sequence."""
        return self.model.config.n_positions

    @property
    def end_of_text_id(self) -> int:
        return END_OF_TEXT_ID

    @property
    def fact_ids(self) -> tuple[int, ...]:
        """The ids of facts that this tokenizer gives and reads; empty in the baseline and in a stock GPT-2."""
        return getattr(self.tokenizer, "fact_ids", ())

    @property
    def named_facts(self) -> frozenset[str]:
        """The names of facts that are tokens of this tokenizer."""
        return getattr(self.tokenizer, "named_facts", frozenset())

    @property
    def unseen_ids(self) -> list[int]:
        """Ids without a training text that could have held them, never to be generated; none in a stock GPT-2."""
        return getattr(self.tokenizer, "unseen_ids", [])

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def encode(self, text: str, inject: bool = True) -> list[int]:
        """Return the ids of a text in which special names are ordinary text; `inject` False leaves facts in digits."""
        tokenizer = self.tokenizer if inject or not self.fact_ids else _plain_tokenizer()
        # verbose: long documents are cut into rows by whoever asks.
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        tokenizer.backend_tokenizer.encode_special_tokens = tokenizer.split_special_tokens
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, facts by their names."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def prompt(self, question: str) -> str:
        """Return the text before an answer: the question as a user's turn, and the opening of the assistant's."""
        messages = [{"role": "user", "content": question}]
        return self.tokenizer.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
        )

    def describe(self) -> dict[str, Any]:
        """Return what identifies the subject in the results."""
        return {
            "model": self.name,
            "condition": self.condition,
            "parameters": self.model.num_parameters(),
            "weights_sha256": sha256_of_weights(self.model),
            "tokenizer": getattr(self.tokenizer, "fingerprint", None),
            "commit": self.commit,
            "bf16": self.bf16,
        }


def load_subject(
    name: str, revision: str | None = None, bf16: bool = False, device: torch.device | str = "cpu"
) -> Subject:
    """Load a checkpoint from a folder or from the Hub, as fp32 weights.

    Raises `ValueError` where there is no model, no tokenizer, or a tokenizer that does not belong to the model.
    """
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        hint = (
            f"name a checkpoint of it, such as {folder / 'checkpoint-N'}"
            if list_checkpoints(folder)
            else "name another"
        )
        raise ValueError(f"'{name}' holds no model (there is no config.json in it); {hint}")
    if folder.is_dir() and revision is not None:
        raise ValueError(f"the revision is {revision!r}, but '{name}' is a folder, which has none; leave it out")
    where = f"'{name}'{f' at revision {revision}' if revision else ''}"
    # Once for all that is loaded: a branch that moves in between would give a model and another one's tokenizer.
    revision = resolve_revision(name, revision)
    try:
        config = DomainGPT2Config.get_config_dict(name, revision=revision)[0]
        if config.get("model_type") != "gpt2":
            raise ValueError(f"{where} is a model of type {config.get('model_type')!r}; name a GPT-2 checkpoint")
        model = DomainGPT2ForCausalLM.from_pretrained(name, revision=revision, dtype=torch.float32)
        tokenizer = _load_tokenizer(name, revision, where, model.config.vocab_size)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, ValueError) and is_about_input(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{where} cannot be loaded: {reason}; correct its name{' or revision' if revision else ''}, or copy the "
            "missing files"
        ) from error
    commit = getattr(revision, "resolved", None)
    return Subject(model.eval().to(device), tokenizer, name=name, bf16=bf16, commit=commit)


def _load_tokenizer(name: str, revision: str | None, where: str, vocabulary: int) -> PreTrainedTokenizerBase:
    """Load the tokenizer and make sure that it is the model's: of this project's condition, or GPT-2's own."""
    config = get_tokenizer_config(name, revision=revision)
    files = ("tokenizer.json", "vocab.json")
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in files):
        raise ValueError(
            f"{where} holds a model but no tokenizer; copy the one that it was trained with into that folder "
            "(tokenizer.json and tokenizer_config.json), for the condition is the tokenizer"
        )
    ours = "injection_rule" in config
    if vocabulary == VOCABULARY_SIZE and not ours:
        raise ValueError(
            f"{where} has the {VOCABULARY_SIZE:,} tokens of this project, but its tokenizer_config.json names no "
            "condition, and nothing would be injected; copy tokenizer.json and tokenizer_config.json of its training"
        )
    tokenizer = (MulFactTokenizer if ours else AutoTokenizer).from_pretrained(name, revision=revision)
    if len(tokenizer) != vocabulary:
        raise ValueError(
            f"{where} has a model of {vocabulary:,} tokens and a tokenizer of {len(tokenizer):,}; they do not belong "
            "together"
        )
    if tokenizer.convert_tokens_to_ids(END_OF_TEXT) != END_OF_TEXT_ID:
        raise ValueError(
            f"{where} has a tokenizer whose {END_OF_TEXT} is {tokenizer.convert_tokens_to_ids(END_OF_TEXT)}, and not "
            f"GPT-2's {END_OF_TEXT_ID}; name a model with GPT-2's vocabulary"
        )
    return tokenizer


_PLAIN: list[MulFactTokenizer] = []


def _plain_tokenizer() -> MulFactTokenizer:
    """Return the baseline's tokenizer, which gives the same ids as the other arm's wherever no fact stands."""
    if not _PLAIN:
        _PLAIN.append(MulFactTokenizer.build("baseline"))
    return _PLAIN[0]
