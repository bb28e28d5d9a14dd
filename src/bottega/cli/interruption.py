"""A command that is asked to stop: Ctrl-C, `kill`, a terminal that closes.

`listen` comes before anything heavy is imported. The first signal raises `Interrupted` wherever the command is; a run
that trains is told instead (`asked`), and stops between its micro-batches with all it needs to go on. Another signal
ends the process at once. The library itself handles no signals: whoever runs it says when to stop.

What this module imports is ready in some milliseconds: until then a signal ends in a traceback of Python's own.
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

CODE = 130
"""The exit code of a command that was interrupted, at whatever stage and by whichever signal."""

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if name in dir(signal))

TOGETHER = 0.3
"""Seconds within which signals count as one: `timeout` and a closing terminal send several."""

GRACE = 5.0
"""Seconds for Python to hear of a signal; a library that computes for longer without it is not waited for."""


class Interrupted(BaseException):
    """The command was asked to stop; the message says how to go on."""


class _State:
    """When the first signal came, whether it was raised, and whether it is asked for instead."""

    first: float | None = None
    raised = False
    patient = False


def asked() -> bool:
    """Whether the command was asked to stop."""
    return _State.first is not None


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Inside, a signal raises nothing: what goes on must ask whether one came."""
    _State.patient = True
    try:
        yield
    finally:
        _State.patient = False


def check() -> None:
    """Raise Interrupted where a signal came and what it raised was turned into another error on its way."""
    if asked() and not _State.patient:
        raise Interrupted


def ignore() -> None:
    """Let no signal raise anything from here on: the process is ending."""
    _State.patient = True


def listen() -> None:
    """Handle the signals; one that is ignored already (`nohup`) stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _dropped


def watch() -> None:
    """End the process where the main thread is too deep in a library to hear of a second signal, or of the first."""
    import threading

    if os.name == "posix":
        ours, theirs = os.pipe()
        os.set_blocking(theirs, False)
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_leave_to_the_parent)
        threading.Thread(target=_watch, args=(ours,), daemon=True).start()


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.first is None:
        _State.first = now
    elif now - _State.first > TOGETHER:
        end_at_once()
    if not _State.patient and not _State.raised:
        _State.raised = True
        raise Interrupted


def _watch(pipe: int) -> None:
    """Read the numbers of signals, which come here at once."""
    import threading

    first: float | None = None
    while True:
        if os.read(pipe, 1)[0] not in SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
            threading.Thread(target=_end_if_unheard, daemon=True).start()
        elif time.monotonic() - first > TOGETHER:
            end_at_once()


def _end_if_unheard() -> None:
    time.sleep(GRACE)
    if not asked() and not _State.patient:
        end_at_once()


def end_at_once() -> None:
    """Leave without unwinding anything: what is saved is whole, and what is half written has another name."""
    with contextlib.suppress(OSError):
        cursor = "\x1b[?25h\n" if os.isatty(2) else ""
        os.write(2, f"{cursor}stopped at once\n".encode())
    os._exit(CODE)


def _leave_to_the_parent() -> None:
    """A child that was forked ends by a signal as any process does."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_DFL)


def _dropped(unraisable: sys.UnraisableHookArgs) -> None:
    """An interruption that came while something was being freed was dropped there: it comes again.

    Of what else is dropped while an interrupted command is unwound, nothing needs to be said.
    """
    if isinstance(unraisable.exc_value, Interrupted):
        import threading

        _State.raised = False
        threading.Timer(0.01, signal.raise_signal, [signal.SIGINT]).start()
    elif not asked():
        sys.__unraisablehook__(unraisable)
