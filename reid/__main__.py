"""The command `reid`, also as `python -m reid`. It is on guard before anything is loaded: Ctrl-C may come at once."""

import sys


def main() -> int:
    """reid.cli.commands's main, and its exit status for Ctrl-C while that is still loading."""
    try:
        from reid.cli.commands import main as command

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
