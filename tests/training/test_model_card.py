import pytest
import yaml

from training.core.model_card import write_model_card

RECIPE = {
    "run_name": "mul_tokens-s1/sft_gsm8k",
    "model_name_or_path": "runs/small/mul_tokens-s1/sft_tinygsm/checkpoint-80",
    "datasets": [{"path": "gsm8k/train.jsonl", "annotations": "equations"}, '{"synthetic": "drills"}'],
    "max_steps": 1200,
    "learning_rate": 5e-4,
    "use_peft": False,
    "corpus_dir": None,
}
FACTS = {"recipe": RECIPE, "condition": "mul_tokens", "parameters": 124_478_208}
WORK = {"rows": 12_345, "tokens": 678_901, "bytes": 2_000_000, "supervised_bytes": 1_000_000, "flops": 10**18}


@pytest.fixture
def card(tmp_path):
    """Write a model card about a recipe with these changes, and return its header and its text."""

    def write(**changes):
        write_model_card(tmp_path, FACTS | {"recipe": RECIPE | changes}, 600, WORK)
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        return yaml.safe_load(text.split("---\n")[1]), text

    return write


def test_card_says_what_was_trained_and_how_far(card):
    header, text = card()
    assert header["tags"] == ["gpt2", "arithmetic", "mul_tokens"]
    for row in (
        "| parameters | 124,478,208 |",
        "| trained on | path: gsm8k/train.jsonl, annotations: equations |",
        "| trained on | synthetic: drills |",
        "| step | 600 of 1,200 |",
        "| conversations so far | 12,345 |",
        "| bytes of replies so far | 1,000,000 |",
        "| `learning_rate` | 0.0005 |",
    ):
        assert row in text


def test_model_of_the_hub_is_named_as_base(card):
    header, text = card(model_name_or_path="openai-community/gpt2")
    assert header["base_model"] == "openai-community/gpt2"
    assert "| started from | `openai-community/gpt2` |" in text


def test_folders_above_a_start_and_its_data_are_not_named(card, tmp_path):
    start = tmp_path / "run" / "checkpoint-5"
    start.mkdir(parents=True)
    header, text = card(model_name_or_path=str(start), datasets=[{"path": str(tmp_path / "private" / "a.jsonl")}])
    assert "base_model" not in header
    assert str(tmp_path.parent) not in text
    assert "run/checkpoint-5` |" in text and "private/a.jsonl" in text


def test_corpus_of_a_pretraining_is_named_without_the_folders_above_it(tmp_path):
    recipe = {"run_name": "baseline-s0", "corpus_dir": str(tmp_path / "corpus"), "max_steps": 10}
    write_model_card(tmp_path, FACTS | {"recipe": recipe}, 5, {"tokens": 10, "flops": 20})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"{tmp_path.name}/corpus` |" in text and str(tmp_path.parent) not in text
    assert "started from" not in text


def test_same_facts_write_the_same_bytes(card):
    assert card() == card()
