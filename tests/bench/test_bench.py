import json
import subprocess
import sys

import numpy as np
import pytest

from tests.bench import bench_doctor, bench_startup
from tests.bench.__main__ import installed, machine, of_a_runner, table, write
from tests.bench.rows import ROOT, row, seconds

ABOUT = {"what": "2 cores of a CPU, 8 GB", "load": 0.1, "python": "3.11.0", "packages": {"torch": "2.0"}}
ROWS = [
    row("retrieval", "re-ranking", 2.0, "s", textbook=71.0, textbook_is="NumPy", limit=1.0, limit_is="a product"),
    row("network", "embedding", 15.0, "images/s", textbook=12.0, textbook_is="eager", note="first call 3 s"),
]


def test_seconds_twice_as_many_and_rates_twice_as_high_are_told_apart():
    lines = table(ROWS, ABOUT).splitlines()
    assert lines[0] == "2 cores of a CPU, 8 GB, load before 0.1; Python 3.11.0, torch 2.0"
    # 71 / 2 = 35.5 times as fast as the textbook, half as fast as the limit
    assert lines[4].split() == ["re-ranking", "2", "s", "71", "35.50", "1", "50", "%"]
    # 15 / 12 = 1.25
    assert lines[6].split() == ["embedding", "15", "images/s", "12", "1.25", "first", "call", "3", "s"]
    assert lines[-3:] == ["textbook: NumPy (retrieval)", "textbook: eager (network)", "limit: a product (retrieval)"]


def test_rows_of_runners_join_the_table():
    ran = {"what": "torch", "batch_size": 16, "images_per_second": 12.0, "latency_ms": 1333.3}
    rows = [of_a_runner("deploy", entry) for entry in (ran, {"what": "TensorRT engine", "why_not": "no GPU"})]
    lines = table(rows, ABOUT).splitlines()
    assert lines[4].split() == ["torch,", "batch", "16", "12", "images/s", "1333.3", "ms", "a", "batch"]
    assert lines[5].split() == ["TensorRT", "engine", "not", "measured:", "no", "GPU"]


def test_a_busy_machine_is_named_so():
    assert "load before 3.0, so not idle: ratios count;" in table(ROWS, ABOUT | {"load": 3.0})


def test_table_json_and_picture_are_left_in_the_folder(tmp_path, capsys):
    write(tmp_path / "bench", "bench", ROWS, machine())
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == ["bench.json", "bench.png", "bench.txt"]
    assert json.loads((tmp_path / "bench" / "bench.json").read_text())["rows"] == ROWS
    assert (tmp_path / "bench" / "bench.txt").read_text() in capsys.readouterr().out


def test_the_check_of_a_data_set_is_measured_when_its_files_are_new_and_when_they_are_unchanged(tmp_path):
    found = bench_doctor.measured(tmp_path, images=120)
    assert set(found) == {"new", "unchanged"}
    assert all(one["cpu_s"] > 0 for one in found.values())


def test_the_best_time_is_taken_after_a_first_call():
    calls = []
    assert seconds(lambda: calls.append(0), repeat=2) < 1
    assert len(calls) == 3


def test_an_unknown_part_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "fedding"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "fedding: no such part; want some of retrieval, feeding, network, deploy, serving, startup" in done.stderr


def test_a_package_that_is_not_there_has_no_version():
    assert installed("numpy") == np.__version__
    assert installed("no-such-package") is None


@pytest.mark.slow
def test_the_program_that_runs_every_kernel_runs() -> None:
    subprocess.run([sys.executable, "-c", bench_startup.KERNELS], cwd=ROOT, check=True)
