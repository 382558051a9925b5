"""What is shown of a reply while it is drawn: in the end all of it, and at no time what a later token takes back."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.training.tiny_subjects import SUBJECTS, pieces, prompts_of_lengths, subject_of, tape, tokenizer_of
from tokenization import render
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_BY_NAME
from training.evals.decoding import Decoding, OpenReply, TokenBytes
from training.evals.generation import generate
from training.evals.streaming import SettledText, stream_reply

ENDLESS = Decoding(max_new_tokens=64, stop_strings=[], one_answer=False)
FACT, OTHER_FACT = FACT_BY_NAME["<MUL_6_9_54>"].id, FACT_BY_NAME["<MUL_2_3_6>"].id
# What decides how a fact is written, what may open its name or a stop, and parts of characters.
TELLING = [
    token_id
    for text in (
        *"=+-*/x.,:$(<>_#179M\n",
        " ",
        "  ",
        " =",
        " *",
        " x",
        "###",
        "####",
        "\nUser:",
        "\nUse",
        "<MUL_6_9_54>",
        "é×÷€🙂\u2009\ufffd",
    )
    for token_id in tokenizer_of("baseline").encode_document(text)
]
IDS = st.lists(
    st.one_of(
        st.sampled_from(TELLING),
        st.sampled_from([FACT, OTHER_FACT]),
        st.integers(0, 255),  # the single bytes
        st.integers(0, END_OF_TEXT_ID - 1),
    ),
    max_size=24,
)


def shown(name: str, ids: list[int], decoding: Decoding = ENDLESS, show_facts: bool = False) -> tuple[list[str], str]:
    """The pieces that are shown after each token and at the end, and the text of the reply."""
    reply, settled = OpenReply(decoding, len(ids) + 1, END_OF_TEXT_ID), SettledText(decoding, show_facts)
    token_bytes, said = TokenBytes(tokenizer_of(name)), []
    for token_id in ids:
        reply.add(token_id, token_bytes[token_id])
        if reply.finish:
            break
        said.append(settled.grow(reply.text))
    return [*said, settled.end(reply.text)], reply.text


@settings(max_examples=400, deadline=None)
@given(ids=IDS)
@example(ids=[FACT, *pieces("=", "54")])
@example(ids=[FACT, *pieces(" ", "*", " "), FACT])
@example(ids=[FACT, *pieces(" *", " ", "<", "M"), FACT])
@example(ids=[FACT, *pieces(".", "5")])
def test_pieces_are_the_rendered_text_whatever_is_said(ids):
    said, _ = shown("mul_tokens", ids)
    assert "".join(said) == render(tokenizer_of("mul_tokens").decode(ids))


@settings(max_examples=100, deadline=None)
@given(ids=IDS)
def test_pieces_are_the_text_itself_where_facts_are_shown(ids):
    said, _ = shown("mul_tokens", ids, show_facts=True)
    assert "".join(said) == tokenizer_of("mul_tokens").decode(ids)


@settings(max_examples=300, deadline=None)
@given(ids=IDS, stops=st.lists(st.sampled_from(["\nUser:", "\n\n", "=5", "é×", "<M", "1"]), max_size=2))
@example(ids=pieces("####", " 5", "\n", "###", "#"), stops=[])
@example(ids=[FACT, *pieces("=", "54")], stops=["=5"])
def test_what_ends_a_reply_is_never_shown(ids, stops):
    said, text = shown("mul_tokens", ids, Decoding(stop_strings=stops))
    assert "".join(said) == render(text)


@pytest.mark.parametrize(
    "said, expected",
    [
        (pieces(" one", " two"), [" one", " two", ""]),
        ([FACT, *pieces(" apples")], ["6*9", "=54 apples", ""]),
        ([FACT], ["6*9", "=54"]),
        ([FACT, *pieces(" =", " 54")], ["6*9", " =", " 54", ""]),
        ([FACT, *pieces(" +", " "), OTHER_FACT, *pieces("!")], ["6*9", "", "", " + 2*3", "!", ""]),
        ([*pieces("$", "7"), FACT], ["$", "7", " 6*9", "=54"]),
        (pieces("a", " <", "M", "!"), ["a", " ", "", "<M!", ""]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value[0], str) else "",
)
def test_what_is_settled_is_shown_at_once(said, expected):
    assert shown("mul_tokens", said)[0] == expected


def test_half_a_character_is_held_back():
    said, _ = shown("baseline", tokenizer_of("baseline").encode_document("caf🙂"))
    assert "".join(said) == "caf🙂" and said[-2] == "🙂" and not any("\ufffd" in piece for piece in said)


def test_possible_stop_waits_until_it_is_none():
    said, _ = shown("baseline", pieces("5", "\n", "User", "!"), Decoding())
    assert said == ["5", "", "", "\nUser!", ""]


@pytest.mark.parametrize("decoding", [{}, {"temperature": 0.8, "top_k": 40}, {"repetition_penalty": 1.5}], ids=str)
@pytest.mark.parametrize("name", SUBJECTS)
def test_streamed_reply_is_the_one_of_evaluation(name, decoding):
    subject, decoding = subject_of(name), Decoding(max_new_tokens=20, **decoding)
    for prompt in prompts_of_lengths(3, 17, 60):
        said = []
        reply = stream_reply(subject, prompt, decoding, said.append, seed=7)
        assert reply == generate(subject, [prompt], decoding, [7])[0]
        assert "".join(said) == render(reply.text)


def test_each_token_is_said_before_the_next_is_drawn():
    words = pieces(" one", " two", " three")
    said, heard = [], []
    stream_reply(
        tape("stock", [*words, END_OF_TEXT_ID]),
        [9],
        Decoding(),
        said.append,
        stopped=lambda: heard.append("".join(said)),
    )
    assert heard == [" one", " one two", " one two three"]


def test_stopped_reply_holds_what_was_drawn_and_leaves_the_model_as_it_was():
    subject = tape("mul_tokens", [*pieces(" one"), FACT, *pieces(" three", " four")])
    own, said = subject.model.generation_config, []
    reply = stream_reply(subject, [9], ENDLESS, said.append, stopped=lambda: len(said) == 2)
    assert (reply.text, reply.finish) == (" one<MUL_6_9_54>", "stopped")
    assert "".join(said) == " one6*9=54"
    assert subject.model.generation_config is own and not subject.model._forward_pre_hooks
    (whole,) = generate(subject, [[9]], Decoding(max_new_tokens=4))
    assert whole.text == " one<MUL_6_9_54> three four"


def test_prompt_that_fills_the_context_gets_no_reply():
    said = []
    reply = stream_reply(subject_of("stock"), prompts_of_lengths(64)[0], Decoding(), said.append)
    assert reply.finish == "too_long" and "".join(said) == ""


def test_bf16_reply_is_the_one_of_evaluation():
    subject = subject_of("mul_tokens", bf16=True)
    prompt = torch.arange(9).tolist()
    reply = stream_reply(subject, prompt, ENDLESS, lambda piece: None)
    assert reply == generate(subject, [prompt], ENDLESS)[0]
