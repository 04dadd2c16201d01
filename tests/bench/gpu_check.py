"""`make gpu-check`: what only a machine with a GPU can try, in a few minutes, each figure beside its twin on the CPU.

    python -m tests.bench.gpu_check                        everything, at most 8 minutes
    python -m tests.bench.gpu_check --rows bf16 repeated   some of it
    python -m tests.bench.gpu_check --dry                  tiny sizes on the CPU: whether this script itself works

Any Python that `reid train` runs in will do: PyTorch 2.11 to 2.14, and what `--missing` names as lacking. Each row has
a process of its own, its lines are printed and kept in rows.jsonl as it ends, and one that fails stops no other; what
it said is in ROW-here.log and, of the twin on the CPU, ROW-twin.log. Status: 0 all well, 1 a row failed or a figure is
not its twin's, 2 nothing could be tried.
"""
# ruff: noqa: T201

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.bench.check_case import Case

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "torch": "torch", "torchvision": "torchvision", "pytorch_lightning": "pytorch-lightning", "timm": "timm",
    "omegaconf": "omegaconf", "pydantic": "pydantic", "cryptography": "cryptography", "numba": "numba", "PIL": "pillow",
    "matplotlib": "matplotlib", "safetensors": "safetensors", "rich": "rich", "threadpoolctl": "threadpoolctl",
}  # fmt: skip
"""Module -> distribution, without which no row runs."""
FOR_EXPORT = {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"}
"""Without which the row `export` fails."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows; the status."""
    options = _options(arguments)
    lacking = missing()
    if lacking:
        print(f"not installed here: {', '.join(lacking)}", file=sys.stderr, flush=True)
    if options.missing:
        return 0
    if set(lacking) & set(PACKAGES.values()):
        print(f"error: want them, e.g. as wheels: pip install --no-deps {' '.join(lacking)}", file=sys.stderr)
        return 2
    if not options.dry and (why := _no_gpu()):
        print(f"error: {why}", file=sys.stderr)
        return 2
    from tests.bench.check_cases import CASES, NEEDED

    unknown = set(options.rows) - set(CASES)
    if unknown:
        print(f"error: --rows: no {', '.join(sorted(unknown))}\n  want: some of {', '.join(CASES)}", file=sys.stderr)
        return 2
    names = options.rows or list(CASES)
    first = ["data", *(NEEDED[name] for name in names if name in NEEDED)]
    names = [name for name in CASES if name in {*first, *names}]
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "rows.jsonl").write_text("", encoding="utf-8")
    return _all_rows(names, options.folder.resolve(), dry=options.dry, limit_s=options.limit_s, at_once=options.at_once)


def _no_gpu() -> str:
    """Why nothing can be tried here; "" if torch sees a GPU."""
    import torch

    from reid.distributed.driver import read_driver, refuse_old_driver
    from reid.errors import DriverError

    try:
        refuse_old_driver(read_driver(), torch_cuda=torch.version.cuda)
    except DriverError as error:
        return str(error)
    return (
        "" if torch.cuda.is_available() else "make gpu-check needs an NVIDIA GPU, and torch sees none on this machine"
    )


def missing() -> list[str]:
    """Distributions that are needed and not installed."""
    return [name for module, name in (PACKAGES | FOR_EXPORT).items() if importlib.util.find_spec(module) is None]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="which; without: all")
    parser.add_argument("--missing", action="store_true", help="only say what is not installed")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--limit-s", type=float, default=470.0, help="no row begins or goes on after it (default 470)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--at-once",
        type=int,
        default=max(1, cores // 4),
        help="rows without rates that run together (default: cores / 4)",
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "gpu-check", help="of results and scratch")
    return parser.parse_args(arguments)


def _all_rows(names: Sequence[str], folder: Path, *, dry: bool, limit_s: float, at_once: int) -> int:
    from tests.bench.check_cases import CASES
    from tests.bench.check_place import Place

    began = time.monotonic()
    print(_header(dry), flush=True)
    places = {"here": Place(folder, "cpu" if dry else "cuda:0", dry), "there": Place(folder, "cpu", dry, "twin")}
    facts: dict[str, dict[str, Any]] = {}
    telling = threading.Lock()

    def do(name: str) -> bool:
        started = time.monotonic()
        lines = _lines(CASES[name], name, places, facts, until=min(started + CASES[name].limit_s, began + limit_s))
        with telling:
            _tell(folder, name, time.monotonic() - started, lines)
        return not any(line.get("ok") is False for line in lines)

    well = True
    for timed, some in groupby(names, key=lambda name: CASES[name].timed):
        with ThreadPoolExecutor(1 if timed else at_once) as pool:
            well = all([*pool.map(do, some), well])
    print(f"{time.monotonic() - began:.0f} s; {'all' if well else 'not all'} is well; {folder}/rows.jsonl")
    return 0 if well else 1


def _lines(
    case: "Case", name: str, places: dict[str, Any], facts: dict[str, dict[str, Any]], *, until: float
) -> list[dict[str, Any]]:
    """A row's lines, measured now; one that says why where that failed. Adds to the facts."""
    if time.monotonic() > until - LEAST_S:
        return [{"what": "not begun: the time is over", "ok": False}]
    runs = {side: Run(name, place) for side, place in places.items() if side == "here" or case.twin}
    try:
        found = {side: run.facts(until=until) for side, run in runs.items()}
        facts[name] = found["here"]
        beside = found.get("there") or (facts.get("fp32", {}) if name in BESIDE_FP32 else {})
        return case.lines(found["here"], beside)
    except Exception as error:
        if not isinstance(error, RowFailed):
            traceback.print_exc()
        return [{"what": f"failed: {error}", "ok": False}]
    finally:
        for run in runs.values():
            run.end()


LEAST_S = 5.0
"""In less no row does anything."""
BESIDE_FP32 = {"bf16", "fp16", "compiled", "compiled-fp32"}
"""Rows whose twin is the row fp32 of the same run."""


class RowFailed(Exception):
    """A row's process ended without facts."""


class Run:
    """A row's process, at one place; what it prints goes to its log."""

    def __init__(self, name: str, place: Any) -> None:
        stem = f"{name}-{place.side}"
        self._log, self._facts = place.folder / f"{stem}.log", place.folder / f"{stem}.facts.json"
        self._facts.unlink(missing_ok=True)
        context = multiprocessing.get_context("forkserver")  # imports once for all rows, and before any has CUDA
        context.set_forkserver_preload(["tests.bench.check_cases"])
        process: Any = context.Process(target=_measure, args=(name, place, str(self._log), str(self._facts)))
        process.start()
        self._process: BaseProcess = process

    def facts(self, *, until: float) -> dict[str, Any]:
        """What it measured; RowFailed where it did not, or not in time."""
        self._process.join(max(0.0, until - time.monotonic()))
        if self._process.is_alive():
            raise RowFailed(f"not done in its time; {self._last_words()}")
        if not self._facts.exists():
            raise RowFailed(f"exit status {self._process.exitcode}; {self._last_words()}")
        found: dict[str, Any] = json.loads(self._facts.read_text(encoding="utf-8"))
        return found

    def end(self) -> None:
        """Ends it, where it is still there."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _last_words(self) -> str:
        said = (
            self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self._log.exists() else []
        )
        return " | ".join(line.strip() for line in said[-3:])[-600:] + f" ({self._log})"


def _measure(name: str, place: Any, log: str, facts: str) -> None:
    """What a row's process does."""
    with Path(log).open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    if place.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from tests.bench.check_cases import CASES

    if place.device == "cpu":  # beside the other side's process
        torch.set_num_threads(1 if place.dry else max(1, (os.cpu_count() or 1) // 4))
    found = CASES[name].measure(place)
    partial = Path(f"{facts}.partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.rename(facts)


def _header(dry: bool) -> str:
    import torch

    from reid.distributed.driver import read_driver

    about = [f"Python {platform.python_version()}", f"torch {torch.__version__}", f"{os.cpu_count()} CPU cores"]
    if not dry:
        found = torch.cuda.get_device_properties(0)
        about.insert(0, f"{found.name}, {found.total_memory / 1e9:.0f} GB")
        about.append(f"{read_driver().words}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    return ", ".join(about)


def _tell(folder: Path, name: str, seconds: float, lines: list[dict[str, Any]]) -> None:
    """Prints a row's lines and keeps them."""
    with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps({"row": name, "seconds": round(seconds, 1), **line}) + "\n")
    print(f"{name} ({seconds:.0f} s)")
    for line in lines:
        print(as_text(line))
    sys.stdout.flush()


def as_text(line: dict[str, Any]) -> str:
    """A line of the table."""
    verdict = {True: "ok ", False: "BAD", None: "   "}[line.get("ok")]
    text = f"  {verdict} {line['what']:75}"
    if line.get("value") is not None:
        text += f" {_figure(line['value'])} {line.get('unit', '')}"
    if line.get("twin") is not None:
        text += f"  ({line.get('twin_is', 'the CPU')}: {_figure(line['twin'])})"
    return (text + (f"  {line['note']}" if line.get("note") else "")).rstrip()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
