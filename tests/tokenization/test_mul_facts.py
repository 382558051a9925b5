from tokenization.mul_facts import (
    END_OF_TEXT_ID,
    FACT_BY_FACTORS,
    FACT_BY_ID,
    FACT_BY_NAME,
    FACT_IDS,
    FACTS,
    FIRST_FACT_ID,
    NAME_PATTERN,
    PAD_ID,
    PAD_TOKEN,
    RESERVED_IDS,
    VOCABULARY_SIZE,
    reserved_name,
)


def test_facts_are_the_45_unordered_products_in_row_order():
    pairs = [(fact.a, fact.b, fact.product) for fact in FACTS]
    assert pairs == sorted((a, b, a * b) for a in range(1, 10) for b in range(1, 10) if a <= b)


def test_ids_leave_no_hole_after_gpt2():
    assert [*RESERVED_IDS, *FACT_IDS] == list(range(END_OF_TEXT_ID + 1, VOCABULARY_SIZE))
    assert [fact.id for fact in FACTS] == list(FACT_IDS) and FACT_IDS[0] == FIRST_FACT_ID


def test_six_times_nine_has_its_known_name_and_id():
    fact = FACT_BY_FACTORS[9, 6]
    assert (fact.name, fact.id) == ("<MUL_6_9_54>", 50342)
    assert fact is FACT_BY_FACTORS[6, 9] is FACT_BY_ID[50342] is FACT_BY_NAME["<MUL_6_9_54>"]


def test_both_orders_of_every_pair_are_looked_up():
    assert len(FACT_BY_FACTORS) == 81
    assert all(fact.product == a * b for (a, b), fact in FACT_BY_FACTORS.items())


def test_pattern_finds_the_45_names_only():
    names = [f"<MUL_{a}_{b}_{c}>" for a in range(10) for b in range(10) for c in range(100)]
    assert NAME_PATTERN.findall(" ".join(names)) == [fact.name for fact in FACTS]


def test_pad_token_is_the_first_reserved_name():
    assert reserved_name(PAD_ID) == PAD_TOKEN and RESERVED_IDS[0] == PAD_ID
