import subprocess
import sys
from types import SimpleNamespace

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from tests.conftest import CORPUS
from tokenization.mul_facts import FACTS
from training.analysis.figures import plot_fact_counts
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The manifests of natural text with a few facts and of synthetic text."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "prose.txt").write_text("".join(f"# {n}\n{n % 5 + 1} * 6, once more.\n" for n in range(200)))
    prose = {"path": "prose.txt", "document_start": "^#"}
    args = CorpusArguments(
        **{**CORPUS, "sources": [prose, CORPUS["sources"][0]]}, source_root=str(folder), output_dir=str(folder / "c")
    )
    return prepare_corpus(args, report=lambda line: None)


@pytest.fixture
def drawn(prepared, monkeypatch):
    """The figure as it is when it is saved."""
    kept = SimpleNamespace()
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: setattr(kept, "figure", self))

    def draw(manifests=prepared):
        plot_fact_counts(manifests, "nowhere.png")
        return kept.figure

    return draw


def without_synthetic_text(manifests):
    """The same manifests, had all the text been natural."""
    one_part = {}
    for condition, manifest in manifests.items():
        split = manifest["splits"]["train"]
        split = {**split, "natural": split, "synthetic": {**split["synthetic"], "documents": 0}}
        one_part[condition] = {**manifest, "splits": {**manifest["splits"], "train": split}}
    return one_part


def test_figure_is_a_png_of_a_size_to_read(prepared, tmp_path):
    plot_fact_counts(prepared, tmp_path / "facts.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "facts.png").shape
    assert 600 <= height <= 1000
    assert 1200 <= width <= 1600


def test_same_counts_give_the_same_bytes(prepared, tmp_path):
    for name in ("a.png", "b.png"):
        plot_fact_counts(prepared, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_each_cell_holds_the_count_of_its_fact(prepared, drawn):
    train = prepared["baseline"]["splits"]["train"]
    panels = drawn().axes[:2]
    for panel, part in zip(panels, ("natural", "synthetic"), strict=True):
        written = {text.get_position(): text.get_text() for text in panel.texts}
        for fact in FACTS:
            assert written[fact.b, fact.a] == str(train[part]["facts_by_name"][fact.name])
        assert panel.get_title() == f"{part.capitalize()} text"


def test_cells_of_facts_that_never_occur_are_hatched(prepared, drawn):
    counts = prepared["baseline"]["splits"]["train"]["natural"]["facts_by_name"]
    hatched = [patch.get_center() for patch in drawn().axes[0].patches if patch.get_hatch()]
    missing = [(fact.b, fact.a) for fact in FACTS if counts[fact.name] == 0]
    assert len(missing) == len(FACTS) - 5
    assert [tuple(center) for center in hatched] == [pytest.approx(place) for place in missing]


def test_title_states_dose_and_tokens(prepared, drawn):
    title = drawn().get_suptitle()
    assert f"{prepared['baseline']['dose']:.1e} facts per plain GPT-2 token" in title
    for condition, manifest in prepared.items():
        assert f"{manifest['splits']['train']['tokens']:,} in {condition}" in title


def test_part_without_documents_has_no_panel(prepared, drawn):
    assert [axis.get_title() for axis in drawn(without_synthetic_text(prepared)).axes] == ["Natural text", ""]


@pytest.mark.parametrize(("count", "label"), [(999, "999"), (9_999, "9,999"), (54_321, "54k"), (1_234_567, "1.2M")])
def test_large_counts_are_shortened(prepared, drawn, count, label):
    manifests = without_synthetic_text(prepared)
    for manifest in manifests.values():
        train = manifest["splits"]["train"]
        train["natural"] = {**train["natural"], "facts_by_name": {fact.name: count for fact in FACTS}}
    assert [text.get_text() for text in drawn(manifests).axes[0].texts].count(label) == len(FACTS)


def test_drawing_needs_neither_torch_nor_pyplot():
    program = "import sys, training.analysis.figures; print({'torch', 'matplotlib.pyplot'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
