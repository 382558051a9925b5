import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from tokenization.mul_facts import END_OF_TEXT_ID

ANSWERS = [
    "54",
    "6*9",
    "6*9=54",
    "6*9 is 54",
    "It is 6*9",
    "2*3 and 6*9=54",
    "<MUL_6_9_54>",
    " 6*9 ",
    "6*9\n",
    "\n6*9",
    "",
]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


@pytest.fixture(params=["baseline", "mul_tokens"])
def tokenizer(request, build):
    return build(request.param)


@pytest.fixture(params=["us", "any client"])
def loaded(request, loaded_by_us, loaded_by_any_client):
    """Give the saved mul_tokens tokenizer, loaded by our class and by Transformers alone."""
    return loaded_by_us() if request.param == "us" else loaded_by_any_client()


def expected_mask(tokenizer, conversation) -> list[int]:
    """Mark each answer by the lengths of the conversation before and after it."""
    mask = []
    for turn, message in enumerate(conversation, start=1):
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(conversation[: turn - 1], add_generation_prompt=True)
            mask += [0] * (len(prompt.input_ids) - len(mask))
        upto = tokenizer.apply_chat_template(conversation[:turn])
        mask += [int(message["role"] == "assistant")] * (len(upto.input_ids) - len(mask))
    return mask


def test_one_turn(tokenizer):
    text = tokenizer.apply_chat_template([user("What is 6*9?"), assistant("54")], tokenize=False)
    assert text == "User: What is 6*9?\nAssistant: 54<|endoftext|>"


def test_system_and_several_turns(tokenizer):
    conversation = [system("Be brief."), user("a"), assistant("b"), user("c"), assistant("d")]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert text == "Be brief.\nUser: a\nAssistant: b<|endoftext|>User: c\nAssistant: d<|endoftext|>"


def test_the_generation_prompt_ends_at_the_colon(tokenizer):
    text = tokenizer.apply_chat_template([user("What is 6*9?")], tokenize=False, add_generation_prompt=True)
    assert text == "User: What is 6*9?\nAssistant:"


def test_a_final_answer_can_be_left_open(tokenizer):
    conversation = [user("What is 6*9?"), assistant("The answer is")]
    text = tokenizer.apply_chat_template(conversation, tokenize=False, continue_final_message=True)
    assert text == "User: What is 6*9?\nAssistant: The answer is"


def test_contents_are_injected(build):
    conversation = [system("Know 2*2."), user("What is 6 x 9?"), assistant("6*9=54")]
    ids = build().apply_chat_template(conversation).input_ids
    assert [token_id for token_id in ids if token_id > END_OF_TEXT_ID] == [50313, 50342, 50342]


@pytest.mark.parametrize("conversation", [[user("a"), system("b")], [{"role": "tool", "content": "a"}]])
def test_a_role_out_of_place_is_refused(tokenizer, conversation):
    with pytest.raises(TemplateError, match=r"at most one system message, at its start; message \d has the role"):
        tokenizer.apply_chat_template(conversation)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("question", ["What is 6*9?", "6*9", "6*9=", "a\n", ""])
def test_a_prompt_is_a_prefix_of_prompt_and_answer(loaded, question, answer):
    prompt = loaded.apply_chat_template([user(question)], add_generation_prompt=True).input_ids
    whole = loaded.apply_chat_template([user(question), assistant(answer)]).input_ids
    assert whole[: len(prompt)] == prompt and len(whole) > len(prompt) + (answer != "")


CONTENTS = st.lists(st.sampled_from([*"69*x= \n.,'\u00a0a$", "6*9", "=54", "<MUL_6_9_54>", "é", "😀"]), max_size=12)


@given(CONTENTS.map("".join), CONTENTS.map("".join))
def test_a_prompt_is_a_prefix_whatever_the_contents(build, question, answer):
    prompt = build().apply_chat_template([user(question)], add_generation_prompt=True).input_ids
    whole = build().apply_chat_template([user(question), assistant(answer)]).input_ids
    assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_mask_covers_exactly_the_answer_and_its_end_of_text(loaded, answer):
    conversation = [user("What is 6*9?"), assistant(answer)]
    encoded = loaded.apply_chat_template(conversation, return_assistant_tokens_mask=True)
    assert encoded.assistant_masks == expected_mask(loaded, conversation)
    assert encoded.assistant_masks[-1] == 1 and encoded.input_ids[-1] == END_OF_TEXT_ID


@pytest.mark.parametrize("first", ANSWERS)
def test_the_mask_leaves_out_every_prompt_of_several_turns(loaded, first):
    conversation = [system("2*3"), user("6*9"), assistant(first), user("and 9*9?"), assistant("9*9")]
    encoded = loaded.apply_chat_template(conversation, return_assistant_tokens_mask=True)
    assert encoded.assistant_masks == expected_mask(loaded, conversation)


@given(CONTENTS.map("".join), CONTENTS.map("".join), CONTENTS.map("".join))
def test_the_mask_is_right_whatever_the_contents(build, question, first, second):
    conversation = [user(question), assistant(first), user(question), assistant(second)]
    encoded = build().apply_chat_template(conversation, return_assistant_tokens_mask=True)
    assert encoded.assistant_masks == expected_mask(build(), conversation)


def test_the_masks_of_a_batch_are_those_of_its_rows(loaded):
    batch = [[user("6*9"), assistant(answer)] for answer in ANSWERS]
    encoded = loaded.apply_chat_template(batch, return_assistant_tokens_mask=True)
    assert encoded.assistant_masks == [expected_mask(loaded, conversation) for conversation in batch]


def test_the_template_is_saved_with_the_tokenizer(loaded, build):
    assert loaded.chat_template == build().chat_template
