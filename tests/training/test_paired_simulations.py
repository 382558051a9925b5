"""Simulated experiments with a known truth, as `benchmarks/paired_statistics.py` measures them in full."""

import json
import runpy
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, program_environment

BENCHMARK = PROJECT / "benchmarks" / "paired_statistics.py"


def share_found(row, experiments):
    benchmark = runpy.run_path(str(BENCHMARK))
    (row,) = [known for known in benchmark["ROWS"] if known[:4] == row]
    return row, benchmark["measure"](row, experiments=experiments, replications=200, random_seed=0)


def test_t_test_finds_what_is_not_there_as_often_as_alpha_and_pooled_mcnemar_more_often():
    row, found = share_found((2.4, 2.4, 8, 0.4), 300)
    assert 0.01 <= found["t"] <= 0.11  # 5 % in truth, 3 to 33 of 300 in 9,999 of 10,000 cases
    assert found["signs"] <= 0.11 and found["bootstrap"] <= 0.08
    assert found["pooled"] == pytest.approx(row.pooled, abs=0.1)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_power_grows_with_the_seeds_as_in_an_earlier_simulation(seeds):
    row, found = share_found((40, 42, seeds, 0.5), 150)
    # Four standard errors of 150 experiments and of the earlier 500.
    assert found["t"] == pytest.approx(row.t, abs=0.185)
    assert found["bootstrap"] == pytest.approx(row.bootstrap, abs=0.185)
    # Fewer than six seeds have no sign flips with a p-value below 0.05.
    assert found["signs"] == pytest.approx(row.signs, abs=0.185 if seeds >= 6 else 0)


def test_benchmark_prints_every_row_and_writes_it(tmp_path):
    options = ["--experiments", "2", "--bootstrap", "50", "--json", "out.json"]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options], cwd=tmp_path, env=program_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["rows"]
    assert all(f"| {row['baseline']} vs {row['treatment']} " in done.stdout for row in rows)
    assert {row["found"]["t"] is None for row in rows if row["seeds"] == 1} == {True}
    assert all(0 <= row["found"]["pooled"] <= 1 for row in rows)
