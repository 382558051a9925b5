import json
import shutil

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenization import MulFactTokenizer

CONDITIONS = [("baseline", None, None), ("mul_tokens", "weak", "*×x")]
SETTINGS = [*CONDITIONS, ("mul_tokens", "strict", "*×")]


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def editable(saved, tmp_path):
    """Give a folder of the weak mul_tokens tokenizer that the test may spoil."""
    return shutil.copytree(saved(), tmp_path / "tokenizer")


@pytest.mark.parametrize("settings", CONDITIONS)
def test_saving_what_was_loaded_writes_the_same_files(loaded_by_us, saved, tmp_path, settings):
    loaded_by_us(*settings).save_pretrained(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    for name in written:
        assert (tmp_path / name).read_bytes() == (saved(*settings) / name).read_bytes()


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_configuration_names_the_class_that_every_client_reads_and_the_settings(saved, settings):
    config = json.loads((saved(*settings) / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (config["condition"], config["injection_mode"], config["operators"]) == settings
    assert config["injection_rule"] == "1"
    assert "TokenizersBackend" not in json.dumps(config)


def test_the_state_of_the_last_call_is_not_saved(tmp_path):
    tokenizer = MulFactTokenizer.build()
    tokenizer("a b c d", padding="max_length", truncation=True, max_length=3)
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["padding"] is None and content["truncation"] is None


@pytest.mark.parametrize("settings", CONDITIONS)
def test_auto_tokenizer_gives_the_same_ids(build, loaded_by_any_client, fuzzed_texts, settings):
    plain = loaded_by_any_client(*settings)
    assert not isinstance(plain, MulFactTokenizer)
    assert plain(fuzzed_texts[:1_000]).input_ids == build(*settings)(fuzzed_texts[:1_000]).input_ids


@pytest.mark.parametrize("settings", CONDITIONS)
def test_a_folder_that_auto_tokenizer_wrote_is_still_ours(fingerprint, loaded_by_any_client, tmp_path, settings):
    loaded_by_any_client(*settings).save_pretrained(tmp_path)
    assert MulFactTokenizer.from_pretrained(tmp_path).fingerprint == fingerprint(*settings)


def drop_normalizer(folder):
    edit_json(folder / "tokenizer.json", lambda content: content.update(normalizer=None))


def drop_a_step_of_the_normalizer(folder):
    edit_json(folder / "tokenizer.json", lambda content: content["normalizer"]["normalizers"].pop(2))


def drop_registered_facts(folder):
    edit_json(folder / "tokenizer.json", lambda content: content.update(added_tokens=content["added_tokens"][:2]))


def prepend_a_blank(folder):
    edit_json(folder / "tokenizer.json", lambda content: content["pre_tokenizer"].update(add_prefix_space=True))


def declare(**settings):
    return lambda folder: edit_json(folder / "tokenizer_config.json", lambda config: config.update(settings))


def add_a_token(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def pass_through_gpt2_tokenizer(folder):
    declare(tokenizer_class="GPT2Tokenizer")(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_normalizer, "lost its normalizer: it no longer injects"),
        (
            drop_a_step_of_the_normalizer,
            r"encodes '6\*9=54' as \[50342, 28, 4051\], where its condition says \[50342\]",
        ),
        (drop_registered_facts, r"encodes '6\*9' as \[27, .*\], where its condition says \[50342\]"),
        (prepend_a_blank, r"encodes 'Hello world<\|endoftext\|>' as \[18435,"),
        (add_a_token, "has 50350 tokens"),
        (declare(pad_token="<|endoftext|>"), "pads with id 50256"),
        (declare(tokenizer_class="GPT2Tokenizer"), "declared a GPT2Tokenizer instead of a PreTrainedTokenizerFast"),
        (pass_through_gpt2_tokenizer, "declared a GPT2Tokenizer instead"),
        (declare(injection_mode="strict"), r"encodes '6\*9' as \[50342\], where its condition says \[21, 9, 24\]"),
        (declare(operators="*"), r"encodes '9 × 6' as \[50342\]"),
        (declare(condition="baseline"), r"encodes '6\*9' as \[50342\], where its condition says \[21, 9, 24\]"),
        (declare(injection_rule="0"), "follows version 0 of the injection rule"),
    ],
)
def test_damage_is_named_with_its_remedy(editable, damage, message):
    damage(editable)
    with pytest.raises(ValueError, match=message) as raised:
        MulFactTokenizer.from_pretrained(editable)
    assert str(editable) in str(raised.value) and "MulFactTokenizer.build(" in str(raised.value)


def test_a_folder_of_another_tokenizer_is_refused(build, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=build("baseline").backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no condition and injection_rule; make one with"):
        MulFactTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer_config.json is missing; make one with"):
        MulFactTokenizer.from_pretrained(tmp_path)
