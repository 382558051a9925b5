"""What becomes of rows: which are left out, counted, held out or dropped, and what the arms get of them."""

import json
import shutil
from collections import namedtuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.small_corpora import content, prepare, text_source, texts_of
from tokenization import MulFactTokenizer
from tokenization.mul_facts import END_OF_TEXT_ID
from training.data import corpus as corpus_module
from training.data.pieces import PieceMaker
from training.data.shards import Corpus, read_manifest
from training.data.sources import Source

SENTENCES = [f"Sentence number {index} says that {index % 9 + 1} * 6 apples are not pears." for index in range(200)]
TEST_ITEM = "The quick brown fox jumps over 13 lazy dogs while seven small mice watch it from the old barn."


def parquet_folder(folder, texts, files=2, rows=10, **columns):
    folder.mkdir(exist_ok=True)
    share = -(-len(texts) // files)
    for index in range(files):
        part = texts[index * share : (index + 1) * share]
        table = pa.table({"text": pa.array(part, pa.string()), "id": list(range(len(part)))})
        pq.write_table(table, folder / f"{index:03d}.parquet", row_group_size=rows)
    return folder


def prepare_parquet(tmp_path, texts=SENTENCES, workers=1, **changes):
    parquet_folder(tmp_path / "rows", texts)
    settings = {"sources": [{"path": "rows"}], "source_root": str(tmp_path), "piece_bytes": 2_000, **changes}
    return prepare(tmp_path / "c", workers=workers, **settings)


def test_row_groups_are_pieces_and_every_row_is_read_once(tmp_path):
    manifests, _ = prepare_parquet(tmp_path)
    splits = manifests["baseline"]["splits"]
    assert len(splits["train"]["shards"]) > 4
    found = texts_of(tmp_path / "c", "baseline", "train") + texts_of(tmp_path / "c", "baseline", "validation")
    assert sorted(found) == sorted(SENTENCES)


def test_result_does_not_depend_on_the_number_of_workers(tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        (tmp_path / name).mkdir()
        prepare_parquet(tmp_path / name, workers=workers, target_tokens=2_000)
    assert content(tmp_path / "a" / "c") == content(tmp_path / "b" / "c")


def test_ids_of_adversarial_text_are_those_of_the_saved_tokenizer(tmp_path):
    pieces = [
        "6*9",
        " 6 × 9 = 54",
        "<MUL_6_9_54>",
        "<|endoftext|>",
        "é",
        "\u00a0",
        "x",
        "9x9",
        "\n\n\n",
        "  ",
        "'ll",
        "数",
    ]
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(pieces, 12)) for _ in range(120)]
    prepare_parquet(tmp_path, texts)
    for condition in ("baseline", "mul_tokens"):
        MulFactTokenizer.build(condition).save_pretrained(tmp_path / condition)
        tokenizer = MulFactTokenizer.from_pretrained(tmp_path / condition)
        split = Corpus(tmp_path / "c" / condition, tokenizer).train
        originals = texts_of(tmp_path / "c", "baseline", "train")
        assert len(originals) > 80
        for document, text in enumerate(originals):
            ids = tokenizer(text, split_special_tokens=True).input_ids
            assert split.tokens(document).tolist() == [END_OF_TEXT_ID, *ids]


def test_null_and_blank_rows_are_counted(tmp_path):
    texts = [*SENTENCES[:50], None, " \n\t", "", None, None, "\u3000\u00a0"]
    manifests, _ = prepare_parquet(tmp_path, texts)
    (source,) = manifests["baseline"]["sources"]
    # White space outside ASCII is text to GPT-2, as it was before.
    assert source["left_out"] == {"null": 3, "blank": 2}
    assert source["documents_read"] == 51


def test_damaged_parquet_is_named_with_the_row_group(tmp_path):
    folder = parquet_folder(tmp_path / "rows", [text * 30 for text in SENTENCES], files=1)
    file = folder / "000.parquet"
    group = pq.ParquetFile(file).metadata.row_group(2).column(0)
    damaged = bytearray(file.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    damaged[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    file.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"(?s)000\.parquet, row group 2 cannot be read .*replace the file"):
        prepare(tmp_path / "c", sources=[{"path": "rows"}], source_root=str(tmp_path))


def test_cut_parquet_is_named_before_the_work(tmp_path):
    file = parquet_folder(tmp_path / "rows", SENTENCES) / "001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"001\.parquet cannot be read"):
        prepare(tmp_path / "c", sources=[{"path": "rows"}], source_root=str(tmp_path))
    assert not list((tmp_path / "c").glob("*/*.npy"))


def test_column_that_is_no_text_is_named_before_the_work(tmp_path):
    parquet_folder(tmp_path / "rows", SENTENCES)
    with pytest.raises(ValueError, match="column 'id' of source 'rows' holds int64, not text"):
        prepare(tmp_path / "c", sources=[{"path": "rows", "text_field": "id"}], source_root=str(tmp_path))


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "rows").mkdir()
    bad = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), tmp_path / "rows" / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row group 0 cannot be read"):
        prepare(tmp_path / "c", sources=[{"path": "rows"}], source_root=str(tmp_path))


def decontamination(tmp_path, texts, **changes):
    (tmp_path / "items.jsonl").write_text(json.dumps({"question": TEST_ITEM}) + '\n{"question": "Short."}\n')
    sets = [{"path": "items.jsonl", "template": "{question}", "name": "items"}]
    return prepare_parquet(tmp_path, texts, decontaminate=sets, **changes)


@pytest.mark.parametrize("action", ["drop", "report"])
def test_contaminated_documents_are_dropped_or_reported_and_counted(tmp_path, action):
    copy = f"Once more: {TEST_ITEM.replace('13', '200').upper()} The end."
    manifests, _ = decontamination(tmp_path, [*SENTENCES, copy], contaminated=action)
    everything = texts_of(tmp_path / "c", "baseline", "train") + texts_of(tmp_path / "c", "baseline", "validation")
    assert (copy in everything) == (action == "report")
    assert set(SENTENCES) <= set(everything)
    for manifest in manifests.values():
        found = manifest["decontamination"]
        assert (found["action"], found["documents"], found["bytes"]) == (action, 1, len(copy))
        assert found["sets"]["items"]["documents"] == 1
        assert (found["sets"]["items"]["items"], found["sets"]["items"]["items_too_short"]) == (2, 1)
        assert manifest["sources"][0]["contaminated"] == 1
        assert manifest["sources"][0]["documents_read"] == 201
    (listed,) = [line for file in (tmp_path / "c").glob("contaminated-*") for line in file.read_text().splitlines()]
    assert json.loads(listed)["sets"] == ["items"]
    assert json.loads(listed)["words"].startswith("the quick brown fox")


def test_clean_corpus_says_that_it_was_searched(tmp_path):
    manifests, _ = decontamination(tmp_path, SENTENCES)
    assert manifests["baseline"]["decontamination"]["documents"] == 0
    assert not list((tmp_path / "c").glob("contaminated-*"))


def test_each_item_of_a_list_is_a_test_item(tmp_path):
    row = {"ctx": "A man walks into the room and looks", "endings": ["at the table with nine", "out of the window"]}
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    sets = [{"path": "items.jsonl", "template": "{ctx} {endings}", "each": "endings", "name": "items"}]
    texts = [*SENTENCES, "So a man walks into the room and looks out of the window and stays."]
    manifests, _ = prepare_parquet(tmp_path, texts, decontaminate=sets)
    assert manifests["baseline"]["decontamination"]["documents"] == 0  # twelve words are shared, not thirteen
    shutil.rmtree(tmp_path / "c")
    texts[-1] = texts[-1].replace("a man", "a man").replace("So a man", "A man").replace("and stays", "")
    row["endings"][1] += " and"
    (tmp_path / "items.jsonl").write_text(json.dumps(row) + "\n")
    texts[-1] = "A man walks into the room and looks out of the window and stays."
    manifests, _ = prepare_parquet(tmp_path, texts, decontaminate=sets)
    assert manifests["baseline"]["decontamination"]["sets"]["items"]["documents"] == 1


def test_synthetic_documents_that_ask_a_probes_question_are_dropped(tmp_path):
    problems = {"synthetic": "word_problems", "documents": 400}
    probes = {**problems, "name": "probes", "documents": 300, "seed": 7}
    sources = [problems, text_source(tmp_path, "a.jsonl", SENTENCES)]
    settings = {"sources": sources, "source_root": str(tmp_path), "validation_synthetic": False}
    manifests, _ = prepare(tmp_path / "c", decontaminate=[probes], **settings)
    questions = {text.split("\n")[0] for text in Source.from_recipe(probes, ".").documents_once()}
    asked = [text.split("\n")[0] for text in Source.from_recipe(problems, ".").documents_once()]
    copies = sum(question in questions for question in asked)
    assert 0 < copies < 100
    source = manifests["baseline"]["sources"][0]
    assert (source["contaminated"], source["train"]["documents"]) == (copies, 400 - copies)
    assert not questions & {text.split("\n")[0] for text in texts_of(tmp_path / "c", "baseline", "train")}


def test_copies_are_counted_up_to_the_cut(tmp_path):
    copies = [f"{TEST_ITEM} Copy {index}." for index in range(100)]
    texts = [text for pair in zip(SENTENCES, copies, strict=False) for text in pair]
    for action in ("drop", "report"):
        folder = tmp_path / action
        folder.mkdir()
        manifests, _ = decontamination(folder, texts, contaminated=action, target_tokens=600, piece_bytes=2**27)
        train, validation = (manifests["baseline"]["splits"][split] for split in ("train", "validation"))
        found = manifests["baseline"]["decontamination"]["documents"]
        in_corpus = sum("lazy dogs" in text for text in texts_of(folder / "c", "baseline", "train"))
        if action == "report":
            assert in_corpus > 5
            assert in_corpus <= found <= in_corpus + validation["documents"]
        else:
            assert in_corpus == 0
            assert train["documents"] - 1 <= found <= train["documents"] + validation["documents"]


def dosed(tmp_path, dose=0.02, at=None, **changes):
    plain = [f"Nothing to multiply in sentence {index}." for index in range(300)]
    if at is None:
        text_source(tmp_path, "a.jsonl", plain)
    sources = [{"path": "a.jsonl"}, {"synthetic": "drills"}, {"synthetic": "word_problems"}]
    settings = {"sources": sources, "source_root": str(at or tmp_path), "dose": dose, "piece_bytes": 20 * 8192}
    return prepare(tmp_path / "c", validation_synthetic=False, **{**settings, **changes})


@pytest.mark.parametrize("target_tokens", [None, 2_000])
def test_dose_is_reached_by_synthetic_text_that_both_arms_read(tmp_path, target_tokens):
    manifests, _ = dosed(tmp_path, target_tokens=target_tokens)
    assert manifests["baseline"]["documents_sha256"] == manifests["mul_tokens"]["documents_sha256"]
    for manifest in manifests.values():
        train = manifest["splits"]["train"]
        assert 0.02 <= manifest["dose"] < 0.023
        assert manifest["dose"] == train["facts"] / train["plain_tokens"]
        assert train["natural"]["facts"] == 0
        assert train["synthetic"]["facts"] == train["facts"]
        assert train["natural"]["documents"] + train["synthetic"]["documents"] == train["documents"]
        if target_tokens:
            assert 2_000 <= train["plain_tokens"] < 2_150
        assert manifest["splits"]["validation"]["synthetic"]["documents"] == 0
    drills, problems = (source["train"]["plain_tokens"] for source in manifests["baseline"]["sources"][1:])
    assert 0 < abs(drills - problems) < 150


def test_dose_out_of_reach_is_refused(tmp_path):
    plain = text_source(tmp_path, "a.jsonl", [f"Nothing to multiply in sentence {index}." for index in range(300)])
    tables = {"synthetic": "tables", "documents": 3}
    with pytest.raises(ValueError, match=r"dose 0\.1 is out of reach: .*'tables' 3 documents"):
        dosed(tmp_path, dose=0.1, sources=[plain, tables])
    # One that ends beside one that does not, and one that holds too few facts itself: neither may go on for ever.
    with pytest.raises(ValueError, match=r"ran out \('tables' 3 documents, 'word_problems' \d+ documents\)"):
        dosed(tmp_path / "b", dose=0.05, sources=[plain, tables, {"synthetic": "word_problems"}], at=tmp_path)
    with pytest.raises(ValueError, match=r"dose 0\.3 is out of reach: the synthetic sources themselves hold 0\.0\d+ "):
        dosed(tmp_path / "c", dose=0.3, sources=[plain, {"synthetic": "drills"}], at=tmp_path)


def test_weak_dose_is_refused_unless_the_recipe_says_otherwise(tmp_path, monkeypatch):
    sources = [text_source(tmp_path, "a.jsonl", [f"Nothing to multiply, sentence {index}" for index in range(200)])]
    settings = {"sources": sources, "source_root": str(tmp_path)}
    with pytest.raises(ValueError, match=r"holds 0\.00e\+00 facts per plain token, less than minimum_dose 1\.00e-04"):
        prepare(tmp_path / "c", minimum_dose=1e-4, **settings)
    assert not (tmp_path / "c" / "baseline" / "manifest.json").exists()
    monkeypatch.setattr(PieceMaker, "make", lambda *args: pytest.fail("what was prepared is not made again"))
    prepare(tmp_path / "c", minimum_dose=0, **settings)
    with pytest.raises(ValueError, match="less than minimum_dose"):
        prepare(tmp_path / "c", minimum_dose=1e-4, **settings)


def test_baseline_alone_needs_no_dose(tmp_path):
    sources = [text_source(tmp_path, "a.jsonl", [f"Nothing to multiply, sentence {index}" for index in range(200)])]
    prepare(tmp_path / "c", minimum_dose=1e-4, sources=sources, source_root=str(tmp_path), conditions=["baseline"])
    assert read_manifest(tmp_path / "c" / "baseline")["dose"] == 0


def test_disk_is_checked_before_the_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 10**6)
    monkeypatch.setattr(corpus_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=r"needs about 47\.0 GB for 2 conditions, .* 0\.0 GB free"):
        prepare(tmp_path / "c", target_tokens=10_000_000_000)
    assert not list((tmp_path / "c").glob("*/*.npy"))


def test_arms_prepared_apart_from_changed_text_are_not_passed_off_as_one_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "describe_request", lambda *args: {})
    monkeypatch.setattr("training.data.plan.describe_request", lambda *args: {"sources": []})
    for condition, texts in (("baseline", SENTENCES[:99]), ("mul_tokens", SENTENCES[1:100])):
        settings = {"sources": [text_source(tmp_path, "a.jsonl", texts)], "source_root": str(tmp_path)}
        if condition == "baseline":
            prepare(tmp_path / "c", conditions=[condition], **settings)
        else:
            with pytest.raises(ValueError, match="was made of other documents"):
                prepare(tmp_path / "c", conditions=[condition], **settings)
