"""The command line: arguments → API calls. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 2 the user's input or disk, 130 interrupted, 1 anything else. Heavy imports stand inside the
commands, so that `--help` answers at once.
"""

from bottega.cli import training, talking, looking  # noqa: F401, I001, each adds its commands, help has this order
from bottega.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line as a process does."""
    from bottega.__main__ import main

    main()
