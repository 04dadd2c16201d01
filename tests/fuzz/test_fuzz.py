"""The fuzz suite itself, and a bounded share of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from reid.errors import ArtifactError
from tests.fuzz.__main__ import Result, run, table
from tests.fuzz.doors import DOORS, Door, counts
from tests.fuzz.drive import Log
from tests.fuzz.kept import KEPT

CASES = 3_000


def read(_folder: Path, data: bytes) -> None:
    if data == b"refused":
        raise ArtifactError("a.json: found nothing; want something")
    if data == b"without a text":
        raise ArtifactError("")
    if data == b"broken":
        raise KeyError("a")


def judged(folder: Path, *inputs: bytes, **how: Any) -> dict[str, Any]:
    log = Log(folder, len(inputs))
    for data in inputs:
        log.judge(Door(read, "bytes", lambda _: []), data, **how)
    return dict(json.loads((folder / "result.json").read_text()))


def test_a_refusal_is_an_answer_and_a_traceback_is_a_finding(tmp_path: Path) -> None:
    found = judged(tmp_path, b"fine", b"refused", b"broken", b"broken")
    assert found["answers"] == {"accepted": 1, "ArtifactError": 1, "finding": 2}
    [(what, file)] = found["findings"].items()  # the same fault is told once
    assert what.startswith("KeyError in test_fuzz.py:")
    assert (tmp_path / file).read_bytes() == b"broken"
    assert "KeyError: 'a'" in (tmp_path / file).with_suffix(".txt").read_text()


def test_a_refusal_that_says_nothing_is_a_finding_and_so_is_one_of_a_right_input(tmp_path: Path) -> None:
    assert list(judged(tmp_path, b"without a text")["findings"]) == ["an error without a text"]
    assert list(judged(tmp_path, b"refused", right=True)["findings"]) == ["a right input was refused"]


def test_every_case_goes_to_some_door() -> None:
    assert sum(counts(10_000).values()) == 10_000
    assert min(counts(CASES).values()) >= 4
    assert set(KEPT) <= set(DOORS)


def test_the_table_names_the_file_of_each_finding() -> None:
    results = [Result("task.json", {"accepted": 3, "ArtifactError": 2, "finding": 1}, {"KeyError": "a.input"}, 1.25)]
    header, row, total, finding = table(results, Path("build/fuzz")).splitlines()
    assert row.split() == ["task.json", "6", "3", "2", "1", "1.2"]
    assert (header.split()[0], total.split()) == ("door", ["all", "6", "1"])
    assert finding == "task.json: KeyError: build/fuzz/task_json/a.input"


@pytest.mark.slow
def test_some_thousand_hostile_inputs_are_refused_or_read(tmp_path: Path) -> None:
    results = run(list(DOORS), cases=CASES, seed=1, folder=tmp_path, steady=True)
    assert [result.findings for result in results if result.findings] == [], table(results, tmp_path)
    assert sum(sum(result.answers.values()) for result in results) >= CASES
    assert all(result.answers.get("accepted") for result in results), table(results, tmp_path)
