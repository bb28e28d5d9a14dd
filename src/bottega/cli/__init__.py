"""The command line: arguments → API calls. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 2 the user's input or disk, 130 interrupted, 1 anything else. Nothing is imported here, so that
`bottega.cli.interruption` can handle signals before anything heavy is loaded.
"""


def main() -> None:
    """Run the command line as a process does."""
    from bottega.cli.process import main

    main()
