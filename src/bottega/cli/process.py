"""The process of a command: signals, standard streams and the exit code."""

from __future__ import annotations

import io
import os
import sys

from bottega.cli import interruption

# `typing` is slow to import, and until the signal handlers are installed Ctrl-C would print a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TextIO


def main() -> None:
    """Run the command line, and exit the process with its exit code."""
    try:
        # Signal handlers before everything else: the imports below take seconds.
        interruption.install_handlers()
        output = _replace_standard_streams()
        interruption.start_watchdog()
        code = _run_command() or _output_exit_code(output)
        interruption.check()
    except BaseException as error:
        # A library may have turned the interruption into an error of its own.
        if not interruption.stop_requested():
            raise
        print(str(error) if isinstance(error, interruption.Interrupted) and str(error) else "stopped", file=sys.stderr)
        _exit_interrupted()
    interruption.ignore_signals()
    sys.exit(code)


def _run_command() -> int:
    """Run the command, and return its exit code."""
    import bottega
    from bottega.cli.commands import app

    try:
        with bottega.configured_process():
            app()
    except SystemExit as end:
        # As Python does it: no code is 0, a message is 1.
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _output_exit_code(output: PersistentFile) -> int:
    """2 if standard output could not be written, else 0; a closed pipe is fine, its reader has read enough."""
    sys.stdout.flush()
    if output.error is None or isinstance(output.error, BrokenPipeError):
        return 0
    print(f"error: standard output cannot be written: {output.error.strerror}\n  → free some space", file=sys.stderr)
    return 2


def _exit_interrupted() -> NoReturn:
    """Exit at once, without waiting for threads that are still at work, as `sys.exit` would."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(interruption.EXIT_CODE)


class PersistentFile(io.FileIO):
    """A file that accepts writes even when they fail: a training run must not end because its terminal closed.

    error  the first error of a write; None if all succeeded
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self.error = self.error or error
            return len(data)


def _replace_standard_streams() -> PersistentFile:
    """Replace sys.stdout and sys.stderr by streams on PersistentFiles; returns the file of stdout."""
    # A closed descriptor (`>&-`) is opened on /dev/null first: the next file opened would get its number, and receive
    # what is printed.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    output, errors = PersistentFile(1, "w", closefd=False), PersistentFile(2, "w", closefd=False)
    # Line by line on a terminal and for stderr; output into a file or a pipe is buffered, which is faster.
    sys.stdout, sys.stderr = _text_stream(output, sys.stdout, output.isatty()), _text_stream(errors, sys.stderr, True)
    return output


def _text_stream(file: PersistentFile, before: TextIO | None, line_buffering: bool) -> TextIO:
    """A text stream on the file, with the encoding and error handler of the stream before it, if there was one."""
    encoding, errors = (before.encoding, before.errors) if before is not None else ("utf-8", "backslashreplace")
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, errors, line_buffering=line_buffering)
