"""The command line: arguments → API calls. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 2 the user's input, 1 anything else. Heavy imports stand inside the commands, so that `--help`
answers at once.
"""

from bottega.cli import looking, talking, training  # noqa: F401, each adds its commands
from bottega.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    app()
