"""`python -m pipelines`: the command behind `make pipeline-run`, on guard against Ctrl-C before anything is loaded."""

import sys


def main() -> int:
    """pipelines.run's main, and its exit status for Ctrl-C while that is still loading."""
    try:
        from pipelines.run import main as command  # noqa: PLC0415 - what is guarded

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
