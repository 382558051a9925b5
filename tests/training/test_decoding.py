"""The settings of decoding, and where replies end: through Transformers' `generate`, which reads out a tape."""

import json

import pytest

from tests.training.tiny_subjects import SUBJECTS, pieces, tape
from tokenization.mul_facts import END_OF_TEXT_ID
from training.evals.generation import Decoding, generate


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\)"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens \(1.5\)"),
        ({"samples": 0, "temperature": 1.0}, r"samples \(0\)"),
        ({"samples": 4}, r"samples \(4\) at temperature 0"),
        ({"top_k": 5}, "change nothing at temperature 0"),
        ({"top_p": 0.9}, "change nothing at temperature 0"),
        ({"top_p": 0.0, "temperature": 1.0}, r"top_p \(0.0\)"),
        ({"top_k": -1, "temperature": 1.0}, r"top_k \(-1\)"),
        ({"temperature": -1.0}, r"temperature \(-1.0\)"),
        ({"repetition_penalty": 0}, r"repetition_penalty \(0\)"),
        ({"no_repeat_ngram_size": -1}, r"no_repeat_ngram_size \(-1\)"),
        ({"stop_strings": "\nUser:"}, "must be a list of strings"),
        ({"stop_strings": [""]}, "must be a list of strings"),
    ],
)
def test_setting_that_makes_no_sense_is_refused_with_its_value(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**settings)


def test_settings_survive_a_file():
    decoding = Decoding(stop_strings=["\nUser:", "Q:"], temperature=0.7, samples=8, suppress_facts=True)
    assert Decoding(**json.loads(json.dumps(decoding.to_json()))) == decoding


def test_end_of_text_ends_a_row_and_leaves_no_trace():
    subject = tape("baseline", [*pieces(" one", " two"), END_OF_TEXT_ID, *pieces(" three")])
    (reply,) = generate(subject, [[9]], Decoding())
    assert (reply.ids, reply.text, reply.finish) == (pieces(" one", " two"), " one two", "end_of_text")


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize(
    "stop, said, text",
    [
        ("\nUser:", (" 5", "\n", "User", ":", " 6"), " 5"),
        ("\nUser:", ("\n", "\n", "Us", "er", ":"), "\n"),
        ("nswer: ", (" An", "swer", ":", " 9", " 8"), " A"),
        ("é×", (" caf", "é", "×"), " caf"),
        ("5", (" 12", "56"), " 12"),
    ],
)
def test_stop_string_ends_a_reply_wherever_tokens_begin(name, stop, said, text):
    ids = pieces(*said)
    (reply,) = generate(tape(name, ids), [[9]], Decoding(max_new_tokens=len(ids), stop_strings=[stop]))
    assert (reply.text, reply.finish) == (text, "stop_string")


def test_nothing_is_generated_behind_a_stop_string():
    ids = pieces(" 5", "\n", "User", ":", " 6", " 7")
    (reply,) = generate(tape("stock", ids), [[9]], Decoding())
    assert reply.ids == ids[:4]


def test_stop_string_that_begins_in_the_prompt_is_none():
    prompt = pieces("\n")
    (reply,) = generate(tape("baseline", pieces("User", ":", " Ann")), [prompt], Decoding(max_new_tokens=3))
    assert (reply.text, reply.finish) == ("User: Ann", "length")


def test_stop_string_counts_in_the_last_token_that_fits():
    (reply,) = generate(tape("baseline", pieces(" 5", "\n", "User", ":")), [[9]], Decoding(max_new_tokens=4))
    assert reply.finish == "stop_string"


def test_first_of_several_stops_counts():
    decoding = Decoding(stop_strings=["two", "ne two", "wo"])
    (reply,) = generate(tape("baseline", pieces(" one", " two")), [[9]], decoding)
    assert reply.text == " o"


def test_second_answer_mark_ends_a_reply():
    said = pieces("\n", "####", " 18", "\n", "##", "##", " 19")
    (reply,) = generate(tape("mul_tokens", said), [[9]], Decoding())
    assert (reply.text, reply.finish) == ("\n#### 18\n", "second_answer")
    (reply,) = generate(tape("mul_tokens", said), [[9]], Decoding(one_answer=False, max_new_tokens=7))
    assert (reply.text, reply.finish) == ("\n#### 18\n#### 19", "length")


def test_long_mark_is_one_mark_and_a_short_one_is_none():
    said = pieces("####", "####", "#", " 18", " ###", " 19")
    (reply,) = generate(tape("baseline", said), [[9]], Decoding(max_new_tokens=6))
    assert (reply.text, reply.finish) == ("######### 18 ### 19", "length")
