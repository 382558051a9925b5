import copy
import json
import re

import pytest

from tokenization.mul_facts import FACT_BY_FACTORS, FACTS
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.describe import describe_corpus, read_manifests
from training.prepare_data import main

CONTAMINATED = "a test item that is long enough to have thirteen words in a row and more"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of natural text with few facts, null, blank and contaminated rows, and of drills for the dose."""
    folder = tmp_path_factory.mktemp("described")
    texts = [f"In row {row} stands {row % 4 + 1} * 9, in prose of its own. " + "word " * 40 for row in range(300)]
    texts[3], texts[5], texts[7], texts[11] = None, " ", "", f"{texts[11]} {CONTAMINATED}"
    (folder / "prose.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    items = "\n".join(json.dumps({"text": text}) for text in (CONTAMINATED, "too short"))
    (folder / "items.jsonl").write_text(items, encoding="utf-8")
    args = CorpusArguments(
        sources=[{"path": "prose.jsonl"}, {"synthetic": "drills", "documents": 2000}],
        source_root=str(folder),
        output_dir=str(folder / "corpus"),
        dose=0.04,
        validation_fraction=0.1,
        decontaminate=[{"path": "items.jsonl", "name": "exam"}],
    )
    prepare_corpus(args, report=lambda line: None)
    return folder / "corpus"


@pytest.fixture
def manifests(corpus):
    return read_manifests(corpus)


def cells_of(block, label):
    """The cells of the row that begins with `label`, without the thousands' commas."""
    (row,) = [line for line in block.splitlines() if re.match(rf" +{re.escape(label)}  ", line)]
    return row.replace(label, "", 1).replace(",", "").split()


def section(text, title):
    return text[text.index(f"\n{title}") + 1 :].split("\n\n")[0]


def test_sources_are_described_with_what_was_read_left_out_and_used(manifests):
    sources = manifests["baseline"]["sources"]
    assert sources[0]["left_out"] == {"null": 1, "blank": 2}
    assert sources[0]["contaminated"] == 1
    block = section(describe_corpus(manifests), "Sources")
    total = sum(source["train"]["plain_tokens"] for source in sources)
    for source, label in zip(sources, ("prose.jsonl", "drills (synthetic)"), strict=True):
        used = [source["train"][key] for key in ("documents", "plain_tokens", "bytes")]
        counts = [source["documents_read"], *source["left_out"].values(), source["contaminated"], *used]
        assert cells_of(block, label) == [*map(str, counts), f"{used[1] / total:.1%}"]


def test_train_split_is_described_with_natural_and_synthetic_text_apart(manifests):
    block = section(describe_corpus(manifests), "Train split")
    train = manifests["baseline"]["splits"]["train"]
    parts = [train, train["natural"], train["synthetic"]]
    for label, key in (("documents", "documents"), ("bytes of text", "bytes"), ("facts", "facts")):
        assert cells_of(block, label) == [str(part[key]) for part in parts]
    doses = [part["facts"] / part["plain_tokens"] for part in parts]
    assert cells_of(block, "dose, facts per plain token") == [f"{dose:.1e}" for dose in doses]
    for condition, manifest in manifests.items():
        split = manifest["splits"]["train"]
        parts = [split, split["natural"], split["synthetic"]]
        assert cells_of(block, f"tokens, {condition}") == [str(part["tokens"]) for part in parts]
        density = [f"{part['bytes'] / part['tokens']:.4f}" for part in parts]
        assert cells_of(block, f"bytes per token, {condition}") == density
        rates = [f"{part['facts_per_million_tokens']:.1f}" for part in parts]
        assert cells_of(block, f"facts per million tokens, {condition}") == rates


def test_split_of_one_kind_of_text_has_one_column(manifests):
    block = section(describe_corpus(manifests), "Validation split")
    assert block.splitlines()[1].split() == ["natural"]
    assert cells_of(block, "documents") == [str(manifests["baseline"]["splits"]["validation"]["documents"])]


@pytest.mark.parametrize("part", ["natural", "synthetic"])
def test_every_count_stands_at_its_factors(manifests, part):
    counts = manifests["mul_tokens"]["splits"]["train"][part]["facts_by_name"]
    block = section(describe_corpus(manifests), f"Facts in the {part} training text")
    for a in range(1, 10):
        wanted = [str(counts[FACT_BY_FACTORS[a, b].name]) for b in range(a, 10)]
        assert cells_of(block, f"{a} *") == wanted


def test_facts_that_never_occur_are_named(manifests):
    counts = manifests["baseline"]["splits"]["train"]["natural"]["facts_by_name"]
    missing = [f"{fact.a}*{fact.b}" for fact in FACTS if counts[fact.name] == 0]
    assert "9*9" in missing
    assert "4*9" not in missing
    block = section(describe_corpus(manifests), "Facts in the natural training text")
    named = " ".join(block[block.index("Never in natural") :].split())
    assert named == f"Never in natural training text, {len(missing)} of the 45 facts: {', '.join(missing)}"


def test_decontamination_is_described_with_its_rule_and_its_sets(manifests):
    facts = manifests["baseline"]["decontamination"]
    block = section(describe_corpus(manifests), "Decontamination")
    assert facts["rule"] in block
    assert f"with a test item: 1 ({facts['bytes']:,} bytes), left out" in block
    exam = facts["sets"]["exam"]
    assert cells_of(block, "exam") == [str(exam[key]) for key in ("items", "items_too_short", "ngrams", "documents")]
    assert (exam["items"], exam["items_too_short"], exam["documents"]) == (2, 1, 1)


def test_corpus_without_test_items_says_so(manifests):
    manifests["baseline"]["decontamination"] = None
    assert "none: the recipe names no test items" in section(describe_corpus(manifests), "Decontamination")


def test_identity_names_documents_tokenizers_and_what_is_on_disk(manifests, corpus):
    block = section(describe_corpus(manifests), "Identity")
    assert f"documents of each condition: sha256 {manifests['baseline']['documents_sha256']}" in block
    for condition, manifest in manifests.items():
        assert f"{condition}: tokenizer {manifest['tokenizer']}" in block
        size = sum(file.stat().st_size for file in (corpus / condition).glob("*.npy"))
        shards = [len(manifest["splits"][split]["shards"]) for split in ("train", "validation")]
        assert f"{shards[0]} shards to train, {shards[1]} to validate; {size:,} bytes on disk" in block


def test_conditions_with_different_documents_are_pointed_out(manifests):
    manifests["mul_tokens"]["documents_sha256"] = "f" * 64
    block = section(describe_corpus(manifests), "Identity")
    assert "DIFFERENT documents" in block
    assert f"documents of mul_tokens: sha256 {'f' * 64}" in block


def test_summary_fits_its_width_at_the_scale_of_the_experiment(manifests):
    def enlarge(value):
        if isinstance(value, dict):
            return {key: enlarge(each) for key, each in value.items()}
        if isinstance(value, list):
            return [enlarge(each) for each in value]
        return value * 100_000 if type(value) is int else value

    large = enlarge(copy.deepcopy(manifests))
    for manifest in large.values():
        manifest["sources"][0]["name"] = "somebody/with-a-long-name-for-a-data-set-of-the-whole-web"
    text = describe_corpus(large)
    assert max(map(len, text.splitlines())) <= 110
    assert "for-a-data-set-of-the-whole-web" not in text  # it was cut, or this test shows nothing
    assert "of-the-whole-web" in text


def test_folder_of_one_condition_is_read_alone(corpus):
    assert list(read_manifests(corpus)) == ["baseline", "mul_tokens"]
    assert list(read_manifests(corpus / "mul_tokens")) == ["mul_tokens"]


def test_folder_without_a_manifest_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prepared corpus in .*run training/prepare_data.py"):
        read_manifests(tmp_path)


def test_program_prints_the_summary_and_draws_the_figure(corpus, manifests, capsys):
    assert main(CorpusArguments(), PreparationArguments(describe=str(corpus))) == 0
    assert describe_corpus(manifests) in capsys.readouterr().out
    figure = (corpus / "facts_by_name.png").read_bytes()
    assert figure.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(figure) > 10_000
