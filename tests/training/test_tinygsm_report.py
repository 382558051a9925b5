"""The report for people."""

import html.parser
import json

from tests.training.small_tinygsm import convert_rows, problem, problems
from training.data.tinygsm.report import random_rows, write_report

HOSTILE = 'Is <script>alert(1)</script> & "two" ```times``` 7 | 8 pears per bag, or how many pears are there?'


def convert_and_report(folder, **keys):
    hostile = [
        problem(HOSTILE, "bags = 7", "pears = 8", "result = bags * pears"),
        {"question": HOSTILE, "code": "````\n</pre><b>not a program"},
    ]
    manifest, rows = convert_rows(folder, problems(150) + hostile, drill_minimum=4, **keys)
    markdown, page = write_report(folder / "out", manifest)
    return manifest, rows, markdown.read_text("utf-8"), page.read_text("utf-8")


class Page(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert not any(name in ("src", "href") for name, _ in attributes)
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_page_shows_rows_and_programs_as_text_only(tmp_path):
    *_, page = convert_and_report(tmp_path)
    parsed = Page(page)
    assert not {"script", "b"} & set(parsed.tags)
    assert parsed.tags.count("article") >= 101
    assert "</pre><b>not a program" in "".join(parsed.text)


def test_markdown_fences_cannot_be_closed_by_what_they_hold(tmp_path):
    *_, markdown, _ = convert_and_report(tmp_path)
    assert "\n`````\n````\n</pre><b>not a program\n`````\n" in markdown


def test_both_show_the_gates_the_facts_and_a_hundred_rows(tmp_path):
    manifest, _, markdown, page = convert_and_report(tmp_path)
    assert "## 100 rows at random" in markdown and "100 rows at random" in page
    assert sum(line.startswith(("### tinygsm, row", "### drill, row")) for line in markdown.split("\n")) == 100
    for gate in manifest["gates"]:
        assert f"<td>{gate['gate']}</td>" in page
        assert f"| {gate['gate']} | {gate['rows']} |" in markdown
    facts = manifest["facts"]["9*9"]
    last = next(line for line in markdown.split("\n") if line.startswith("| 9 |"))
    assert last.split(" | ")[-1] == f"{facts['tinygsm']} + {facts['drill']} |"


def test_rows_shown_are_drawn_by_the_seed_from_all_that_were_written(tmp_path):
    manifest, rows, *_ = convert_and_report(tmp_path, num_shards=3)
    first, again, other = (random_rows(tmp_path / "out", manifest, 20, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 20 and all(row in rows for row in first)
    assert random_rows(tmp_path / "out", manifest, 10_000, 0) == rows


def test_parquet_is_shown_like_json_lines(tmp_path):
    convert_and_report(tmp_path / "lines")
    convert_and_report(tmp_path / "tables", output_format="parquet")
    lines, tables = ((tmp_path / name / "out" / "report.md").read_text() for name in ("lines", "tables"))
    assert lines == tables
    assert (
        json.loads((tmp_path / "tables" / "out" / "manifest.json").read_text())["request"]["output_format"]
        == "parquet"
    )
