"""The report of experiments whose differences are known."""

import json
import re
import subprocess
import sys

import pytest
from scipy import stats

from tests.conftest import PROJECT
from tests.training.small_experiment import (
    EXPLORATORY,
    PRIMARY,
    SECONDARY,
    WIGGLE,
    edit_json,
    rows_of,
    write_experiment,
    write_rows,
)
from training.analysis.endpoint_items import EndpointItems
from training.analysis.experiment_report import warnings_of, write_report
from training.analysis.experiment_results import read_experiment
from training.analysis.paired import holm
from training.analysis.report_pages import Document, to_markdown
from training.analysis.report_results import differences_section
from training.analysis.verdict import beside_the_verdict, measure_endpoints, verdict

TWO = {"baseline": 0, "mul_tokens": 12}


def measured_of(folder):
    experiment = read_experiment(folder)
    return experiment, measure_endpoints(experiment, EndpointItems(experiment), replications=200)


def verdict_of(folder):
    return verdict(*measured_of(folder)).replace("\u00a0", " ")


def differences_in_words(folder):
    document = Document("", [], [differences_section(*measured_of(folder), folder)])
    return to_markdown(document).replace("\u00a0", " ")


def section(text, title):
    """The Markdown of one section."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0].replace("\u00a0", " ")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A whole study of four arms, its report written, and the pages as text."""
    folder = write_experiment(tmp_path_factory.mktemp("study"))
    write_report(folder, replications=200)
    return folder, (folder / "report/report.md").read_text(), (folder / "report/report.html").read_text()


@pytest.fixture(scope="module")
def measured(study):
    """The experiment of the study and its tests."""
    return measured_of(study[0])


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A smoke with something wrong in many places, its report written by the program, and what that printed."""
    folder = write_experiment(
        tmp_path_factory.mktemp("odd"),
        effects=TWO,
        seeds=4,
        scale="smoke",
        deviations=["Seed 1 <b>late</b> | *twice*"],
        invariants={"before": [], "after": [{"name": "vocabulary", "passed": False, "detail": "50,349 and 50,257"}]},
    )
    for results in (folder / "mul_tokens-s2/sft_math/evals").glob("*/*/results.json"):
        results.unlink()
    (folder / "report").mkdir()
    (folder / "report/dose.png").write_bytes(b"of an earlier report")
    row = {
        "step": "corpus/all",
        "status": "finished",
        "command": ["/home/someone/env/bin/python", "a b"],
        "seconds": 1,
    }
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    program = [sys.executable, str(PROJECT / "training/report.py"), str(folder), "--replications", "50"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return folder, done.stdout


def test_known_difference_passes_with_its_interval(tmp_path):
    words = verdict_of(write_experiment(tmp_path, effects=TWO, weights=False))
    error = stats.sem(WIGGLE) * stats.t.ppf(0.975, 5)
    assert "`mul_tokens` did better than `baseline`" in words
    assert "52.0 % with `mul_tokens` and 40.0 % with `baseline`, a difference of +12.0 points" in words
    assert f"95 % interval +{12 - error:.1f} to +{12 + error:.1f}; paired t over 6 seeds, 100 items" in words
    assert words.endswith("The primary endpoint passes at the declared level of 0.05.")


def test_null_states_what_could_have_been_seen_and_does_not_pass(tmp_path):
    words = verdict_of(write_experiment(tmp_path, effects={"baseline": 0, "mul_tokens": 0}, weights=False))
    assert words.startswith("No difference was found")
    assert "a difference of +0.0 points" in words
    assert re.search(r"A difference below 2\.\d points would have been seen with less than 80 % power\.", words)
    assert "The arms are equivalent within ±2.0 points" in words
    assert words.endswith("The primary endpoint does not pass at the declared level of 0.05.")


def test_null_within_a_narrow_margin_is_not_called_equivalent(tmp_path):
    primary = {**PRIMARY, "margin": 0.005}
    effects = {"baseline": 0, "mul_tokens": 0}
    words = verdict_of(write_experiment(tmp_path, effects=effects, weights=False, primary=primary))
    assert "Equivalence within ±0.5 points was not shown either" in words


def test_difference_against_the_hypothesis_does_not_pass(tmp_path):
    words = verdict_of(write_experiment(tmp_path, effects={"baseline": 0, "mul_tokens": -12}, weights=False))
    assert "`mul_tokens` did worse than `baseline`" in words
    assert "a difference of −12.0 points" in words
    assert words.endswith("the primary endpoint does not pass.")


def test_where_less_is_better_a_decrease_passes(tmp_path):
    primary = {**PRIMARY, "value": "likelihood.nll", "unit": "nats", "higher_is_better": False}
    words = verdict_of(write_experiment(tmp_path, effects=TWO, weights=False, primary=primary))
    assert "did better" in words
    assert "a difference of −0.1200 nats" in words


def test_smoke_says_first_that_it_says_nothing(odd):
    folder, printed = odd
    assert printed.startswith("This is a smoke result: it shows that everything runs, and says nothing about the")
    first = (folder / "report/report.md").read_text().splitlines()[0]
    assert first.startswith("# Smoke result, which says nothing about the question")


def test_report_that_is_no_smoke_does_not_call_itself_one(study):
    assert "smoke" not in study[1].lower()


def test_one_seed_gives_no_verdict(tmp_path):
    words = verdict_of(write_experiment(tmp_path, effects=TWO, seeds=1, weights=False))
    assert words.startswith("There is no verdict")
    assert "one seed" in words


def test_differences_that_are_all_alike_give_no_verdict(tmp_path):
    folder = write_experiment(tmp_path, effects={"baseline": 0, "mul_tokens": 12}, seeds=2, weights=False)
    for seed in (0, 1):
        _, rows = rows_of(folder, f"baseline-s{seed}/sft_math", "probes")
        write_rows(rows_of(folder, f"mul_tokens-s{seed}/sft_math", "probes")[0], rows)
    words = verdict_of(folder)
    assert words.startswith("There is no verdict")
    assert "the same in all 2 seeds" in words


def test_study_without_any_run_has_a_report_that_names_them(tmp_path):
    folder = write_experiment(tmp_path / "whole", effects=TWO, seeds=2, weights=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "experiment.json").write_text((folder / "experiment.json").read_text())
    words, (page, _) = write_report(bare, replications=50)
    assert words.startswith("There is no verdict: no seed has the primary endpoint")
    found = section(page.read_text(), "Protocol deviations")
    for arm in TWO:
        for seed in (0, 1):
            assert f"`{arm}-s{seed}/pretrain` is missing" in found
            assert f"`{arm}-s{seed}/sft_math` is missing" in found


def test_missing_seed_is_named_wherever_it_is_missed(odd):
    folder, printed = odd
    text = (folder / "report/report.md").read_text()
    assert "paired t over 3 seeds, 100 items; 1 of 4 declared seeds missing" in printed.replace("\u00a0", " ")
    assert "3 of 4 seeds have both arms; missing: `mul_tokens-s2`" in section(text, "Paired differences")
    assert "(n = 3)" in section(text, "All arms and their floors")
    assert "`probes` of `mul_tokens-s2/sft_math` is missing" in section(text, "Protocol deviations")
    assert "1 run or evaluation missing" in text.split("\n## ")[0]


def test_holm_adjusts_secondary_tests_among_themselves_and_no_others(measured):
    experiment, tests = measured
    for role in ("secondary", "control"):
        family = {str(place): test.result.p_value for place, test in enumerate(tests) if test.role == role}
        assert len(family) == {"secondary": 2, "control": 6}[role]
        adjusted = {str(place): test.adjusted_p for place, test in enumerate(tests) if test.role == role}
        assert adjusted == holm(family)
    others = [test for test in tests if test.role in ("primary", "exploratory")]
    assert len(others) == 1 + len(experiment.comparisons) * len(EXPLORATORY)
    assert all(test.adjusted_p is None for test in others)
    assert all(test.deciding_p == test.result.p_value for test in others)


def without_texts(folder, arm):
    for file in folder.glob(f"{arm}-s*/pretrain/evals/text/*/*"):
        file.unlink()
    return folder


def test_family_does_not_shrink_with_a_test_that_has_no_results(tmp_path):
    folder = write_experiment(
        tmp_path, effects=TWO, weights=False, secondary=[SECONDARY[0], EXPLORATORY[0]], exploratory=[]
    )
    _, tests = measured_of(without_texts(folder, "baseline"))
    found, untested = (test for test in tests if test.role == "secondary")
    assert found.adjusted_p == pytest.approx(2 * found.result.p_value)
    assert untested.deciding_p is None
    assert "(2 tests), and the adjusted p decides" in differences_in_words(folder)


def test_detectable_effect_of_a_family_is_that_at_its_share_of_alpha(measured, study):
    _, tests = measured
    for role, family in (("primary", 1), ("secondary", 2), ("control", 6), ("exploratory", 1)):
        for test in (test for test in tests if test.role == role):
            assert test.detectable == pytest.approx(test.result.detectable_at(0.05 / family))
    found = section(study[1], "Paired differences")
    assert "| detectable (secondary: at α/2) |" in found
    assert "| detectable (control: at α/6) |" in found
    assert "would have been seen with less than 80 % power (at the level of 0.05 / 2)" in found


def test_primary_endpoint_in_another_comparison_is_a_control(measured):
    experiment, tests = measured
    roles = {test.treatment + test.baseline: test.role for test in tests if test.endpoint == experiment.primary}
    assert roles == {"mul_tokensbaseline": "primary", "mul_tokensopaque": "control", "mul_tokensrandom": "control"}


def test_controls_and_floor_stand_beside_the_verdict(tmp_path):
    lines = "\n".join(beside_the_verdict(*measured_of(write_experiment(tmp_path, weights=False)))).replace(
        "\u00a0", " "
    )
    assert "The floor, which takes no arithmetic, is 11.0 %." in lines
    assert (
        "Control, `mul_tokens` against `opaque`: on the primary endpoint, `mul_tokens` did better, a difference"
        in lines
    )
    assert "a difference of +11.0 points" in lines
    found = "Secondary endpoints: 1 of 2 differs after Holm's adjustment (products of two digits, exact better, +8.6"
    assert found in lines


def test_arms_at_the_floor_are_said_to_be_there(tmp_path):
    effects = {"baseline": -31, "mul_tokens": -30}
    lines = beside_the_verdict(*measured_of(write_experiment(tmp_path, effects=effects, weights=False)))
    assert lines[0].startswith("Neither arm is above the floor of 11.0 %")


def test_every_endpoint_of_every_comparison_has_its_line(study):
    found = section(study[1], "Paired differences")
    tables = found.split("\n### ")[1:]
    assert len(tables) == 3
    for endpoint in (PRIMARY, *SECONDARY, *EXPLORATORY):
        assert all(f"\n| {endpoint['name']}" in table for table in tables)
    first = next(line for line in tables[0].splitlines() if "| primary |" in line)
    assert "| 40.0 ± 4.6 | 52.0 ± 6.2 | +12.0 (+10.4 to +13.6) | < 0.001 | none |" in first.replace("\\", "")
    assert "| 6 × 100 |" in first


def test_each_null_has_its_detectable_effect_beside_it(study):
    found = section(study[1], "Paired differences").split("\n### ")[1]
    assert "sums, exact: no difference was found. A difference below" in found
    assert "GSM8K, strict: no difference was found. A difference below" in found


def test_note_does_not_take_the_place_of_the_words_on_a_null(tmp_path):
    sums = {**SECONDARY[1], "cluster": "set"}  # one cluster, of which there is a note
    folder = write_experiment(tmp_path, effects=TWO, weights=False, secondary=[sums])
    found = differences_in_words(folder)
    assert "sums, exact: All items are one cluster" in found
    assert "sums, exact: no difference was found. A difference below" in found


def test_effect_against_the_hypothesis_is_called_worse(tmp_path):
    secondary = [{**SECONDARY[0], "higher_is_better": False}]
    lines = beside_the_verdict(*measured_of(write_experiment(tmp_path, weights=False, secondary=secondary)))
    assert any("(products of two digits, exact worse, +" in line for line in lines)


def test_deviations_that_the_files_show_are_told_with_the_verdict(tmp_path):
    folder = write_experiment(tmp_path, effects=TWO, seeds=2, weights=False)
    declared = "1 declared deviation from the plan: see “Protocol deviations”."
    assert warnings_of(read_experiment(folder)) == [declared]
    edit_json(folder / "mul_tokens-s0/sft_math/run.json", lambda one: one["recipe"].update(learning_rate=0.1))
    shown = "1 deviation is shown by the files: see “Protocol deviations”."
    assert warnings_of(read_experiment(folder)) == [declared, shown]


def test_floors_are_named_beside_their_table(study):
    found = section(study[1], "All arms and their floors")
    assert "Floor of GSM8K, strict: a number in its results, which do not say what gives it; also computed:" in found


def test_page_on_a_narrow_screen_shows_whole_figures_and_that_tables_go_on(study):
    narrow = re.search(r"@media \(max-width: 36rem\) \{(.*?)\n?\}\s*\n", study[2], flags=re.DOTALL)[1]
    assert "figure img { min-width: 0; }" in narrow
    assert '<div class="wide table"' in study[2]


def test_permutation_p_stands_beside_the_smallest_possible(study):
    lines = section(study[1], "Paired differences").splitlines()
    head = next(place for place, line in enumerate(lines) if "sign-flip p | smallest" in line)
    cells = [cell.strip() for cell in lines[head + 2].split("|")[1:-1]]
    assert cells[3:5] == ["0.031", "0.031"]
    assert re.fullmatch(r"(\d+/\d+ ?){6}", cells[6]), "discordant items seed by seed"


def test_page_needs_nothing_from_elsewhere(study):
    page = study[2]
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_contents_lead_to_every_section(study):
    page = study[2]
    targets = re.findall(r'<li><a href="#([^"]+)">', page)
    assert len(targets) >= 10
    assert targets == re.findall(r'<h2 id="([^"]+)">', page)
    assert "<title>small_study" in page


def test_figures_of_the_markdown_are_there(study):
    folder, text, _ = study
    named = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(named) >= 8
    assert sorted(named) == sorted(path.name for path in (folder / "report").glob("*.png"))


def test_every_line_of_a_table_has_as_many_cells_as_its_head(study):
    for table in re.findall(r"(?:^\|.*\n)+", study[1], flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_same_files_give_the_same_bytes(odd):
    folder = odd[0] / "report"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(odd[0], replications=50)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_figure_of_an_earlier_report_is_not_left_behind(odd):
    assert (odd[0] / "report/differences.png").exists()
    assert not (odd[0] / "report/dose.png").exists()


def test_text_from_the_declaration_is_no_markup(odd):
    assert "&lt;b&gt;late&lt;/b&gt; | *twice*" in (odd[0] / "report/report.html").read_text()
    assert r"\<b\>late\</b\> \| \*twice\*" in (odd[0] / "report/report.md").read_text()


def test_failed_invariant_is_told_with_the_verdict(odd):
    text = (odd[0] / "report/report.md").read_text()
    assert "FAILED invariants: vocabulary" in text.split("\n## ")[0]
    assert "| FAILED | after | vocabulary | 50,349 and 50,257 |" in section(text, "Invariants")


def test_recipes_are_named_with_what_they_held(study):
    found = section(study[1], "Commands, commits, versions")
    assert f"| `recipes/small/corpus.yaml` | {'5e' * 32} |" in found


def test_commands_bear_no_folder_of_the_machine(odd):
    text = (odd[0] / "report/report.md").read_text()
    assert "env/bin/python 'a b'" in text
    assert "someone" not in text


def test_program_prints_the_verdict_and_where_the_pages_are(odd):
    folder, printed = odd
    assert "a difference of +11.3 points" in printed
    assert f"report: {folder / 'report' / 'report.html'}" in printed


def test_program_refuses_a_folder_that_is_no_experiment(tmp_path):
    program = [sys.executable, str(PROJECT / "training/report.py"), str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"report.py: error: '{tmp_path}' has no experiment.json; name the folder that training/experiment.py writes to"
    )


def test_report_is_written_without_pytorch(tmp_path):
    program = "import sys, training.analysis.experiment_report; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_first_comparison_is_the_primary_one(tmp_path):
    comparisons = [["random", "mul_tokens"], ["baseline", "mul_tokens"]]
    effects = {**TWO, "random": 3}
    folder = write_experiment(tmp_path, effects=effects, seeds=2, weights=False, comparisons=comparisons)
    assert "with `mul_tokens` and 43.0 % with `random`" in verdict_of(folder)
