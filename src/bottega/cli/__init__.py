"""The command line: arguments → API calls. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 2 the user's input, 1 anything else. Heavy imports stand inside the commands, so that `--help`
answers at once.
"""

from bottega.cli import training, talking, looking  # noqa: F401, I001, each adds its commands, help has this order
from bottega.cli.app import app
from bottega.neighbours import watched

__all__ = ["app", "main"]


def main() -> None:
    with watched():
        app()
