"""What a process sees that has Transformers and not this project."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

OUR_PACKAGES = {"tokenization", "modeling", "training"}
SETTINGS = [("baseline", None, None), ("mul_tokens", "weak", "*×x"), ("mul_tokens", "strict", "*×x")]
CONVERSATION = [{"role": "user", "content": "6*9?"}, {"role": "assistant", "content": "6*9=54"}]

PROGRAM = """
import importlib.util, json, sys
site_packages, *folders = sys.argv[1:]
sys.path.append(site_packages)
for name in ("tokenization", "modeling", "training"):
    assert importlib.util.find_spec(name) is None, name + " can be imported"
from transformers import AutoTokenizer
texts, conversation = json.load(sys.stdin)
answers = {}
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers[folder] = {
        "ids": tokenizer(texts).input_ids,
        "chat": tokenizer.apply_chat_template(conversation, return_assistant_tokens_mask=True).data,
        "size": len(tokenizer),
        "decoded": tokenizer.decode([50342, 50256, 50257], skip_special_tokens=True),
    }
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def texts(fuzzed_texts, word_problems) -> list[str]:
    return fuzzed_texts[:1_000] + word_problems[:200]


@pytest.fixture(scope="module")
def answers(loaded_by_any_client, saved, texts, tmp_path_factory) -> dict:
    """Ask one clean process about our folders, and about what AutoTokenizer wrote, with and without a model beside."""
    site_packages = tmp_path_factory.mktemp("site-packages")
    # Links to all but us, because an ordinary installation of the project lies among the packages it uses.
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name not in OUR_PACKAGES:
            (site_packages / entry.name).symlink_to(entry)
    folders = {f"ours, {settings}": saved(*settings) for settings in SETTINGS}
    folders |= {writer: tmp_path_factory.mktemp("written") for writer in ("rewritten", "rewritten, no model")}
    for folder in (folders["rewritten"], folders["rewritten, no model"]):
        loaded_by_any_client().save_pretrained(folder)
    (folders["rewritten"] / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    process = subprocess.run(
        # -I ignores the environment and the working folder, -S the files through which an editable project is found.
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(site_packages), *map(str, folders.values())],
        input=json.dumps([texts, CONVERSATION]),
        env={"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    by_folder = json.loads(process.stdout)
    return {key: by_folder[str(folder)] for key, folder in folders.items()}


@pytest.mark.parametrize("settings", SETTINGS)
def test_plain_transformers_gives_our_ids(answers, build, texts, settings):
    assert answers[f"ours, {settings}"]["ids"] == build(*settings)(texts).input_ids


@pytest.mark.parametrize("folder", ["rewritten", "rewritten, no model"])
def test_plain_transformers_injects_from_what_it_wrote_itself(answers, build, texts, folder):
    assert answers[folder]["ids"] == build()(texts).input_ids


@pytest.mark.parametrize("settings", SETTINGS)
def test_plain_transformers_gives_our_chats_and_masks(answers, build, settings):
    expected = build(*settings).apply_chat_template(CONVERSATION, return_assistant_tokens_mask=True).data
    assert answers[f"ours, {settings}"]["chat"] == expected


@pytest.mark.parametrize("settings", SETTINGS)
def test_plain_transformers_counts_50349_tokens_and_keeps_facts_when_decoding(answers, settings):
    answer = answers[f"ours, {settings}"]
    assert (answer["size"], answer["decoded"]) == (50349, "<MUL_6_9_54>")
