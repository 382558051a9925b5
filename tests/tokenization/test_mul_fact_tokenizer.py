import copy
import pickle
import re
import socket
import subprocess
import sys
from itertools import product

import pytest
import tiktoken
from tiktoken_ext import openai_public

from tokenization import CorpusEncoder, MulFactTokenizer, gpt2_bpe, inject
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_IDS, FACTS, PAD_ID, PAD_TOKEN, RESERVED_IDS, VOCABULARY_SIZE

CONDITIONS = [("baseline", None, None), ("mul_tokens", "weak", "*×x")]
SETTINGS = [*CONDITIONS, ("mul_tokens", "strict", "*×")]
F = "<MUL_6_9_54>"


@pytest.mark.parametrize("settings", CONDITIONS)
def test_every_condition_has_50349_tokens(build, settings):
    tokenizer = build(*settings)
    assert len(tokenizer) == tokenizer.vocab_size == VOCABULARY_SIZE
    assert sorted(tokenizer.get_vocab().values()) == list(range(VOCABULARY_SIZE))


@pytest.mark.parametrize("settings", CONDITIONS)
def test_names_and_ids_are_the_same_in_every_condition(build, settings):
    vocabulary = build(*settings).get_vocab()
    assert vocabulary == build("baseline").get_vocab()
    assert [vocabulary[fact.name] for fact in FACTS] == list(FACT_IDS)
    assert [vocabulary[f"<|reserved_{token_id}|>"] for token_id in RESERVED_IDS] == list(RESERVED_IDS)


def test_facts_are_unseen_where_no_text_becomes_them_and_reserved_names_always(build):
    assert list(build("baseline").fact_ids) == []
    assert build("baseline").unseen_ids == [*RESERVED_IDS, *FACT_IDS]
    assert build("mul_tokens").fact_ids == tuple(FACT_IDS)
    assert build("mul_tokens").unseen_ids == [*RESERVED_IDS]


@pytest.mark.parametrize("settings", CONDITIONS)
def test_special_tokens(build, settings):
    tokenizer = build(*settings)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == END_OF_TEXT_ID
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD_TOKEN, PAD_ID)
    assert set(tokenizer.all_special_ids) == {END_OF_TEXT_ID, PAD_ID}
    assert tokenizer.model_max_length == 1024


def test_plain_text_has_the_ids_of_tiktoken_s_gpt2(build, unicode_texts):
    gpt2 = tiktoken.Encoding(
        name="independent", pat_str=openai_public.r50k_pat_str, mergeable_ranks=gpt2_bpe.ranks(), special_tokens={}
    )
    expected = [gpt2.encode_ordinary(text) for text in unicode_texts]
    assert build("baseline")(unicode_texts, split_special_tokens=True).input_ids == expected
    assert build()(unicode_texts, split_special_tokens=True).input_ids == expected
    assert [CorpusEncoder("baseline").encode(text).tolist() for text in unicode_texts] == expected


def test_an_expression_is_one_id(build):
    assert build()("6 * 9 = 54").input_ids == [50342]
    assert build()("is 9 x 6 = 54?").input_ids == [271, 220, 50342, 30]


def test_a_literal_name_is_its_id(build):
    assert build()(F).input_ids == [50342]


@pytest.mark.parametrize("text", ["<MUL_9_6_54>", "<MUL_6_9_55>", "<MUL_6_9_54"])
def test_a_wrong_name_is_text(build, text):
    assert max(build()(text).input_ids) < END_OF_TEXT_ID


@pytest.mark.parametrize("text", [F, "6*9", "6*9=54", "".join(fact.name for fact in FACTS)])
def test_the_baseline_never_sees_a_fact(build, text):
    ids = build("baseline")(text).input_ids
    assert max(ids) < END_OF_TEXT_ID
    assert ids == CorpusEncoder("baseline").encode_plain(text).tolist()


@pytest.mark.parametrize("settings", CONDITIONS)
def test_reserved_names_in_a_text_are_text(build, settings):
    text = "".join(f"<|reserved_{token_id}|>" for token_id in RESERVED_IDS if token_id != PAD_ID)
    assert max(build(*settings)(text).input_ids) < END_OF_TEXT_ID


@pytest.mark.parametrize("settings", CONDITIONS)
@pytest.mark.parametrize(("token", "token_id"), [("<|endoftext|>", END_OF_TEXT_ID), (PAD_TOKEN, PAD_ID)])
def test_a_special_token_is_text_in_a_document_and_special_elsewhere(build, settings, token, token_id):
    tokenizer = build(*settings)
    assert tokenizer(token).input_ids == [token_id]
    assert max(tokenizer.encode_document(token)) < END_OF_TEXT_ID
    assert tokenizer(token, split_special_tokens=True).input_ids == tokenizer.encode_document(token)


def test_encoding_a_document_leaves_no_trace(build):
    tokenizer = build()
    tokenizer.encode_document("<|endoftext|>")
    assert tokenizer.backend_tokenizer.encode("<|endoftext|>").ids == [END_OF_TEXT_ID]


@pytest.mark.parametrize("settings", CONDITIONS)
def test_batches_are_padded_with_the_pad_token_and_hold_what_a_model_takes(build, settings):
    batch = build(*settings)(["a b c", "a"], padding=True)
    assert batch == {"input_ids": [[64, 275, 269], [64, PAD_ID, PAD_ID]], "attention_mask": [[1, 1, 1], [1, 0, 0]]}


@pytest.mark.parametrize("skip_special_tokens", [False, True])
@pytest.mark.parametrize("settings", CONDITIONS)
def test_decoding_writes_facts_by_name(build, settings, skip_special_tokens):
    ids = [271, 220, 50342, 50304, 30]
    assert build(*settings).decode(ids, skip_special_tokens) == "is <MUL_6_9_54><MUL_1_1_1>?"


def test_skipping_special_tokens_drops_end_of_text_and_padding_only(build):
    assert build().decode([271, END_OF_TEXT_ID, 50342, PAD_ID], skip_special_tokens=True) == f"is{F}"


@pytest.mark.parametrize("settings", CONDITIONS)
def test_decoding_gives_the_injected_text_and_encodes_to_the_same_ids(build, fuzzed_texts, settings):
    tokenizer = build(*settings)
    texts = fuzzed_texts[:3_000]
    ids = tokenizer(texts, split_special_tokens=True).input_ids
    decoded = tokenizer.batch_decode(ids)
    condition, mode, operators = settings
    assert decoded == (texts if condition == "baseline" else [inject(text, mode, operators) for text in texts])
    assert tokenizer(decoded, split_special_tokens=True).input_ids == ids


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_tokenizer_knows_its_settings_also_after_loading(build, loaded_by_us, settings):
    for tokenizer in (build(*settings), loaded_by_us(*settings)):
        assert (tokenizer.condition, tokenizer.injection_mode, tokenizer.operators) == settings


def test_the_baseline_ignores_the_settings_of_injection(fingerprint):
    tokenizer = MulFactTokenizer.build("baseline", "strict", "*")
    assert (tokenizer.injection_mode, tokenizer.operators) == (None, None)
    assert tokenizer.fingerprint == fingerprint("baseline")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("control",),
            "condition must be one of baseline, mul_tokens, opaque_token, ",
        ),
        (("mul_tokens", "loose"), "mode must be one of weak, strict, not 'loose'"),
        (("mul_tokens", "weak", "*+"), "operators must be a non-empty subset of '*×x', each once, not '*+'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MulFactTokenizer.build(*settings)


def test_fingerprints_differ_between_all_settings(fingerprint):
    settings = [("baseline", None, None), *product(["mul_tokens"], ["weak", "strict"], ["*", "*×", "*×x"])]
    assert len({fingerprint(*setting) for setting in settings}) == len(settings)


def test_the_order_of_the_operators_does_not_matter(fingerprint):
    assert MulFactTokenizer.build("mul_tokens", "weak", "x*×").fingerprint == fingerprint()


@pytest.mark.parametrize("settings", SETTINGS)
def test_loading_keeps_the_fingerprint(fingerprint, loaded_by_us, settings):
    assert loaded_by_us(*settings).fingerprint == fingerprint(*settings)


def test_padding_and_truncation_do_not_change_the_fingerprint():
    tokenizer = MulFactTokenizer.build()
    before = tokenizer.fingerprint
    tokenizer("a b c d", padding="max_length", truncation=True, max_length=3)
    assert tokenizer.fingerprint == before


def test_another_process_computes_the_same_fingerprint(fingerprint, tmp_path):
    program = "from tokenization import MulFactTokenizer; print(MulFactTokenizer.build().fingerprint)"
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, cwd=tmp_path, env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True).stdout
    assert output.decode().strip() == fingerprint()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_a_copy_is_the_same_tokenizer(build, fingerprint, duplicate):
    twin = duplicate(build())
    assert twin.fingerprint == fingerprint() and twin("6*9").input_ids == [50342]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_corpus_encoder_has_the_tokenizer_s_settings(build, settings):
    encoder = build(*settings).corpus_encoder()
    assert (encoder.settings.name, encoder.settings.injection_mode, encoder.settings.operators) == settings


def test_building_and_encoding_open_no_connection(monkeypatch):
    def refuse(*args):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for cached in (gpt2_bpe.merges, gpt2_bpe.vocabulary, gpt2_bpe.ranks):
        cached.cache_clear()
    assert MulFactTokenizer.build().corpus_encoder().encode("6*9").tolist() == [50342]
