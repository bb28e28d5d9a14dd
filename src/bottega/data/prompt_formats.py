"""Parsing rows with prompts and answers: texts, prompts, conversations, preferences, and rated answers (KTO)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from os.path import commonprefix
from typing import Any

from bottega.data import messages as conversations
from bottega.data.fields import Fields, optional_string, parse_integer, require_string
from bottega.data.messages import VARIABLES, asking, messages
from bottega.errors import DataError
from bottega.records import (
    Answer,
    Chat,
    Choice,
    Message,
    Posed,
    Preference,
    Prompt,
    Prompted,
    Record,
    Text,
    Tools,
    Unpaired,
    Variables,
    label_name,
)

TALKS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "problem", "query", "input", "inputs")
# Field names of a prompt.
PROMPTS = ("prompt", *QUESTIONS, "instruction")

REPLIES = ("answer", "answers", "solution", "response", "output", "completion", "target", "targets")
# Field names of an answer to a question, and of the reference answer of a prompt.
RIGHT = (*REPLIES, "ground_truth", "final_answer", "expected_answer", "reference_answer", "gold")

# Field names of the correct choice.
GOLD = ("gold", "answer", "answerKey", "answerkey")

# Fields that turn a plain prompt into a conversation.
GIVEN = ("system", "history", "tools", "functions", VARIABLES)

# Start of an answer in a transcript written as one string (Bai et al. 2022, HH-RLHF).
TURN = "\n\nAssistant:"

Turns = tuple[Message, ...]


# Prompts


def _given(where: str, fields: Fields) -> tuple[Tools, Variables]:
    """The functions a row offers, under either of OpenAI's names; and what else its chat template is given."""
    found = conversations.tools(where, fields) or conversations.tools(where, {"tools": fields.get("functions")})
    return found, conversations.variables(where, fields)


def _prompt(where: str, fields: Fields) -> Prompt:
    """The prompt of a row: a plain string, or messages if any field makes it a conversation."""
    asked = _asked(where, fields)
    if isinstance(asked, str):
        if not any(fields.get(name) for name in GIVEN):
            return asked
        asked = (Message("user", asked),)
    return _begun(where, fields, asked)


def _asked(where: str, fields: Fields) -> Prompt:
    """A text, messages, an instruction, or a question."""
    if fields.get("prompt") is not None:
        asked = fields["prompt"]
        said = isinstance(asked, list) or _is_said(asked)
        return _turns(where, asked, "prompt") if said else require_string(where, fields, "prompt")
    talk = next((name for name in TALKS if fields.get(name) is not None), None)
    if talk is not None:
        return messages(where, fields, talk)
    return _instruction_turns(where, fields) if "instruction" in fields else _question_turns(where, fields)


def _instruction_turns(where: str, fields: Fields) -> Turns:
    more = optional_string(where, fields, "input") or optional_string(where, fields, "context")
    return asking(require_string(where, fields, "instruction"), more)


def _question_turns(where: str, fields: Fields) -> Turns:
    name = next((name for name in QUESTIONS if name in fields), "question")
    return asking(optional_string(where, fields, "context"), require_string(where, fields, name))


def _begun(where: str, fields: Fields, turns: Turns) -> Turns:
    """Turns after what the row has beside them: a system message, and what was said before."""
    system, past = optional_string(where, fields, "system"), tuple(_history(where, fields))
    given = [Message("system", system)] if system else []
    given += [turn for part in (past, turns) for turn in part[:1] if turn.role == "system"]
    for other in given[1:]:
        _refuse_two_systems(where, given[0].content, other)
    past, turns = (part[1:] if part and part[0].role == "system" else part for part in (past, turns))
    # Of equal ones the last: it holds whatever else a message says.
    return (*given[-1:], *past, *turns)


def _refuse_two_systems(where: str, system: str, first: Message) -> None:
    """A DataError where a row tells a model two things that it is to be."""
    if system.strip() != first.content.strip():
        what = "the conversation has a system message of its own, which says something else"
        fix = "keep one of the two, or leave such rows out with data.bad_rows=drop"
        raise DataError(what, where=f"{where}, field system", fix=fix)


def _history(where: str, fields: Fields) -> Iterator[Message]:
    """Turns before the question: messages, or a list of pairs, what was asked and what was answered."""
    past = fields.get("history")
    if not past:
        return
    if isinstance(past, list) and all(isinstance(one, dict) for one in past):
        yield from messages(where, fields, "history")
        return
    for number, pair in enumerate(past if isinstance(past, list) else [past]):
        if not isinstance(pair, list) or len(pair) != 2:
            fix = 'write [["question", "answer"], …]'
            raise DataError("not a question and its answer", where=f"{where}, field history[{number}]", fix=fix)
        asked, answer = ({"history": part} for part in pair)
        yield Message("user", require_string(where, asked, "history"))
        yield Message("assistant", require_string(where, answer, "history"))


def _turns(where: str, given: Any, name: str) -> Turns:
    """An answer as messages: a list of them, or one."""
    return messages(where, {name: [given] if isinstance(given, dict) else given}, name)


def _is_said(value: Any) -> bool:
    """Whether an answer is messages, or one of them, rather than a text."""
    if isinstance(value, list):
        return not value or any(isinstance(one, dict) for one in value)
    return isinstance(value, dict) and not value.keys().isdisjoint(conversations.ROLE)


def _plain(turns: Turns) -> Answer:
    """One message that holds nothing but text, as that text."""
    first = turns[0]
    return first.content if len(turns) == 1 and first == Message("assistant", first.content) else turns


def _joined(where: str, before: Turns, shared: Turns) -> Turns:
    """What stands before a transcript, and its beginning, where that may repeat it; a system message comes first."""
    if shared and shared[0].role == "system":
        if before and before[0].role == "system":
            _refuse_two_systems(where, before[0].content, shared[0])
            before = before[1:]
        return (shared[0], *_joined(where, before, shared[1:]))
    places = range(len(shared) - len(before) + 1)
    if any(_alike(before, shared[place : place + len(before)]) for place in places):
        return shared
    sizes = range(min(len(before), len(shared)), 0, -1)
    same = next((size for size in sizes if _alike(before[-size:], shared[:size])), 0)
    return before + shared[same:]


def _alike(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return [(one.role, one.content.strip()) for one in some] == [(one.role, one.content.strip()) for one in others]


# Texts, questions, conversations


def text(where: str, fields: Fields) -> Record:
    return Text(where, require_string(where, fields, "text"))


def prompted(where: str, fields: Fields) -> Record:
    """Texts as they are; or a conversation, of which the completion alone is learned."""
    asked, answer = fields["prompt"], fields["completion"]
    if not _is_said(asked) and not _is_said(answer) and not any(fields.get(name) for name in GIVEN):
        return Prompted(
            where, require_string(where, fields, "prompt", empty=True), require_string(where, fields, "completion")
        )
    said = _turns(where, answer, "completion") if _is_said(answer) else ()
    if said and not any(turn.role == "assistant" for turn in said):
        raise DataError("no assistant message", where=f"{where}, field completion", fix="the answer is the assistant's")
    before = _begun(where, fields, _prompt_turns(where, asked))
    before = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in before)
    return Chat(
        where,
        (*before, *(said or [Message("assistant", require_string(where, fields, "completion"))])),
        *_given(where, fields),
    )


def _prompt_turns(where: str, asked: Any) -> Turns:
    return (
        _turns(where, asked, "prompt")
        if _is_said(asked)
        else asking(require_string(where, {"prompt": asked}, "prompt"))
    )


def instruction(where: str, fields: Fields) -> Record:
    asked = _begun(where, fields, _instruction_turns(where, fields))
    return Chat(where, (*asked, Message("assistant", require_string(where, fields, "output"))), *_given(where, fields))


def _first(answers: Any) -> Any:
    """One answer, or the first of several; SQuAD's hold their text."""
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answer = answers[0] if isinstance(answers, list) and answers else answers
    return answer.get("text", answer.get("content")) if isinstance(answer, dict) else answer


def question(where: str, fields: Fields) -> Record:
    """Question and answer; of several answers the first counts."""
    answer = _first(fields["answer"])
    if answer is None or answer == []:
        fix = "write what is to be said, or leave such rows out with data.bad_rows=drop"
        raise DataError("no answer", where=f"{where}, field answer", fix=fix)
    said = Message("assistant", require_string(where, {"answer": _as_text(answer)}, "answer"))
    asked = asking(optional_string(where, fields, "context"), require_string(where, fields, "question"))
    return Chat(where, (*_begun(where, fields, asked), said), *_given(where, fields))


def _as_text(answer: Any) -> Any:
    """A number as people write it."""
    return label_name(answer) if isinstance(answer, (int, float)) and not isinstance(answer, bool) else answer


def summary(where: str, fields: Fields) -> Record:
    """A document and its summary; of several summaries the first counts, and a list of sentences is joined."""
    source, target = fields["source"], fields["summary"]
    texts = {
        "source": " ".join(map(str, source)) if isinstance(source, list) else source,
        "summary": target[0] if isinstance(target, list) and target else target,
    }
    answer = require_string(where, texts, "summary")
    return conversations.asked(where, "Summarise:", require_string(where, texts, "source"), answer=answer)


def choice(where: str, fields: Fields) -> Record:
    """A question with its choices, and the right one by number, letter or text."""
    (choices, letters), gold = _choices(fields["choices"]), fields["gold"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError("fewer than two choices", where=f"{where}, field choices", fix='write ["…", "…"]')
    texts = tuple(require_string(where, {"choices": _as_text(choice)}, "choices") for choice in choices)
    named: list[list[Any]] = [letters if isinstance(letters, list) else []]
    named += [[chr(65 + n) for n in range(len(texts))], list(texts), [str(n) for n in range(len(texts))]]
    number = parse_integer(gold)
    place = number if number is not None else next((names.index(gold) for names in named if gold in names), -1)
    if not 0 <= place < len(texts):
        raise DataError(
            f"{gold!r} is none of the {len(texts)} choices",
            where=f"{where}, field gold",
            fix="the number of the right choice, from 0; its letter; or its text",
        )
    return Choice(where, require_string(where, fields, "question"), texts, place)


def lettered_choice(where: str, fields: Fields) -> Record:
    """A question whose choices stand in fields of their own, as MMLU's A to D, after what it is about."""
    letters = _lettered(fields)
    texts = {letter: text for letter, text in letters.items() if text is not None and text != ""}
    right = _letter(letters, fields["gold"])
    if right not in texts:
        raise DataError(
            f"{fields['gold']!r} is none of the choices {', '.join(texts)}",
            where=f"{where}, field gold",
            fix="the letter of the right choice; its number, from 0; or its text",
        )
    (asked,) = asking(optional_string(where, fields, "context"), require_string(where, fields, "question"))
    return choice(where, {"question": asked.content, "choices": list(texts.values()), "gold": list(texts).index(right)})


def names_a_letter(fields: Fields) -> bool:
    """Whether the answer of a row names one of such choices, and nothing makes it a conversation."""
    gold = next((fields[name] for name in GOLD if name in fields), None)
    return _letter(_lettered(fields), gold) != "" and not any(name in fields for name in GIVEN)


def _lettered(fields: Fields) -> dict[str, Any]:
    """The choices of a row by their capital letters, in order."""
    given = {found[1].upper(): fields[name] for name in fields if (found := LETTERED.fullmatch(name))}
    return {letter: given[letter] for letter in sorted(given)}


def _letter(choices: dict[str, Any], gold: Any) -> str:
    """The letter of the choice that an answer names: by it, by a number from 0, or by the text; "" for none."""
    number = parse_integer(gold)
    if number is None and isinstance(gold, str):
        found = re.fullmatch(r"\(?(?:[Oo]ption[_ ])?([A-Ja-j])\)?[.:]?", gold.strip())
        if found and found[1].upper() in choices:
            return found[1].upper()
        number = int(gold) if gold in map(str, range(len(choices))) and gold not in choices.values() else None
    if number is not None:
        return list(choices)[number] if 0 <= number < len(choices) else ""
    return next((letter for letter, text in choices.items() if gold is not None and text == gold), "")


# Names of such fields.
LETTERED = re.compile("(?:[Oo]ption[_ ])?([A-Ja-j])")


def _choices(given: Any) -> tuple[Any, Any]:
    """(texts, what they are called): of a list of either, of ARC's {text, label}, or of texts by their letters."""
    if isinstance(given, list) and given and all(isinstance(one, dict) and "text" in one for one in given):
        return [one["text"] for one in given], [one.get("label") for one in given]
    if isinstance(given, dict) and "text" not in given:
        return list(given.values()), list(given)
    return (given.get("text"), given.get("label")) if isinstance(given, dict) else (given, None)


def chat(where: str, fields: Fields) -> Record:
    turns = _begun(where, fields, messages(where, fields))
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError(
            "no assistant message, so nothing to learn", where=f"{where}, field messages", fix="add the answer"
        )
    return Chat(where, turns, *_given(where, fields))


def posed(where: str, fields: Fields) -> Record:
    """A prompt in any of its shapes, with the right answer where one is named; of a conversation that is the last."""
    prompt, right = _prompt(where, fields), _right(where, fields)
    if not isinstance(prompt, str):
        if prompt[-1].role == "assistant":
            prompt, right = prompt[:-1], right or prompt[-1].content
        if not any(turn.role == "user" for turn in prompt):
            raise DataError("nobody asks anything", where=f"{where}, field prompt", fix="add a message of the user")
    tools, variables = _given(where, fields)
    return Posed(where, prompt, right, tools, fields, variables)


def _right(where: str, fields: Fields) -> str:
    """The right answer, where a row names one; verl's rows keep it in `reward_model`."""
    judge = fields.get("reward_model")
    fields = {**judge, **fields} if isinstance(judge, dict) else fields
    name = next((name for name in RIGHT if fields.get(name) not in (None, "")), None)
    return require_string(where, {name: _as_text(_first(fields[name]))}, name) if name else ""


# Preferences and rated answers


def preference(where: str, fields: Fields) -> Record:
    record = _pair(where, fields)
    if record.chosen == record.rejected:
        raise DataError(
            "chosen equal to rejected",
            where=f"{where}, field rejected",
            fix="remove the row, or leave such rows out with data.bad_rows=drop",
        )
    return record


def _pair(where: str, fields: Fields) -> Preference:
    if _is_said(fields["chosen"]):
        return _transcripts(where, fields)
    chosen, rejected = require_string(where, fields, "chosen"), require_string(where, fields, "rejected")
    if _is_asked(fields):
        return Preference(where, _prompt(where, fields), chosen, rejected, *_given(where, fields))
    start = _answer_start(commonprefix([chosen, rejected]))
    if not chosen[:start].strip() and chosen != rejected:
        raise DataError(
            "no field prompt, and the two answers share no beginning",
            where=f"{where}, field prompt",
            fix=f"name what they answer {', '.join(PROMPTS)} or messages; or rename with data.mapping",
        )
    return Preference(where, chosen[:start], chosen[start:], rejected[start:])


def _is_asked(fields: Fields) -> bool:
    """Whether a row says what is asked, beside its answers."""
    return any(fields.get(name) is not None for name in (*PROMPTS, *TALKS))


def _answer_start(shared: str) -> int:
    """Where the answers start in two transcripts that share this beginning: after the last turn mark, or word."""
    turn = shared.rfind(TURN)
    return turn + len(TURN) if turn >= 0 else max(shared.rfind(" "), shared.rfind("\n")) + 1


def _transcripts(where: str, fields: Fields) -> Preference:
    """Two conversations; what they share up to where they part is the prompt, after what stands before both."""
    chosen, rejected = _turns(where, fields["chosen"], "chosen"), _turns(where, fields["rejected"], "rejected")
    both = zip(chosen, rejected, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    same = min(same, len(chosen) - 1, len(rejected) - 1) if chosen == rejected else same
    for name, rest in (("chosen", chosen[same:]), ("rejected", rejected[same:])):
        if not rest or rest[0].role != "assistant":
            raise DataError(
                f"{name} parts from the other before an assistant message",
                where=f"{where}, field {name}",
                fix="both must be the same conversation up to an assistant message, which differs",
            )
    prompt = _joined(where, _before(where, fields), chosen[:same])
    return Preference(where, prompt, _plain(chosen[same:]), _plain(rejected[same:]), *_given(where, fields))


def _before(where: str, fields: Fields) -> Turns:
    """What stands before answers that are messages; nothing where these tell the whole conversation."""
    asked: Prompt = _asked(where, fields) if _is_asked(fields) else ()
    turns = asking(asked) if isinstance(asked, str) else asked
    return _begun(where, fields, turns) if turns else _alone(where, fields)


def _alone(where: str, fields: Fields) -> Turns:
    """What a row has beside transcripts that hold all else."""
    system = optional_string(where, fields, "system")
    return (*((Message("system", system),) if system else ()), *_history(where, fields))


def openai_preference(where: str, fields: Fields) -> Record:
    """OpenAI's DPO rows: `input` holds messages and tools, the outputs are one assistant message each."""
    asked = fields["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        raise DataError("input holds no messages", where=f"{where}, field input", fix='write {"messages": […]}')
    rows = {"prompt": asked["messages"], **{name: asked.get(name, fields.get(name)) for name in ("tools", "functions")}}
    return preference(where, rows | {"chosen": fields["preferred_output"], "rejected": fields["non_preferred_output"]})


FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def flag(value: Any) -> bool | None:
    """True for a desirable answer, False for an undesirable one; None if the value is no such flag."""
    if isinstance(value, bool):
        return value
    return FLAGS.get(value.strip().lower() if isinstance(value, str) else str(parse_integer(value)))


def unpaired(where: str, fields: Fields) -> Record:
    """A prompt, an answer and whether it is good (KTO); strings, or messages; or a whole conversation, and its end."""
    desirable = flag(fields["label"])
    if desirable is None:
        raise DataError(
            f"label {fields['label']!r}", where=f"{where}, field label", fix="true or 1 for a good answer, false or 0"
        )
    given = fields.get("completion", fields.get("messages"))
    if not _is_said(given):
        prompt = _prompt(where, fields)
        return Unpaired(where, prompt, require_string(where, fields, "completion"), desirable, *_given(where, fields))
    told = "completion" not in fields
    name = "messages" if told else "completion"
    turns = _turns(where, given, name)
    start = max((place for place, turn in enumerate(turns, 1) if turn.role not in ("assistant", "tool")), default=0)
    answer = turns[start:]
    if not answer or answer[0].role != "assistant":
        raise DataError("no assistant message", where=f"{where}, field {name}", fix="the answer is the assistant's")
    before = _alone(where, fields) if told else _before(where, fields)
    prompt = _joined(where, before, turns[:start])
    return Unpaired(where, prompt, _plain(answer), desirable, *_given(where, fields))
