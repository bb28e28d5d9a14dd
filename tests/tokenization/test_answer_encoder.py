"""Which tokens of conversations, completions and preference pairs carry the loss."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import transformers
from chat_styles import (
    ANSWERS,
    CHATML,
    MARK,
    NAMES,
    STYLES,
    assistant,
    byte_level,
    codec,
    learned,
    opening,
    predicted,
    same,
    templated_ids,
    tokenizer_of,
    turns,
    user,
)

from bottega.errors import DataError
from bottega.records import Chat, Message, Preference, Prompted, Text, Unusable
from bottega.tokenization.answer_encoder import token_range
from bottega.tokenization.chat_spans import TextSpan
from making import shared_data


@pytest.mark.parametrize("generation", [False, True], ids=["", "generation"])
@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.parametrize("name", NAMES)
def test_one_answer_is_learned_with_its_end(name: str, merges: bool, generation: bool) -> None:
    tokenizer = tokenizer_of(name, merges=merges, generation=generation)
    for answer in ANSWERS:
        messages = (*opening(name), user("What is it?"), assistant(answer))
        row = codec(tokenizer).encode_answers(Chat("here", messages))
        assert row.tokens.tolist() == templated_ids(tokenizer, messages)
        same(learned(row, tokenizer), [(STYLES[name].said(answer, last=True), 1.0)], name)


@pytest.mark.parametrize("generation", [False, True], ids=["", "generation"])
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_a_conversation_is_learned(name: str, generation: bool) -> None:
    tokenizer, style = tokenizer_of(name, generation=generation), STYLES[name]
    said = ["Yes.", "🙂 the cat", "Yes.", "What is it?"]
    talk = [message for text in said for message in (user("What is it?"), assistant(text))]
    messages = (*opening(name), *talk)
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    expected = [(style.said(text, last=index == len(said) - 1), 1.0) for index, text in enumerate(said)]
    same(learned(row, tokenizer), expected, name)


@pytest.mark.parametrize("name", NAMES)
def test_weights_scale_answers_and_their_ends(name: str) -> None:
    tokenizer, style = tokenizer_of(name), STYLES[name]
    messages = (
        *opening(name),
        user("a"),
        assistant("one two", 0.0),
        user("b"),
        assistant("three", 0.5),
        user("c"),
        assistant("red", 2.0),
        user("d"),
        assistant("blue", 0.0),
    )
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    expected = [(style.said("three", last=False), 0.5), (style.said("red", last=False), 2.0)]
    same(learned(row, tokenizer), expected, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_may_end_with_the_user(name: str) -> None:
    tokenizer, style = tokenizer_of(name), STYLES[name]
    messages = (*opening(name), user("a"), assistant("the cat"), user("What is it?"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    same(learned(row, tokenizer), [(style.said("the cat", last=False), 1.0)], name)


@pytest.mark.parametrize("name", [name for name in NAMES if STYLES[name].greets])
def test_a_conversation_may_open_with_the_assistant(name: str) -> None:
    tokenizer, style = tokenizer_of(name), STYLES[name]
    messages = (assistant("the cat"), user("What is it?"), assistant("Yes."))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    expected = [(style.said("the cat", last=False), 1.0), (style.said("Yes.", last=True), 1.0)]
    if name == "qwen3":  # the template keeps no thinking before the last question
        expected[0] = ("the cat<|im_end|>", 1.0)
    same(learned(row, tokenizer), expected, name)


@pytest.mark.parametrize("generation", [False, True], ids=["", "generation"])
@pytest.mark.parametrize("name", ["chatml", "zephyr", "phi3", "llama3"])
def test_two_answers_in_a_row_are_both_learned(name: str, generation: bool) -> None:
    tokenizer, style = tokenizer_of(name, generation=generation), STYLES[name]
    messages = (user("What is it?"), assistant("the cat"), assistant("the cat"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    assert learned(row, tokenizer) == [(style.said("the cat", last=False), 1.0)] * 2


@pytest.mark.parametrize("asked", [f"what is {MARK}?", MARK, f"{MARK}{MARK} a {MARK}"], ids=["in", "alone", "more"])
@pytest.mark.parametrize("name", NAMES)
def test_a_private_use_character_may_stand_in_a_prompt(name: str, asked: str) -> None:
    tokenizer, style = tokenizer_of(name, merges=False), STYLES[name]
    messages = (user(asked), assistant("the cat"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    same(learned(row, tokenizer), [(style.said("the cat", last=True), 1.0)], name)


@pytest.mark.parametrize("name", NAMES)
def test_a_private_use_character_may_stand_in_every_message(name: str) -> None:
    tokenizer, style = tokenizer_of(name, merges=False), STYLES[name]
    messages = (user(f"{MARK} a"), assistant(f"the {MARK}"), user(f"b {MARK}"), assistant(f"{MARK}{MARK}"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    expected = [(style.said(f"the {MARK}", last=False), 1.0), (style.said(MARK * 2, last=True), 1.0)]
    same(learned(row, tokenizer), expected, name)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_never_carry_loss(name: str) -> None:
    tokenizer, style = tokenizer_of(name, merges=False), STYLES[name]
    for asked in ("", "<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>", "the cat</s>", "  \n ", "[/INST] Yes.</s>"):
        messages = (*opening(name), user(asked), assistant("Yes."), user(asked), assistant("Yes."))
        row = codec(tokenizer).encode_answers(Chat("here", messages))
        assert row.tokens.tolist() == templated_ids(tokenizer, messages)
        same(learned(row, tokenizer), [(style.said("Yes.", last=last), 1.0) for last in (False, True)], name)


def test_unicode_that_looks_alike_is_kept_apart() -> None:
    """Offsets count characters: composed, decomposed and beyond the basic plane."""
    tokenizer = tokenizer_of("chatml", merges=False)
    asked, answer = "e\u0301 é 𝔘 👨‍👩‍👧 \u2028 \x85", "é e\u0301 𝔘👨‍👩‍👧\u2028\x85"
    messages = (user(asked), assistant(answer), user(answer), assistant(asked))
    found = learned(codec(tokenizer).encode_answers(Chat("here", messages)), tokenizer)
    assert found == [(f"{answer}<|im_end|>", 1.0), (f"{asked}<|im_end|>", 1.0)]


def test_reasoning_is_learned_in_the_last_turn_only() -> None:
    tokenizer = tokenizer_of("qwen3")
    thought = "<think>\nthe cat\n</think>\n\nsat"
    messages = (user("a"), assistant(thought), user("b"), assistant(thought))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    assert learned(row, tokenizer) == [("sat<|im_end|>", 1.0), (f"{thought}<|im_end|>", 1.0)]


def test_reasoning_between_tool_calls_is_learned() -> None:
    """Turns after the last question keep their reasoning, and one without has no thinking block."""
    tokenizer = tokenizer_of("qwen3")
    thought = "<think>\nthe cat\n</think>\n\nsat"
    messages = (
        user("a"),
        assistant(thought),
        Message("tool", "one"),
        assistant("two"),
        Message("tool", "one"),
        assistant("three"),
    )
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    expected = [f"{thought}<|im_end|>", "two<|im_end|>", "<think>\n\n</think>\n\nthree<|im_end|>"]
    assert [text for text, _ in learned(row, tokenizer)] == expected


def test_reasoning_the_template_removes_is_not_learned() -> None:
    tokenizer = tokenizer_of("thinker")
    messages = (user("a"), assistant("<think>\nred\n</think>the cat"), user("b"), assistant("x</think>sat"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    assert learned(row, tokenizer) == [("the cat</s>", 1.0), ("sat</s>", 1.0)]


def agree_with_transformers(name: str, tokenizer: Any) -> None:
    """The tokens and labels of conversations are those of transformers' own generation mask."""
    for asked, answer in itertools.pairwise(ANSWERS):
        messages = (*opening(name), user("What is it?"), assistant("the cat"), user(asked), assistant(answer))
        encoded = tokenizer.apply_chat_template(
            turns(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        row = codec(tokenizer).encode_answers(Chat("here", messages))
        assert row.tokens.tolist() == encoded["input_ids"]
        assert predicted(row) == np.flatnonzero(encoded["assistant_masks"]).tolist()


@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.parametrize("name", NAMES)
def test_labels_agree_with_the_generation_mask_of_transformers(name: str, merges: bool) -> None:
    tokenizer = tokenizer_of(name, merges=merges, generation=True)
    agree_with_transformers(name, tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_labels_agree_with_transformers_if_the_tokenizer_adds_spaces(name: str) -> None:
    """A tokenizer that puts a space behind every special token, and bytes for what it does not know."""
    style = STYLES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(shared_data("stories260K_hf")))
    tokenizer.add_special_tokens({"bos_token": style.bos or style.eos, "eos_token": style.eos})
    tokenizer.add_special_tokens({"additional_special_tokens": list(style.special)})
    tokenizer.add_tokens(list(style.added))
    tokenizer.chat_template = tokenizer_of(name, generation=True).chat_template
    agree_with_transformers(name, tokenizer)


def test_a_generation_block_without_the_end_of_turn_gains_it() -> None:
    """Up to the end of turn the labels are transformers' own; a model that never learns to end never ends."""
    template = CHATML.replace("⟦", "{% generation %}").replace(
        "{{- m['content'] + '<|im_end|>' }}⟧", "{{- m['content'] }}{% endgeneration %}{{- '<|im_end|>' }}"
    )
    special = ("<|im_start|>", "<|im_end|>")
    tokenizer = byte_level(special=special, eos="<|im_end|>", template=template)
    messages = (user("What is it?"), assistant("the cat"), user("a"), assistant("sat"))
    encoded = tokenizer.apply_chat_template(
        turns(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    masked, found = set(np.flatnonzero(encoded["assistant_masks"]).tolist()), set(predicted(row))
    assert masked < found
    assert [tokenizer.decode([row.tokens[place]]) for place in sorted(found - masked)] == ["<|im_end|>"] * 2


@pytest.mark.parametrize("bos", [True, False], ids=["bos", ""])
def test_the_default_template(plain: dict[bool, Any], bos: bool) -> None:
    tokenizer = plain[bos]
    for answer in ANSWERS:
        asked = (Message("system", "Be kind."), user("What is it?"))
        messages = (*asked, assistant("the cat"), user("### Response:\n"), assistant(answer))
        row = codec(tokenizer).encode_answers(Chat("here", messages))
        assert row.tokens.tolist() == templated_ids(tokenizer, messages)
        assert (row.tokens == tokenizer.bos_token_id).sum() == bos
        assert learned(row, tokenizer) == [("the cat</s>", 1.0), (f"{answer}</s>", 1.0)]


@pytest.mark.parametrize("answer", ["Yes.", "Once upon a time", "🙂 naïve 你好", " padded ", "\nline\n"])
def test_the_default_template_with_a_tokenizer_that_plants_spaces(stories: Any, answer: str) -> None:
    messages = (user("the cat"), assistant("Once upon"), user("🙂"), assistant(answer))
    row = codec(stories).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(stories, messages)
    assert (row.tokens == stories.bos_token_id).sum() == 1
    texts = [text for text, _ in learned(row, stories)]
    # Decoding a part of a row drops the space this tokenizer puts before every text.
    assert [text.removeprefix(" ") for text in texts] == ["Once upon</s>", f"{answer.removeprefix(' ')}</s>"]


BARE = """\
{%- for m in messages %}{{- m['role'] + ': ' + m['content'] + '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"""


def test_a_template_without_an_end_token_gains_an_eos() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", template=BARE, merges=False)
    messages = (user("a"), assistant("the cat"), user("b"), assistant("sat"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    rendered = tokenizer.apply_chat_template(turns(messages), tokenize=False)
    assert tokenizer.decode(row.tokens.tolist()) == rendered.rstrip() + "</s>"
    assert learned(row, tokenizer) == [("the cat", 1.0), ("sat</s>", 1.0)]


def test_a_silent_last_answer_gains_a_silent_eos() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", template=BARE, merges=False)
    messages = (user("a"), assistant("the cat"), user("b"), assistant("sat", 0.0))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert learned(row, tokenizer) == [("the cat", 1.0)]


def test_a_template_without_an_end_token_and_no_eos() -> None:
    tokenizer = byte_level(template=BARE, merges=False)
    row = codec(tokenizer).encode_answers(Chat("here", (user("a"), assistant("the cat"))))
    assert learned(row, tokenizer) == [("the cat", 1.0)]


def test_an_answer_that_ends_with_an_added_token_still_gains_an_eos() -> None:
    """Only the end of a turn ends it: a tool call's closing tag is content."""
    tokenizer = byte_level(eos="</s>", added=("</tool_call>",), template=BARE, merges=False)
    row = codec(tokenizer).encode_answers(Chat("here", (user("a"), assistant("the cat</tool_call>"))))
    assert learned(row, tokenizer) == [("the cat</tool_call></s>", 1.0)]


@pytest.mark.parametrize("name", ["chatml", "llama3", "phi3", "zephyr"])
def test_an_answer_may_end_with_an_added_token(name: str) -> None:
    style = STYLES[name]
    template = style.template.replace("⟦", "").replace("⟧", "")
    tokenizer = byte_level(special=style.special, added=("</tool_call>",), bos=style.bos, eos=style.eos,
                           template=template)  # fmt: skip
    messages = (user("a"), assistant("the</tool_call>"), user("b"), assistant("cat</tool_call>"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    assert [text for text, _ in learned(row, tokenizer)] == [f"{t}</tool_call>{style.end}" for t in ("the", "cat")]


def test_a_conversation_that_the_template_refuses_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no system role") as caught:
        codec(tokenizer_of("gemma")).encode_answers(
            Chat("chat.jsonl line 3", (Message("system", "a"), user("b"), assistant("c")))
        )
    assert caught.value.where == "chat.jsonl line 3"


def test_an_answer_the_template_hides_is_a_data_error() -> None:
    hides = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    tokenizer = byte_level(eos="</s>", template=hides)
    with pytest.raises(DataError, match="does not show message 1") as caught:
        codec(tokenizer).encode_answers(Chat("chat.jsonl line 3", (user("a"), assistant("b"))))
    assert caught.value.where == "chat.jsonl line 3"


def test_a_template_that_fails_is_a_data_error() -> None:
    broken = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages[7]['content'] }}"
    tokenizer = byte_level(eos="</s>", template=broken)
    with pytest.raises(DataError, match="chat template refuses"):
        codec(tokenizer).encode_answers(Chat("here", (user("a"), assistant("b"))))


def test_a_conversation_without_weight_is_unusable() -> None:
    with pytest.raises(Unusable, match="no token of an answer"):
        codec(tokenizer_of("chatml")).encode_answers(Chat("here", (user("a"), assistant("b", 0.0))))


def test_a_last_answer_the_template_empties_does_not_cut_the_conversation() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", merges=False, template=BARE.replace(
        "m['content'] +", "m['content'].split('</think>')[-1] +"
    ))  # fmt: skip
    messages = (user("a"), assistant("the cat"), user("b"), assistant("sat</think>"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    text = tokenizer.decode(row.tokens.tolist())
    assert text.startswith("user: a\nassistant: the cat\nuser: b\nassistant:")
    assert learned(row, tokenizer)[0] == ("the cat", 1.0)


FLAGS = list(itertools.product([False, True], repeat=2))

PAIRS = [
    ("the cat", " sat on"),
    ("the cat ", "sat on"),
    ("", "the cat"),
    ("What?\n", "Yes\n"),
    ("🙂", "🙂 naïve 你好🙂"),
    ("é", "e\u0301"),
    ("the", "\n\n  the  "),
    ("the the the", "the the the"),
    ("a<|x|>b", "c<|x|>d"),
    ("", "🙂🙂"),
]


@pytest.mark.parametrize("trim_offsets", [False, True], ids=["", "trimmed-offsets"])
@pytest.mark.parametrize(("adds_bos", "adds_eos"), FLAGS)
@pytest.mark.parametrize(("prompt", "completion"), PAIRS)
def test_a_completion_is_learned_with_one_eos(
    prompt: str, completion: str, adds_bos: bool, adds_eos: bool, trim_offsets: bool
) -> None:
    front = "<s>" if adds_bos else ""
    for merges in (False, True):
        tokenizer = byte_level(
            bos="<s>", eos="</s>", adds_bos=adds_bos, adds_eos=adds_eos, trim_offsets=trim_offsets, merges=merges
        )
        row = codec(tokenizer).encode_answers(Prompted("here", prompt, completion))
        assert tokenizer.decode(row.tokens.tolist()) == f"{front}{prompt}{completion}</s>"
        assert (row.tokens == tokenizer.bos_token_id).sum() == adds_bos
        assert (row.tokens == tokenizer.eos_token_id).sum() == 1
        first = predicted(row)[0]
        assert predicted(row) == list(range(first, len(row.tokens)))  # one run, to the end
        if not prompt and not adds_bos:  # nothing to predict the first token from
            assert first == 1
            continue
        before, up_to = (tokenizer.decode(row.tokens[:end].tolist()) for end in (first, first + 1))
        assert before == f"{front}{prompt}" or (merges and len(before) < len(f"{front}{prompt}") < len(up_to))


def test_a_token_across_the_border_is_learned() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True)
    assert len(tokenizer.tokenize("the")) == 1
    row = codec(tokenizer).encode_answers(Prompted("here", "the cat th", "e dog"))
    assert learned(row, tokenizer) == [(" the dog</s>", 1.0)]


def test_a_tokenizer_without_eos_ends_with_the_completion() -> None:
    tokenizer = byte_level(bos="<s>", adds_bos=True)
    row = codec(tokenizer).encode_answers(Prompted("here", "the cat", " sat"))
    assert learned(row, tokenizer) == [(" sat", 1.0)]


def test_a_completion_that_spells_out_the_eos_has_one() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True)
    row = codec(tokenizer).encode_answers(Prompted("here", "the cat", " sat</s>"))
    assert tokenizer.decode(row.tokens.tolist()) == "<s>the cat sat</s>"
    assert learned(row, tokenizer) == [(" sat</s>", 1.0)]


@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("last", ["<|im_end|>", "</tool_call>"])
def test_a_completion_that_ends_with_another_special_token_gains_an_eos(last: str, adds_eos: bool) -> None:
    tokenizer = byte_level(special=("<|im_end|>",), added=("</tool_call>",), eos="</s>", adds_eos=adds_eos)
    row = codec(tokenizer).encode_answers(Prompted("here", "the cat", f" sat{last}"))
    assert learned(row, tokenizer) == [(f" sat{last}</s>", 1.0)]


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Once upon a time", ", there was"),
        ("Once upon a time ", "🙂 there"),
        ("Once 🙂", "🙂🙂 é你"),
        ("", "Once upon a time"),
        ("Lily said:\n", "\nno\n"),
    ],
)
def test_a_tokenizer_that_plants_bos_and_space(stories: Any, prompt: str, completion: str) -> None:
    row = codec(stories).encode_answers(Prompted("here", prompt, completion))
    whole = stories(prompt + completion)["input_ids"]
    assert row.tokens.tolist() == [*whole, stories.eos_token_id]
    assert whole[0] == stories.bos_token_id
    assert whole.count(stories.bos_token_id) == 1
    assert stories.decode(row.tokens.tolist()) == f"<s> {prompt}{completion}</s>"
    places = predicted(row)
    assert places == list(range(places[0], len(row.tokens)))
    if prompt:
        assert stories.decode(row.tokens[: places[0]].tolist()) == f"<s> {prompt}"
    else:
        assert places[0] == 1


def test_a_token_across_the_border_of_a_real_tokenizer_is_learned(stories: Any) -> None:
    row = codec(stories).encode_answers(Prompted("here", "Once upon a ti", "me there"))
    assert learned(row, stories)[0][0].startswith("time")
    assert stories.decode(row.tokens.tolist()) == "<s> Once upon a time there</s>"


def test_a_text_is_learned_from_its_answer_on() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=False)
    row = codec(tokenizer).encode_answers(Text("here", "Q: the cat\nA: sat", answer=len("Q: the cat\nA: ")))
    assert learned(row, tokenizer) == [("sat</s>", 1.0)]
    row = codec(tokenizer).encode_answers(Text("here", "the cat"))
    assert learned(row, tokenizer) == [("the cat</s>", 1.0)]


@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pair_shares_its_prompt_and_learns_its_answers(name: str, merges: bool) -> None:
    tokenizer, style = tokenizer_of(name, merges=merges), STYLES[name]
    prompt = (*opening(name), user("a"), assistant("the cat"), user("What is it?"))
    chosen, rejected = codec(tokenizer).encode_pair(Preference("here", prompt, "the mat", "What is it? 🙂"))
    for row, answer in ((chosen, "the mat"), (rejected, "What is it? 🙂")):
        assert row.tokens.tolist() == templated_ids(tokenizer, (*prompt, assistant(answer)))
        same(learned(row, tokenizer), [(style.said(answer, last=True), 1.0)], name)
    shared = min(predicted(chosen)[0], predicted(rejected)[0])
    assert chosen.tokens[:shared].tolist() == rejected.tokens[:shared].tolist()
    if not style.space:
        assert predicted(chosen)[0] == predicted(rejected)[0]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_pair_of_strings_shares_its_prompt(adds_bos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=adds_bos)
    chosen, rejected = codec(tokenizer).encode_pair(Preference("here", "What is it?", " the mat", " 🙂 dog"))
    assert learned(chosen, tokenizer) == [(" the mat</s>", 1.0)]
    assert learned(rejected, tokenizer) == [(" 🙂 dog</s>", 1.0)]
    shared = predicted(chosen)[0]
    assert shared == predicted(rejected)[0]
    assert chosen.tokens[:shared].tolist() == rejected.tokens[:shared].tolist()


def test_a_pair_is_encoded_as_each_answer_alone(plain: dict[bool, Any]) -> None:
    prompt = (user("a"), assistant("b", 0.0), user("c"))
    rows = codec(plain[True]).encode_pair(Preference("here", prompt, "the mat", "no"))
    for row, answer in zip(rows, ("the mat", "no"), strict=True):
        alone = codec(plain[True]).encode_answers(Chat("here", (*prompt, assistant(answer))))
        for name in ("tokens", "at", "label", "weight"):
            assert (getattr(row, name) == getattr(alone, name)).all()


@pytest.mark.parametrize("name", ["chatml", "mistral", "zephyr"])
def test_a_pair_may_have_an_empty_prompt(name: str) -> None:
    """Transcripts whose first message is already the answer."""
    tokenizer = tokenizer_of(name)
    chosen, rejected = codec(tokenizer).encode_pair(Preference("here", (), "the mat", "no"))
    end = STYLES[name].end
    assert learned(chosen, tokenizer)[-1][0].endswith(f"the mat{end}")
    assert learned(rejected, tokenizer)[-1][0].endswith(f"no{end}")


@pytest.mark.parametrize("trims", [False, True])
def test_the_tokens_of_a_span_are_those_its_offsets_say(trims: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=True, trim_offsets=trims)
    text = " the  cat sat 🙂 東 on\n\n the mat é "
    encoding = tokenizer.backend_tokenizer.encode(text)
    for start, stop in itertools.combinations(range(len(text) + 1), 2):
        inside = [
            place
            for place, (begin, end) in enumerate(encoding.offsets)
            if end > start and (begin < stop or begin == end == stop)
        ]
        expected = (inside[0], inside[-1] + 1) if inside else (0, 0)
        assert token_range(encoding, TextSpan(start, stop, 1.0, closed=False)) == expected, text[start:stop]


def test_an_encoder_decoder_needs_a_prompt_to_read() -> None:
    """Without it the first token of the answer would be read in its place."""
    reader = codec(byte_level(eos="</s>", merges=False), decoder_start=7)
    for record in (Prompted("here", "", "abc"), Text("here", "abc")):
        with pytest.raises(Unusable, match="no prompt for the encoder to read"):
            reader.encode_answers(record)
    row = reader.encode_answers(Prompted("here", "a", "bc"))
    assert row.source is not None
    assert (reader.tokenizer.decode(row.source.tolist()), len(row.label)) == ("a", 3)
