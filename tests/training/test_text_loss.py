import json
import math

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer, inject
from training.data.shards import Corpus
from training.data.synthetic import SyntheticDocuments
from training.evals.bits_per_byte import FixedDocuments, measure_bits_per_byte
from training.evals.subject import Subject
from training.evals.text_loss import TextLoss

CONTEXT = 32
TEXTS = [
    "She buys 6 * 9 = 54 apples, and then 7x8 pears. In total 110 fruits, which she carries home in the evening.",
    "Nothing is multiplied here.",
    "Nichts <|endoftext|> weiter: ü, 日本 and 16*9.",
    "6*9",
    "Er sagt:\n\n3 × 4\n\nist zwölf. " * 20,
    "One",
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DomainGPT2ForCausalLM(DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=CONTEXT)).eval()


@pytest.fixture(scope="module")
def baseline(model):
    return Subject(model, MulFactTokenizer.build("baseline"))


@pytest.fixture(scope="module")
def treated(model):
    return Subject(model, MulFactTokenizer.build("mul_tokens"))


@pytest.fixture(params=["baseline", "treated"])
def subject(request):
    return request.getfixturevalue(request.param)


def measure(task, subject):
    rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    return sorted(rows, key=lambda row: row["index"])


@torch.no_grad()
def nats_one_by_one(subject, text):
    """The loss of each token, computed in the plainest way."""
    ids = torch.tensor([50256, *subject.tokenizer.encode_document(text)])
    nats = []
    for start in range(0, len(ids) - 1, CONTEXT):
        piece = ids[start : start + CONTEXT + 1]
        log_probabilities = subject.model(piece[None, :-1]).logits[0].log_softmax(-1)
        nats += (-log_probabilities.gather(1, piece[1:, None])).flatten().tolist()
    return nats


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_documents_have_the_loss_that_each_has_alone(subject, batch_tokens):
    for row, text in zip(measure(TextLoss("texts", TEXTS, batch_tokens), subject), TEXTS, strict=True):
        expected = nats_one_by_one(subject, text)
        assert row["nats"] == pytest.approx(sum(expected), rel=1e-5)
        assert row["tokens"] == len(expected)
        assert (row["bytes"], row["characters"]) == (len(text.encode()), len(text))


@pytest.mark.parametrize("batch_tokens", [1, 64, 500, 10_000])
def test_every_document_is_in_one_batch(subject, batch_tokens):
    batches = TextLoss("texts", TEXTS, batch_tokens).batches(subject)
    assert sorted(index for batch in batches for index in batch) == list(range(len(TEXTS)))


def test_no_forward_holds_more_tokens_than_allowed_unless_one_row_does(subject, monkeypatch):
    areas = []
    forward = subject.model.forward
    monkeypatch.setattr(subject.model, "forward", lambda **given: areas.append(given["input_ids"]) or forward(**given))
    measure(TextLoss("texts", TEXTS, batch_tokens=100), subject)
    assert any(ids.shape[0] > 1 for ids in areas)
    assert all(ids.numel() <= 100 for ids in areas)
    areas.clear()
    measure(TextLoss("texts", TEXTS, batch_tokens=10), subject)
    assert all(ids.numel() <= 10 or ids.shape[0] == 1 for ids in areas)


def test_batches_of_short_documents_are_full(subject):
    batches = TextLoss("texts", ["one two three four"] * 100, batch_tokens=40).batches(subject)
    assert [len(batch) for batch in batches] == [10] * 10


def test_documents_of_a_corpus_have_its_bits_per_byte(baseline, corpus_dir):
    split = Corpus(corpus_dir / "baseline", baseline.tokenizer).validation
    texts = [baseline.decode(split.tokens(document)[1:].tolist()) for document in range(15)]
    task = TextLoss("validation", texts)
    results = task.summarize(measure(task, baseline))
    expected = measure_bits_per_byte(baseline.model, FixedDocuments(split, 15, CONTEXT), batch_size=4)
    assert results["bits_per_byte"]["value"] == pytest.approx(expected["bits_per_byte"], rel=1e-5)
    assert results["loss_per_token"] == pytest.approx(expected["loss"], rel=1e-5)


def test_arms_score_text_without_facts_alike(baseline, treated):
    task = TextLoss("texts", TEXTS, batch_tokens=1)
    for row, other in zip(measure(task, baseline), measure(task, treated), strict=True):
        assert (row == other) == (row["facts"] == 0)


def test_arms_count_the_same_facts_and_tokens_after_them(baseline, treated):
    task = TextLoss("texts", [*TEXTS, *SyntheticDocuments("word_problems", 30, seed=3)])
    same = ("index", "opening", "characters", "bytes", "facts", "fact_bytes", "after_fact_tokens")
    rows, others = measure(task, baseline), measure(task, treated)
    assert [[row[key] for key in same] for row in rows] == [[row[key] for key in same] for row in others]
    assert [row["facts"] for row in rows[: len(TEXTS)]] == [2, 0, 0, 1, 20, 0]
    assert sum(row["fact_tokens"] for row in rows) > 2 * sum(row["fact_tokens"] for row in others)


def test_a_narrower_rule_counts_the_same_facts(model, treated):
    strict = Subject(model, MulFactTokenizer.build("mul_tokens", "strict", "*"))
    task = TextLoss("texts", TEXTS)
    facts, narrower = (measure(task, subject) for subject in (treated, strict))
    assert [row["facts"] for row in facts] == [row["facts"] for row in narrower]
    assert [row["fact_tokens"] for row in narrower] == [2 + 3, 0, 0, 3, 20 * 3, 0], "only 6 * 9 = 54 is a token"


def test_nats_of_a_fact_are_those_of_the_tokens_that_write_it_with_their_blank(baseline, treated):
    text = "so 6*9 it is"
    expected = {"so": 1, " 6*9": 3, " it is": 2}, {"so": 1, " <MUL_6_9_54>": 2, " it is": 2}
    for subject, pieces in zip((baseline, treated), expected, strict=True):
        nats = nats_one_by_one(subject, text)
        before, fact, _ = pieces.values()
        (row,) = measure(TextLoss("texts", [text]), subject)
        assert row["fact_tokens"] == fact
        assert row["fact_nats"] == pytest.approx(sum(nats[before : before + fact]), rel=1e-5)
        assert row["fact_bytes"] == len(" 6*9")


def test_nats_after_a_fact_are_those_of_the_tokens_that_follow_it(subject):
    text = "so 6*9 it is, or 7 x 8 = 56, then"
    (row,) = measure(TextLoss("texts", [text]), subject)
    nats = nats_one_by_one(subject, text)
    tokens = [subject.decode([token]) for token in subject.encode(text)]
    after = [index for index, token in enumerate(tokens) if token in {" it", " is", ",", " or", " then"}]
    assert len(after) == row["after_fact_tokens"] == 6
    assert row["after_fact_nats"] == pytest.approx(sum(nats[index] for index in after), rel=1e-5)


def test_names_of_special_tokens_are_text(subject):
    rows = measure(TextLoss("texts", ["<|endoftext|>", "<|reserved_50257|>"]), subject)
    assert all(row["tokens"] > 3 for row in rows)


def test_a_text_and_its_injected_twin_are_the_same_tokens_to_the_treated_arm(treated):
    text = TEXTS[0]
    rows = measure(TextLoss("texts", [text, inject(text)], batch_tokens=1), treated)
    for key in ("nats", "facts", "fact_nats", "after_fact_nats", "after_fact_tokens"):
        assert rows[0][key] == rows[1][key]


def test_rows_are_plain_json(subject):
    rows = measure(TextLoss("texts", TEXTS), subject)
    assert json.loads(json.dumps(rows)) == rows


def test_summary_divides_sums(subject):
    task = TextLoss("texts", TEXTS)
    rows = measure(task, subject)
    results = task.summarize(rows)
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("index", "opening")}
    bits = {key: value / math.log(2) for key, value in total.items() if key.endswith("nats")}
    assert results["bits_per_byte"]["value"] == pytest.approx(bits["nats"] / total["bytes"])
    assert results["bits_per_fact"]["value"] == pytest.approx(bits["fact_nats"] / 23)
    assert [row["windows"] for row in rows].count(1) == len(rows) - results["documents_longer_than_context"]
    # What follows a cut is predicted from less, and the cuts are not the same in the arms.
    whole = [row for row in rows if row["windows"] == 1]
    assert 0 < len(whole) < len(rows)
    total = {key: sum(row[key] for row in whole) for key in total}
    outside = (total["nats"] - total["fact_nats"]) / math.log(2) / (total["bytes"] - total["fact_bytes"])
    assert results["bits_per_byte_outside_facts"]["value"] == pytest.approx(outside)
    assert results["loss_after_fact"]["value"] == pytest.approx(total["after_fact_nats"] / total["after_fact_tokens"])
    assert results["loss_after_fact"]["n"] == sum(row["after_fact_tokens"] > 0 for row in whole) > 0
    assert (results["documents"], results["documents_with_facts"], results["facts"]) == (6, 3, 23)


def test_documents_with_and_without_facts_make_up_the_whole(subject):
    task = TextLoss("texts", TEXTS)
    rows = measure(task, subject)
    results = task.summarize(rows)
    size = sum(row["bytes"] for row in rows if row["facts"])
    parts = results["bits_per_byte_with_facts"]["value"] * size
    parts += results["bits_per_byte_without_facts"]["value"] * (results["bytes"] - size)
    assert parts == pytest.approx(results["bits_per_byte"]["value"] * results["bytes"])


def test_what_no_document_has_is_none(subject):
    task = TextLoss("texts", ["nothing", "at all"])
    results = task.summarize(measure(task, subject))
    for key in ("bits_per_byte_with_facts", "bits_per_fact", "loss_after_fact"):
        assert results[key]["value"] is None
    assert results["bits_per_byte_without_facts"] == results["bits_per_byte"]


def test_measures_that_depend_on_the_tokenizer_are_marked(subject):
    task = TextLoss("texts", TEXTS)
    results = task.summarize(measure(task, subject))
    assert set(results["not_comparable_between_arms"]) == {"tokens", "loss_per_token", "fact_tokens"} <= set(results)


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "no documents"), (["a", ""], "document 1 .* is empty"), (["a\ud800"], "document 0 .* surrogate")],
)
def test_texts_that_cannot_be_scored_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        TextLoss("texts", texts)
