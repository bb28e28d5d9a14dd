"""Conversations with the same roles, under a template that only prints contents, differ in nothing but their contents.

A `Shape` is what they share: the constant texts between the contents, and where the answers' spans begin and end in
those. Filling it in takes a hundredth of the time of rendering a conversation and finding its answers. The result is
the same, since the shape is that of a conversation whose answers were found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bottega.records import Chat, Message
from bottega.tokenization.chat_template import ChatTemplate, ChatTemplateError, MessageDict, message_dicts
from bottega.tokenization.template_analysis import ROLES

# A conversation with more answers has no shape: to find it takes time quadratic in their number.
MAX_ANSWERS = 24


class TextSpan(NamedTuple):
    """Characters `start` to `stop` of an answer, its end of turn included; `closed` if that end is a special token."""

    start: int
    stop: int
    weight: float
    closed: bool


class Piece(NamedTuple):
    """A constant text and the content behind it.

    message  index of the message whose content follows; None at the end
    keep     whether white space at the content's beginning and at its end is kept
    """

    constant: str
    message: int | None = None
    keep: tuple[bool, bool] = (True, True)

    def content(self, chat: Chat) -> str:
        text = "" if self.message is None else chat.messages[self.message].content
        text = text if self.keep[0] else text.lstrip()
        return text if self.keep[1] else text.rstrip()


# A number of characters into the constant text of a piece: (index of the piece, characters).
Place = tuple[int, int]


class AnswerPlace(NamedTuple):
    """Where the span of a message's answer begins and ends."""

    message: int
    start: Place
    stop: Place
    closed: bool


class Shape(NamedTuple):
    pieces: Sequence[Piece]
    answers: Sequence[AnswerPlace]

    def fill(self, chat: Chat) -> tuple[str, list[TextSpan]]:
        """The rendered conversation, and the span of every answer with a weight above 0."""
        parts, starts, length = list[str](), list[int](), 0
        for piece in self.pieces:
            content = piece.content(chat)
            starts.append(length)
            parts += piece.constant, content
            length += len(piece.constant) + len(content)
        spans = [
            TextSpan(starts[start] + more, starts[stop] + further, chat.messages[message].weight, closed)
            for message, (start, more), (stop, further), closed in self.answers
        ]
        return "".join(parts), spans

    def equals_without_edges(self, other: Shape) -> bool:
        """Whether another shape has the same texts and answers, whatever it keeps of the white space in contents."""
        mine, others = ([(piece.constant, piece.message) for piece in shape.pieces] for shape in (self, other))
        return mine == others and self.answers == other.answers

    def constant_behind(self, message: int) -> str:
        """The constant text behind a message's content, up to the next content or the end."""
        (at,) = (index for index, piece in enumerate(self.pieces) if piece.message == message)
        return self.pieces[at + 1].constant


# Shapes that are kept. Data has few; conversations of very many lengths are found as if there were no shapes.
MAX_SHAPES = 1000

# White space that no template writes: it shows which of a content's own is kept.
EDGE = "\N{EM SPACE}"


class Shapes:
    """The shapes of conversations under one template, each found from a conversation made for it.

    find           finds the answers of a conversation without a shape
    render_prompt  what the model is given before it answers: of messages, with the tools and variables of a chat
    """

    def __init__(
        self,
        template: ChatTemplate,
        find: Callable[[Chat], tuple[str, list[TextSpan]]],
        render_prompt: Callable[[Sequence[MessageDict], Chat], str],
    ) -> None:
        self.template, self.find, self.render_prompt = template, find, render_prompt
        self._shapes: dict[tuple[tuple[str, bool], ...], Shape | None] = {}

    def of(self, chat: Chat) -> Shape | None:
        """The shape of a conversation; None if its text may depend on more than its roles."""
        if chat.tools or chat.variables or not self.template.only_prints_contents:
            return None
        for message in chat.messages:
            if message.role not in ROLES or message.more or not message.content or message.content.isspace():
                return None
        return self._of_roles(tuple((message.role, message.weight > 0) for message in chat.messages))

    def _of_roles(self, roles: tuple[tuple[str, bool], ...]) -> Shape | None:
        if roles not in self._shapes:
            if len(self._shapes) == MAX_SHAPES:
                return None
            self._shapes[roles] = self._find_shape(roles)
        return self._shapes[roles]

    def _find_shape(self, roles: tuple[tuple[str, bool], ...]) -> Shape | None:
        openings = self.template.tally.missing_openings
        counted = openings.copy()
        try:
            # With white space around its contents, and without: what depends on it has no shape.
            shapes = [self._probe(roles, edge) for edge in (EDGE, "")]
        except ChatTemplateError:
            return None
        if openings != counted:  # every conversation counts, not only the one that was made for the shape
            openings.clear()
            openings.update(counted)
            return None
        shape, bare = shapes
        if shape is None or bare is None or not shape.equals_without_edges(bare):
            return None
        return shape if all(self._ends_before_contents(roles, shape, answer) for answer in shape.answers) else None

    def _probe(self, roles: tuple[tuple[str, bool], ...], edge: str) -> Shape | None:
        """The shape of one conversation, whose contents have white space `edge` at both ends."""
        messages = [
            Message(role, f"{edge}{_name(index)}{edge}", float(learned)) for index, (role, learned) in enumerate(roles)
        ]
        chat = Chat("the chat template", tuple(messages))
        text, spans = self.find(chat)
        learned = [index for index, (role, learned) in enumerate(roles) if role == "assistant" and learned]
        if len(learned) > MAX_ANSWERS or not all(text.count(_name(index)) <= 1 for index in range(len(roles))):
            return None
        pieces, starts = _split(text, chat, edge)
        answers = []
        for index, span in zip(learned, spans, strict=True):
            # The usual case, in which no content is compared with what the template writes.
            prompt = self.render_prompt(message_dicts(messages[:index]), chat) if index else ""
            if not prompt or span.start != len(prompt) or not text.startswith(prompt):
                return None
            start, stop = (_place(at, pieces, starts) for at in (span.start, span.stop))
            if start is None or stop is None or _name(index) not in text:
                return None
            answers.append(AnswerPlace(index, start, stop, span.closed))
        return Shape(pieces, answers)

    def _ends_before_contents(self, roles: tuple[tuple[str, bool], ...], shape: Shape, answer: AnswerPlace) -> bool:
        """Whether what closes an answer is seen without the content that follows it."""
        behind = shape.constant_behind(answer.message)
        if answer.message == len(roles) - 1:
            return True
        # What ends a turn is what follows an answer both here and at the end of a conversation: if all of the constant
        # text here does so, the next content would have a say.
        ended = self._of_roles(roles[: answer.message + 1])
        if ended is None:
            return False
        at_end = ended.constant_behind(answer.message)
        return len(at_end) <= len(behind) or not at_end.startswith(behind)


def _name(message: int) -> str:
    """The content of a message, without its edges: in no template, and not part of another's."""
    return f"\u4e00{chr(0x4E8C) * (message + 1)}\u4e09"


def _split(text: str, chat: Chat, edge: str) -> tuple[list[Piece], list[int]]:
    """The pieces of a rendered conversation, and where the constant text of each begins."""
    pieces, starts, end = list[Piece](), [0], 0
    found = [(text.find(_name(index)), index) for index in range(len(chat.messages))]
    for at, index in sorted(pair for pair in found if pair[0] >= 0):
        begin, stop = at, at + len(_name(index))
        keep = text[:begin].endswith(EDGE), text.startswith(EDGE, stop)
        begin, stop = begin - keep[0], stop + keep[1]
        pieces.append(Piece(text[end:begin], index, keep if edge else (True, True)))
        end = stop
        starts.append(end)
    return [*pieces, Piece(text[end:])], starts


def _place(at: int, pieces: Sequence[Piece], starts: Sequence[int]) -> Place | None:
    """The place of character `at`; None within a content."""
    for index in reversed(range(len(pieces))):
        more = at - starts[index]
        if 0 <= more <= len(pieces[index].constant):
            return index, more
    return None
