"""Blocks of a self-contained HTML report: page, tiles, tables, charts, and grids of matches.

One file, no outside asset, light and dark; works inside an iframe's srcdoc with sandbox="allow-scripts" (Kubeflow,
MLflow). Every function returns HTML; texts given to it are escaped, blocks that it is given are not.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from reid.reports.matches import Match, MatchRow

THUMBNAIL = (80, 160)
"""Width, height in pixels at most; shown at four fifths, larger under the pointer."""
THUMBNAIL_QUALITY = 72

STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --paper: #fff; --ink: #1d2126; --muted: #5d6570; --grid: #e3e4e1;
  --right: #0f8f6b; --wrong: #cf3f4f; --query: #2b83c6; --shadow: 0 6px 24px #0003; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --paper: #1d2126; --ink: #e4e6e8; --muted: #9aa2ac;
  --grid: #31363d; --right: #34b58d; --wrong: #ec6a77; --query: #5aa9e4; --shadow: 0 6px 24px #000a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 52rem; } .soft { color: var(--muted); }
.card { background: var(--paper); border: 1px solid var(--grid); border-radius: 10px; padding: 1rem 1.2rem;
  margin: .8rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .9rem;
  margin: 1.6rem 0 0; }
.tiles .card { margin: 0; } .tile b { display: block; font-size: 2rem; line-height: 1.25; letter-spacing: -.02em; }
.tile small { font-size: .88rem; } .tile .from { font-size: 1.25rem; font-weight: 500; color: var(--muted); }
.tile.main { border-top: 3px solid var(--query); }
.gain { color: var(--right); font-weight: 600; } .loss { color: var(--wrong); font-weight: 600; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: .9rem; }
.pair .card { margin: .8rem 0 0; } .pair th, .pair td { padding: .4rem; }
.wide { overflow-x: auto; } table + p { margin: .8rem 0 .2rem; font-size: .88rem; } .lead { max-width: none; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .4rem .55rem; white-space: nowrap; } th { font-weight: 500; color: var(--muted);
  font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } tbody td { border-top: 1px solid var(--grid); }
tr.main td { font-weight: 650; } .settings td { white-space: normal; overflow-wrap: anywhere; }
.settings tr:first-child td { border-top: 0; }
.settings td:first-child { white-space: nowrap; color: var(--muted); } .settings td:last-child { text-align: left; }
svg { width: 100%; height: auto; display: block; } svg text { font-family: inherit !important; }
.matches { display: grid; gap: .9rem; min-width: max-content; } .row { display: flex; gap: 8px;
  align-items: flex-start; }
.row + .row { border-top: 1px solid var(--grid); padding-top: .9rem; }
.who { width: 7.6rem; flex: none; font-size: .82rem; line-height: 1.55; color: var(--muted); }
.who b { color: var(--ink); font-size: .95rem; }
.who span { display: block; } figure { margin: 0; position: relative; width: 64px; flex: none; }
figure img { display: block; width: 64px; height: 128px; border: 3px solid var(--frame); border-radius: 4px; }
figcaption { font-size: .72rem; text-align: center; white-space: nowrap; margin-top: .15rem; color: var(--muted); }
figure i { position: absolute; top: -5px; right: -5px; width: 18px; height: 18px; border-radius: 50%;
  background: var(--frame);
  color: var(--paper); font: 700 12px/18px system-ui, "DejaVu Sans", sans-serif; text-align: center;
  box-shadow: 0 0 0 2px var(--paper); }
.query { --frame: var(--query); margin-right: 12px; } .right { --frame: var(--right); }
.wrong { --frame: var(--wrong); }
.first { margin-left: 26px; }
.first::before { content: "first right"; position: absolute; top: 55px; left: -47px; rotate: -90deg;
  font-size: .7rem; color: var(--muted); }
#tip { position: fixed; display: none; pointer-events: none; z-index: 9; background: var(--paper);
  border: 1px solid var(--grid);
  border-radius: 10px; box-shadow: var(--shadow); padding: 10px; font-size: .8rem; line-height: 1.5;
  max-width: 24rem; white-space: pre-line; }
#tip img { display: block; width: 140px; height: 280px; border-radius: 6px; margin-bottom: 6px; }
@media print { body { background: none; } .card { break-inside: avoid; } }
"""

SCRIPT = """
const tip = document.body.appendChild(Object.assign(document.createElement("div"), {id: "tip"}));
for (const cell of document.querySelectorAll("figure[title]")) {
  cell.dataset.tip = cell.title; cell.removeAttribute("title");
  cell.addEventListener("pointerenter", () => {
    tip.replaceChildren(cell.querySelector("img").cloneNode(), cell.dataset.tip); tip.style.display = "block"; });
  cell.addEventListener("pointermove", (event) => {
    const left = event.clientX + 18, top = event.clientY + 18, box = tip.getBoundingClientRect();
    tip.style.left = (left + box.width > innerWidth ? event.clientX - box.width - 18 : left) + "px";
    tip.style.top = Math.max(4, Math.min(top, innerHeight - box.height - 4)) + "px"; });
  cell.addEventListener("pointerleave", () => { tip.style.display = "none"; });
}
"""


@dataclass(frozen=True)
class Tile:
    """A large figure; with `before`, where it came from and by how many points it moved."""

    label: str
    value: float
    """In percent."""
    before: float | None = None
    note: str = ""
    main: bool = False


class Thumbnails:
    """Small pictures as data URIs, and how much of a byte budget they have left."""

    def __init__(self, budget_bytes: int) -> None:
        self.left_bytes = budget_bytes

    def uri(self, path: str) -> str:
        """An image file as a JPEG data URI; the budget may go below zero, callers look at it between rows."""
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail(THUMBNAIL)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=THUMBNAIL_QUALITY)
        uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
        self.left_bytes -= len(uri)
        return uri


def page(title: str, *, subtitle: str, blocks: Iterable[str]) -> str:
    """The whole document."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>
<h1>{escape(title)}</h1>
<p class="soft lead">{escape(subtitle)}</p>
{"".join(blocks)}
</main><script>{SCRIPT}</script></body></html>
"""


def section(heading: str, *blocks: str, note: str = "") -> str:
    """A heading, a sentence under it, and blocks."""
    sentence = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(heading)}</h2>\n{sentence}{''.join(blocks)}\n"


def card(*blocks: str) -> str:
    """Blocks on a card that scrolls sideways where the window is narrow."""
    return f'<div class="card wide">{"".join(blocks)}</div>\n'


def pair(*cards: str) -> str:
    """Cards side by side where there is room."""
    return f'<div class="pair">{"".join(cards)}</div>\n'


def tiles(items: Sequence[Tile]) -> str:
    """A row of large figures."""
    return f'<div class="tiles">{"".join(_tile(item) for item in items)}</div>\n'


def _tile(item: Tile) -> str:
    before = gain = ""
    if item.before is not None:
        points = item.value - item.before
        before = f'<span class="from">{item.before:.1f} &rarr; </span>'
        gain = f'<span class="{"gain" if points >= 0 else "loss"}">{points:+.1f} points</span> '.replace(
            ">-", ">&minus;"
        )
    kind = "card tile main" if item.main else "card tile"
    return (
        f'<div class="{kind}"><span class="soft">{escape(item.label)}</span><b>{before}{item.value:.1f}</b>'
        f'<small>{gain}<span class="soft">{escape(item.note)}</span></small></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, main: int | None = None) -> str:
    """A table of figures; row number `main` is the one that counts."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=main' if number == main else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def settings(values: Iterable[tuple[str, str]]) -> str:
    """Name and value, a line each."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in values)
    return f'<table class="settings"><tbody>{body}</tbody></table>'


def match_grid(rows: Sequence[MatchRow], thumbnails: Thumbnails, *, ranks: int, first_right: bool = False) -> str:
    """Queries and their top `ranks`, with first_right also the first right image beyond; stops with the budget."""
    shown: list[str] = []
    for row in rows:
        if thumbnails.left_bytes <= 0:
            break
        shown.append(_match_row(row, thumbnails, ranks=ranks, first_right=first_right))
    left = len(rows) - len(shown)
    rest = f'<p class="soft">{left} more rows are left out to keep this page small.</p>' if left else ""
    return f'<div class="matches">{"".join(shown)}</div>{rest}'


def _match_row(row: MatchRow, thumbnails: Thumbnails, *, ranks: int, first_right: bool) -> str:
    query = f"{Path(row.path).name}\nquery: person {row.person}, camera {row.camera}"
    cells = [
        f'<figure class="query" title="{escape(query)}"><img alt="query" src="{thumbnails.uri(row.path)}">'
        f"<figcaption>camera {row.camera}</figcaption></figure>"
    ]
    cells += [_match(match, thumbnails) for match in row.matches[:ranks]]
    if first_right and row.first_match.rank > ranks:
        cells.append(_match(row.first_match, thumbnails, first=True))
    lines = [row.reason, f"AP {100 * row.average_precision:.0f} %", f"first right: {row.first_match.rank}"]
    spans = "".join(f"<span>{escape(line)}</span>" for line in lines)
    return f'<div class="row"><div class="who"><b>person {row.person}</b>{spans}</div>{"".join(cells)}</div>\n'


def _match(match: Match, thumbnails: Thumbnails, *, first: bool = False) -> str:
    who = {0: "a distractor"}.get(match.person, f"person {match.person}")
    text = f"{Path(match.path).name}\nrank {match.rank}: {who}, camera {match.camera}\ndistance {match.distance:.4f}"
    kind, mark = ("right", "&#10003;") if match.correct else ("wrong", "&#10005;")
    caption = f"rank {match.rank}" if first else f"{match.distance:.2f} &middot; c{match.camera}"
    return (
        f'<figure class="{kind}{" first" if first else ""}" title="{escape(text)}"><img alt="{kind}" '
        f'src="{thumbnails.uri(match.path)}"><i>{mark}</i><figcaption>{caption}</figcaption></figure>'
    )
