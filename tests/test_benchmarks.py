"""The benchmarks, run as a user runs them, at the smallest size."""

import json
import subprocess
import sys

from tests.conftest import PROJECT, program_environment

SENTENCE = "The tower was built in the year 1889 and is known by all who live in the town below it . "
ARTICLES = "".join(f" = Tower {n} = \n\n = = History = = \n\n {SENTENCE * 8}\n" for n in range(60))


def test_comparison_of_corpus_preparations_measures_both_and_finds_equal_ids(tmp_path):
    (tmp_path / "prose.txt").write_text(ARTICLES, encoding="utf-8")
    program = PROJECT / "benchmarks" / "prepare_data.py"
    options = "--megabytes 0.1 --rounds 1 --workers 1 --encoders tiktoken --ways one_arm nanogpt_loop"
    command = [sys.executable, program, "--prose", "prose.txt", *options.split(), "--validation_fraction", "0.3"]
    done = subprocess.run(
        [*command, "--json", "out.json"], cwd=tmp_path, env=program_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    prose = {run["variant"]: run for run in report["runs"] if run["text"] == "prose"}
    assert set(prose) == {"ours, tiktoken, one arm", "build-nanogpt's loop"}
    # A worker may be gone before its memory is looked at: so little text says nothing about that.
    assert all(run["wall_seconds"] > 0 and run["cpu_seconds"] >= 0 for run in prose.values())
    ours, loop = (run["ids"]["baseline"] for run in prose.values())
    assert ours == loop and ours[0] > 10_000
    assert "hours for 10B tokens" in done.stdout
