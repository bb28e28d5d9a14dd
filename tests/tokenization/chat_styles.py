"""Tokenizers with chat templates of the structure of well-known ones, and which tokens of a row carry the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bottega.batch import Row
from bottega.records import Message
from bottega.tokenization.codec import Codec
from making import WORDS

# A private-use character, such as code may be tempted to mark a place with; icon fonts put it into real texts.
MARK = "\ue000"


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
NAMES = list(STYLES)


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
