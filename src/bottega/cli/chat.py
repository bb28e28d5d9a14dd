"""A conversation in the terminal: history, system prompt, saving, base and tuned side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

import bottega

HELP = """\
/system TEXT   start anew with this system prompt (nothing removes it)
/reset         forget the conversation, keep the system prompt
/save FILE     add the conversation to FILE as a line of JSON, ready to train on
/compare       switch the model it was tuned from on or off beside it
/quit          leave; so does the end of the input"""


class Conversation:
    """What was said, and the model that answers.

    compare  also show what the model before tuning answers; the history holds the tuned model's words
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
        self.turns: list[dict[str, str]] = []
        self._system(system)

    def run(self, lines: Iterable[str]) -> None:
        """Answer each line until they end, or until /quit. An error is told, and the conversation goes on."""
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word == "/quit":
                return
            try:
                if word in self.commands:
                    self.commands[word](rest.strip())
                elif word.startswith("/"):
                    self.console.print(f"no command {word}; /help lists them", style="yellow", markup=False)
                elif word:
                    self.answer(line.strip())
            except bottega.BottegaError as error:
                self.console.print(f"[red]error[/] {escape(str(error))}")

    def answer(self, said: str) -> None:
        """Add what the user said, and the answer, shown as it is written."""
        asked = [*self.turns, {"role": "user", "content": said}]
        while self.model.room(asked) < 1 and self._forget_oldest(asked):
            pass
        if self.compare:
            with self.model.untuned() as untuned:
                self._written(untuned, asked, "before")
        answer = self._written(self.model, asked, "tuned" if self.compare else "")
        self.turns = [*asked, {"role": "assistant", "content": answer}]

    def _written(self, model: bottega.LanguageModel, asked: list[dict[str, str]], label: str) -> str:
        self.console.print(
            Text(f"{label or 'model':>6} › ", style="bold green" if label != "before" else "bold"), end=""
        )
        written = ""
        for piece in model.stream(asked, self.settings):
            written += piece
            self.console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        return written

    def _forget_oldest(self, asked: list[dict[str, str]]) -> bool:
        """Drop the oldest question with its answer, so that the rest fits; False when only the last is left."""
        first = next((place for place, turn in enumerate(asked[:-1]) if turn["role"] == "user"), None)
        if first is None:
            return False
        del asked[first : first + 2]
        self.console.print("(the oldest exchange no longer fits and is forgotten)", style="dim")
        return True

    def _system(self, text: str) -> None:
        self.turns = [{"role": "system", "content": text}] if text else []

    def _reset(self, _: str) -> None:
        self.turns = [turn for turn in self.turns if turn["role"] == "system"]

    def _save(self, name: str) -> None:
        if not name:
            raise bottega.DataError("no file named", where="/save", fix="/save talk.jsonl")
        try:
            with Path(name).expanduser().open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise bottega.DataError(
                f"cannot be written: {error.strerror}", where=name, fix="name another file"
            ) from None
        self.console.print(f"saved to {name}", style="dim", markup=False)

    def _compare(self, _: str) -> None:
        with self.model.untuned():  # refuses here where there is nothing to compare with
            self.compare = not self.compare
        self.console.print(f"comparing {'on' if self.compare else 'off'}", style="dim")
