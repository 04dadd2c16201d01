"""The findings of a data set as one self-contained HTML page: no script, no outside file, light and dark, < 300 kB."""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from PIL import Image

from reid.data.findings import Examination, Finding, SplitSummary, counted
from reid.reports.findings import SPLIT_COLUMNS, shown_sizes, split_row

THUMBNAIL = (64, 112)
"""Width, height in pixels at most; shown at two thirds, so that fine screens stay sharp."""
THUMBNAIL_BUDGET_BYTES = 200_000
"""All thumbnails together; pictures beyond it are left out, their names stay."""
BARS = 20
"""Of a histogram at most."""
SPLIT_TITLES = {
    "train": ("Training", "the network learns these persons"),
    "query": ("Query", "the images that ask"),
    "gallery": ("Gallery", "the images that are ranked"),
}

STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1d2126; --soft: #5d6570; --line: #e3e4e1;
  --bar: #4a7fb5; --good: #2b7a4b; --bad: #b3372f; --mild: #94650a; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --card: #1d2126; --ink: #e4e6e8; --soft: #9aa2ac;
  --line: #31363d; --bar: #6ba1d8; --good: #6cc08b; --bad: #ef8a80; --mild: #dcae57; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .8rem; }
h2 span { font-weight: 400; }
h3 { font-size: .85rem; font-weight: 600; margin: 0 0 .6rem; color: var(--soft); }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .8rem; overflow-wrap: anywhere; }
.verdict { font-size: 1.1rem; margin: .4rem 0 0; font-weight: 600; }
.error { --tone: var(--bad); } .warning { --tone: var(--mild); }
.note { --tone: var(--soft); } .good { --tone: var(--good); }
.tone { color: var(--tone); font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem;
  margin: 0 0 .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .7rem; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; }
th:last-child, td:last-child { text-align: left; white-space: normal; }
tbody td { border-top: 1px solid var(--line); }
.finding { border-left: 4px solid var(--tone); }
.finding p { max-width: 52rem; overflow-wrap: anywhere; }
.head { display: flex; gap: .7rem; align-items: baseline; }
.head .soft { margin-left: auto; }
details { margin-top: .5rem; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
ul { margin: .4rem 0 0; padding-left: 1.1rem; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; margin-top: .7rem; }
.strip img { height: 76px; max-width: 110px; object-fit: contain; border-radius: 4px; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.2rem 2.5rem;
  margin-top: 1.2rem; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: .28rem .7rem; align-items: center; font-size: .85rem;
  font-variant-numeric: tabular-nums; }
.bars i { display: block; height: .8rem; border-radius: 2px; background: var(--bar); min-width: 2px; }
svg { width: 100%; max-width: 27rem; height: auto; display: block; }
svg rect { fill: var(--bar); }
svg text { fill: var(--soft); font-size: 11px; }
svg line { stroke: var(--line); }
"""


class Thumbnails:
    """Small pictures as data URIs, until their budget is spent."""

    def __init__(self, budget_bytes: int) -> None:
        self._left = budget_bytes

    def strip(self, paths: Iterable[Path]) -> str:
        """A row of pictures; those that cannot be opened any more, or would not fit the budget, are left out."""
        pictures = "".join(self._picture(path) for path in paths)
        return f'<div class="strip">{pictures}</div>' if pictures else ""

    def _picture(self, path: Path) -> str:
        try:
            with Image.open(path) as image:
                small = image.convert("RGB")
        except (OSError, ValueError):  # it was readable a moment ago; the page is no place to fail for it
            return ""
        small.thumbnail(THUMBNAIL)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=72)
        uri = base64.b64encode(data.getvalue()).decode("ascii")
        if len(uri) > self._left:
            return ""
        self._left -= len(uri)
        name = escape(f"{path.parent.name}/{path.name}")
        return f'<img src="data:image/jpeg;base64,{uri}" alt="{name}" title="{name}">'


def to_html(examination: Examination) -> str:
    """The whole page."""
    thumbnails = Thumbnails(THUMBNAIL_BUDGET_BYTES)
    tone = "error" if examination.count("error") else "warning" if examination.count("warning") else "good"
    findings = "".join(_finding(finding, thumbnails) for finding in examination.findings)
    splits = "".join(_split(summary, thumbnails) for summary in examination.splits)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data set: {escape(examination.verdict)}</title><style>{STYLE}</style></head><body><main>
<h1>Data set</h1>
<p class="verdict {tone}"><span class="tone">{escape(examination.verdict)}</span></p>
<p class="soft mono">fingerprint {examination.fingerprint}</p>
<h2>Splits</h2>
<div class="card wide">{_table(examination.splits)}
<p class="soft">Images per person: min / median / max. Persons are those above 0.</p></div>
<h2>Findings</h2>
{findings or '<div class="card finding good"><p>Every file was read; nothing was found.</p></div>'}
{splits}
</main></body></html>
"""


def _table(splits: Iterable[SplitSummary]) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in SPLIT_COLUMNS)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in split_row(s)) + "</tr>" for s in splits)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _finding(finding: Finding, thumbnails: Thumbnails) -> str:
    more = finding.count - len(finding.examples)
    items = "".join(f'<li class="mono">{escape(example)}</li>' for example in finding.examples)
    rest = f'<p class="soft">and {more:,} more</p>' if more > 0 else ""
    opened = " open" if finding.severity == "error" else ""
    examples = f"<details{opened}><summary>examples</summary><ul>{items}</ul>{rest}</details>" if items else ""
    return f"""<div class="card finding {finding.severity}">
<div class="head"><span class="tone">{finding.severity}</span><strong>{escape(finding.check)}</strong>
<span class="soft">{finding.count:,}</span></div>
<p>{escape(finding.message)}</p>{thumbnails.strip(finding.files)}{examples}</div>
"""


def _split(summary: SplitSummary, thumbnails: Thumbnails) -> str:
    title, role = SPLIT_TITLES[summary.name]
    if not summary.images:
        return f'<h2>{title}</h2><div class="card"><p class="soft">No image in {escape(str(summary.root))}.</p></div>'
    return f"""<h2>{title} <span class="soft">&middot; {role}</span></h2>
<div class="card"><p>{counted(summary.images, "image")}, {shown_sizes(summary)} pixels</p>
<p class="soft mono">{escape(str(summary.root))}</p>{thumbnails.strip(summary.samples)}
<div class="pair"><div><h3>Images per camera</h3>{_camera_bars(summary.images_per_camera)}</div>
<div><h3>Persons by their number of images</h3>{_histogram(summary.images_per_person)}</div></div></div>
"""


def _camera_bars(images_per_camera: dict[int, int]) -> str:
    longest = max(images_per_camera.values())
    rows = "".join(
        f'<span class="soft">camera {camera}</span><i style="width:{100 * count / longest:.1f}%"></i>'
        f"<span>{count:,}</span>"
        for camera, count in images_per_camera.items()
    )
    return f'<div class="bars">{rows}</div>'


def _histogram(images_per_person: tuple[int, ...]) -> str:
    """Inline SVG, 360 x 130 units: how many persons have so many images."""
    if not images_per_person:
        return '<p class="soft">Nobody here.</p>'
    low, high = images_per_person[0], images_per_person[-1]
    step = -(-(high - low + 1) // BARS)  # whole images per bar
    bars = [0] * ((high - low) // step + 1)
    for images in images_per_person:
        bars[(images - low) // step] += 1
    pitch, tallest = 340 / len(bars), max(bars)
    drawn = ""
    for place, persons in enumerate(bars):
        first, last = low + place * step, min(low + (place + 1) * step - 1, high)
        spread = f"{first}" if first == last else f"{first} to {last}"
        tall = 90 * persons / tallest
        drawn += (
            f'<rect x="{10 + (place + 0.09) * pitch:.1f}" y="{105 - tall:.1f}" width="{pitch * 0.82:.1f}" '
            f'height="{tall:.1f}" rx="1.5">'
            f"<title>{spread} images: {counted(persons, 'person')}</title></rect>"
        )
    ends = f'<text x="10" y="122">{counted(low, "image")}</text>'
    if len(bars) > 1:
        ends += f'<text x="350" y="122" text-anchor="end">{high}</text>'
    return f"""<svg viewBox="0 0 360 130" role="img" aria-label="Persons by their number of images">{drawn}
<line x1="10" y1="105.5" x2="350" y2="105.5"/>{ends}
<text x="10" y="11">up to {counted(tallest, "person")}</text></svg>"""
