"""`python -m bottega`: the command line."""

from bottega.cli.process import main

if __name__ == "__main__":
    main()
