"""The tokenizer of every arm: GPT-2's byte-pair encoding, with or without tokens for multiplication facts."""

import hashlib
import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from tokenization import gpt2_bpe
from tokenization.conditions import OPAQUE_NAME, Condition, resolve_condition
from tokenization.corpus_encoder import CorpusEncoder
from tokenization.injection import OPERATORS, RULE_VERSION, rewriting_steps
from tokenization.mul_facts import (
    END_OF_TEXT,
    FACT_IDS,
    FACTS,
    FIRST_FACT_ID,
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
    "<MUL>", "in  2024: 1,234.5", *(f"{fact.b}*{fact.a}" for fact in FACTS),
)  # fmt: skip
# What stands in the folder of an arm whose tokens no tokenizer.json can draw.
_WARNING = (
    "Plain clients cannot reproduce this condition: the fact of each place is drawn from a hash of the text, which "
    "tokenizer.json cannot do, and gives the true fact instead. Load with tokenization.MulFactTokenizer."
)


class MulFactTokenizer(PreTrainedTokenizerFast):
    """Tokenize text for one condition of the experiment.

    `baseline` is GPT-2's encoding; even a typed `<MUL_6_9_54>` is ordinary text to it. `mul_tokens` first injects
    facts, by a normalizer inside `tokenizer.json`, so that every client of the saved folder does. The others are
    controls, see `tokenization.conditions`; all have 50,349 ids. Only `random_fact` needs this class to encode: its
    saved folder says so.

    `<|endoftext|>` and the pad token `<|reserved_50257|>` are special tokens: typed in a text they become their ids,
    except in `encode_document`, under `split_special_tokens=True`, and in `corpus_encoder()`. The other reserved names
    and, in the baseline, the names of facts have ids that no text reaches. `decode` writes facts by name, also with
    `skip_special_tokens=True`; `render` writes them in digits.

    A fact's offsets point at the last character of its expression only, so do not split texts at them.
    """

    # No __init__: with one, from_pretrained rebuilds the backend from vocabulary and merges and loses all else.

    @classmethod
    def build(
        cls,
        condition: str = "mul_tokens",
        injection_mode: str | None = "weak",
        operators: str | None = OPERATORS,
        condition_seed: int | None = 0,
    ) -> "MulFactTokenizer":
        """Build the tokenizer of a condition from the packaged merges, without any download.

        `injection_mode` is `weak` or `strict` and `operators` a non-empty subset of `*×x`, see `tokenization.inject`;
        `condition_seed` is for the conditions that draw. Those that need no such setting ignore it. Raises ValueError
        for a setting that does not exist.
        """
        settings = resolve_condition(condition, injection_mode, operators, condition_seed)
        # Arms that draw nothing have the configuration that they had before others came.
        drawn = {} if settings.seed is None else {"condition_seed": settings.seed}
        warning = {"plain_clients": _WARNING} if settings.name == "random_fact" else {}
        return cls(
            tokenizer_object=_build_backend(settings),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            pad_token=PAD_TOKEN,
            model_max_length=1024,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
            chat_template=CHAT_TEMPLATE,
            condition=settings.name,
            injection_mode=settings.injection_mode,
            operators=settings.operators,
            injection_rule=RULE_VERSION,
            **drawn,
            **warning,
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
            keys = ("condition", "injection_mode", "operators", *(["condition_seed"] * ("condition_seed" in config)))
            settings = ", ".join(repr(config.get(key)) for key in keys)
            raise ValueError(
                f"the tokenizer in {pretrained_model_name_or_path} {damage}; "
                f"write it anew with MulFactTokenizer.build({settings}).save_pretrained(folder)"
            )
        return tokenizer

    @property
    def condition(self) -> str:
        """Return the name of the condition, see `tokenization.conditions.CONDITIONS`."""
        return self.init_kwargs["condition"]

    @property
    def injection_mode(self) -> str | None:
        """Return `weak` or `strict`, or None where nothing is rewritten."""
        return self.init_kwargs["injection_mode"]

    @property
    def operators(self) -> str | None:
        """Return the operators that are rewritten, or None where nothing is."""
        return self.init_kwargs["operators"]

    @property
    def condition_seed(self) -> int | None:
        """Return the seed of a condition that draws, or None."""
        return self.init_kwargs.get("condition_seed")

    @property
    def settings(self) -> Condition:
        """Return the condition with all that defines it."""
        return resolve_condition(self.condition, self.injection_mode, self.operators, self.condition_seed)

    @property
    def fact_ids(self) -> tuple[int, ...]:
        """Return the ids of facts that texts become and replies may hold; empty where nothing is rewritten."""
        return tuple(self.settings.ids.values())

    @property
    def named_facts(self) -> frozenset[str]:
        """Return the names of facts that are tokens; none where nothing is rewritten, or all facts are one token."""
        return self.settings.named_facts

    @property
    def unseen_ids(self) -> list[int]:
        """Return the ids that no text becomes, so that no training has seen them and none is to be generated."""
        seen = set(self.fact_ids)
        return [*RESERVED_IDS, *(fact_id for fact_id in FACT_IDS if fact_id not in seen)]

    @property
    def fingerprint(self) -> str:
        """Return the sha256 of everything in `tokenizer.json` that decides how text becomes ids and back.

        Saving, loading, padding and truncating leave it as it is; any two conditions, modes or operator sets differ in
        it.
        """
        content = json.loads(self.backend_tokenizer.to_str())
        for state in ("version", "truncation", "padding"):
            content.pop(state)
        if self.condition == "random_fact":
            content["drawn_by"] = self.condition_seed
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def corpus_encoder(self) -> CorpusEncoder:
        """Return the fast encoder that gives the ids of `encode_document`."""
        return CorpusEncoder(self.condition, self.injection_mode, self.operators, condition_seed=self.condition_seed)

    def encode_document(self, text: str) -> list[int]:
        """Return the ids of a document in which `<|endoftext|>` and every other special name is text."""
        ids = self.encode(text, add_special_tokens=False, split_special_tokens=True)
        # The backend remembers the switch; whoever calls it directly would go on splitting.
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
        return ids

    def _encode_plus(self, text, text_pair=None, **kwargs):
        if self.condition == "random_fact":
            if kwargs.get("return_offsets_mapping"):
                raise ValueError(
                    "the offsets of 'random_fact' would be those of a text in which facts stand by their names; ask "
                    "another condition's tokenizer for them"
                )
            text, text_pair = _each_text(text, self.settings.inject), _each_text(text_pair, self.settings.inject)
        return super()._encode_plus(text, text_pair, **kwargs)

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


def _each_text(text, change):
    """Return a text, or a nested list of texts, with each text changed."""
    if isinstance(text, (list, tuple)):
        return type(text)(_each_text(each, change) for each in text)
    return text if text is None else change(text)


def _build_backend(condition: Condition) -> Tokenizer:
    # In all conditions the reserved names and the facts are entries of the model's own vocabulary. No merge leads to
    # them, so only a registered token can produce their ids, and only those of the condition are registered.
    names = {reserved_name(token_id): token_id for token_id in RESERVED_IDS} | {fact.name: fact.id for fact in FACTS}
    if OPAQUE_NAME in condition.ids:
        del names[FACTS[0].name]
        names[OPAQUE_NAME] = FIRST_FACT_ID
    backend = Tokenizer(models.BPE(vocab=gpt2_bpe.vocabulary() | names, merges=gpt2_bpe.merges()))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not condition.splits_digits)
    if condition.splits_digits:
        split = pre_tokenizers.Split(Regex(gpt2_bpe.DIGIT_PATTERN_BY_LINES), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    backend.decoder = decoders.ByteLevel()
    # Untrimmed, a token's offsets include its blank, which is where the mask over an answer begins.
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (END_OF_TEXT, PAD_TOKEN)]
    )
    if condition.rewrites:
        steps = rewriting_steps(condition.injection_mode, condition.operators, condition.names)
        backend.normalizer = normalizers.Sequence(
            [
                normalizers.Replace(found if isinstance(found, str) else Regex(found.pattern), replacement)
                for found, replacement in steps
            ]
        )
        # Matched in the normalized text, where injection puts them. Not special: skip_special_tokens would drop them.
        backend.add_tokens([AddedToken(name, special=False, normalized=True) for name in condition.ids])
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
    if tokenizer.settings.rewrites and tokenizer.backend_tokenizer.normalizer is None:
        return "has lost its normalizer: it no longer injects facts"
    encoder = tokenizer.corpus_encoder()
    for probe in _PROBES:
        ids, expected = tokenizer.encode_document(probe), encoder.encode(probe).tolist()
        if ids != expected:
            return f"encodes {probe!r} as {ids}, where its condition says {expected}"
    return None
