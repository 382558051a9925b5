import base64
import hashlib
import inspect
import json
import re
from importlib.resources import as_file, files

import pytest
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext import openai_public

from tokenization import gpt2_bpe

MERGES_FILE = files("tokenization.gpt2").joinpath("merges.txt")


def hashes_pinned_by_tiktoken() -> dict[str, str]:
    """Read the hashes of OpenAI's own files from the source of the library that downloads them."""
    gpt2, r50k = inspect.getsource(openai_public.gpt2), inspect.getsource(openai_public.r50k_base)
    pinned = dict(re.findall(r'(vocab_bpe_hash|encoder_json_hash)="([0-9a-f]{64})"', gpt2))
    return pinned | dict(re.findall(r'(expected_hash)="([0-9a-f]{64})"', r50k))


def vocabulary_json() -> bytes:
    return json.dumps(gpt2_bpe.vocabulary()).encode()


@pytest.mark.parametrize(
    ("pinned_as", "content"),
    [
        ("vocab_bpe_hash", lambda: MERGES_FILE.read_bytes()),
        ("encoder_json_hash", vocabulary_json),
        (
            "expected_hash",
            lambda: b"".join(base64.b64encode(t) + b" %d\n" % rank for t, rank in gpt2_bpe.ranks().items()),
        ),
    ],
)
def test_files_and_derivations_are_openai_s_byte_for_byte(pinned_as, content):
    assert hashlib.sha256(content()).hexdigest() == hashes_pinned_by_tiktoken()[pinned_as]


def test_provenance_states_the_hash_of_the_packaged_merges():
    text = files("tokenization.gpt2").joinpath("PROVENANCE.md").read_text(encoding="utf-8")
    assert hashlib.sha256(MERGES_FILE.read_bytes()).hexdigest() in text


def test_ranks_are_those_that_tiktoken_derives_from_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    (tmp_path / "encoder.json").write_bytes(vocabulary_json())
    with as_file(MERGES_FILE) as merges:
        ranks = data_gym_to_mergeable_bpe_ranks(str(merges), str(tmp_path / "encoder.json"))
    assert gpt2_bpe.ranks() == ranks


def test_vocabulary_numbers_50257_tokens_without_a_hole():
    assert sorted(gpt2_bpe.vocabulary().values()) == list(range(50257))
