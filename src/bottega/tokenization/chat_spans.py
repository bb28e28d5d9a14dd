"""Where in a rendered conversation the answers stand: all that the model would have to write, and nothing else.

No template is known here. A conversation is rendered a second time with marks around what its messages say; where
that text without the marks is the first text, each mark shows whose words stand where. An answer begins where the
prompt ends that the template opens it with, and ends with what the template closes it by if nothing follows:

- Before an answer the template may render something else than it does in the whole conversation: reasoning is dropped
  from earlier turns, a hint stands in the last one only. So what the template adds where an answer is asked for is
  looked for between the words before the answer and its own.
- A template may show an answer's words again later: the head of a tool's answer names the function that was called. So
  no more words are taken for the answer's own than there are where the conversation ends with it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, takewhile
from os.path import commonprefix
from typing import Any, NamedTuple

from bottega.records import Chat, Message
from bottega.tokenization.chat_template import ChatTemplate, ChatTemplateError, MessageDict, message_dicts

MARKER_RANGE = range(0x20000, 0x2A6D0)
"""Ideographs so rare that most texts lack them; a template trims, quotes and prints them as it does any letter."""

MARKER = re.compile(f"[{chr(MARKER_RANGE.start)}-{chr(MARKER_RANGE.stop - 1)}]")

MAX_FULL_PROMPTS = 24
"""With more answers than this in a conversation, what precedes each is rendered from the last question on only."""

MAX_GAP, MAX_ENDING = 4096, 256
"""Characters before an answer in which the prompt's end is looked for, and of that end."""

PLAIN_KEYS = ("role", "content", "name", "tool_call_id", "tool_calls")
"""Keys of an assistant's message whose texts are no words of its own, or are looked at apart."""

MARKER_KINDS = tuple(
    (kind, side) for kind in ("said", "thought", "called", "given", "heard") for side in ("before", "behind")
)
"""Where marks stand: around an answer's words, its reasoning, names and arguments of its calls; and what others say."""

FindSpecialTokens = Callable[[str], list[tuple[int, int, int]]]
"""text → (token, its first character, the one after its last) of each special token in it."""


class TextSpan(NamedTuple):
    """An answer's characters: first, end (its end of turn included), weight; `closed` when that end is a token."""

    start: int
    stop: int
    weight: float
    closed: bool


class Owner(NamedTuple):
    """Whose words a mark stands at: a message's, or those of one of its calls (else −1)."""

    message: int
    call: int = -1


class MarkerPosition(NamedTuple):
    """Where in a text a mark stood."""

    at: int
    mark: str
    owner: Owner


class MarkedText(NamedTuple):
    """A rendered text without its marks, and where they stood."""

    text: str
    places: Sequence[MarkerPosition]

    def own(self, message: int) -> list[MarkerPosition]:
        return [place for place in self.places if place.owner.message == message]


class AnswerFinder:
    """The answers of conversations under one template.

    specials  finds the special tokens of a text
    eos       the token that ends a text
    unopened  what the template's prompt for an answer goes on with and answers in the rows do not: how many
    """

    def __init__(self, template: ChatTemplate, specials: FindSpecialTokens, eos: int | None) -> None:
        self.template, self.specials, self.eos = template, specials, eos
        self.unopened: Counter[str] = Counter()

    def find(self, chat: Chat) -> tuple[str, list[TextSpan]]:
        """The rendered conversation, and the span of every answer with a weight above 0."""
        conversation = _Conversation(self, chat)
        return conversation.text, [conversation.span(index) for index in answers_with_loss(chat.messages)]

    def prompt(self, given: Sequence[MessageDict], chat: Chat) -> str:
        """What the model is given before it answers; a template that adds nothing there is told to begin an answer."""
        if self.opens:
            return self.template.rendered(given, chat, generation=True)
        mark = next(_unused_markers(to_json(given)))
        words = self.template.rendered([*given, {"role": "assistant", "content": mark}], chat)
        return words.partition(mark)[0]

    @cached_property
    def opens(self) -> bool:
        """Whether the template adds anything where an answer is asked for."""
        return self.template.render(QUESTION, generation=True) != self.template.render(QUESTION)

    @cached_property
    def opening(self) -> str:
        """What it adds there."""
        return _after_common_prefix(
            self.prompt(message_dicts(QUESTION.messages), QUESTION), self.template.render(QUESTION)
        )

    @cached_property
    def closing(self) -> str:
        """What the template closes an answer in words by."""
        answer = {"role": "assistant", "content": chr(MARKER_RANGE[0])}
        tail = self._behind(answer)
        found = self.specials(commonprefix([tail, self._behind(answer, *message_dicts(QUESTION.messages))]))
        # Where a conversation ends there may stand more, or something else.
        found = found or self.specials(tail)
        return tail[: _run_end(found, 0)] if found else tail.rstrip()

    @cached_property
    def closes(self) -> frozenset[int]:
        """The special tokens in that."""
        return frozenset(token for token, _, _ in self.specials(self.closing))

    @cached_property
    def ends(self) -> frozenset[int]:
        """The special tokens that end an answer: one in words, or a call where the template shows calls."""
        call = {"type": "function", "function": {"name": chr(MARKER_RANGE[0]), "arguments": {}}}
        try:
            tail = self._behind({"role": "assistant", "content": "", "tool_calls": [call]})
        except ChatTemplateError:
            return self.closes
        stop, _ = self.closed(tail, tail)
        return self.closes | frozenset(token for token, _, end in self.specials(tail) if end == stop)

    def _behind(self, *given: MessageDict) -> str:
        """What follows the mark in an answer to a question; nothing where it is not shown."""
        given = (*message_dicts(QUESTION.messages), *given)
        return self.template.rendered(given, QUESTION).rpartition(chr(MARKER_RANGE[0]))[2]

    def closed(self, tail: str, ended: str) -> tuple[int, bool]:
        """How much of `tail`, what stands behind an answer's words, ends its turn; and whether that ends in a token.

        ended  what stands behind them where the conversation ends there
        """
        shared = commonprefix([tail, ended])
        found = self.specials(shared)
        known = [place for place, (token, _, _) in enumerate(found) if token in self.closes or token == self.eos]
        if known:
            ending = [one for one in found[known[0] :] if one[0] in self.closes] or [found[known[0]]]
            return _run_end(ending, 0), True
        if found and not shared[found[-1][2] :].strip():
            return found[-1][2], True
        whole = ended.rstrip()
        if tail.startswith(whole):
            return len(whole), False
        # A word of which they share the beginning is not the same word.
        cut = max((place for place, letter in enumerate(shared) if letter.isspace()), default=0)
        return max(len(shared[:cut].rstrip()), found[-1][2] if found else 0), False


QUESTION = Chat("the chat template", (Message("user", "?"),))


def answers_with_loss(messages: Sequence[Message]) -> list[int]:
    """The messages that carry loss."""
    return [place for place, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]


class _Conversation:
    """One conversation with its text, and whose words stand where in it."""

    def __init__(self, answers: AnswerFinder, chat: Chat) -> None:
        self.answers, self.template, self.chat = answers, answers.template, chat
        self.text = self.template.render(chat)
        self.turns = message_dicts(chat.messages)
        self.unused = list(_unused_markers(self.text + to_json(self.turns), 2 * _count_strings(self.turns)))
        self.many = len(answers_with_loss(chat.messages)) > MAX_FULL_PROMPTS
        self.marked = self._marked()

    def span(self, index: int) -> TextSpan:
        """The characters of one answer."""
        ended = self._ended(index)
        own = self._own(index, ended)
        if self._hidden(index, own):
            first, tail = self._changed(index)
            last = first
        else:
            first, last, tail = own[0].at, own[-1].at, self._tail(index, own[-1], ended)
        start = self._start(index, first, last)
        length, closed = self.answers.closed(self.text[last:], tail)
        return TextSpan(start, last + length, self.chat.messages[index].weight, closed)

    # Marks

    def _marked(self) -> MarkedText:
        """The text with all marks that leave it as it is: a template may look at how a text begins, or what it is."""
        self.shown, self.owners = self._with_marks(MARKER_KINDS)
        marked = self._render(range(len(self.turns)))
        if marked is not None and marked.text == self.text:
            return marked
        found, kinds = MarkedText(self.text, ()), list[tuple[str, str]]()
        for kind in MARKER_KINDS:
            self.shown, self.owners = self._with_marks([*kinds, kind])
            marked = self._render(range(len(self.turns)))
            if marked is not None and marked.text == self.text:
                found, kinds = marked, [*kinds, kind]
        self.shown, self.owners = self._with_marks(kinds)
        return found

    def _with_marks(self, kinds: Sequence[tuple[str, str]]) -> tuple[list[MessageDict], dict[str, Owner]]:
        """The messages with marks of these kinds, and whose each mark is."""
        unused, owners = iter(self.unused), dict[str, Owner]()

        def put(kind: str, text: str, owner: Owner) -> str:
            bare = text.strip()
            if not bare:  # what a template trims away, or takes for nothing, stays so
                return text
            start = text.index(bare)
            for side in ("before", "behind"):
                mark = next(unused)
                if (kind, side) in kinds:
                    owners[mark] = owner
                    bare = mark + bare if side == "before" else bare + mark
            return text[:start] + bare + text[start + len(text.strip()) :]

        return [_insert_markers(turn, number, put) for number, turn in enumerate(self.turns)], owners

    def _render(self, numbers: Sequence[int], generation: bool = False) -> MarkedText | None:
        """Some of the messages with their marks; None where the template refuses them."""
        given = [self.shown[number] for number in numbers]
        try:
            text = self.answers.prompt(given, self.chat) if generation else self.template.rendered(given, self.chat)
        except ChatTemplateError:
            return None
        return _remove_markers(text, self.owners)

    # Where an answer's own words are

    def _upto(self, index: int) -> list[int]:
        """The messages before one; of very many, what a system says and all since the last question."""
        if not self.many:
            return list(range(index))
        roles = [message.role for message in self.chat.messages[:index]]
        asked = max((place for place, role in enumerate(roles) if role == "user"), default=0)
        system = list(takewhile(lambda place: roles[place] in ("system", "developer"), range(asked)))
        return [*system, *range(asked, index)]

    def _ended(self, index: int) -> MarkedText | None:
        """The conversation as it would be if it ended with this answer."""
        return self.marked if index == len(self.turns) - 1 else self._render([*self._upto(index), index])

    def _own(self, index: int, ended: MarkedText | None) -> list[MarkerPosition]:
        """The marks of an answer where it stands, and not where a later message repeats its words."""
        places = self.marked.own(index)
        if ended is None:
            return [place for nth, place in _number_occurrences(places) if nth == 1]
        most = Counter(place.mark for place in ended.own(index))
        return [place for nth, place in _number_occurrences(places) if nth <= most[place.mark]]

    def _tail(self, index: int, last: MarkerPosition, ended: MarkedText | None) -> str:
        """What stands behind an answer's words where the conversation ends with it."""
        if ended is None:
            later = (place.at for place in self.marked.places if place.at > last.at and place.owner.message != index)
            return self.text[last.at : next(later, len(self.text))]
        return ended.text[[place for place in ended.own(index) if place.mark == last.mark][-1].at :]

    def _hidden(self, index: int, own: Sequence[MarkerPosition]) -> bool:
        """Whether no mark shows where the answer is; a TemplateRefused where the template leaves it out."""
        calls = self.turns[index].get("tool_calls") or []
        shown = {place.owner.call for place in own}
        for number in range(len(calls)):
            if number not in shown and self._without(index, number) == self.text:
                raise self._refused(f"the tool calls of message {index}", "use a tokenizer whose template knows tools")
        if not own and not calls and self._without(index) == self.text:
            raise self._refused(f"message {index}", "mend the row")
        return not own

    def _refused(self, what: str, fix: str) -> ChatTemplateError:
        more = "leave such rows out with data.bad_rows=drop, or name a template: data.template=chatml"
        return ChatTemplateError(f"the chat template does not show {what}", where=self.chat.where, fix=f"{fix}, {more}")

    def _without(self, index: int, call: int = -1) -> str | None:
        """The text with another word in place of an answer's, or of a function's name; None where it is refused."""
        return self._rendered([*self.turns[:index], self._other(index, call), *self.turns[index + 1 :]])

    def _other(self, index: int, call: int = -1) -> MessageDict:
        turn, word = self.turns[index], next(_unused_markers(self.text))
        if not turn.get("tool_calls"):
            return turn | {"content": word}
        calls = list(turn["tool_calls"])
        calls[call] = {**calls[call], "function": {**calls[call]["function"], "name": word}}
        return turn | {"tool_calls": calls}

    def _changed(self, index: int) -> tuple[int, str]:
        """Where the text changes with an answer, and what stands from there on if the conversation ends with it."""
        before = [self.turns[number] for number in self._upto(index)]
        ended, other = self._rendered([*before, self.turns[index]]), self._rendered([*before, self._other(index)])
        first = len(commonprefix([self.text, self._without(index) or ""]))
        if ended is None or other is None:
            return first, self.text[first:]
        return first, _after_common_prefix(ended, other)

    def _rendered(self, given: Sequence[MessageDict]) -> str | None:
        try:
            return self.template.rendered(given, self.chat)
        except ChatTemplateError:
            return None

    # Where the prompt ends

    def _start(self, index: int, first: int, last: int) -> int:
        """Where the prompt of an answer ends, whose own words stand from `first` to `last`.

        A prompt may end with what the words begin with: `<think>`, where a row writes its reasoning into them.
        """
        prompt = self._render(self._upto(index), generation=True) if index else None
        if prompt is not None and self.text[:last].startswith(prompt.text):
            return len(prompt.text)
        before = self._spoken_before(index, first)
        return before + self._prompted(self.text[before:first], prompt, index)

    def _prompted(self, gap: str, prompt: MarkedText | None, index: int) -> int:
        """How much of `gap`, what the template writes between others' words and an answer's, is the prompt's."""
        openings, tail = [self.answers.opening], ""
        if prompt is not None:
            tail = prompt.text[prompt.places[-1].at if prompt.places else 0 :]
            shut = self._render(self._upto(index))
            openings = [_after_common_prefix(prompt.text, shut.text), *openings] if shut is not None else openings
        if any(
            2 * _common_suffix_length(gap, opening[::-1]) >= len(opening) and opening.strip() for opening in openings
        ):
            return len(gap)  # the words stand behind its end, whatever its beginning says: `turn 3 of 5`
        shared = len(commonprefix([gap, tail]))
        whole = self._whole(tail, shared)
        if tail and whole > len(tail) - len(openings[0]):
            return self._opened(tail, whole)
        skipped = max(0, len(gap) - MAX_GAP)
        for opening in openings:
            at, length = self._likest(gap[skipped:], opening)
            if 2 * length >= len(opening) and opening.strip():
                return skipped + at + self._opened(opening, length)
        # What the template adds is not there, or nothing: as far as the text ends as the prompt does.
        ends = [end[::-1][:MAX_ENDING] for end in (tail, tail.rstrip())]
        alike = [max(_common_suffix_length(gap[:at], end) for end in ends) for at in range(skipped, len(gap) + 1)]
        return skipped + alike.index(max(alike)) if any(alike) else shared

    def _likest(self, gap: str, opening: str) -> tuple[int, int]:
        """Where the most of an opening stands, and how much of it."""
        alike = [len(commonprefix([gap[at : at + len(opening)], opening])) for at in range(len(gap) + 1)]
        return alike.index(max(alike)), self._whole(opening, max(alike))

    def _whole(self, opening: str, length: int) -> int:
        """The characters of an opening in whole words and tokens, up to some."""
        found = self.answers.specials(opening)
        ends = {0, len(opening), *(end for _, _, end in found), *(start for _, start, _ in found)}
        ends |= {at for at in range(1, len(opening)) if opening[at - 1].isspace() or opening[at].isspace()}
        return max((end for end in ends if end <= length), default=0)

    def _opened(self, opening: str, length: int) -> int:
        """How much of an opening the text has; what it lacks is remembered."""
        if missing := opening[length:].strip():
            self.answers.unopened[missing] += 1
        return length

    def _spoken_before(self, index: int, first: int) -> int:
        """Where the last words before an answer end."""
        found = takewhile(lambda place: place.owner.message != index and place.at <= first, self.marked.places)
        return max((place.at for place in found), default=0)


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _unused_markers(text: str, most: int = 1) -> Iterator[str]:
    """Marks that a text lacks."""
    used = set(text)
    return islice((mark for mark in map(chr, MARKER_RANGE) if mark not in used), most)


def _count_strings(value: Any) -> int:
    """How many texts a value holds."""
    if isinstance(value, dict):
        return sum(_count_strings(one) for one in value.values())
    return sum(_count_strings(one) for one in value) if isinstance(value, list) else isinstance(value, str)


def _insert_markers(turn: MessageDict, number: int, put: Callable[[str, str, Owner], str]) -> MessageDict:
    """A message with marks at its texts."""
    owner = Owner(number)
    if turn["role"] != "assistant":
        return turn | {"content": put("heard", turn["content"], owner)}
    marked = {
        key: put("thought", value, owner) if isinstance(value, str) and key not in PLAIN_KEYS else value
        for key, value in turn.items()
    }
    marked["content"] = put("said", turn["content"], owner)
    if "tool_calls" in turn:
        marked["tool_calls"] = [
            _insert_call_markers(call, Owner(number, nth), put) for nth, call in enumerate(turn["tool_calls"])
        ]
    return marked


def _insert_call_markers(call: dict[str, Any], owner: Owner, put: Callable[[str, str, Owner], str]) -> dict[str, Any]:
    function = call["function"]
    arguments = _map_strings(function["arguments"], lambda text: put("given", text, owner))
    return {**call, "function": {**function, "name": put("called", function["name"], owner), "arguments": arguments}}


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A value with each of its texts changed; keys stay."""
    if isinstance(value, dict):
        return {key: _map_strings(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_map_strings(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _remove_markers(text: str, owners: Mapping[str, Owner]) -> MarkedText:
    places, parts, end = list[MarkerPosition](), list[str](), 0
    at = 0
    for found in MARKER.finditer(text):
        if found[0] in owners:
            parts.append(text[end : found.start()])
            at += found.start() - end
            places.append(MarkerPosition(at, found[0], owners[found[0]]))
            end = found.end()
    return MarkedText("".join([*parts, text[end:]]), places)


def _number_occurrences(places: Sequence[MarkerPosition]) -> Iterator[tuple[int, MarkerPosition]]:
    """Each place, with how often its mark has come up by then."""
    seen = Counter[str]()
    for place in places:
        seen[place.mark] += 1
        yield seen[place.mark], place


def _common_suffix_length(text: str, end: str) -> int:
    """How many letters a text ends with that `end`, which is written backwards, begins with."""
    return len(commonprefix([text[-len(end) :][::-1], end])) if end else 0


def _run_end(found: Sequence[tuple[int, int, int]], first: int) -> int:
    """Where special tokens end that follow one another from the `first` on."""
    end = found[first][2]
    for _, start, stop in found[first + 1 :]:
        if start != end:
            break
        end = stop
    return end


def _after_common_prefix(text: str, other: str) -> str:
    """What a text has beyond the beginning that it shares with another."""
    return text[len(commonprefix([text, other])) :]
