"""The process of a command: what a signal, a closed pipe or a full disk behind its output makes of it."""

from __future__ import annotations

import io
import os
import sys

from bottega.cli import interruption

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TextIO


def main() -> None:
    """Run the command line, and end the process with its exit code; nothing heavy is imported before signals are."""
    try:
        interruption.listen()
        output = _replace_standard_streams()
        interruption.watch()
        code = _run_command() or _output_exit_code(output)
        interruption.check()
    except BaseException as error:
        if not interruption.asked():
            raise
        print(str(error) if isinstance(error, interruption.Interrupted) and str(error) else "stopped", file=sys.stderr)
        _end_interrupted()
    interruption.ignore()
    sys.exit(code)


def _run_command() -> int:
    """The command's exit code."""
    from bottega.cli.commands import app
    from bottega.hardware import memory
    from bottega.hardware.other_programs import watched

    memory.guard_imports()
    try:
        with watched():
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _output_exit_code(output: PersistentFile) -> int:
    """0 when all that was printed could be written; who closes a pipe has read enough."""
    sys.stdout.flush()
    if output.error is None or isinstance(output.error, BrokenPipeError):
        return 0
    print(f"error: standard output cannot be written: {output.error.strerror}\n  → free some space", file=sys.stderr)
    return 2


def _end_interrupted() -> NoReturn:
    """End the process without waiting for threads that are still at work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(interruption.CODE)


class PersistentFile(io.FileIO):
    """A file that stays open for writing: what it cannot take is dropped, for the work goes on though nobody looks.

    error  the first one
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self.error = self.error or error
            return len(data)


def _replace_standard_streams() -> PersistentFile:
    """Put standard output and error into files that last; returns that of the output.

    One that is closed is given a place first: else a file of a run would take its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    output, shown = PersistentFile(1, "w", closefd=False), PersistentFile(2, "w", closefd=False)
    sys.stdout, sys.stderr = _text_stream(output, sys.stdout, output.isatty()), _text_stream(shown, sys.stderr, True)
    return output


def _text_stream(file: PersistentFile, before: TextIO | None, by_lines: bool) -> TextIO:
    """A text file as the one before it, where there was one."""
    encoding, errors = (before.encoding, before.errors) if before is not None else ("utf-8", "backslashreplace")
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors, line_buffering=by_lines)


if __name__ == "__main__":
    main()
