import json
import random
import re
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

from tests.conftest import run_command
from tests.loopback_hub import LoopbackHub
from training.data import hub
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.shards import read_manifest

COMMIT, LINES_COMMIT = "0123456789" * 4, "9876543210" * 4
FILES, ROWS, ROWS_PER_GROUP, NOISE_BYTES = 2, 120, 40, 8_000
PARQUET = "sample/10BT"
SETTINGS = {"validation_fraction": 0.1, "minimum_dose": 0, "piece_bytes": 12_000}
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
"""


def text_of(file, row):
    return f"document {row} of file {file}: " + f"the table says {row % 9 + 1} * 7, and nothing more. " * 4


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Parquet files of several row groups, with a column before the text that does not compress."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / PARQUET).mkdir(parents=True)
    for file in range(FILES):
        rows = {
            "noise": [random.Random(file * ROWS + row).randbytes(NOISE_BYTES) for row in range(ROWS)],
            "text": [text_of(file, row) for row in range(ROWS)],
            "score": [0.5] * ROWS,
        }
        pq.write_table(pa.table(rows), folder / PARQUET / f"00{file}_00000.parquet", row_group_size=ROWS_PER_GROUP)
    (folder / "data" / "CC").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["of the default configuration"]}), folder / "data" / "CC" / "0.parquet")
    return folder


@pytest.fixture(scope="module")
def lines_repository(tmp_path_factory):
    """The same documents as JSONL, without a card."""
    folder = tmp_path_factory.mktemp("lines")
    for file in range(FILES):
        rows = "".join(json.dumps({"text": text_of(file, row)}) + "\n" for row in range(ROWS))
        (folder / f"train-0{file}.jsonl").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory, repository):
    """The manifests of the corpus of the same files in a local folder."""
    folder = tmp_path_factory.mktemp("expected")
    args = CorpusArguments(
        sources=[{"path": PARQUET}], source_root=str(repository), output_dir=str(folder), **SETTINGS
    )
    return prepare_corpus(args, report=lambda line: None)


def serve(repository, lines_repository):
    commits = {COMMIT: repository, LINES_COMMIT: lines_repository}
    return LoopbackHub("someone/texts", commits, {"main": COMMIT, "lines": LINES_COMMIT})


@pytest.fixture
def server(repository, lines_repository):
    with serve(repository, lines_repository) as server:
        yield server


def run(server, folder, *command):
    """Run a program with its Hub at the server and a cache of its own."""
    return run_command([sys.executable, *command], **server.environment(folder / "cache"))


def prepare(server, folder, *sources):
    recipe = folder / "corpus.yaml"
    sources = [{"hub": "someone/texts", **source} for source in sources]
    recipe.write_text(yaml.safe_dump({"sources": sources, "output_dir": str(folder / "corpus"), **SETTINGS}))
    result = run(server, folder, "training/prepare_data.py", recipe, "--workers", "2")
    assert result.returncode == 0, result.stderr
    return result


def assert_same_shards(folder, expected, source=0):
    """The shards of a source hold the expected tokens: sha256 of all of them."""
    shard_of_source = rf"(train|validation)-{source:02d}-"
    for condition, manifest in expected.items():
        files = read_manifest(folder / "corpus" / condition)["files"]
        found = {name: facts for name, facts in files.items() if re.match(shard_of_source, name)}
        assert {re.sub(shard_of_source, r"\1-00-", name): facts for name, facts in found.items()} == manifest["files"]


@pytest.fixture(scope="module")
def in_place(tmp_path_factory, repository, lines_repository):
    """A corpus that was read in place, by way of a branch's name."""
    folder = tmp_path_factory.mktemp("in_place")
    with serve(repository, lines_repository) as server:
        prepare(server, folder, {"config": "sample-10BT", "revision": "main"})
    return SimpleNamespace(folder=folder, server=server)


@pytest.fixture(scope="module")
def hindered(tmp_path_factory, repository, lines_repository):
    """The same documents three times: in place, from a server that fails now and then, as whole files, and in a
    format without row groups."""
    folder = tmp_path_factory.mktemp("hindered")
    with serve(repository, lines_repository) as server:
        server.fail("GET /api/datasets/someone/texts$", 503, times=1)
        # Behind the look at the end and the download for the plan, and the piece's own look: inside a piece.
        server.fail("GET .*000_00000.parquet", 425, after=3, times=1)
        server.cut("GET .*001_00000.parquet", after=3)
        result = prepare(
            server,
            folder,
            {"name": "ranges", "config": "sample-10BT"},
            {"name": "whole", "config": "sample-10BT", "download": True},
            {"name": "lines", "revision": "lines"},
        )
    return SimpleNamespace(folder=folder, server=server, result=result)


def test_corpus_from_the_hub_is_that_of_the_same_files_in_a_folder(in_place, expected):
    assert expected["baseline"]["splits"]["train"]["documents"] > 150
    assert len(expected["baseline"]["splits"]["train"]["shards"]) > FILES  # row groups of one file in several pieces
    assert_same_shards(in_place.folder, expected)
    for condition, manifest in expected.items():
        assert read_manifest(in_place.folder / "corpus" / condition)["splits"] == manifest["splits"]


def test_manifest_records_the_commit_behind_the_branch(in_place):
    request = read_manifest(in_place.folder / "corpus" / "baseline")["request"]
    assert request["sources"] == [
        {"hub": "someone/texts", "config": "sample-10BT", "branch": "main", "revision": COMMIT}
    ]


def test_branch_is_resolved_once_and_its_commit_read_from_then_on(in_place):
    revisions = [re.search(r"/(?:revision|tree|resolve)/([^/]+)", each.path) for each in in_place.server.requests]
    assert [revision and revision[1] for revision in revisions] == ["main"] + [COMMIT] * (len(revisions) - 1)


def test_reading_in_place_asks_for_ranges_and_not_for_whole_files(in_place, repository):
    pieces = ROWS // ROWS_PER_GROUP
    for file in sorted((repository / PARQUET).iterdir()):
        requests = in_place.server.asked(f"GET .*{file.name}")
        # The plan looks at a file's end, a piece at its end and at what begins with its text.
        assert len(requests) <= 1 + 2 * pieces
        assert {request.status for request in requests} == {206}
        assert max(request.body_bytes for request in requests) < file.stat().st_size - ROWS_PER_GROUP * NOISE_BYTES


def test_overloaded_hub_and_cut_connection_are_retried_aloud_and_change_nothing(hindered, expected):
    for what in ("asking for someone/texts", "piece 00-00000"):
        line = rf"{what} failed: HfHubHTTPError: .*; trying again in 1 s \(1 of 13\)"
        assert re.search(line, hindered.result.stdout)
    assert re.search(r"peer closed connection.*001_00000.parquet", hindered.result.stderr)  # the Hub's client says it
    assert_same_shards(hindered.folder, expected)


def test_downloaded_files_give_the_same_corpus_and_are_fetched_once(hindered, expected, repository):
    assert_same_shards(hindered.folder, expected, source=1)
    for file in sorted((repository / PARQUET).iterdir()):
        whole = [
            request.body_bytes for request in hindered.server.asked(f"GET .*{file.name}") if request.status == 200
        ]
        assert whole == [file.stat().st_size]


def test_data_set_in_another_format_gives_the_same_documents_as_a_stream(hindered):
    for condition in ("baseline", "mul_tokens"):
        manifest = read_manifest(hindered.folder / "corpus" / condition)
        ranges, _, lines = manifest["sources"]
        assert lines["documents_read"] == FILES * ROWS
        assert lines["train"] == ranges["train"]
    assert manifest["request"]["sources"][2]["revision"] == LINES_COMMIT


def test_branch_that_does_not_exist_is_refused_at_once_with_what_to_do(server, tmp_path):
    assert_refused(server, tmp_path, "revision='elsewhere'", "correct revision, a branch, tag or commit")


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/api/", 401, "RepoNotFound", "log in with `hf auth login` if the data set is private"),
        ("/api/", 403, "GatedRepo", "ask for access on the data set's page"),
        ("/tree/", 403, "", "Cannot access content at"),
        ("/README.md", 401, "GatedRepo", "is a gated dataset on the Hub"),
    ],
)
def test_closed_data_set_is_refused_at_once_with_what_to_do(server, tmp_path, path, status, code, words):
    server.fail(path, status, code)
    assert_refused(server, tmp_path, "config='sample-10BT'", words)


def assert_refused(server, folder, setting, words):
    """Listing the files ends in a `ValueError`, which the program prints as one line, without another try."""
    program = (
        "from training.data.sources import Source\n"
        f"try: Source(hub='someone/texts', {setting}).files\n"
        "except ValueError as error: print('refused:', error)"
    )
    result = run(server, folder, "-c", program)
    assert result.stdout.startswith("refused:"), result.stderr
    assert words in result.stdout
    assert "\n" not in result.stdout.strip()


def patiently(*errors):
    """Fail with each error in turn, then succeed; returns (result or final error, waits, lines)."""
    rest, waits, lines = list(errors), [], []

    def work():
        if rest:
            raise rest.pop(0)
        return "done"

    try:
        result = hub.with_patience(work, "reading", report=lines.append, sleep=waits.append)
    except Exception as error:
        result = error
    return result, waits, lines


def answer(status, kind=HfHubHTTPError):
    return kind(
        f"Error {status}\n\nIn the middle.", response=SimpleNamespace(status_code=status, headers={}, request=None)
    )


def test_waits_double_up_to_two_minutes_and_each_is_announced():
    result, waits, lines = patiently(*[ConnectionError("lost")] * (hub.ATTEMPTS - 1))
    assert result == "done"
    assert waits == [1, 2, 4, 8, 16, 32, 64, 120, 120, 120, 120, 120, 120]
    assert lines[2] == "reading failed: ConnectionError: lost; trying again in 4 s (3 of 13)"


def test_patience_ends_after_the_last_attempt_and_says_what_to_do():
    result, waits, _ = patiently(*[ConnectionError("lost")] * hub.ATTEMPTS)
    assert isinstance(result, ValueError)
    assert "reading failed 14 times, in the end with ConnectionError: lost; what is finished is kept" in str(result)
    assert len(waits) == hub.ATTEMPTS - 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_overload_is_worth_another_try(status):
    assert patiently(answer(status)) == (
        "done",
        [1],
        [f"reading failed: HfHubHTTPError: Error {status} In the middle; trying again in 1 s (1 of 13)"],
    )


@pytest.mark.parametrize("error", [answer(404), answer(403, GatedRepoError), OfflineModeIsEnabled("offline")])
def test_error_of_the_hub_that_stays_is_explained_at_once(error):
    result, waits, _ = patiently(error)
    assert isinstance(result, ValueError)
    assert result.__cause__ is error
    assert "reading failed: " in str(result)
    assert waits == []


@pytest.mark.parametrize("error", [ValueError("bad text"), FileNotFoundError("gone"), BrokenPipeError(), KeyError(1)])
def test_error_that_is_not_the_networks_comes_through_as_it_is(error):
    assert patiently(error) == (error, [], [])
