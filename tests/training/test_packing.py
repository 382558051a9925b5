import numpy as np
import pytest

from tokenization import MulFactTokenizer
from tokenization.mul_facts import END_OF_TEXT_ID
from training.data.packing import PackedDocuments, document_order_sha256, shuffled
from training.data.shards import Corpus


@pytest.fixture(scope="module")
def train(corpus_dir):
    return Corpus(corpus_dir / "mul_tokens", MulFactTokenizer.build("mul_tokens")).train


def stream(train, data_seed, epochs):
    """The documents of some epochs in order, straight from the definition."""
    orders = [shuffled(len(train), data_seed, epoch) for epoch in range(epochs)]
    return np.concatenate([train.tokens(document) for order in orders for document in order]).astype(np.int64)


@pytest.mark.parametrize("context", [7, 64, 1000])
def test_windows_cover_the_stream_without_a_gap_across_epochs(train, context):
    expected = stream(train, data_seed=5, epochs=3)
    windows = (len(expected) - 1) // context
    packed = PackedDocuments(train, context, windows, data_seed=5)
    for index in range(windows):
        item = packed[index]
        start = index * context
        assert np.array_equal(item["input_ids"], expected[start : start + context])
        assert np.array_equal(item["shift_labels"], expected[start + 1 : start + context + 1])


def test_item_does_not_depend_on_what_was_read_before(train):
    ahead = PackedDocuments(train, 64, 2000, data_seed=0)
    forward = [ahead[index]["input_ids"].tolist() for index in range(0, 2000, 97)]
    back = PackedDocuments(train, 64, 2000, data_seed=0)
    backward = [back[index]["input_ids"].tolist() for index in reversed(range(0, 2000, 97))]
    assert forward == backward[::-1]


def test_every_epoch_reads_every_document_once_in_another_order(train):
    orders = [shuffled(len(train), 0, epoch) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(len(train))) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.2


def test_order_is_pinned_for_all_time():
    """A run that is resumed under newer libraries must go on in the same order."""
    assert [shuffled(6, seed, 0).tolist() for seed in (0, 1)] == [[2, 3, 4, 5, 0, 1], [5, 3, 0, 2, 4, 1]]
    assert shuffled(6, 0, 1).tolist() == [0, 4, 5, 1, 2, 3]


def test_data_seed_changes_the_order(train):
    first, second = (PackedDocuments(train, 64, 10, data_seed=seed) for seed in (0, 1))
    assert first[0]["input_ids"].tolist() != second[0]["input_ids"].tolist()


def test_documents_begin_with_the_end_of_text_token(train):
    assert all(train.tokens(document)[0] == END_OF_TEXT_ID for document in range(len(train)))


def test_order_hash_depends_on_documents_and_seed():
    hashes = {document_order_sha256(documents, 10, seed) for documents in ("a", "b") for seed in (0, 1)}
    assert len(hashes) == 4
    assert document_order_sha256("a", 10, 0) in hashes


def test_position_outside_is_an_index_error(train):
    with pytest.raises(IndexError):
        PackedDocuments(train, 64, 10, data_seed=0)[10]
