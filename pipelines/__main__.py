"""`python -m pipelines`, the command behind `make pipeline-run`. It handles Ctrl-C before anything is loaded."""

import sys


def main() -> int:
    """Runs pipelines.run.main; returns its exit status, also for Ctrl-C while that module is still loading."""
    try:
        from pipelines.run import main as command  # noqa: PLC0415 - inside the try

        return command()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
