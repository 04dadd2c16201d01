"""Drives one door: a process of its own, so that a crash of a native library or a hang is a finding like any other.

Bytes are made by atheris (libFuzzer), which sees what parts of `reid` an input reaches, and changes those that reach
new ones. Texts and JSON documents are made by hypothesis from what the format allows. Every finding is a file beside
the results: the input, and the traceback.
"""

import argparse
import collections
import hashlib
import json
import logging
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from reid.errors import ReidError
from tests.fuzz.doors import DOORS, Door

MOST_SECONDS, MOST_GROWTH = 20, 1 << 30
"""What one input may take: time, and memory beyond what the process has taken before, in bytes."""


class TooSlow(BaseException):
    """An input took longer than MOST_SECONDS; no handler of errors catches it."""


class Log:
    """What became of each input; written after every finding and every hundredth input."""

    def __init__(self, folder: Path, cases: int) -> None:
        self.folder, self.cases = folder, cases
        self.answers: collections.Counter[str] = collections.Counter()
        self.findings: dict[str, str] = {}

    def judge(self, door: Door, data: bytes, *, right: bool = False) -> None:
        """Reads an input by the door, and notes the answer. An input that is `right` has to be accepted."""
        (self.folder / "last.input").write_bytes(data)  # if the process dies of it
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.alarm(MOST_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="reid-fuzz-") as folder:
                door.read(Path(folder), data)
            answer = "accepted"
        except ReidError as error:
            answer = type(error).__name__
            if right or not str(error).strip():
                self._find(data, "a right input was refused" if right else "an error without a text", str(error))
        except (Exception, TooSlow, SystemExit) as error:
            answer = "finding"
            frame = traceback.extract_tb(error.__traceback__)[-1]
            name = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
            self._find(data, name, traceback.format_exc())
        finally:
            signal.alarm(0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if grown > MOST_GROWTH and self.answers.total():  # the first one loads the libraries
            self._find(data, f"took more than {MOST_GROWTH >> 30} GiB", "")
        self.answers[answer] += 1
        if self.answers.total() % 100 == 0 or self.answers.total() >= self.cases:
            self.write()

    def _find(self, data: bytes, name: str, trace: str) -> None:
        if name in self.findings:
            return
        file = f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.input"
        self.findings[name] = file
        (self.folder / file).write_bytes(data)
        (self.folder / file).with_suffix(".txt").write_text(f"{name}\n\n{trace}", encoding="utf-8", errors="replace")
        self.write()

    def write(self) -> None:
        """Writes result.json."""
        content = {"answers": dict(self.answers), "findings": self.findings}
        partial = self.folder / "result.partial"
        partial.write_text(json.dumps(content))
        partial.replace(self.folder / "result.json")


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _by_hypothesis(strategy: Any, judge: Callable[[bytes], None], *, cases: int, seed: int) -> None:
    import hypothesis

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def run(data: bytes) -> None:
        judge(data)

    run()


def _by_atheris(judge: Callable[[bytes], None], corpus: Path, *, cases: int, seed: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    quiet = ["-verbosity=0", "-print_final_stats=0", "-detect_leaks=0", "-rss_limit_mb=0", "-timeout=60"]
    command = ["fuzz", str(corpus), f"-runs={cases}", f"-seed={seed + 1}", "-max_len=2000000", *quiet]
    atheris.Setup([*command, f"-artifact_prefix={corpus.parent}/crash-"], judge, enable_python_coverage=True)
    atheris.Fuzz()


def main() -> None:
    """Runs as many inputs as are asked for through one door, the right ones and those kept from before first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("door", choices=DOORS)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steady", action="store_true", help="the same inputs each time: hypothesis alone")
    options = parser.parse_args()
    from tests.fuzz import odd
    from tests.fuzz.kept import KEPT

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    door, log = DOORS[options.door], Log(options.folder, options.cases)
    with tempfile.TemporaryDirectory(prefix="reid-fuzz-") as folder:
        samples = door.samples(Path(folder))
    for sample in samples:
        log.judge(door, sample, right=True)
    for data in KEPT.get(options.door, ()):
        log.judge(door, data)
    log.write()
    left = options.cases - log.answers.total()
    if left <= 0:
        return
    if door.kind != "bytes" or options.steady or not _has_atheris():
        make = {"json": odd.json_document, "text": odd.text, "bytes": odd.any_bytes}[door.kind]
        _by_hypothesis(make(samples), lambda data: log.judge(door, data), cases=left, seed=options.seed)
        log.write()
        return
    corpus = options.folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate([*samples, *KEPT.get(options.door, ())]):
        (corpus / str(number)).write_bytes(data)
    _by_atheris(lambda data: log.judge(door, data), corpus, cases=left, seed=options.seed)


def _has_atheris() -> bool:
    try:
        import atheris
    except ImportError:
        return False
    return bool(atheris)


if __name__ == "__main__":
    if _has_atheris():
        import atheris

        with atheris.instrument_imports(include=["reid", "pipelines", "components"]):
            main()
    else:
        main()
    sys.exit(0)
