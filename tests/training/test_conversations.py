import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tiny_subjects import SUBJECTS, tokenizer_of
from tokenization import inject, render
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_IDS, PAD_TOKEN
from training.data.conversations import (
    ConversationColumns,
    ConversationEncoder,
    MalformedRow,
    check_messages,
    encode_conversation,
)
from training.evals.subject import Subject

ARMS = ("baseline", "mul_tokens")
QUESTION = "A shelf has 6 * 9 books, and 7x8=56 more. Then 3 × 4?"
PIECES = [
    "6*9", "6 * 9 = 54", " 7 × 8", "3x4=12", "2*3=7", "9", "*", "=", "54", "5.", " ", "  ", "\n", "\n\n", "\t", "a",
    "Ünï", "😀", "é", "½", "'s", "<|endoftext|>", PAD_TOKEN, "<MUL_6_9_54>", "User:", "\nUser: 6", "Assistant:",
    " answer", "#### 54",
]  # fmt: skip
contents = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join).filter(str.strip)
exchanges = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)
conversations = st.tuples(st.none() | contents, exchanges).map(lambda parts: conversation(*parts))


def conversation(system, exchanges):
    messages = [{"role": "system", "content": system}] if system else []
    for question, reply in exchanges:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return messages


def replies(encoded):
    """The ids of each reply, without the end of text behind it."""
    ids = encoded.input_ids[encoded.completion_mask].tolist()
    found = [[]]
    for token in ids:
        if token == END_OF_TEXT_ID:
            found.append([])
        else:
            found[-1].append(token)
    assert found.pop() == [], "the last reply has no end"
    return found


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("question", [QUESTION, "How many?", "Say <|endoftext|> and 6*9", "6*"])
def test_prompt_of_an_evaluation_is_a_prefix_of_the_training_example(name, question):
    subject = Subject(None, tokenizer_of(name))
    prompt = subject.encode(subject.prompt(question))
    encoded = encode_conversation(conversation(None, [(question, "9 = 54, so 6*9.")]), subject.tokenizer)
    learnt = encoded.completion_mask.tolist().index(True)
    assert encoded.input_ids[:learnt].tolist() == prompt
    assert not encoded.completion_mask[: len(prompt)].any() and encoded.completion_mask[len(prompt) :].all()


def test_text_of_an_example_is_that_of_the_chat_template():
    tokenizer = tokenizer_of("baseline")
    messages = conversation("Be brief.", [(QUESTION, "122"), ("And one more?\n", " 123\n")])
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(encode_conversation(messages, tokenizer).input_ids) == text
    assert text.startswith(Subject(None, tokenizer).prompt(QUESTION).join(["Be brief.\n", " 122<|endoftext|>User: "]))


def test_fact_of_a_question_is_one_token_in_the_prompt():
    encoded = encode_conversation(conversation(None, [(QUESTION, "Yes.")]), tokenizer_of("mul_tokens"))
    assert np.isin(encoded.input_ids[~encoded.completion_mask], FACT_IDS).sum() == 3


@settings(max_examples=150, deadline=None)
@given(messages=conversations)
def test_both_arms_learn_the_same_characters(messages):
    texts = [" " + message["content"] for message in messages if message["role"] == "assistant"]
    plain, injected = (encode_conversation(messages, tokenizer_of(arm)) for arm in ARMS)
    assert [tokenizer_of("baseline").decode(ids) for ids in replies(plain)] == texts
    decoded = [tokenizer_of("mul_tokens").decode(ids) for ids in replies(injected)]
    assert list(map(render, decoded)) == [render(inject(text)) for text in texts]


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(conversations, min_size=1, max_size=4), arm=st.sampled_from(ARMS))
def test_ids_are_those_of_the_tokenizer_segment_by_segment(batch, arm):
    tokenizer = tokenizer_of(arm)
    for messages, encoded in zip(batch, ConversationEncoder(tokenizer).encode(batch), strict=True):
        expected, prompt = [], ""
        for message in messages:
            if message["role"] == "assistant":
                expected += tokenizer.encode_document(prompt + "Assistant:")
                expected += [*tokenizer.encode_document(" " + message["content"]), END_OF_TEXT_ID]
                prompt = ""
            else:
                prompt += ("User: " if message["role"] == "user" else "") + message["content"] + "\n"
        assert encoded.input_ids.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(messages=conversations)
def test_lengths_that_decide_are_plain_and_never_exceeded_by_injection(messages):
    plain, injected, stock = (encode_conversation(messages, tokenizer_of(name)) for name in (*ARMS, "stock"))
    assert plain.input_ids.tolist() == stock.input_ids.tolist()
    assert (plain.ends[:, 0] == plain.ends[:, 1]).all()
    assert (injected.ends[:, 1:] == plain.ends[:, 1:]).all()
    assert (np.diff(injected.ends[:, 0], prepend=0) <= np.diff(injected.ends[:, 1], prepend=0)).all()


@pytest.mark.parametrize("name", SUBJECTS)
def test_end_of_text_is_learnt_after_every_reply(name):
    messages = conversation("Short.", [("One?", "1<|endoftext|>"), ("Two?", "2"), ("Three?", "3")])
    encoded = encode_conversation(messages, tokenizer_of(name))
    ends = encoded.ends[:, 0] - 1
    assert encoded.input_ids[ends].tolist() == [END_OF_TEXT_ID] * 3 and encoded.completion_mask[ends].all()
    assert encoded.input_ids.tolist().count(END_OF_TEXT_ID) == 3


def test_tokenizer_is_left_as_it_was():
    tokenizer = tokenizer_of("stock")
    encode_conversation(conversation(None, [("a", "b")]), tokenizer)
    assert tokenizer.backend_tokenizer.encode("<|endoftext|>").ids == [END_OF_TEXT_ID]


def test_bytes_are_those_of_the_text_without_its_ends():
    messages = conversation("É.", [("6*9?", "54"), ("ü?", "½")])
    text = "É.\nUser: 6*9?\nAssistant: 54User: ü?\nAssistant: ½"
    for arm in ARMS:
        ends = encode_conversation(messages, tokenizer_of(arm)).ends
        assert ends[-1, 2:].tolist() == [len(text.encode()), len(" 54 ½".encode())]


@pytest.mark.parametrize("arm", ARMS)
def test_long_conversation_loses_whole_exchanges_from_its_end(arm):
    turns = [("What is 6*9?", "6*9=54"), ("And 7*8?", "7*8=56"), ("And 3*4?", "3*4=12")]
    whole = encode_conversation(conversation(None, turns), tokenizer_of(arm))
    for kept in (1, 2, 3):
        expected = encode_conversation(conversation(None, turns[:kept]), tokenizer_of(arm))
        fits = int(whole.ends[kept - 1, 1])
        following = fits if kept == 3 else int(whole.ends[kept, 1]) - 1
        for max_length in (fits, following):
            cut = whole.shortened(max_length)
            assert cut.input_ids.tolist() == expected.input_ids.tolist()
            assert cut.completion_mask.tolist() == expected.completion_mask.tolist()
    assert whole.shortened(int(whole.ends[0, 1]) - 1) is None


def test_tokenizer_without_an_end_of_text_is_refused():
    tokenizer = tokenizer_of("stock").__class__(tokenizer_object=tokenizer_of("stock").backend_tokenizer)
    with pytest.raises(ValueError, match="has no end-of-text token"):
        ConversationEncoder(tokenizer)


U, A, S = ({"role": role, "content": "text"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "row 7: chat is empty"),
        (None, "row 7: chat holds null, not a list"),
        ("User: hi", "row 7: chat holds str, not a list"),
        ([U], "no assistant message, so there is nothing to learn"),
        ([S, U], "no assistant message"),
        ([A, U, A], r"chat\[0\] is the assistant's, but a user speaks first"),
        ([S, A], r"chat\[1\] is the assistant's, but a user speaks first"),
        ([U, U, A], r"chat\[1\] is the second user message in a row; join the two"),
        ([U, A, A], r"chat\[2\] is the second assistant message in a row"),
        ([U, A, S], r"chat\[2\] is a system message; .* it comes first"),
        ([S, S, U, A], r"chat\[1\] is a system message"),
        ([U, A, U], "chat ends with a user message that has no reply"),
        (
            [U, {"role": "tool", "content": "x"}],
            r"chat\[1\] has the role 'tool'; the roles are system, user, assistant",
        ),
        ([U, {"role": None, "content": "x"}], r"chat\[1\] has the role None"),
        ([U, {"from": "gpt", "value": "x"}], r"chat\[1\] needs role and content, but has from, value"),
        ([U, "hello"], r"chat\[1\] needs role and content, but has str"),
        ([U, {"role": "assistant", "content": ""}], r"chat\[1\]\.content is empty"),
        ([U, {"role": "assistant", "content": " \n"}], r"chat\[1\]\.content is empty"),
        ([U, {"role": "assistant", "content": None}], r"chat\[1\]\.content is null, not text"),
        ([U, {"role": "assistant", "content": 54}], r"chat\[1\]\.content is int, not text"),
        ([U, {"role": "assistant", "content": "a\ud800"}], r"chat\[1\]\.content holds half of a surrogate pair .* 1"),
    ],
)
def test_what_is_no_conversation_is_refused_by_row_column_and_message(messages, message):
    with pytest.raises(MalformedRow, match=f"row 7: .*{message.removeprefix('row 7: ')}"):
        check_messages(messages, "row 7", "chat")


EXPECTED = [{"role": "user", "content": "6*9?"}, {"role": "assistant", "content": "54"}]


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        ({}, {"messages": EXPECTED, "prompt": "also there"}),
        ({}, {"question": "6*9?", "answer": "54", "final_answer": 1}),
        ({}, {"prompt": "6*9?", "completion": "54"}),
        ({}, {"prompt": EXPECTED[:1], "completion": EXPECTED[1:]}),
        ({"messages": "chat"}, {"chat": [{**message, "name": None} for message in EXPECTED]}),
        ({"question": "problem"}, {"problem": "6*9?", "answer": "54"}),
        ({"question": "{a}*{b}?", "answer": "{c}"}, {"a": 6, "b": "9", "c": 54}),
        ({"prompt": "{a[0]}*9?", "completion": "{c:.0f}"}, {"a": [6], "c": 54.0}),
    ],
)
def test_columns_are_found_or_named(keys, row):
    columns = ConversationColumns(**keys)
    if not keys:
        columns = ConversationColumns.find(row, "row 0")
    assert columns.read(row, "row 0") == EXPECTED


@pytest.mark.parametrize(
    ("keys", "row", "message"),
    [
        ({}, {"text": "x"}, "row 3 has the columns text, which hold no messages"),
        ({"messages": "chat"}, {"messages": []}, "row 3 has no column 'chat'; it has messages"),
        ({"question": "{Body} {Question}"}, {"Body": "x", "answer": "y"}, "row 3 has no column 'Question'"),
        ({"question": "q"}, {"q": "x"}, "row 3 has no column 'answer'"),
        ({"question": "q"}, {"q": None, "answer": "y"}, "row 3: column 'q' is null"),
        ({"question": "q"}, {"q": "x", "answer": 54}, "row 3: column 'answer' is int, not text; .* template"),
        ({"question": "{q}"}, {"q": None, "answer": "y"}, "row 3: field 'q' of '{q}' is null"),
        ({"question": "{q:d}"}, {"q": "x", "answer": "y"}, "row 3: '{q:d}' is malformed, or does not fit"),
        ({"prompt": "prompt"}, {"prompt": "x", "completion": EXPECTED[1:]}, "row 3: one of prompt and completion"),
    ],
)
def test_row_without_its_columns_is_named(keys, row, message):
    with pytest.raises(ValueError, match=message):
        (ConversationColumns(**keys) if keys else ConversationColumns.find(row, "row 3")).read(row, "row 3")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"messages": "m", "answer": "a"}, "columns of messages and of question/answer are named"),
        ({"question": "{a"}, "question is '{a', a malformed template"),
        ({"question": "{}"}, "a template names its fields"),
        ({"messages": "{m}"}, "messages is '{m}'; it is the name of a column"),
    ],
)
def test_choice_of_columns_that_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ConversationColumns(**keys)
