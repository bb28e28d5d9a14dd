"""A conversation in the terminal: history, system prompt, saving, base and tuned model side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

import bottega

HELP = """\
/system TEXT   start a new conversation with this system prompt (without TEXT: with none)
/reset         start a new conversation, keep the system prompt
/save FILE     append the conversation to FILE as a line of JSON, ready to train on
/compare       switch answers of the base model on or off
/quit          leave; the end of the input does the same"""

# A chat message: its role and its content.
Turn = dict[str, str]


class Conversation:
    """The messages so far, and the model that answers.

    compare  also print the base model's answers; the history contains the tuned model's only
    """

    def __init__(
        self,
        model: bottega.LanguageModel,
        settings: bottega.Sampling,
        console: Console,
        *,
        system: str = "",
        compare: bool = False,
    ) -> None:
        self.model, self.settings, self.console, self.compare = model, settings, console, compare
        self.commands: dict[str, Callable[[str], None]] = {
            "/system": self._system,
            "/reset": self._reset,
            "/save": self._save,
            "/compare": self._compare,
            "/help": lambda _: self.console.print(HELP, markup=False),
        }
        self.turns: list[Turn] = []
        self._system(system)

    def run(self, lines: Iterable[str]) -> None:
        """Answer each line until the end of the lines, or until /quit. Errors are printed and do not end it."""
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "/quit":
                return
            try:
                if word in self.commands:
                    self.commands[word](rest.strip())
                elif word.startswith("/"):
                    self.console.print(f"unknown command {word}; /help lists them", style="yellow", markup=False)
                elif word:
                    self.answer(line.strip())
            except bottega.BottegaError as error:
                self.console.print(f"[red]error[/] {escape(str(error))}")

    def answer(self, message: str) -> None:
        """Add the user's message and the model's answer, which is printed as it is generated."""
        # `self.turns` changes only once there is an answer: an error or Ctrl-C leaves no message without one.
        turns = [*self.turns, {"role": "user", "content": message}]
        while self.model.room(turns) < 1 and self._drop_oldest_exchange(turns):
            pass
        if self.compare:
            with self.model.untuned() as untuned:
                self._stream(untuned, turns, "base")
        answer = self._stream(self.model, turns, "tuned" if self.compare else "")
        self.turns = [*turns, {"role": "assistant", "content": answer}]

    def _stream(self, model: bottega.LanguageModel, turns: list[Turn], label: str) -> str:
        """Print an answer as it is generated, and return it."""
        style = "bold" if label == "base" else "bold green"
        self.console.print(Text(f"{label or 'model':>6} › ", style=style), end="")
        answer = ""
        for piece in model.stream(turns, self.settings):
            answer += piece
            # soft_wrap: rich would break the line at each piece.
            self.console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        return answer

    def _drop_oldest_exchange(self, turns: list[Turn]) -> bool:
        """Drop the oldest question and its answer; False if there is only the new question."""
        first = next((index for index, turn in enumerate(turns[:-1]) if turn["role"] == "user"), None)
        if first is None:
            return False
        del turns[first : first + 2]
        self.console.print("(the oldest exchange no longer fits and is forgotten)", style="dim")
        return True

    def _system(self, text: str) -> None:
        self.turns = [{"role": "system", "content": text}] if text else []

    def _reset(self, _: str) -> None:
        self.turns = [turn for turn in self.turns if turn["role"] == "system"]

    def _save(self, name: str) -> None:
        if not name:
            raise bottega.DataError("no file given", where="/save", fix="/save talk.jsonl")
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise bottega.DataError(
                f"cannot be written: {error.strerror}", where=name, fix="choose another file"
            ) from None
        self.console.print(f"saved to {name}", style="dim", markup=False)

    def _compare(self, _: str) -> None:
        # Raises here, and not at the next message, if the model was not tuned from another.
        with self.model.untuned():
            self.compare = not self.compare
        self.console.print(f"comparing {'on' if self.compare else 'off'}", style="dim")
