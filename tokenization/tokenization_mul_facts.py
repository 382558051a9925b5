"""The tokenizer of both arms: GPT-2's byte-pair encoding, with or without one token per multiplication fact."""

import hashlib
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from tokenization import gpt2_bpe
from tokenization.corpus_encoder import CorpusEncoder
from tokenization.injection import OPERATORS, RULE_VERSION, resolve_condition, rewriting_steps
from tokenization.mul_facts import (
    END_OF_TEXT,
    FACT_IDS,
    FACTS,
    PAD_ID,
    PAD_TOKEN,
    RESERVED_IDS,
    VOCABULARY_SIZE,
    reserved_name,
)

# The blank after `Assistant:` and the end of text belong to the answer. A prompt is then a prefix of prompt and
# answer, token for token, and a mask over the answer begins and ends at tokens whose offsets are exact, which those of
# facts are not.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' and loop.first %}{{- message['content'] + '\\n' }}"
    "{%- elif message['role'] == 'user' %}{{- 'User: ' + message['content'] + '\\n' }}"
    "{%- elif message['role'] == 'assistant' %}{{- 'Assistant:' }}"
    "{% generation %}{{- ' ' + message['content'] + '<|endoftext|>' }}{% endgeneration %}"
    "{%- else %}{{- raise_exception("
    "'A conversation holds user and assistant messages, and at most one system message, at its start; message '"
    " ~ loop.index ~ ' has the role ' ~ message['role']) }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"
)

# The classes under which AutoTokenizer reads tokenizer.json as it stands. The first is known to Transformers 4 and 5;
# the second is what Transformers 5 writes by itself. GPT2Tokenizer, or no class, makes it rebuild GPT-2 without our
# normalizer.
_FAITHFUL_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# What loading leaves in the configuration: how the folder was read says nothing about the tokenizer.
_LOADING_KEYS = ("backend", "is_local", "local_files_only")

# Plain text, each operator, right and wrong results, and the guards on both sides.
_PROBES = (
    "Hello world<|endoftext|>", "6*9", "9 × 6", "2 x 3", "6*9=54", "6×9 = 54", "8x8=64", "6*9=55", "6*9=54.5", "2*3*4",
    "6*6=4*9", "16*9", "6*9.5", "6*95", "8/2*3", "2*3^2", "6*\n9", "<MUL_6_9_54>", "<MUL_9_6_54>",
)  # fmt: skip


class MulFactTokenizer(PreTrainedTokenizerFast):
    """Tokenize text for one condition of the experiment.

    `baseline` is GPT-2's encoding; even a typed `<MUL_6_9_54>` is ordinary text to it. `mul_tokens` first injects
    facts, by a normalizer inside `tokenizer.json`, so that every client of the saved folder does. Both have the same
    50,349 names and ids.

    `<|endoftext|>` and the pad token `<|reserved_50257|>` are special tokens: typed in a text they become their ids,
    except in `encode_document`, under `split_special_tokens=True`, and in `corpus_encoder()`. The other reserved names
    and, in the baseline, the names of facts have ids that no text reaches. `decode` writes facts by name, also with
    `skip_special_tokens=True`; `render` writes them in digits.

    A fact's offsets point at the last character of its expression only, so do not split texts at them.
    """

    # No __init__: with one, from_pretrained rebuilds the backend from vocabulary and merges and loses all else.

    @classmethod
    def build(
        cls, condition: str = "mul_tokens", injection_mode: str | None = "weak", operators: str = OPERATORS
    ) -> "MulFactTokenizer":
        """Build the tokenizer of a condition from the packaged merges, without any download.

        `injection_mode` is `weak` or `strict` and `operators` a non-empty subset of `*×x`, see `tokenization.inject`;
        the baseline ignores both. Raises ValueError for a setting that does not exist.
        """
        condition, injection_mode, operators = resolve_condition(condition, injection_mode, operators)
        return cls(
            tokenizer_object=_build_backend(condition, injection_mode, operators),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            pad_token=PAD_TOKEN,
            model_max_length=1024,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
            chat_template=CHAT_TEMPLATE,
            condition=condition,
            injection_mode=injection_mode,
            operators=operators,
            injection_rule=RULE_VERSION,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *init_inputs, **kwargs) -> "MulFactTokenizer":
        """Load a saved tokenizer, from a folder or the Hub, and make sure that it still encodes as its condition says.

        Raises ValueError if the folder does not hold a tokenizer of this class, was written under another version of
        the rule, or has lost its injection, its ids or its vocabulary on the way through another program.
        """
        config = get_tokenizer_config(pretrained_model_name_or_path, **kwargs)
        if "condition" not in config or "injection_rule" not in config:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds no tokenizer of this project: its tokenizer_config.json "
                f"{'names no condition and injection_rule' if config else 'is missing'}; "
                "make one with MulFactTokenizer.build(condition).save_pretrained(folder)"
            )
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *init_inputs, **kwargs)
        if damage := _find_damage(tokenizer, config):
            settings = ", ".join(repr(config.get(key)) for key in ("condition", "injection_mode", "operators"))
            raise ValueError(
                f"the tokenizer in {pretrained_model_name_or_path} {damage}; "
                f"write it anew with MulFactTokenizer.build({settings}).save_pretrained(folder)"
            )
        return tokenizer

    @property
    def condition(self) -> str:
        """Return `baseline` or `mul_tokens`."""
        return self.init_kwargs["condition"]

    @property
    def injection_mode(self) -> str | None:
        """Return `weak` or `strict`, or None for the baseline."""
        return self.init_kwargs["injection_mode"]

    @property
    def operators(self) -> str | None:
        """Return the operators that are rewritten, or None for the baseline."""
        return self.init_kwargs["operators"]

    @property
    def fact_ids(self) -> range:
        """Return the ids of facts that texts become and replies may hold; empty for the baseline."""
        return range(0) if self.condition == "baseline" else FACT_IDS

    @property
    def unseen_ids(self) -> list[int]:
        """Return the ids that no text becomes, so that no training has seen them and none is to be generated."""
        return [*RESERVED_IDS, *(FACT_IDS if not self.fact_ids else ())]

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of everything in `tokenizer.json` that decides how text becomes ids and back.

        Saving, loading, padding and truncating leave it as it is; any two conditions, modes or operator sets differ in
        it.
        """
        content = json.loads(self.backend_tokenizer.to_str())
        for state in ("version", "truncation", "padding"):
            content.pop(state)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def corpus_encoder(self) -> CorpusEncoder:
        """Return the fast encoder that gives the ids of `encode_document`."""
        return CorpusEncoder(self.condition, self.injection_mode, self.operators)

    def encode_document(self, text: str) -> list[int]:
        """Return the ids of a document in which `<|endoftext|>` and every other special name is text."""
        ids = self.encode(text, add_special_tokens=False, split_special_tokens=True)
        # The backend remembers the switch; whoever calls it directly would go on splitting.
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
        return ids

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        # Here and not after save_pretrained, because push_to_hub uploads before that returns.
        config_file = next(Path(name) for name in file_names if name.endswith("tokenizer_config.json"))
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config["tokenizer_class"] = _FAITHFUL_CLASSES[0]
        config = {key: value for key, value in config.items() if key not in _LOADING_KEYS}
        config_file.write_text(
            json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        # The last call's padding and truncation would become the defaults of clients that read tokenizer.json
        # directly.
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        return super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)


def _build_backend(condition: str, injection_mode: str | None, operators: str | None) -> Tokenizer:
    # In both conditions the reserved names and the facts are entries of the model's own vocabulary. No merge leads to
    # them, so only a registered token can produce their ids, and only mul_tokens registers the facts.
    names = {reserved_name(token_id): token_id for token_id in RESERVED_IDS} | {fact.name: fact.id for fact in FACTS}
    backend = Tokenizer(models.BPE(vocab=gpt2_bpe.vocabulary() | names, merges=gpt2_bpe.merges()))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    # Untrimmed, a token's offsets include its blank, which is where the mask over an answer begins.
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (END_OF_TEXT, PAD_TOKEN)]
    )
    if condition == "mul_tokens":
        backend.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(found if isinstance(found, str) else Regex(found.pattern), replacement)
                for found, replacement in rewriting_steps(injection_mode, operators)
            ]
        )
        # Matched in the normalized text, where injection puts them. Not special: skip_special_tokens would drop them.
        backend.add_tokens([AddedToken(fact.name, special=False, normalized=True) for fact in FACTS])
    return backend


def _find_damage(tokenizer: MulFactTokenizer, config: dict) -> str | None:
    """Return what a loaded tokenizer has lost, or None if it still is what its configuration says."""
    if config["injection_rule"] != RULE_VERSION:
        return f"follows version {config['injection_rule']} of the injection rule, and this is version {RULE_VERSION}"
    if config.get("tokenizer_class") not in _FAITHFUL_CLASSES:
        return (
            f"is declared a {config.get('tokenizer_class')} instead of a {_FAITHFUL_CLASSES[0]}: AutoTokenizer would "
            "drop its normalizer and inject nothing"
        )
    if len(tokenizer) != VOCABULARY_SIZE or tokenizer.pad_token_id != PAD_ID:
        return (
            f"has {len(tokenizer)} tokens and pads with id {tokenizer.pad_token_id} instead of {VOCABULARY_SIZE} and "
            f"{PAD_ID}: tokens were added or dropped"
        )
    if tokenizer.condition == "mul_tokens" and tokenizer.backend_tokenizer.normalizer is None:
        return "has lost its normalizer: it no longer injects facts"
    encoder = tokenizer.corpus_encoder()
    for probe in _PROBES:
        ids, expected = tokenizer.encode_document(probe), encoder.encode(probe).tolist()
        if ids != expected:
            return f"encodes {probe!r} as {ids}, where its condition says {expected}"
    return None
