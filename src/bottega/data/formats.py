"""Fields → records: which shape of row a file holds, and whether each row is sound.

A format is a name, the fields it needs and a function. With `format: auto` it is the format the
objective likes best of those whose fields the first row has, unless another one takes those fields and more.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from os.path import commonprefix
from string import Formatter
from typing import Any, NamedTuple

from bottega.data.conversations import asked, asking, messages, tools
from bottega.data.fields import Fields, optional, string
from bottega.errors import DataError, RecipeError
from bottega.records import (
    Answer,
    Chat,
    Choice,
    Compared,
    Entity,
    Labelled,
    Message,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompt,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)

NEGATIVE = re.compile(r"neg(?:ative)?s?(?:_?\d+)?")
"""Names of what does not belong to an anchor, one field or several."""

TURN = "\n\nAssistant:"
"""Where the answer starts in a transcript written as one string (Bai et al. 2022, HH-RLHF)."""


class Format(NamedTuple):
    """How rows become records: the type, the fields each row must have (each by any of its names), and the function."""

    record: type
    needs: tuple[tuple[str, ...], ...]
    build: Callable[[str, Fields], Record]
    accepts: Callable[[Fields], bool] = lambda fields: True


class Chosen(NamedTuple):
    """The format of a source's rows, what named it, and the file's name of each of its fields."""

    format: Format
    named: str
    names: Mapping[str, str]


def records(
    rows: Iterable[tuple[str, Fields | DataError]],
    reads: tuple[type, ...],
    *,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    text_template: str | None = None,
    on_bad: Callable[[DataError], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
    on_format: Callable[[str, Fields], None] | None = None,
) -> Iterator[Record]:
    """Every sound row as a record of one of the types in `reads`.

    mapping        our field name → the file's
    text_template  builds the text of each row from its fields: `"Q: {question}\\nA: {answer}"`
    on_bad         called with the error of an unsound row, which is then left out; by default it is raised
    on_broken      called with the error of a line that holds no row; by default it is raised: the file is damaged
    on_format      called once with the name of the format and the first row it was chosen for
    """
    if text_template is not None and Text not in reads:
        raise RecipeError("this objective reads no plain text", where="data.text_template", fix="leave it out")
    chosen = _templated(text_template) if text_template is not None else None
    told = on_format is None
    for where, fields in rows:
        if isinstance(fields, DataError):
            if on_broken is None:
                raise fields
            on_broken(fields)
            continue
        try:
            fields = _renamed(where, fields, mapping or {})
            if chosen is None:
                chosen, name = _detect(where, fields, reads, format)
            else:
                name = "text_template"
            if on_format is not None and not told:
                on_format(name, fields)
                told = True
            yield _built(where, fields, chosen)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _built(where: str, fields: Fields, chosen: Chosen) -> Record:
    """The record of a row; an error speaks of fields by the file's own names."""
    for ours, theirs in chosen.names.items():
        if theirs not in fields:
            raise _missing(where, theirs, fields, chosen.named)
        if theirs != ours:
            fields = {**fields, ours: fields[theirs]}
    try:
        return chosen.format.build(where, fields)
    except DataError as error:
        place, found, field = (error.where or "").rpartition(", field ")
        theirs = chosen.names.get(field, field)
        if found and theirs != field:
            raise DataError(error.what, where=f"{place}, field {theirs}", fix=error.fix) from None
        raise


def _renamed(where: str, fields: Fields, mapping: Mapping[str, str]) -> Fields:
    for theirs in mapping.values():
        if theirs not in fields:
            raise _missing(where, theirs, fields, "data.mapping")
    moved = set(mapping.values())
    kept = {name: value for name, value in fields.items() if name not in moved}
    return kept | {ours: fields[theirs] for ours, theirs in mapping.items()}


def _detect(where: str, fields: Fields, reads: tuple[type, ...], name: str) -> tuple[Chosen, str]:
    """The format of a source, by its name or from its first row."""
    able = {other: format for other, format in FORMATS.items() if format.record in reads}
    if name != "auto":
        if name not in able:
            raise RecipeError(
                f"this objective does not read {name} rows", where="data.format", fix=f"one of: {', '.join(able)}"
            )
        names = {need[0]: next((field for field in need if field in fields), need[0]) for need in able[name].needs}
        return Chosen(able[name], f"format {name}", names), name
    fitting = {}
    for other, format in able.items():
        names = {need[0]: field for need in format.needs for field in reversed(need) if field in fields}
        if len(names) == len(format.needs) and format.accepts(fields):
            fitting[other] = names
    if not fitting:
        raise DataError(
            f"fields {', '.join(fields) or 'none'}: no format this objective reads",
            where=where,
            fix="it reads "
            + " or ".join(" + ".join(need[0] for need in format.needs) for format in able.values())
            + "; rename with data.mapping",
        )
    # A format that takes the same fields and more says more of the row.
    used = {other: set(names.values()) for other, names in fitting.items()}
    fullest = [other for other in fitting if not any(used[other] < more for more in used.values())]
    best = min(fullest, key=lambda other: reads.index(able[other].record))
    return Chosen(able[best], "the format of the first row", fitting[best]), best


def _missing(where: str, field: str, fields: Fields, wanted_by: str) -> DataError:
    near = difflib.get_close_matches(field, fields, 1)
    hint = f"did you mean {near[0]}?" if near else f"the row has {', '.join(fields) or 'no fields'}"
    return DataError(f"no field {field}, which {wanted_by} names", where=f"{where}, field {field}", fix=hint)


def _templated(template: str) -> Chosen:
    """The format of rows whose text is built from a template; the last field and what follows it are the answer."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise _not_a_template(str(error)) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        raise _not_a_template("it names no field")
    if "" in names or any(spec or conversion for _, _, spec, conversion in parts):
        raise _not_a_template("a field is written {name}, without ! or :")

    def build(where: str, fields: Fields) -> Record:
        text, answer = "", 0
        for literal, name, _, _ in parts:
            text += literal
            if name is not None:
                answer, value = len(text), string(where, fields, name, empty=name != names[-1])
                text += value
        return Text(where, text, answer)

    return Chosen(Format(Text, (), build), "data.text_template", {name: name for name in names})


def _not_a_template(problem: str) -> RecipeError:
    return RecipeError(
        f"not a template: {problem}",
        where="data.text_template",
        fix='for example "Q: {question}\\nA: {answer}"; a brace is written {{',
    )


# Plain text and questions


def _text(where: str, fields: Fields) -> Record:
    return Text(where, string(where, fields, "text"))


def _prompted(where: str, fields: Fields) -> Record:
    return Prompted(where, string(where, fields, "prompt", empty=True), string(where, fields, "completion"))


def _instruction_messages(where: str, fields: Fields) -> tuple[Message, ...]:
    more = optional(where, fields, "input") or optional(where, fields, "context")
    return asking(string(where, fields, "instruction"), more, system=optional(where, fields, "system"))


def _instruction(where: str, fields: Fields) -> Record:
    answer = Message("assistant", string(where, fields, "output"))
    return Chat(where, (*_instruction_messages(where, fields), answer))


def _first(answers: Any) -> Any:
    """One answer, or the first of several; SQuAD's hold their text."""
    answers = answers.get("text") if isinstance(answers, dict) else answers
    answer = answers[0] if isinstance(answers, list) and answers else answers
    return answer.get("text") if isinstance(answer, dict) else answer


def _question(where: str, fields: Fields) -> Record:
    """Question and answer; of several answers the first counts."""
    answer = _first(fields["answer"])
    context, question = optional(where, fields, "context"), string(where, fields, "question")
    return asked(where, context, question, answer=string(where, {"answer": answer}, "answer"))


def _summary(where: str, fields: Fields) -> Record:
    """A document and its summary; of several summaries the first counts, and a list of sentences is joined."""
    source, target = fields["source"], fields["summary"]
    texts = {
        "source": " ".join(map(str, source)) if isinstance(source, list) else source,
        "summary": target[0] if isinstance(target, list) and target else target,
    }
    answer = string(where, texts, "summary")
    return asked(where, "Summarise:", string(where, texts, "source"), answer=answer)


def _choice(where: str, fields: Fields) -> Record:
    """A question with its choices, listed or in ARC's {text, label}, and the right one by number, letter or text."""
    given, gold = fields["choices"], fields["gold"]
    letters = given.get("label") if isinstance(given, dict) else None
    choices = given.get("text") if isinstance(given, dict) else given
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError("fewer than two choices", where=f"{where}, field choices", fix='write ["…", "…"]')
    texts = tuple(string(where, {"choices": choice}, "choices") for choice in choices)
    named: list[list[Any]] = [letters or [], [chr(65 + n) for n in range(len(texts))], list(texts)]
    place = gold if isinstance(gold, int) else next((names.index(gold) for names in named if gold in names), -1)
    if isinstance(gold, bool) or not 0 <= place < len(texts):
        raise DataError(
            f"{gold!r} is none of the {len(texts)} choices",
            where=f"{where}, field gold",
            fix="the number of the right choice, from 0; its letter; or its text",
        )
    return Choice(where, string(where, fields, "question"), texts, place)


def _chat(where: str, fields: Fields) -> Record:
    turns = messages(where, fields)
    system = optional(where, fields, "system")
    if system and turns[0].role != "system":
        turns = (Message("system", system), *turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError(
            "no assistant message, so nothing to learn", where=f"{where}, field messages", fix="add the answer"
        )
    return Chat(where, turns, tools(where, fields))


RIGHT = ("answer", "answers", "completion", "response", "output", "solution", "ground_truth", "target")
"""Names of the right answer to a prompt."""


def _posed(where: str, fields: Fields) -> Record:
    """A prompt in any of its shapes, with the right answer where one is named; of a conversation that is the last."""
    name = next((name for name in RIGHT if fields.get(name) is not None), None)
    found = "" if name is None else _first(fields[name])
    right = string(where, {name: str(found) if isinstance(found, (int, float)) else found}, name) if name else ""
    given = fields["prompt"]
    if not isinstance(given, list):
        shaped = given is fields.get("instruction") or given is fields.get("question")
        known = {other: value for other, value in fields.items() if not shaped or other != "prompt"}
        return Posed(where, _prompt(where, known), right, tools(where, fields), fields)
    turns = messages(where, fields, "prompt")
    if turns[-1].role == "assistant":
        turns, right = turns[:-1], right or turns[-1].content
    if not any(turn.role == "user" for turn in turns):
        raise DataError("nobody asks anything", where=f"{where}, field prompt", fix="add a message of the user")
    return Posed(where, turns, right, tools(where, fields), fields)


# Preferences


def _preference(where: str, fields: Fields) -> Record:
    record = _pair(where, fields)
    if record.chosen == record.rejected:
        raise DataError(
            "chosen equal to rejected",
            where=f"{where}, field rejected",
            fix="remove the row, or leave such rows out with data.bad_rows=drop",
        )
    return record


def _pair(where: str, fields: Fields) -> Preference:
    if isinstance(fields["chosen"], list):
        return _transcripts(where, fields)
    chosen, rejected = string(where, fields, "chosen"), string(where, fields, "rejected")
    if fields.get("prompt") is None and "instruction" not in fields and "question" not in fields:
        start = _answer_start(commonprefix([chosen, rejected]))
        if not chosen[:start].strip() and chosen != rejected:
            raise _missing(where, "prompt", fields, "a preference whose answers share no beginning")
        return Preference(where, chosen[:start], chosen[start:], rejected[start:])
    return Preference(where, _prompt(where, fields), chosen, rejected, tools(where, fields))


def _answer_start(shared: str) -> int:
    """Where the answers start in two transcripts that share this beginning: after the last turn mark, or word."""
    turn = shared.rfind(TURN)
    return turn + len(TURN) if turn >= 0 else max(shared.rfind(" "), shared.rfind("\n")) + 1


def _prompt(where: str, fields: Fields) -> Prompt:
    """What both answers answer: a string as it is, messages, an instruction, or a question."""
    if isinstance(fields.get("prompt"), list):
        return messages(where, fields, "prompt")
    if fields.get("prompt") is not None:
        return string(where, fields, "prompt")
    if "instruction" in fields:
        return _instruction_messages(where, fields)
    return asking(string(where, fields, "question"), system=optional(where, fields, "system"))


def _transcripts(where: str, fields: Fields) -> Preference:
    """Two conversations; what they share up to where they part is the prompt, with what stands before both."""
    chosen, rejected = messages(where, fields, "chosen"), messages(where, fields, "rejected")
    before = _prompt_messages(where, fields)
    if before == chosen[: len(before)] == rejected[: len(before)]:
        before = ()
    same = next((n for n, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other), None)
    same = min(len(chosen), len(rejected)) - 1 if same is None else same
    for name, rest in (("chosen", chosen[same:]), ("rejected", rejected[same:])):
        if not rest or rest[0].role != "assistant":
            raise DataError(
                f"{name} parts from the other before an assistant message",
                where=f"{where}, field {name}",
                fix="both must be the same conversation up to an assistant message, which differs",
            )
    return Preference(
        where, (*before, *chosen[:same]), _plain(chosen[same:]), _plain(rejected[same:]), tools(where, fields)
    )


def _plain(messages: tuple[Message, ...]) -> Answer:
    """One message that holds nothing but text, as that text."""
    first = messages[0]
    return first.content if len(messages) == 1 and first == Message("assistant", first.content) else messages


def _prompt_messages(where: str, fields: Fields) -> tuple[Message, ...]:
    """What stands before messages of the answers: a list of messages, a user's text, or nothing."""
    if isinstance(fields.get("prompt"), str):
        return asking(string(where, fields, "prompt"))
    return messages(where, fields, "prompt") if fields.get("prompt") is not None else ()


def _openai_preference(where: str, fields: Fields) -> Record:
    """OpenAI's DPO rows: `input` holds messages and tools, the outputs are one assistant message each."""
    asked = fields["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        raise DataError("input holds no messages", where=f"{where}, field input", fix='write {"messages": […]}')
    rows = {"prompt": asked["messages"], "tools": asked.get("tools")}
    return _preference(where, rows | {"chosen": fields["preferred_output"], "rejected": fields["non_preferred_output"]})


def _unpaired(where: str, fields: Fields) -> Record:
    """A prompt, an answer and whether it is good (KTO); strings, or messages."""
    desirable = fields["label"]
    if isinstance(desirable, str):
        desirable = {"true": True, "1": True, "false": False, "0": False}.get(desirable.strip().lower())
    if desirable not in (True, False):
        raise DataError(
            f"label {fields['label']!r}", where=f"{where}, field label", fix="true for a good answer, or false"
        )
    listed = isinstance(fields["completion"], list)
    answer: Answer = messages(where, fields, "completion") if listed else string(where, fields, "completion")
    if isinstance(answer, tuple) and answer[0].role != "assistant":
        raise DataError("no assistant message", where=f"{where}, field completion", fix="the answer is the assistant's")
    prompt = _prompt_messages(where, fields) if listed else _prompt(where, fields)
    return Unpaired(where, prompt, _plain(answer) if isinstance(answer, tuple) else answer, bool(desirable))


# Labels


def _labelled(where: str, fields: Fields) -> Record:
    label = fields["label"]
    if isinstance(label, (int, float)) and not isinstance(label, bool) and math.isfinite(label):
        label = str(label)
    return Labelled(where, string(where, fields, "text"), string(where, {"label": label}, "label"))


def _multilabelled(where: str, fields: Fields) -> Record:
    """A text with a list of labels."""
    labels = fields["labels"]
    if not isinstance(labels, list):
        raise DataError("labels is not a list", where=f"{where}, field labels", fix='write ["one", "other"], or []')
    named = [string(where, {"labels": label}, "labels") for label in labels]
    return Multilabelled(where, string(where, fields, "text"), tuple(dict.fromkeys(named)))


def _spans(where: str, fields: Fields) -> Record:
    """A text with spans, each `{start, end, label}` in characters."""
    text = string(where, fields, "text")
    if not isinstance(fields["spans"], list):
        raise DataError(
            "spans is not a list", where=f"{where}, field spans", fix='write [{"start": 0, "end": 5, "label": …}]'
        )
    found = sorted(_span(f"{where}, field spans[{index}]", span, text) for index, span in enumerate(fields["spans"]))
    for one, other in pairwise(found):
        if other.start < one.stop:
            raise DataError(
                f"spans {tuple(one)} and {tuple(other)} overlap", where=f"{where}, field spans", fix="keep one of them"
            )
    return Tagged(where, text, tuple(found))


def _span(where: str, span: Any, text: str) -> Entity:
    known: dict[str, Any] = span if isinstance(span, dict) else {}
    start, stop = known.get("start"), known.get("end", known.get("stop"))
    label = known.get("label", known.get("type", known.get("tag")))
    if not (isinstance(start, int) and isinstance(stop, int) and isinstance(label, str)) or not (
        0 <= start < stop <= len(text)
    ):
        raise DataError(
            f"span {span!r} is none of this text",
            where=where,
            fix='write {"start": …, "end": …, "label": …}, in characters, the end after the last',
        )
    return Entity(start, stop, label)


def _conll(where: str, fields: Fields) -> Record:
    """Tokens with a tag each: B-, I- (or L-, E-) inside an entity, S- or U- for one alone, O outside."""
    tokens, tags = fields["tokens"], fields["tags"]
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags) or not tokens:
        raise DataError("not as many tags as tokens", where=f"{where}, field tags", fix="write a tag for each token")
    spans: list[Entity] = []
    text = ""
    inside = ""
    for token, tag in zip(tokens, tags, strict=True):
        token = string(where, {"tokens": token}, "tokens")
        start = len(text) + bool(text)
        text += f" {token}" if text else token
        mark, _, label = string(where, {"tags": tag}, "tags").partition("-")
        if mark == "O" or not label:
            if mark != "O":
                raise DataError(f"tag {tag!r}", where=f"{where}, field tags", fix="write O, B-label or I-label")
            inside = ""
        elif mark in "ILE" and inside == label:
            spans[-1] = spans[-1]._replace(stop=len(text))
        else:
            spans.append(Entity(start, len(text), label))
        inside = "" if mark in "OLESU" else label
    return Tagged(where, text, tuple(spans))


# Likeness


def _paired(where: str, fields: Fields) -> Record:
    """A text and one that belongs to it, with what does not: `negatives`, `neg`, `negative_1` …"""
    given = [value for name, value in fields.items() if NEGATIVE.fullmatch(name) and value is not None]
    listed = [one for value in given for one in (value if isinstance(value, list) else [value])]
    negatives = tuple(string(where, {"negatives": one}, "negatives") for one in listed)
    anchor, positive = string(where, fields, "anchor"), string(where, fields, "positive")
    if positive in negatives:
        raise DataError("positive among the negatives", where=f"{where}, field negatives", fix="remove one of the two")
    label = fields.get("label")
    return Paired(where, anchor, positive, negatives, None if label is None else str(label))


def _compared(where: str, fields: Fields) -> Record:
    """Two texts and a number from 0, nothing in common, to 1, the same."""
    given = fields["score"]
    score = float(given) if isinstance(given, (int, float)) else _number(given)
    if score is None or not 0 <= score <= 1:
        raise DataError(
            f"score {given!r}",
            where=f"{where}, field score",
            fix="a number from 0, nothing in common, to 1, the same; divide other scales by their largest",
        )
    return Compared(where, string(where, fields, "sentence1"), string(where, fields, "sentence2"), score)


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _is_flag(fields: Fields) -> bool:
    """Whether a label says good or bad, rather than naming a class."""
    label = fields.get("label")
    return isinstance(label, bool) or (isinstance(label, str) and label.strip().lower() in ("true", "false"))


def _is_text(field: str) -> Callable[[Fields], bool]:
    return lambda fields: isinstance(fields.get(field), str)


TEXT = ("text", "sentence", "utterance", "content")
FORMATS: dict[str, Format] = {
    "messages": Format(Chat, (("messages", "conversations", "conversation"),), _chat),
    "instruction": Format(Chat, (("instruction",), ("output", "response")), _instruction),
    "question": Format(Chat, (("question",), ("answer", "answers")), _question),
    "summary": Format(
        Chat, (("source", "document", "article", "dialogue"), ("summary", "target", "highlights")), _summary
    ),
    "prompted": Format(Prompted, (("prompt",), ("completion", "response")), _prompted),
    "preference": Format(Preference, (("chosen",), ("rejected",)), _preference),
    "openai_preference": Format(
        Preference, (("input",), ("preferred_output",), ("non_preferred_output",)), _openai_preference
    ),
    "unpaired": Format(Unpaired, (("prompt",), ("completion", "response"), ("label",)), _unpaired, _is_flag),
    "labelled": Format(Labelled, (TEXT, ("label", "category", "intent")), _labelled),
    "multilabelled": Format(Multilabelled, (TEXT, ("labels", "categories", "intents")), _multilabelled),
    "conll": Format(Tagged, (("tokens", "words"), ("tags", "ner_tags")), _conll),
    "spans": Format(Tagged, (TEXT, ("spans", "entities")), _spans),
    "paired": Format(Paired, (("anchor", "query"), ("positive", "pos")), _paired),
    "compared": Format(
        Compared, (("sentence1", "text1"), ("sentence2", "text2"), ("score", "similarity", "label")), _compared
    ),
    "choice": Format(Choice, (("question", "query"), ("choices", "options"), ("gold", "answer", "answerKey")), _choice),
    "posed": Format(Posed, (("prompt", "question", "instruction", "messages", "conversations"),), _posed),
    "text": Format(Text, (TEXT,), _text),
}
