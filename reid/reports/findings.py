"""The findings of a data set as JSON and Markdown; the HTML page is in `findings_page.py`.

They contain no times and no names of machines: the same data set gives the same bytes.
"""

import json
from collections.abc import Iterable
from typing import Any

from reid.console.plain import markdown_text, printable
from reid.data.findings import Examination, SplitSummary, counted

SIZES_SHOWN = 5
"""Number of image sizes that a table names; the others are counted."""


def to_json(examination: Examination) -> str:
    """JSON with the verdict, the fingerprint, counts by severity, splits {name: figures} and findings [...]."""
    body = {
        "verdict": examination.verdict,
        "fingerprint": examination.fingerprint,
        "errors": examination.count("error"),
        "warnings": examination.count("warning"),
        "notes": examination.count("note"),
        "splits": {summary.title: _figures(summary) for summary in examination.splits},
        "findings": [
            {
                "severity": finding.severity,
                "check": finding.check,
                "message": finding.message,
                "count": finding.count,
                "examples": list(finding.examples),
            }
            for finding in examination.findings
        ],
    }
    return json.dumps(body, indent=2) + "\n"


def _figures(summary: SplitSummary) -> dict[str, Any]:
    per_person = summary.images_per_person
    return {
        "folder": str(summary.root),
        "images": summary.images,
        "persons": summary.persons,
        "cameras": summary.cameras,
        "junk": summary.junk,
        "distractors": summary.distractors,
        "images_per_person": {
            "min": per_person[0] if per_person else 0,
            "median": summary.median_images,
            "max": per_person[-1] if per_person else 0,
        },
        "images_per_camera": {str(camera): count for camera, count in summary.images_per_camera.items()},
        "sizes": {f"{width}x{height}": count for (width, height), count in summary.sizes.items()},
    }


SPLIT_COLUMNS = ("split", "images", "persons", "cameras", "images per person", "junk", "distractors", "sizes (w x h)")


def split_row(summary: SplitSummary) -> tuple[str, ...]:
    """A split's row in a table with the columns SPLIT_COLUMNS."""
    per_person = summary.images_per_person
    spread = f"{per_person[0]} / {summary.median_images:g} / {per_person[-1]}" if per_person else "-"
    return (
        summary.title,
        f"{summary.images:,}",
        f"{summary.persons:,}",
        str(summary.cameras),
        spread,
        f"{summary.junk:,}",
        f"{summary.distractors:,}",
        shown_sizes(summary),
    )


def shown_sizes(summary: SplitSummary) -> str:
    """The most frequent sizes with their counts: "64 x 128 (1,200), 2 more"."""
    if not summary.sizes:
        return "-"
    if len(summary.sizes) == 1:
        width, height = next(iter(summary.sizes))
        return f"{width} x {height}"
    shown = [f"{width} x {height} ({count:,})" for (width, height), count in list(summary.sizes.items())[:SIZES_SHOWN]]
    more = len(summary.sizes) - SIZES_SHOWN
    return ", ".join([*shown, f"{more:,} more"] if more > 0 else shown)


def to_markdown(examination: Examination) -> str:
    """Markdown with the verdict, a table of the splits (images per person: min / median / max) and one of the findings.

    Bytes of file names that are not valid UTF-8 are shown as \\udcXX, for the text is UTF-8.
    """
    lines = ["# Data set", "", examination.verdict, "", f"Fingerprint `{examination.fingerprint}`", ""]
    lines += _table(SPLIT_COLUMNS, map(split_row, examination.splits))
    lines += ["", "Images per person: min / median / max.", ""]
    if examination.findings:
        lines += _table(
            ("severity", "check", "count", "finding", "first"),
            (
                (f.severity, f.check, f"{f.count:,}", f.message, f.examples[0] if f.examples else "")
                for f in examination.findings
            ),
        )
        lines.append("")
    return printable("\n".join(lines))


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(columns)
    body = ["| " + " | ".join(markdown_text(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body]


def to_lines(examination: Examination) -> list[str]:
    """The data set in a few plain sentences, for the end of a run."""
    splits = "; ".join(
        f"{s.title} {counted(s.images, 'image')} of {counted(s.persons, 'person')} under {counted(s.cameras, 'camera')}"
        for s in examination.splits
    )
    return [splits, *(f"{f.severity}: {f.message}" for f in examination.findings if f.severity != "note")]
