import json
import shutil

import numpy as np
import pytest

from tests.conftest import CORPUS
from tests.training.small_corpora import prepare, text_source, texts_of
from tokenization import MulFactTokenizer, count_facts
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_IDS
from training.data.shards import Corpus, read_manifest
from training.data.sources import Source


def test_corpus_holds_the_sources_text_token_by_token(corpus_dir):
    sources = [Source.from_recipe(entry, ".") for entry in CORPUS["sources"]]
    originals = [text for source in sources for text in source.documents_once()]
    train, held_out = (texts_of(corpus_dir, "baseline", split) for split in ("train", "validation"))
    assert sorted(train + held_out) == sorted(originals)
    assert [text for text in originals if text in set(train)] == train


def test_ids_are_those_of_the_saved_tokenizer(corpus_dir, tmp_path):
    for condition in ("baseline", "mul_tokens"):
        MulFactTokenizer.build(condition).save_pretrained(tmp_path / condition)
        tokenizer = MulFactTokenizer.from_pretrained(tmp_path / condition)
        split = Corpus(corpus_dir / condition, tokenizer).train
        for document, text in list(enumerate(texts_of(corpus_dir, "baseline", "train")))[::20]:
            assert split.tokens(document).tolist() == [END_OF_TEXT_ID, *tokenizer(text).input_ids]


def test_both_arms_hold_the_same_documents_in_the_same_order(corpus_dir):
    baseline, mul_tokens = (read_manifest(corpus_dir / condition) for condition in ("baseline", "mul_tokens"))
    assert baseline["documents_sha256"] == mul_tokens["documents_sha256"]
    splits = [
        Corpus(corpus_dir / condition, MulFactTokenizer.build(condition)).train
        for condition in ("baseline", "mul_tokens")
    ]
    for key in ("bytes", "facts"):
        assert np.array_equal(splits[0].documents[key], splits[1].documents[key])
    assert (splits[1].documents["tokens"] <= splits[0].documents["tokens"]).all()


def test_manifest_counts_what_the_shards_hold(corpus_dir):
    for condition in ("baseline", "mul_tokens"):
        opened = Corpus(corpus_dir / condition, MulFactTokenizer.build(condition))
        for split in ("train", "validation"):
            described, documents = opened.manifest["splits"][split], getattr(opened, split)
            ids = np.concatenate([documents.tokens(i) for i in range(len(documents))])
            assert described["documents"] == len(documents)
            assert described["tokens"] == len(ids)
            assert described["bytes"] == sum(len(text.encode()) for text in texts_of(corpus_dir, "baseline", split))
            written = np.isin(ids, np.array(FACT_IDS)).sum()
            assert written == (described["facts"] if condition == "mul_tokens" else 0)
            assert described["facts"] == sum(described["facts_by_name"].values()) == described["synthetic"]["facts"]
            assert described["plain_tokens"] == read_manifest(corpus_dir / "baseline")["splits"][split]["tokens"]
            assert described["facts_per_million_tokens"] == pytest.approx(1e6 * described["facts"] / len(ids))


def test_held_out_file_is_the_validation_text(corpus_dir):
    held_out = [
        json.loads(line)
        for path in sorted(corpus_dir.glob("held_out-*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [document["text"] for document in held_out] == texts_of(corpus_dir, "baseline", "validation")
    assert read_manifest(corpus_dir / "baseline")["held_out"]["documents"] == len(held_out)


def test_copies_of_a_document_never_stand_on_both_sides(tmp_path):
    texts = [f"document {index % 150}" for index in range(450)]
    prepare(tmp_path / "c", sources=[text_source(tmp_path, "a.jsonl", texts)], source_root=str(tmp_path))
    train, held_out = (set(texts_of(tmp_path / "c", "baseline", split)) for split in ("train", "validation"))
    assert held_out
    assert not train & held_out


def test_synthetic_text_is_held_out_only_when_asked(tmp_path):
    sources = [
        {"synthetic": "drills", "documents": 200},
        text_source(tmp_path, "a.jsonl", [f"text {i}" for i in range(99)]),
    ]
    manifests, _ = prepare(tmp_path / "c", sources=sources, source_root=str(tmp_path), validation_synthetic=False)
    validation = manifests["baseline"]["splits"]["validation"]
    assert validation["documents"] > 0
    assert validation["synthetic"]["documents"] == 0
    assert manifests["baseline"]["splits"]["train"]["synthetic"]["documents"] == 200


def test_special_names_in_a_document_are_text(tmp_path):
    texts = [f"{i} <|endoftext|> <|reserved_50257|>" for i in range(60)]
    prepare(tmp_path / "c", sources=[text_source(tmp_path, "a.jsonl", texts)], source_root=str(tmp_path))
    for condition in ("baseline", "mul_tokens"):
        split = Corpus(tmp_path / "c" / condition, MulFactTokenizer.build(condition)).train
        ids = np.concatenate([split.tokens(i) for i in range(len(split))])
        assert (ids == END_OF_TEXT_ID).sum() == len(split)
        assert ids.max() < 50257


def test_files_that_are_not_read_are_named(tmp_path):
    (tmp_path / "rows").mkdir()
    text_source(tmp_path / "rows", "a.jsonl", [f"{index} apples" for index in range(200)])
    (tmp_path / "rows" / "b.jsonl.gz").write_bytes(b"")
    _, lines = prepare(tmp_path / "c", sources=[{"path": "rows"}], source_root=str(tmp_path))
    assert any("1 files are none of" in line and "b.jsonl.gz" in line for line in lines)


def test_target_counts_plain_tokens_so_that_both_arms_stop_at_the_same_document(tmp_path):
    manifests, _ = prepare(tmp_path, target_tokens=20_000)
    baseline, mul_tokens = (manifests[condition]["splits"]["train"] for condition in ("baseline", "mul_tokens"))
    assert 20_000 <= baseline["tokens"] < 20_500
    assert mul_tokens["tokens"] < baseline["tokens"]
    assert mul_tokens["documents"] == baseline["documents"]


def test_weights_are_shares_of_plain_tokens(tmp_path):
    sources = [
        {"synthetic": "drills", "documents": 900, "weight": 3},
        {"synthetic": "word_problems", "documents": 900, "weight": 1},
    ]
    manifests, _ = prepare(tmp_path, sources=sources, target_tokens=30_000)
    drills, problems = (source["train"]["plain_tokens"] for source in manifests["mul_tokens"]["sources"])
    assert 22_500 <= drills < 22_700
    assert 7_500 <= problems < 7_700


def test_source_that_cannot_fill_its_share_is_named(tmp_path):
    sources = [
        {"synthetic": "drills", "documents": 900, "weight": 1},
        {"synthetic": "tables", "documents": 20, "weight": 1},
    ]
    with pytest.raises(ValueError, match=r"'tables' 17 \(ran out\)"):
        prepare(tmp_path, sources=sources, target_tokens=20_000)


def test_epochs_repeat_a_source_to_reach_the_target(tmp_path):
    texts = [f"number {index}" for index in range(100)]
    source = text_source(tmp_path, "a.jsonl", texts, epochs=3)
    prepare(tmp_path / "c", sources=[source], source_root=str(tmp_path), target_tokens=700)
    train = texts_of(tmp_path / "c", "baseline", "train")
    assert len(train) > len(set(train))
    assert max(train.count(text) for text in set(train)) <= 3


def test_corpus_short_of_its_target_fails_with_the_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"ran out at [\d,]+ of target_tokens 10,000,000 .*'drills' 267 .ran out."):
        prepare(tmp_path, target_tokens=10_000_000)
    assert not (tmp_path / "baseline" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "sources is empty"),
        ({"sources": [{"synthetic": "drills", "documents": 1}] * 2}, "called alike"),
        ({"sources": [{"synthetic": "drills"}]}, "needs `documents`"),
        ({"sources": [{"synthetic": "drills", "documents": 9}], "dose": 1e-3}, "1 synthetic and 0 other"),
        ({"sources": [{"path": "a"}], "dose": 1e-3}, "0 synthetic and 1 other"),
        ({"dose": 2}, "dose is 2"),
        ({"minimum_dose": -1}, "minimum_dose is -1"),
        ({"piece_bytes": 0}, "piece_bytes is 0"),
        ({"contaminated": "burn"}, "drop or report"),
        ({"decontaminate": [{"path": "a"}, {"path": "a"}]}, "called alike"),
        ({"decontaminate": [{"synthetic": "drills"}]}, "needs `documents`"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"sources": [{"synthetic": "drills", "documents": 9, "weight": 2}]}, "need target_tokens"),
        (
            {
                "sources": [
                    {"synthetic": "drills", "documents": 9, "weight": 2},
                    {"synthetic": "tables", "documents": 9},
                ]
            },
            "'tables' has no weight",
        ),
        ({"sources": ["foo"]}, "neither a mapping nor JSON"),
        ({"sources": [3]}, "not a mapping"),
        ({"conditions": ["baseline", "baseline"]}, "once"),
        ({"conditions": ["base"]}, "base"),
        ({"injection_mode": "strong"}, "strong"),
        ({"validation_fraction": 0}, "between 0 and 1"),
        ({"target_tokens": 0}, "target_tokens is 0"),
        ({"validation_fraction": 1e-9}, "none fell to validation"),
        ({"validation_synthetic": False}, "none fell to validation"),
    ],
)
def test_corpus_recipe_that_makes_no_sense_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        prepare(tmp_path, **changes)
    assert words in str(error.value)


def test_empty_corpus_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(ValueError, match="no text"):
        prepare(tmp_path / "c", sources=[{"path": "a.txt"}], source_root=str(tmp_path))


def test_other_recipe_for_the_same_folder_is_refused_with_the_key(corpus_dir):
    with pytest.raises(ValueError, match="holds another corpus: its split_seed is 0, this recipe has 1"):
        prepare(corpus_dir, split_seed=1)


@pytest.fixture
def copied(corpus_dir, tmp_path):
    shutil.copytree(corpus_dir, tmp_path / "copy")
    return tmp_path / "copy"


def test_corpus_of_the_other_condition_is_refused(copied):
    with pytest.raises(ValueError, match="made for condition 'mul_tokens', but this run's condition is 'baseline'"):
        Corpus(copied / "mul_tokens", MulFactTokenizer.build("baseline"))


def test_corpus_of_another_tokenizer_is_refused(copied):
    with pytest.raises(ValueError, match="another tokenizer .* injection mode weak against strict"):
        Corpus(copied / "mul_tokens", MulFactTokenizer.build("mul_tokens", "strict"))


@pytest.mark.parametrize("cut", [1, None])
def test_truncated_or_missing_shard_is_named(copied, cut):
    shard = copied / "baseline" / "train-00-00001.tokens.npy"
    if cut:
        shard.write_bytes(shard.read_bytes()[:-cut])
    else:
        shard.unlink()
    with pytest.raises(ValueError, match=r"train-00-00001.tokens.npy.*(bytes instead|is missing)"):
        Corpus(copied / "baseline", MulFactTokenizer.build("baseline"))
    with pytest.raises(ValueError, match=r"train-00-00001.tokens.npy.*delete"):
        prepare(copied)


def test_damaged_manifest_is_named(copied):
    (copied / "baseline" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        Corpus(copied / "baseline", MulFactTokenizer.build("baseline"))


def test_facts_of_a_document_are_counted_in_its_original_text(corpus_dir):
    split = Corpus(corpus_dir / "baseline", MulFactTokenizer.build("baseline")).train
    for document, text in enumerate(texts_of(corpus_dir, "baseline", "train")):
        assert split.documents["facts"][document] == count_facts(text, "weak").sum()
