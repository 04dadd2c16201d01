"""The command `reid`, also as `python -m reid`. It handles Ctrl-C from its first instant, before anything is loaded."""

import sys


def main() -> int:
    """Runs reid.cli.commands.main; returns its exit status, also for Ctrl-C while that module is still loading."""
    try:
        from reid.cli.commands import main as command

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
