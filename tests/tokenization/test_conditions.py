import json
import re
from collections import Counter

import pytest
from transformers import AutoTokenizer

from tokenization import CorpusEncoder, MulFactTokenizer, gpt2_bpe, inject
from tokenization.conditions import CONDITIONS, Condition, resolve_condition
from tokenization.mul_facts import FACT_BY_NAME, FACT_IDS, FACTS, FIRST_FACT_ID, NAME_PATTERN, VOCABULARY_SIZE

CONTROLS = {
    "opaque": ("opaque_token",),
    "random": ("random_fact",),
    "another_random": ("random_fact", "weak", "*×x", 1),
    "half": ("half_facts",),
    "another_half": ("half_facts", "strict", "*×", 1),
    "digits": ("digit_numbers",),
}


@pytest.fixture(scope="module", params=CONTROLS)
def settings(request):
    return CONTROLS[request.param]


@pytest.fixture(scope="module")
def reloaded(build, tmp_path_factory):
    """Give a control's tokenizer as it comes back from its folder."""

    def load(*settings):
        folder = tmp_path_factory.mktemp("control")
        build(*settings).save_pretrained(folder)
        return MulFactTokenizer.from_pretrained(folder)

    return load


def test_every_control_has_all_ids_once(build, settings):
    vocabulary = build(*settings).get_vocab()
    assert sorted(vocabulary.values()) == list(range(VOCABULARY_SIZE))
    below = {name: token_id for name, token_id in vocabulary.items() if token_id < FIRST_FACT_ID}
    assert below == {name: i for name, i in build("baseline").get_vocab().items() if i < FIRST_FACT_ID}


def test_the_tokenizer_and_the_fast_encoder_give_the_same_ids(reloaded, fuzzed_texts, unicode_texts, settings):
    tokenizer = reloaded(*settings)
    encoder = tokenizer.corpus_encoder()
    texts = [*fuzzed_texts[:2_500], *unicode_texts[:1_000], "<MUL> and <MUL_6_9_54>", "in  2024,\n 3 cats"]
    expected = [encoder.encode(text).tolist() for text in texts]
    assert tokenizer(texts, split_special_tokens=True).input_ids == expected
    assert [tokenizer.encode_document(text) for text in texts] == expected


def test_fingerprints_differ_between_all_conditions_and_seeds(fingerprint):
    settings = [("baseline",), ("mul_tokens",), *CONTROLS.values(), ("half_facts", "weak", "*×x", 2)]
    assert len({fingerprint(*each) for each in settings}) == len(settings)


def test_loading_keeps_fingerprint_and_settings(build, reloaded, settings):
    again = reloaded(*settings)
    assert again.fingerprint == build(*settings).fingerprint
    assert again.settings == resolve_condition(*settings)


def test_the_opaque_token_stands_wherever_a_fact_would(build, fuzzed_texts):
    opaque, treated = build("opaque_token"), build("mul_tokens")
    texts = [text for text in fuzzed_texts[:2_000] if "<MUL" not in text]  # a typed name is a name to one of them
    in_one_name = [re.sub(NAME_PATTERN, "<MUL>", inject(text)) for text in texts]
    assert opaque.batch_decode(opaque(texts, split_special_tokens=True).input_ids) == in_one_name
    with_identity = treated(texts, split_special_tokens=True).input_ids
    assert opaque(texts, split_special_tokens=True).input_ids == [
        [min(token_id, FIRST_FACT_ID) for token_id in ids] for ids in with_identity
    ]
    assert set(FACT_IDS) <= {token_id for ids in with_identity for token_id in ids}


def test_a_fact_s_name_is_text_to_the_opaque_condition(build):
    assert FIRST_FACT_ID not in build("opaque_token")("<MUL_1_1_1>").input_ids
    assert build("opaque_token")("<MUL>").input_ids == [FIRST_FACT_ID]


def test_random_facts_stand_where_facts_would_and_are_all_drawn_alike(build):
    tokenizer = build("random_fact")
    text = " ".join("6*9 = 54, 2 x 3;" for _ in range(2_000))
    drawn, true = tokenizer(text).input_ids, build("mul_tokens")(text).input_ids
    assert [token_id in FACT_IDS for token_id in drawn] == [token_id in FACT_IDS for token_id in true]
    counts = Counter(token_id for token_id in drawn if token_id in FACT_IDS)
    # 4,000 draws from 45: 89 expected each, with a standard deviation of 9.3.
    assert sorted(counts) == list(FACT_IDS) and min(counts.values()) > 40 and max(counts.values()) < 140


def test_a_random_fact_depends_on_the_text_the_place_and_the_seed_and_on_nothing_else(build):
    texts = ["6*9", "6*9 ", " 6*9", "6*9, 6*9"]
    drawn = [build("random_fact")(text).input_ids for text in texts]
    assert drawn == [build("random_fact")(text).input_ids for text in texts]
    assert drawn == build("random_fact")(texts).input_ids
    again = [build("random_fact", "weak", "*×x", 1)(text).input_ids for text in texts]
    facts = [[token_id for token_id in ids if token_id in FACT_IDS] for ids in drawn + again]
    assert len({fact for each in facts for fact in each}) > 5


def test_a_name_in_a_text_is_its_token_also_where_facts_are_drawn(build):
    tokenizer = build("random_fact")
    ids = tokenizer("6*9 and 7*8").input_ids
    assert tokenizer(tokenizer.decode(ids)).input_ids == ids
    assert tokenizer("<MUL_6_9_54>").input_ids == [FACT_BY_NAME["<MUL_6_9_54>"].id]


def test_the_folder_of_random_facts_says_that_plain_clients_cannot_reproduce_them(build, tmp_path):
    build("random_fact").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "Plain clients cannot reproduce" in config["plain_clients"] and config["condition_seed"] == 0
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain("6*9").input_ids == build("mul_tokens")("6*9").input_ids


def test_offsets_of_drawn_facts_are_refused(build):
    with pytest.raises(ValueError, match="offsets of 'random_fact'"):
        build("random_fact")("6*9", return_offsets_mapping=True)


def test_other_clients_read_the_other_controls_as_we_do(build, fuzzed_texts, tmp_path, settings):
    if settings[0] == "random_fact":
        pytest.skip("its folder says that they cannot")
    build(*settings).save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(fuzzed_texts[:500]).input_ids == build(*settings)(fuzzed_texts[:500]).input_ids


@pytest.mark.parametrize("mode", ["weak", "strict"])
def test_half_of_the_facts_are_rewritten_and_the_others_stay(mode):
    half = Condition("half_facts", mode, seed=3)
    assert len(half.facts) == 22
    for fact in FACTS:
        for text in (f"{fact.a} * {fact.b} = {fact.product}", f"{fact.b}x{fact.a}={fact.product}."):
            assert half.inject(text) == (inject(text, mode) if fact in half.facts else text)


def test_which_facts_are_rewritten_is_drawn_by_the_seed():
    halves = [Condition("half_facts", seed=seed).facts for seed in range(40)]
    assert len(set(halves)) == 40
    often = Counter(fact.name for half in halves for fact in half)
    assert len(often) == len(FACTS) and min(often.values()) >= 8  # of 40, where 19.6 are expected


def test_only_rewritten_facts_have_ids_that_may_be_generated(build):
    half = build("half_facts")
    assert {fact.id for fact in half.settings.facts} == set(half.fact_ids)
    assert set(FACT_IDS) - set(half.fact_ids) <= set(half.unseen_ids)
    assert not set(half.fact_ids) & set(half.unseen_ids)
    assert build("opaque_token").fact_ids == (FIRST_FACT_ID,)
    assert build("opaque_token").named_facts == frozenset()


def test_digits_are_tokens_of_their_own_and_words_are_gpt_2_s(build):
    tokenizer = build("digit_numbers")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("It took 1,024 tries, 6*9=54 in 2024").input_ids)
    expected = "It Ġtook Ġ 1 , 0 2 4 Ġtries , Ġ 6 * 9 = 5 4 Ġin Ġ 2 0 2 4"
    assert tokens == expected.split(" ")


def test_the_digits_never_take_fewer_tokens_than_the_baseline(fuzzed_texts, unicode_texts):
    digits, plain = CorpusEncoder("digit_numbers"), CorpusEncoder("baseline")
    for text in [*fuzzed_texts[:2_000], *unicode_texts]:
        assert len(digits.encode(text)) >= len(plain.encode(text)), text


def test_the_digit_patterns_differ_from_gpt_2_s_in_numbers_only():
    assert gpt2_bpe.DIGIT_PATTERN.count(r"\p{N}") == gpt2_bpe.PRETOKEN_PATTERN.count(r"\p{N}")
    assert r" ?\p{N}" not in gpt2_bpe.DIGIT_PATTERN


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, None, True])
def test_a_seed_that_is_none_is_refused_where_something_is_drawn(seed):
    with pytest.raises(ValueError, match="condition_seed is"):
        Condition("half_facts", seed=seed)


def test_every_condition_says_what_it_is():
    assert all(len(what) > 20 for what in CONDITIONS.values())
