"""Interruption of a command: Ctrl-C, `kill`, a terminal that closes.

The first signal raises `Interrupted` wherever the command is. A training run defers it (`deferred`): it asks
`stop_requested` between micro-batches, and saves what a resume needs. A second signal ends the process at once. The
library itself handles no signals: its caller says when to stop.

This module imports nothing slow: until its handlers are installed, a signal ends in one of Python's tracebacks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# The exit code of an interrupted command, at whatever stage and by whichever signal.
EXIT_CODE = 130

# SIGHUP exists on POSIX only, SIGBREAK on Windows only.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if name in dir(signal))

# Seconds within which signals count as one: `timeout` and a closing terminal send several.
SAME_SIGNAL_SECONDS = 0.3

# Seconds that Python has to run the handler, which waits while a library computes.
HANDLER_SECONDS = 5.0


class Interrupted(BaseException):
    """The command was asked to stop. The message, if any, says how to continue.

    Not an Exception, so that no `except Exception` of a library stops it.
    """


class _State:
    """State of the process: a signal handler has no other way to tell what happened.

    first     time of the first signal
    raised    whether it was raised
    deferred  whether signals raise nothing for now
    """

    first: float | None = None
    raised = False
    deferred = False


def stop_requested() -> bool:
    """Whether the command was asked to stop."""
    return _State.first is not None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal raises nothing: the code must ask `stop_requested` by itself."""
    _State.deferred = True
    try:
        yield
    finally:
        _State.deferred = False


def check() -> None:
    """Raise Interrupted if a signal came; for places where a library may have replaced it by another error."""
    if stop_requested() and not _State.deferred:
        raise Interrupted


def ignore_signals() -> None:
    """Let no signal raise anything from here on: the process is ending."""
    _State.deferred = True


def install_handlers() -> None:
    """Handle the signals; one that is ignored already (`nohup`) stays ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _handle_unraisable


def start_watchdog() -> None:
    """Start a thread that ends the process if the main thread is inside a library and cannot run the handler."""
    # Slow to import, and not needed before.
    import threading

    if os.name == "posix":
        read_end, write_end = os.pipe()
        # A handler must never block, even if the pipe is full.
        os.set_blocking(write_end, False)
        # Python's C handler writes the number of each signal into the pipe, whatever the main thread is doing.
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_restore_in_child)
        threading.Thread(target=_watch, args=(read_end,), daemon=True).start()


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.first is None:
        _State.first = now
    elif now - _State.first > SAME_SIGNAL_SECONDS:
        end_at_once()
    if not _State.deferred and not _State.raised:
        _State.raised = True
        raise Interrupted


def _watch(pipe: int) -> None:
    """Read the numbers of signals from the pipe; end the process at a second one, or if the first has no effect."""
    import threading

    first: float | None = None
    while True:
        # Other signals with a Python handler arrive here too.
        if os.read(pipe, 1)[0] not in SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            threading.Thread(target=_end_if_unhandled, daemon=True).start()
        elif time.monotonic() - first > SAME_SIGNAL_SECONDS:
            end_at_once()


def _end_if_unhandled() -> None:
    time.sleep(HANDLER_SECONDS)
    if not stop_requested() and not _State.deferred:
        end_at_once()


def end_at_once() -> None:
    """Exit without unwinding. Nothing is lost: files are complete before they get their name."""
    with contextlib.suppress(OSError):
        # A progress line hides the cursor.
        cursor = "\x1b[?25h\n" if os.isatty(2) else ""
        os.write(2, f"{cursor}stopped at once\n".encode())
    os._exit(EXIT_CODE)


def _restore_in_child() -> None:
    """In a forked child, give signals their default effect."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _handle_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat an interruption that was raised in a finalizer, where Python drops it.

    Other errors in finalizers are not reported while an interrupted command unwinds.
    """
    if isinstance(unraisable.exc_value, Interrupted):
        import threading

        _State.raised = False
        # From another thread, a moment later: here the finalizer is still running.
        threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
    elif not stop_requested():
        sys.__unraisablehook__(unraisable)
