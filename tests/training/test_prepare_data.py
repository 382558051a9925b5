"""The preparation program, killed and stopped as machines and people do it."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from tests.conftest import PROJECT, program_environment, run_command
from tests.training.small_corpora import content, prepare
from training import prepare_data
from training.core.console import stopping_in_words
from training.core.recipe import parse_recipe
from training.data.corpus_recipe import CorpusArguments, PreparationArguments

RECIPE = {
    "sources": [{"synthetic": "drills", "documents": 6_000}, {"synthetic": "word_problems", "documents": 6_000}],
    "validation_fraction": 0.05,
    "validation_synthetic": True,
    "piece_bytes": 1000 * 8192,
    "minimum_dose": 0,
}


def program(recipe, folder, *arguments):
    return [
        sys.executable,
        str(PROJECT / "training" / "prepare_data.py"),
        str(recipe),
        *("--output_dir", str(folder), "--workers", "2", *arguments),
    ]


def start(command):
    return subprocess.Popen(
        command, cwd=PROJECT, env=program_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_pieces(process, folder, pieces):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("unfinished/[0-9]*.json"))) < pieces:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_and_stopped_preparation_ends_with_the_same_bytes(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    folder = tmp_path / "c"
    for pieces, number, status in (
        (1, signal.SIGKILL, -signal.SIGKILL),
        (4, signal.SIGTERM, 75),
    ):
        process = start(program(recipe, folder))
        wait_for_pieces(process, folder, pieces)
        workers = psutil.Process(process.pid).children()
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == status, output
        if number != signal.SIGKILL:
            assert "what is finished is kept, give the same command again" in output
            assert "Traceback" not in output
        gone, alive = psutil.wait_procs(workers, timeout=10)
        assert len(gone) == 2 and not alive  # also after SIGKILL: nobody may write into the next run's files
    done = run_command(program(recipe, folder))
    assert done.returncode == 0, done.stderr
    assert "continuing with" in done.stdout
    prepare(tmp_path / "reference", **RECIPE)
    assert content(folder) == content(tmp_path / "reference")

    started = json.loads((folder / "run.json").read_text())
    assert started["workers"] == 2
    assert len(started["starts"]) == 3
    assert "facts per million tokens" in done.stdout


def test_control_c_ends_in_words(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_data, "prepare_corpus", interrupted)
    args = CorpusArguments(**{**RECIPE, "output_dir": str(tmp_path)})
    assert prepare_data.main(args, PreparationArguments()) == 130
    assert "what is finished is kept, give the same command again" in capsys.readouterr().err


def test_stopping_means_what_it_did_before_once_the_work_is_over():
    before = signal.getsignal(signal.SIGTERM)
    with stopping_in_words():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "workers is 0"),
        (["--encoder", "fast"], "choose tiktoken or gigatoken"),
        (["--executor", "slurm"], "needs slurm_partition"),
        (["--progress", "loud"], "progress is 'loud'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, words):
    recipe = PROJECT / "recipes" / "synthetic_corpus.yaml"
    with pytest.raises(ValueError, match=words):
        parse_recipe([CorpusArguments, PreparationArguments], [str(recipe), *arguments])
