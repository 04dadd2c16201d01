"""The closing table of the faults: what came of each."""

import pytest

OUTCOME = "outcome of a fault"


def show(reporter: pytest.TerminalReporter) -> None:
    """Prints the table, if such tests ran; one that failed has a line if it came as far as its outcome."""
    rows = [
        (fault, text, kind)
        for kind in ("passed", "failed")
        for report in reporter.stats.get(kind, [])
        for name, (fault, text) in (entry for entry in report.user_properties if entry[0] == OUTCOME)
    ]
    if rows:
        reporter.section("faults")
        width = max(len(fault) for fault, _, _ in rows)
        for fault, text, kind in rows:
            reporter.write_line(f"{fault:{width}}  {kind}: {text}")
