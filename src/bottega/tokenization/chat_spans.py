"""Find the answers in a rendered conversation: every character the model would have to generate, and no other.

No chat template is known here. The conversation is rendered a second time with marker characters around the texts of
its messages. If that text without the markers is the first text, each marker shows whose text stands where. An answer
begins where the template's generation prompt ends, and ends with what the template closes it by if nothing follows:

- The generation prompt may differ from what the template renders at that point of the whole conversation: reasoning is
  dropped from earlier turns, a hint stands in the last one only. So the prompt's end is searched for between the text
  before the answer and the answer's own.
- A template may repeat an answer's text later: the header of a tool result names the function that was called. So no
  more occurrences are taken for the answer's own than there are where the conversation ends with it.
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
from bottega.tokenization.conversation_shape import Shapes, TextSpan

# Ideographs of CJK Extension B, so rare that most texts lack them. Templates trim, quote and print them like letters,
# which private-use characters and punctuation do not guarantee.
MARKER_RANGE = range(0x20000, 0x2A6D0)

MARKER = re.compile(f"[{chr(MARKER_RANGE.start)}-{chr(MARKER_RANGE.stop - 1)}]")

# With more answers than this, the prompt of each is rendered from the last user turn on only: rendering everything
# before every answer takes time quadratic in the number of messages.
MAX_FULL_PROMPTS = 24

# Characters before an answer that are searched for the end of its prompt, and the length of the end that is compared.
MAX_GAP, MAX_ENDING = 4096, 256

# Keys of an assistant's message that hold no text of its own, or whose texts are marked separately.
PLAIN_KEYS = ("role", "content", "name", "tool_call_id", "tool_calls")

# Where markers stand: around an answer's content, its reasoning, the names and arguments of its calls, and around the
# content of the other messages.
MARKER_KINDS = tuple(
    (kind, side) for kind in ("content", "reasoning", "function", "argument", "other") for side in ("before", "behind")
)

# text → (token, its first character, the one after its last) of each special token in the text.
FindSpecialTokens = Callable[[str], list[tuple[int, int, int]]]


class Owner(NamedTuple):
    """Whose text a marker stands at: a message's, or that of one of its tool calls (else −1)."""

    message: int
    call: int = -1


class MarkerPosition(NamedTuple):
    """Where a marker stood in the text without markers."""

    at: int
    marker: str
    owner: Owner


class MarkedText(NamedTuple):
    """A rendered text without its markers, and where they stood."""

    text: str
    positions: Sequence[MarkerPosition]

    def of_message(self, message: int) -> list[MarkerPosition]:
        return [position for position in self.positions if position.owner.message == message]


class AnswerFinder:
    """Finds the answers of conversations under one template.

    find_special_tokens  finds the special tokens of a text
    eos                  the token that ends a text
    """

    def __init__(self, template: ChatTemplate, find_special_tokens: FindSpecialTokens, eos: int | None) -> None:
        self.template, self.find_special_tokens, self.eos = template, find_special_tokens, eos
        self._shapes = Shapes(template, self.find_by_markers, self.render_prompt)

    def find(self, chat: Chat) -> tuple[str, list[TextSpan]]:
        """The rendered conversation, and the span of every answer with a weight above 0."""
        shape = self._shapes.of(chat)
        return self.find_by_markers(chat) if shape is None else shape.fill(chat)

    def find_by_markers(self, chat: Chat) -> tuple[str, list[TextSpan]]:
        """The same, found in this one conversation."""
        conversation = _Conversation(self, chat)
        return conversation.text, [conversation.span(index) for index in answers_with_loss(chat.messages)]

    def render_prompt(self, messages: Sequence[MessageDict], chat: Chat) -> str:
        """What the model is given before it answers.

        Some templates ignore `add_generation_prompt`. They are rendered with an answer begun instead.
        """
        if self.adds_prompt:
            return self.template.render_messages(messages, chat, generation=True)
        marker = next(_unused_markers(to_json(messages)))
        text = self.template.render_messages([*messages, {"role": "assistant", "content": marker}], chat)
        return text.partition(marker)[0]

    @cached_property
    def adds_prompt(self) -> bool:
        """Whether the template knows `add_generation_prompt`."""
        return self.template.render(QUESTION, generation=True) != self.template.render(QUESTION)

    @cached_property
    def generation_prompt(self) -> str:
        """What the template adds after a question for the answer to begin."""
        prompt = self.render_prompt(message_dicts(QUESTION.messages), QUESTION)
        return _after_common_prefix(prompt, self.template.render(QUESTION))

    @cached_property
    def turn_end(self) -> str:
        """What the template closes an answer with."""
        answer = {"role": "assistant", "content": chr(MARKER_RANGE[0])}
        tail = self._render_tail(answer)
        # At the end of a conversation more may stand, or something else, than at the end of a turn.
        shared = commonprefix([tail, self._render_tail(answer, *message_dicts(QUESTION.messages))])
        tokens = self.find_special_tokens(shared) or self.find_special_tokens(tail)
        return tail[: _run_end(tokens, 0)] if tokens else tail.rstrip()

    @cached_property
    def turn_end_tokens(self) -> frozenset[int]:
        """The special tokens in `turn_end`."""
        return frozenset(token for token, _, _ in self.find_special_tokens(self.turn_end))

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """The special tokens that end an answer: one in text, or a tool call where the template renders calls."""
        call = {"type": "function", "function": {"name": chr(MARKER_RANGE[0]), "arguments": {}}}
        try:
            tail = self._render_tail({"role": "assistant", "content": "", "tool_calls": [call]})
        except ChatTemplateError:
            return self.turn_end_tokens
        stop, _ = self.find_turn_end(tail, tail)
        return self.turn_end_tokens | frozenset(
            token for token, _, end in self.find_special_tokens(tail) if end == stop
        )

    def _render_tail(self, *messages: MessageDict) -> str:
        """What follows the marker in an answer to a question; nothing where the template does not show it."""
        messages = (*message_dicts(QUESTION.messages), *messages)
        return self.template.render_messages(messages, QUESTION).rpartition(chr(MARKER_RANGE[0]))[2]

    def find_turn_end(self, tail: str, last_tail: str) -> tuple[int, bool]:
        """How many characters of `tail` end the turn, and whether they end in a special token.

        tail       what follows an answer's text in the whole conversation
        last_tail  what follows it where the conversation ends there
        """
        shared = commonprefix([tail, last_tail])
        tokens = self.find_special_tokens(shared)
        ends = [
            index for index, (token, _, _) in enumerate(tokens) if token in self.turn_end_tokens or token == self.eos
        ]
        if ends:
            # An EOS the template writes before its own end of turn does not end the turn by itself.
            closing = [span for span in tokens[ends[0] :] if span[0] in self.turn_end_tokens] or [tokens[ends[0]]]
            return _run_end(closing, 0), True
        if tokens and not shared[tokens[-1][2] :].strip():
            return tokens[-1][2], True
        whole = last_tail.rstrip()
        if tail.startswith(whole):
            return len(whole), False
        # Only whole words count as shared: the beginning of a word is not the same word.
        cut = max((index for index, character in enumerate(shared) if character.isspace()), default=0)
        return max(len(shared[:cut].rstrip()), tokens[-1][2] if tokens else 0), False


# The shortest conversation: what a template adds around it shows how it opens and closes an answer.
QUESTION = Chat("the chat template", (Message("user", "?"),))


def answers_with_loss(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's messages that carry loss."""
    return [index for index, message in enumerate(messages) if message.role == "assistant" and message.weight > 0]


class _Conversation:
    """One conversation with its rendered text, and whose text stands where in it."""

    def __init__(self, finder: AnswerFinder, chat: Chat) -> None:
        self.finder, self.template, self.chat = finder, finder.template, chat
        self.text = self.template.render(chat)
        self.messages = message_dicts(chat.messages)
        self.unused = list(_unused_markers(self.text + to_json(self.messages), 2 * _count_strings(self.messages)))
        self.long = len(answers_with_loss(chat.messages)) > MAX_FULL_PROMPTS
        self.marked = self._render_with_markers()

    def span(self, index: int) -> TextSpan:
        """The characters of one answer."""
        ended = self._render_ending_with(index)
        own = self._own_positions(index, ended)
        if self._is_unmarked(index, own):
            first, tail = self._locate_by_change(index)
            last = first
        else:
            first, last, tail = own[0].at, own[-1].at, self._tail(index, own[-1], ended)
        start = self._prompt_end(index, first, last)
        length, closed = self.finder.find_turn_end(self.text[last:], tail)
        return TextSpan(start, last + length, self.chat.messages[index].weight, closed)

    # Markers

    def _render_with_markers(self) -> MarkedText:
        """The text with all markers that leave it unchanged."""
        self.shown, self.owners = self._insert_markers(MARKER_KINDS)
        marked = self._render(range(len(self.messages)))
        if marked is not None and marked.text == self.text:
            return marked
        # A template may test how a text begins, or what it is: then keep each kind of marker that changes nothing.
        result, kinds = MarkedText(self.text, ()), list[tuple[str, str]]()
        for kind in MARKER_KINDS:
            self.shown, self.owners = self._insert_markers([*kinds, kind])
            marked = self._render(range(len(self.messages)))
            if marked is not None and marked.text == self.text:
                result, kinds = marked, [*kinds, kind]
        self.shown, self.owners = self._insert_markers(kinds)
        return result

    def _insert_markers(self, kinds: Sequence[tuple[str, str]]) -> tuple[list[MessageDict], dict[str, Owner]]:
        """The messages with markers of these kinds, and the owner of each marker."""
        unused, owners = iter(self.unused), dict[str, Owner]()

        def put(kind: str, text: str, owner: Owner) -> str:
            bare = text.strip()
            if not bare:  # a template trims white space away, or takes it for no content
                return text
            # Inside the surrounding white space, which templates trim.
            start = text.index(bare)
            for side in ("before", "behind"):
                # Taken even where it is not put, so that a text has the same markers whatever the kinds.
                marker = next(unused)
                if (kind, side) in kinds:
                    owners[marker] = owner
                    bare = marker + bare if side == "before" else bare + marker
            return text[:start] + bare + text[start + len(text.strip()) :]

        return [_insert_markers(message, index, put) for index, message in enumerate(self.messages)], owners

    def _render(self, indices: Sequence[int], generation: bool = False) -> MarkedText | None:
        """Some of the messages, with their markers taken out; None where the template refuses them."""
        messages = [self.shown[index] for index in indices]
        try:
            if generation:
                text = self.finder.render_prompt(messages, self.chat)
            else:
                text = self.template.render_messages(messages, self.chat)
        except ChatTemplateError:
            return None
        return _remove_markers(text, self.owners)

    # Where an answer's own text is

    def _indices_before(self, index: int) -> list[int]:
        """The messages before one; in a long conversation, the system's and all since the last question."""
        if not self.long:
            return list(range(index))
        roles = [message.role for message in self.chat.messages[:index]]
        question = max((position for position, role in enumerate(roles) if role == "user"), default=0)
        system = list(takewhile(lambda position: roles[position] in ("system", "developer"), range(question)))
        return [*system, *range(question, index)]

    def _render_ending_with(self, index: int) -> MarkedText | None:
        """The conversation as it would be if it ended with this answer."""
        if index == len(self.messages) - 1:
            return self.marked
        return self._render([*self._indices_before(index), index])

    def _own_positions(self, index: int, ended: MarkedText | None) -> list[MarkerPosition]:
        """The markers of an answer where it stands, and not where a later message repeats its text."""
        positions = self.marked.of_message(index)
        if ended is None:
            return [position for nth, position in _number_occurrences(positions) if nth == 1]
        counts = Counter(position.marker for position in ended.of_message(index))
        return [position for nth, position in _number_occurrences(positions) if nth <= counts[position.marker]]

    def _tail(self, index: int, last: MarkerPosition, ended: MarkedText | None) -> str:
        """What follows an answer's text where the conversation ends with it."""
        if ended is None:
            later = (
                position.at
                for position in self.marked.positions
                if position.at > last.at and position.owner.message != index
            )
            return self.text[last.at : next(later, len(self.text))]
        return ended.text[[own.at for own in ended.of_message(index) if own.marker == last.marker][-1] :]

    def _is_unmarked(self, index: int, own: Sequence[MarkerPosition]) -> bool:
        """Whether no marker shows where the answer is; a ChatTemplateError where the template leaves it out."""
        calls = self.messages[index].get("tool_calls") or []
        shown = {position.owner.call for position in own}
        for call in range(len(calls)):
            if call not in shown and self._render_changed(index, call) == self.text:
                fix = "use a tokenizer whose template supports tools"
                raise self._not_shown(f"the tool calls of message {index}", fix)
        if not own and not calls and self._render_changed(index) == self.text:
            raise self._not_shown(f"message {index}", "correct the row")
        return not own

    def _not_shown(self, what: str, fix: str) -> ChatTemplateError:
        fix += ", leave such rows out with data.bad_rows=drop, or name a template: data.template=chatml"
        return ChatTemplateError(f"the chat template does not show {what}", where=self.chat.where, fix=fix)

    def _render_changed(self, index: int, call: int = -1) -> str | None:
        """The text with another word in place of an answer, or of a function's name; None where it is refused."""
        return self._try_render([*self.messages[:index], self._change(index, call), *self.messages[index + 1 :]])

    def _change(self, index: int, call: int = -1) -> MessageDict:
        message, word = self.messages[index], next(_unused_markers(self.text))
        if not message.get("tool_calls"):
            return message | {"content": word}
        calls = list(message["tool_calls"])
        calls[call] = {**calls[call], "function": {**calls[call]["function"], "name": word}}
        return message | {"tool_calls": calls}

    def _locate_by_change(self, index: int) -> tuple[int, str]:
        """Where the text changes with an answer, and what follows from there if the conversation ends with it."""
        before = [self.messages[number] for number in self._indices_before(index)]
        ended = self._try_render([*before, self.messages[index]])
        changed = self._try_render([*before, self._change(index)])
        first = len(commonprefix([self.text, self._render_changed(index) or ""]))
        if ended is None or changed is None:
            return first, self.text[first:]
        return first, _after_common_prefix(ended, changed)

    def _try_render(self, messages: Sequence[MessageDict]) -> str | None:
        try:
            return self.template.render_messages(messages, self.chat)
        except ChatTemplateError:
            return None

    # Where the prompt ends

    def _prompt_end(self, index: int, first: int, last: int) -> int:
        """Where the prompt of an answer ends, whose own text stands from `first` to `last`.

        That may be inside the text: a prompt that ends in `<think>`, where the row's reasoning is part of the content.
        """
        prompt = self._render(self._indices_before(index), generation=True) if index else None
        if prompt is not None and self.text[:last].startswith(prompt.text):
            return len(prompt.text)
        before = self._end_of_text_before(index, first)
        return before + self._prompt_length(self.text[before:first], prompt, index)

    def _prompt_length(self, gap: str, prompt: MarkedText | None, index: int) -> int:
        """How much of `gap`, what the template writes between other messages' texts and an answer's, is the prompt."""
        openings, tail = [self.finder.generation_prompt], ""
        if prompt is not None:
            tail = prompt.text[prompt.positions[-1].at if prompt.positions else 0 :]
            without = self._render(self._indices_before(index))
            openings = [_after_common_prefix(prompt.text, without.text), *openings] if without is not None else openings
        # The end of an opening is enough: its beginning may differ in every turn, as in `turn 3 of 5`.
        if any(
            2 * _common_suffix_length(gap, opening[::-1]) >= len(opening) and opening.strip() for opening in openings
        ):
            return len(gap)
        shared = len(commonprefix([gap, tail]))
        whole = self._round_down(tail, shared)
        if tail and whole > len(tail) - len(openings[0]):
            return self._note_missing(tail, whole)
        skipped = max(0, len(gap) - MAX_GAP)
        for opening in openings:
            at, length = self._best_match(gap[skipped:], opening)
            if 2 * length >= len(opening) and opening.strip():
                return skipped + at + self._note_missing(opening, length)
        # The generation prompt is not in the text, or is empty: take as much as ends like the prompt does.
        ends = [end[::-1][:MAX_ENDING] for end in (tail, tail.rstrip())]
        alike = [max(_common_suffix_length(gap[:at], end) for end in ends) for at in range(skipped, len(gap) + 1)]
        return skipped + alike.index(max(alike)) if any(alike) else shared

    def _best_match(self, gap: str, opening: str) -> tuple[int, int]:
        """Where the longest beginning of an opening stands, and how much of it in whole words."""
        lengths = [len(commonprefix([gap[at : at + len(opening)], opening])) for at in range(len(gap) + 1)]
        return lengths.index(max(lengths)), self._round_down(opening, max(lengths))

    def _round_down(self, opening: str, length: int) -> int:
        """The largest number of characters up to `length` that splits no word and no special token of an opening."""
        tokens = self.finder.find_special_tokens(opening)
        ends = {0, len(opening), *(end for _, _, end in tokens), *(start for _, start, _ in tokens)}
        ends |= {at for at in range(1, len(opening)) if opening[at - 1].isspace() or opening[at].isspace()}
        return max((end for end in ends if end <= length), default=0)

    def _note_missing(self, opening: str, length: int) -> int:
        """`length`, how much of an opening the text has; the rest is counted as missing."""
        if missing := opening[length:].strip():
            self.template.tally.missing_openings[missing] += 1
        return length

    def _end_of_text_before(self, index: int, first: int) -> int:
        """Where the last text of another message before an answer ends."""
        before = takewhile(
            lambda position: position.owner.message != index and position.at <= first, self.marked.positions
        )
        return max((position.at for position in before), default=0)


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _unused_markers(text: str, count: int = 1) -> Iterator[str]:
    """Up to `count` marker characters that do not occur in a text."""
    used = set(text)
    return islice((marker for marker in map(chr, MARKER_RANGE) if marker not in used), count)


def _count_strings(value: Any) -> int:
    """How many strings a nested value holds, keys not counted."""
    if isinstance(value, dict):
        return sum(_count_strings(item) for item in value.values())
    return sum(_count_strings(item) for item in value) if isinstance(value, list) else isinstance(value, str)


def _insert_markers(message: MessageDict, index: int, put: Callable[[str, str, Owner], str]) -> MessageDict:
    """A message with markers around its texts; `put` is (kind, text, owner) → text with markers."""
    owner = Owner(index)
    if message["role"] != "assistant":
        return message | {"content": put("other", message["content"], owner)}
    # Any other key with a text is reasoning, under whatever name.
    marked = {
        key: put("reasoning", value, owner) if isinstance(value, str) and key not in PLAIN_KEYS else value
        for key, value in message.items()
    }
    marked["content"] = put("content", message["content"], owner)
    if "tool_calls" in message:
        marked["tool_calls"] = [
            _insert_call_markers(call, Owner(index, nth), put) for nth, call in enumerate(message["tool_calls"])
        ]
    return marked


def _insert_call_markers(call: dict[str, Any], owner: Owner, put: Callable[[str, str, Owner], str]) -> dict[str, Any]:
    function = call["function"]
    # Before the name: the order in which markers are taken decides which character each text gets.
    arguments = _map_strings(function["arguments"], lambda text: put("argument", text, owner))
    return {**call, "function": {**function, "name": put("function", function["name"], owner), "arguments": arguments}}


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A nested value with each of its strings changed; keys stay."""
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _remove_markers(text: str, owners: Mapping[str, Owner]) -> MarkedText:
    positions, parts, end = list[MarkerPosition](), list[str](), 0
    at = 0
    for match in MARKER.finditer(text):
        # The text itself may hold such characters: only those that were inserted are markers.
        if match[0] in owners:
            parts.append(text[end : match.start()])
            at += match.start() - end
            positions.append(MarkerPosition(at, match[0], owners[match[0]]))
            end = match.end()
    return MarkedText("".join([*parts, text[end:]]), positions)


def _number_occurrences(positions: Sequence[MarkerPosition]) -> Iterator[tuple[int, MarkerPosition]]:
    """Each position, with how often its marker has occurred so far."""
    seen = Counter[str]()
    for position in positions:
        seen[position.marker] += 1
        yield seen[position.marker], position


def _common_suffix_length(text: str, reversed_end: str) -> int:
    """How many characters the end of a text shares with an end that is given backwards."""
    return len(commonprefix([text[-len(reversed_end) :][::-1], reversed_end])) if reversed_end else 0


def _run_end(tokens: Sequence[tuple[int, int, int]], first: int) -> int:
    """Where the run of special tokens without a gap ends that begins with the `first`."""
    end = tokens[first][2]
    for _, start, stop in tokens[first + 1 :]:
        if start != end:
            break
        end = stop
    return end


def _after_common_prefix(text: str, other: str) -> str:
    """The text after the beginning that it shares with another."""
    return text[len(commonprefix([text, other])) :]
