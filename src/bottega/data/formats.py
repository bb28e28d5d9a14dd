"""Row formats: detecting the format of a source from its first row, and parsing rows into records.

A format has a name, required fields and a function that builds the record. With `format: auto`, it is the one the
objective prefers among the formats whose fields the first row has, unless another format uses those fields and more.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from bottega.data import label_formats, prompt_formats
from bottega.data.cells import parse_list
from bottega.data.fields import Fields, InvalidRow, require_string
from bottega.data.messages import is_talk
from bottega.data.prompt_formats import GIVEN, GOLD, QUESTIONS, TALKS
from bottega.errors import DataError, RecipeError
from bottega.records import (
    Chat,
    Choice,
    Compared,
    Labelled,
    Multilabelled,
    Paired,
    Posed,
    Preference,
    Prompted,
    Record,
    Tagged,
    Text,
    Unpaired,
)
from bottega.suggestions import join_names

# The fields a row must have; each is a tuple of accepted names, the first of which is the canonical one.
RequiredFields = tuple[tuple[str, ...], ...]


class Format(NamedTuple):
    """A row format: the record class it builds, the required fields, and the function that builds it.

    accepts  whether the values of a row fit the format
    may      whether they are acceptable if no other format fits
    also     whether the format reads a further field of this name
    instead  an alternative set of required fields
    """

    record: type
    needs: RequiredFields
    build: Callable[[str, Fields], Record]
    accepts: Callable[[Fields], bool] = lambda fields: True
    also: Callable[[str], object] = lambda name: False
    instead: RequiredFields = ()
    may: Callable[[Fields], bool] = lambda fields: False

    def names(self, fields: Fields) -> dict[str, str] | None:
        """Canonical field name → the file's name, if the row has all required fields; otherwise None."""
        for needs in (self.needs, self.instead):
            names = {need[0]: field for need in needs for field in reversed(need) if field in fields}
            if names and len(names) == len(needs):
                return names
        return None


class DetectedFormat(NamedTuple):
    """The format of a source, what determined it (for messages), and the file's name of each field.

    plain  field names match only in lower case without surrounding white space, such as `Question` in a spreadsheet
    """

    format: Format
    named: str
    names: Mapping[str, str]
    plain: bool = False

    def unread(self, fields: Fields) -> set[str]:
        """Fields of a row that this format ignores."""
        taken = {*self.names, *self.names.values()}
        return {name for name in fields if name not in taken and not self.format.also(name)}


def parse_rows(
    rows: Iterable[tuple[str, Fields | DataError]],
    reads: tuple[type, ...],
    *,
    format: str = "auto",
    mapping: Mapping[str, str] | None = None,
    text_template: str | None = None,
    on_bad: Callable[[DataError], None] | None = None,
    on_broken: Callable[[DataError], None] | None = None,
    on_format: Callable[[str, Fields], None] | None = None,
    on_unread: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[Record]:
    """Yield every valid row as a record of one of the types in `reads`, the preferred type first.

    mapping        canonical field name → the file's name
    text_template  builds the text of each row from its fields: `"Q: {question}\\nA: {answer}"`
    on_bad         called with the error of an invalid row, which is then dropped; by default it is raised
    on_broken      called with the error of a line that cannot be parsed; by default it is raised: the file is damaged
    on_format      called once, with the name of the format and the first row
    on_unread      called with the names of all ignored fields so far, each time a new one appears
    """
    if text_template is not None and Text not in reads:
        raise RecipeError("this objective reads no plain text", where="data.text_template", fix="leave it out")
    chosen = _template_format(text_template) if text_template is not None else None
    told, unread = on_format is None, set[str]()
    for where, fields in rows:
        if isinstance(fields, DataError):
            refused = (on_bad or on_broken) if isinstance(fields, InvalidRow) else on_broken
            if refused is None:
                raise fields
            refused(fields)
            continue
        try:
            fields = _parse_list_cells(_apply_mapping(where, fields, mapping or {}))
            if chosen is None:
                chosen, name = _detect_format(where, fields, reads, format)
            else:
                name = "text_template"
            fields = _normalize_names(fields) if chosen.plain else fields
            if on_format is not None and not told:
                on_format(name, fields)
                told = True
            if on_unread is not None and (more := chosen.unread(fields) - unread):
                unread |= more
                on_unread(sorted(unread))
            yield _build_record(where, fields, chosen)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)


def _build_record(where: str, fields: Fields, chosen: DetectedFormat) -> Record:
    """Build the record of a row; errors name fields as the file does."""
    for ours, theirs in chosen.names.items():
        if theirs not in fields:
            raise _missing_field_error(where, theirs, fields, chosen.named)
        # A prompt keeps the file's name: a `question` becomes a user message, a `prompt` is used verbatim.
        if theirs != ours and ours != "prompt":
            fields = {**fields, ours: fields[theirs]}
    try:
        return chosen.format.build(where, fields)
    except DataError as error:
        place, found, field = (error.where or "").rpartition(", field ")
        theirs = chosen.names.get(field, field)
        if found and theirs != field:
            raise DataError(error.what, where=f"{place}, field {theirs}", fix=error.fix) from None
        raise


def _apply_mapping(where: str, fields: Fields, mapping: Mapping[str, str]) -> Fields:
    for theirs in mapping.values():
        if theirs not in fields:
            raise _missing_field_error(where, theirs, fields, "data.mapping")
    moved = set(mapping.values())
    kept = {name: value for name, value in fields.items() if name not in moved}
    return kept | {ours: fields[theirs] for ours, theirs in mapping.items()}


def _normalize_names(fields: Fields) -> Fields:
    """The row with lower-case, stripped field names; unchanged if two fields would get the same name."""
    plain = {name.strip().lower(): value for name, value in fields.items()}
    return plain if len(plain) == len(fields) else fields


def _parse_list_cells(fields: Fields) -> Fields:
    """The row with lists in place of table cells that hold one as text."""
    for given, value in fields.items():
        name = given.strip().lower()
        is_meant = next((is_meant for is_named, is_meant in LIST_CELLS if is_named(name)), None)
        found = parse_list(value) if is_meant else None
        if is_meant and found is not None and is_meant(found):
            fields = {**fields, given: found}
    return fields


def _detect_format(where: str, fields: Fields, reads: tuple[type, ...], name: str) -> tuple[DetectedFormat, str]:
    """The format of a source and its name: the configured one, or the one that fits the first row best."""
    able = {other: format for other, format in FORMATS.items() if format.record in reads}
    if name != "auto":
        if name not in able:
            raise RecipeError(
                f"this objective does not read {name} rows", where="data.format", fix=f"one of: {', '.join(able)}"
            )
        plain = able[name].names(fields) is None and able[name].names(_normalize_names(fields)) is not None
        fields = _normalize_names(fields) if plain else fields
        usual = {need[0]: next((field for field in need if field in fields), need[0]) for need in able[name].needs}
        return DetectedFormat(able[name], f"format {name}", able[name].names(fields) or usual, plain), name
    fitting, named = _matching_formats(fields, able)
    plain = not fitting and bool(_matching_formats(_normalize_names(fields), able)[0])
    if plain:
        fitting, named = _matching_formats(_normalize_names(fields), able)
    if not fitting:
        what = f"fields {join_names(fields) or 'none'}: no format this objective reads"
        raise DataError(what, where=where, fix=_suggest_fix(fields, able, named))
    # A format that uses the same fields and more describes the row better.
    used = {other: set(names.values()) for other, names in fitting.items()}
    fullest = [other for other in fitting if not any(used[other] < more for more in used.values())]
    best = min(fullest, key=lambda other: reads.index(able[other].record))
    return DetectedFormat(able[best], "the format of the first row", fitting[best], plain), best


def _matching_formats(fields: Fields, able: Mapping[str, Format]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(formats that fit the row, with the file's field names; formats whose required fields it has)."""
    named = {other: names for other, format in able.items() if (names := format.names(fields)) is not None}
    sure = {other: names for other, names in named.items() if able[other].accepts(fields)}
    return sure or {other: names for other, names in named.items() if able[other].may(fields)}, list(named)


# Delimiters of tables whose suffix suggests another one.
OTHER_DELIMITERS = ";\t|"

# A longer column name is taken to be a cell: the table probably has no header.
MAX_NAME_CHARACTERS = 60


def _suggest_fix(fields: Fields, able: Mapping[str, Format], near: Sequence[str]) -> str:
    """Advice for a row that fits no format, from the likely cause."""
    known = " or ".join(" + ".join(need[0] for need in format.needs) for format in able.values())
    usual = f"it reads {known}; rename with data.mapping"
    if near:
        return f"as {near[0]}, {VALUE_REQUIREMENTS.get(near[0], 'its values are of another kind')}; or: {usual}"
    mark = next((mark for mark in OTHER_DELIMITERS if len(fields) == 1 and mark in next(iter(fields))), None)
    if mark is not None:
        return f"is {mark!r} the delimiter? data.delimiter={'tab' if mark == chr(9) else repr(mark)}; {usual}"
    if (fields and not any(re.fullmatch(r"\w[\w .-]{0,60}", name) and not name.isdecimal() for name in fields)) or (
        any(len(name) > MAX_NAME_CHARACTERS or name.isdecimal() for name in fields)
    ):
        return f"is the first line a row? data.header=false data.columns=[text, label]; {usual}"
    if {name.lower() for name in fields} >= {"token", "tag"}:
        return f"is it a token a line? data.reader=conll data.header=true; {usual}"
    if set(fields) == {"text"}:
        return f"{usual}; a file of another kind is named by data.reader (conll, csv, tsv, jsonl …)"
    return f"{usual}; a table without a header is data.header=false data.columns=[…]"


def _missing_field_error(where: str, field: str, fields: Fields, wanted_by: str) -> DataError:
    near = difflib.get_close_matches(field, fields, 1)
    hint = f"did you mean {near[0]}?" if near else f"the row has {join_names(fields) or 'no fields'}"
    return DataError(f"no field {field}, which {wanted_by} names", where=f"{where}, field {field}", fix=hint)


def _template_format(template: str) -> DetectedFormat:
    """The format of a `text_template`. The loss starts at the last field of the template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise _template_error(str(error)) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        raise _template_error("it names no field")
    if "" in names or any(spec or conversion for _, _, spec, conversion in parts):
        raise _template_error("a field is written {name}, without ! or :")

    def build(where: str, fields: Fields) -> Record:
        text, answer = "", 0
        for literal, name, _, _ in parts:
            text += literal
            if name is not None:
                answer, value = len(text), require_string(where, fields, name, empty=name != names[-1])
                text += value
        return Text(where, text, answer)

    return DetectedFormat(Format(Text, (), build), "data.text_template", {name: name for name in names})


def _template_error(problem: str) -> RecipeError:
    return RecipeError(
        f"not a template: {problem}",
        where="data.text_template",
        fix='for example "Q: {question}\\nA: {answer}"; a brace is written {{',
    )


# Predicates that tell apart formats with the same fields


def _is_flag(fields: Fields) -> bool:
    """Whether a label is a desirable/undesirable flag (KTO) rather than a class."""
    name = next(name for name in FLAGS if name in fields)
    # Question–answer rows often carry a `label` that is a level or a subject, not a rating of the answer.
    judged = name != FLAGS[0] or "completion" in fields or "response" in fields
    return _parses_as_flag(fields) and (judged or isinstance(fields[name], bool))


def _parses_as_flag(fields: Fields) -> bool:
    return prompt_formats.flag(next(fields[name] for name in FLAGS if name in fields)) is not None


def _is_preference(fields: Fields) -> bool:
    """Whether a row of messages also has a chosen and a rejected answer; its messages are then the prompt."""
    return FORMATS["preference"].names(fields) is not None


def _is_question(fields: Fields) -> bool:
    """Whether a question is the prompt itself, rather than a part from which a `prompt` field was made."""
    return "prompt" not in fields or any(name in fields for name in ("answer", "answers", "solution"))


def _has_spans(fields: Fields) -> bool:
    own = any(name in fields for name in (*SPANS, "completions"))
    return own or any(label_formats.are_spans(fields.get(name)) for name in ("label", "labels"))


def _has_label(fields: Fields) -> bool:
    """Whether a row has a single label; a weak name such as `score` counts only without a field named like a label."""
    if "labels" in fields or any(name in fields for name in LABELS):
        return any(name in fields for name in LABELS[:-1]) or not isinstance(fields["labels"], list)
    return not {name.strip().lower() for name in fields} & {*LABELS, *LABEL_LISTS}


def _has_similarity(fields: Fields) -> bool:
    """Whether the value beside two texts can be a similarity from 0 to 1."""
    names = FORMATS["compared"].names(fields) or {}
    return label_formats.likeness(fields[names["score"]]) is not None


def _has_two_texts(fields: Fields) -> bool:
    """Whether a row has two non-blank texts for a text-pair label."""
    names = FORMATS["labelled_pair"].names(fields) or {}
    texts = [fields[names[name]] for name in (FIRST[0], SECOND[0])]
    return all(isinstance(text, str) and text.strip() for text in texts)


# Fields that are put before the prompt.
IS_PROMPT_CONTEXT = frozenset({*GIVEN, "input", "context"}).__contains__

COMPLETIONS = ("completion", "response", "output", "answer")
FLAGS = ("label", "kto_tag", "desirable")
LABELS = ("label", "category", "intent", "labels")
WEAK_LABELS = ("class", "sentiment", "topic", "rating", "stars", "score")
LABEL_LISTS = ("labels", "categories", "intents")
TEXT = ("text", "sentence", "utterance", "content", "document")
SPANS = ("spans", "entities", "ents", "ner", "annotations")
TOKENS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "ner", "labels")
CHOICES = ("choices", "options")
FIRST = ("sentence1", "text1", "sentence_a", "text_a", "question1")
SECOND = ("sentence2", "text2", "sentence_b", "text_b", "question2")
CHOSEN = ("chosen", "chosen_response", "response_chosen", "preferred", "accepted", "response_j")
REJECTED = ("rejected", "rejected_response", "response_rejected", "dispreferred", "response_k")
ANY_LIST_FIELDS = frozenset(
    {*TALKS, *LABELS, *LABEL_LISTS, *SPANS, *TOKENS, *TAGS, *CHOICES, "tools", "functions", "history", "completions"}
)
MESSAGE_LIST_FIELDS = frozenset({"prompt", *COMPLETIONS, *QUESTIONS, *CHOSEN, *REJECTED})
TEXT_LIST_FIELDS = frozenset({"positive", "pos", "answers", "targets"})

# Fields whose table cells may hold lists as text, with a check of the list: anything, messages, or strings.
LIST_CELLS: tuple[tuple[Callable[[str], object], Callable[[list[Any]], bool]], ...] = (
    (ANY_LIST_FIELDS.__contains__, lambda found: True),
    (MESSAGE_LIST_FIELDS.__contains__, is_talk),
    (
        lambda name: name in TEXT_LIST_FIELDS or label_formats.NEGATIVE.fullmatch(name),
        lambda found: all(isinstance(one, str) for one in found),
    ),
)

# Advice if a row has the fields of a format but not its values.
VALUE_REQUIREMENTS = {"unpaired": "label must be true or false, 1 or 0", "spans": "label must be a list of spans"}

FORMATS: dict[str, Format] = {
    "messages": Format(
        Chat, (TALKS,), prompt_formats.chat, lambda fields: not _is_preference(fields), frozenset(GIVEN).__contains__
    ),
    "instruction": Format(
        Chat,
        (("instruction",), ("output", "response", "completion", "answer")),
        prompt_formats.instruction,
        also=IS_PROMPT_CONTEXT,
    ),
    "question": Format(
        Chat,
        (QUESTIONS, prompt_formats.REPLIES),
        prompt_formats.question,
        _is_question,
        frozenset({*GIVEN, "context"}).__contains__,
    ),
    "summary": Format(
        Chat,
        (("source", "document", "article", "dialogue"), ("summary", "target", "highlights")),
        prompt_formats.summary,
        instead=(("source", "text"), ("summary", "highlights")),
    ),
    "prompted": Format(
        Prompted, (("prompt",), COMPLETIONS), prompt_formats.prompted, also=frozenset(GIVEN).__contains__
    ),
    "preference": Format(
        Preference,
        (CHOSEN, REJECTED),
        prompt_formats.preference,
        also=frozenset({*GIVEN, *prompt_formats.PROMPTS, *TALKS, "input", "context"}).__contains__,
    ),
    "openai_preference": Format(
        Preference,
        (("input",), ("preferred_output",), ("non_preferred_output",)),
        prompt_formats.openai_preference,
        also=frozenset({"tools", "functions"}).__contains__,
    ),
    "unpaired": Format(
        Unpaired,
        (("prompt", "instruction", *QUESTIONS), COMPLETIONS, FLAGS),
        prompt_formats.unpaired,
        _is_flag,
        IS_PROMPT_CONTEXT,
        (TALKS, FLAGS),
        _parses_as_flag,
    ),
    "labelled": Format(Labelled, (TEXT, (*LABELS, *WEAK_LABELS)), label_formats.labelled, _has_label),
    "labelled_pair": Format(
        Labelled,
        (
            (*FIRST, "premise", "question", "query"),
            (*SECOND, "hypothesis", "passage", "context", "sentence"),
            (*LABELS[:-1], "is_duplicate", "similarity", *WEAK_LABELS),
        ),
        label_formats.labelled_pair,
        _has_two_texts,
        may=lambda fields: True,
    ),
    "multilabelled": Format(Multilabelled, (TEXT, LABEL_LISTS), label_formats.multilabelled),
    "conll": Format(Tagged, (TOKENS, TAGS), label_formats.conll),
    "spans": Format(
        Tagged,
        (TEXT, (*SPANS, "label", "labels")),
        label_formats.spans,
        _has_spans,
        instead=(("data",), ("annotations", "completions")),
    ),
    "paired": Format(
        Paired,
        (("anchor", "query"), ("positive", "pos")),
        label_formats.paired,
        also=lambda name: name == "label" or label_formats.NEGATIVE.fullmatch(name),
    ),
    "compared": Format(
        Compared,
        (
            FIRST,
            SECOND,
            ("score", "similarity", "label", "is_duplicate"),
        ),
        label_formats.compared,
        _has_similarity,
        may=lambda fields: True,
    ),
    "choice": Format(Choice, (("question", "query"), CHOICES, GOLD), prompt_formats.choice),
    "lettered_choice": Format(
        Choice,
        (
            ("question", "query"),
            ("A", "a", "option_a", "option_A", "option a", "Option A"),
            ("B", "b", "option_b", "option_B", "option b", "Option B"),
            GOLD,
        ),
        prompt_formats.lettered_choice,
        prompt_formats.names_a_letter,
        lambda name: name == "context" or prompt_formats.LETTERED.fullmatch(name),
    ),
    "posed": Format(
        Posed,
        (("prompt", *QUESTIONS, "instruction", *TALKS),),
        prompt_formats.posed,
        lambda fields: not isinstance(fields.get("input"), dict),
        lambda name: True,
    ),
    "text": Format(Text, (TEXT,), prompt_formats.text),
}
