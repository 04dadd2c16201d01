"""All that this project promises about speed, measured on this machine: a table, JSON and a picture.

python -m tests.bench                    everything, some minutes on two cores
python -m tests.bench retrieval feeding  some of it
"""
# ruff: noqa: T201

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reid.files.writing import replacing
from tests.bench.picture import draw
from tests.bench.rows import ROOT, Row, ratio, row

PARTS = ("retrieval", "feeding", "network", "deploy", "serving", "startup")
PACKAGES = ("torch", "numpy", "numba", "timm", "pytorch-lightning", "onnxruntime", "mlflow")


def main() -> int:
    """Measures, prints and writes; 1 where a part could not be measured, which does not keep the others back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: no such part; want some of {', '.join(PARTS)}")
    rows: list[Row] = []
    about, failed = machine(), 0
    for part in options.parts or PARTS:
        if importlib.util.find_spec(f"tests.bench.bench_{part}") is None:
            continue
        began = time.monotonic()
        print(f"measuring {part} …", file=sys.stderr, flush=True)
        try:
            found = importlib.import_module(f"tests.bench.bench_{part}").measure()
        except Exception:
            traceback.print_exc()
            failed = 1
            continue
        rows += [entry if "unit" in entry else of_a_runner(part, entry) for entry in found]
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    write(options.folder, "bench", rows, about)
    return failed


def of_a_runner(part: str, entry: dict[str, Any]) -> Row:
    """A row from one of bench_deploy: what, batch_size, images_per_second, latency_ms; or what and why_not."""
    if "why_not" in entry:
        return row(part, entry["what"], None, "", note=f"not measured: {entry['why_not']}")
    what, note = f"{entry['what']}, batch {entry['batch_size']}", f"{entry['latency_ms']:.1f} ms a batch"
    return row(part, what, entry["images_per_second"], "images/s", note=note)


def write(folder: Path, name: str, rows: list[Row], about: dict[str, Any]) -> None:
    """Prints the table and leaves name.txt, name.json and name.png in the folder."""
    print(table(rows, about))
    leave(folder, name, rows, about)
    print(f"\n{folder / name}.txt, .json, .png")


def leave(folder: Path, name: str, rows: list[Row], about: dict[str, Any], **more: Any) -> None:
    """name.json, with `more` beside the rows, name.txt and name.png in the folder; in that order, and never half."""
    with replacing(folder / f"{name}.json") as partial:
        found = {"machine": about, "rows": rows, **more}
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.txt").write_text(table(rows, about) + "\n", encoding="utf-8")
    draw(rows, folder / f"{name}.png", title=about["what"])


def installed(package: str) -> str | None:
    """Its version; None where it is not there, as on a machine that only trains."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it was before."""
    cpu = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "what": f"{cores} cores of {cpu}, {memory_gb:.0f} GB",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(rows: list[Row], about: dict[str, Any]) -> str:
    """The rows as text. `x textbook`: how many times as fast; `of limit`: the share of the fastest possible."""
    busy = f"load before {about['load']:.1f}" + (", so not idle: ratios count" if about["load"] > 0.5 else "")
    lines = [f"{about['what']}, {busy}; Python {about['python']}, torch {about['packages']['torch']}", ""]
    lines.append(f"{'':62}{'':>20}{'textbook':>12}{'x textbook':>12}{'limit':>10}{'of limit':>10}{'peak GB':>9}")
    part = None
    for found in rows:
        if found["part"] != part:
            part = found["part"]
            lines.append(part)
        times, share = ratio(found, "textbook"), ratio(found, "limit")
        lines.append(
            f"  {found['what']:60}{_figure(found['value']):>10} {found['unit']:9}"
            f"{_figure(found.get('textbook')):>12}{f'{times:.2f}' if times else '':>12}"
            f"{_figure(found.get('limit')):>10}{f'{100 * share:.0f} %' if share else '':>10}"
            f"{_figure(found.get('peak_gb')):>9}  {found.get('note', '')}".rstrip()
        )
    notes = {f"{kind}: {found[f'{kind}_is']} ({found['part']})": None
             for kind in ("textbook", "limit") for found in rows if f"{kind}_is" in found}  # fmt: skip
    return "\n".join([*lines, "", *notes])


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
