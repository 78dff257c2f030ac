"""`python -m streamsep` is the `streamsep` command."""

from .cli import main

if __name__ == "__main__":
    main()
