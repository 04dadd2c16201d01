import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bench import gpu_check
from tests.bench.check_case import line
from tests.bench.check_cases import CASES, NEEDED
from tests.bench.check_place import apart
from tests.bench.check_steps import kernels, kind_of
from tests.bench.check_trainings import steps_lines
from tests.bench.gpu_check import as_text, main, missing
from tests.bench.rows import ROOT

STEPS = {
    "losses": [4.0, 3.0, 2.0, 1.0], "images_per_second": 2000.0, "step_ms": 20.0, "first_epoch_s": 3.0, "peak_gb": None,
    "precision": "bf16-mixed", "compiled": True, "kernel_ms": 19.0, "kernels": 970.0, "launches": 143.0,
    "kinds": {"copies": 1.0},
}  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_the_check_refuses_in_one_sentence(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == "error: make gpu-check needs an NVIDIA GPU, and torch sees none on this machine\n"


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(gpu_check.PACKAGES, "no_such_module", "no-such-package")
    assert missing() == ["no-such-package"]
    assert main(["--dry"]) == 2
    assert capsys.readouterr().err == (
        "not installed here: no-such-package\nerror: want them, e.g. as wheels: pip install --no-deps no-such-package\n"
    )


def test_an_unknown_row_is_refused(capsys):
    assert main(["--dry", "--rows", "int8"]) == 2
    assert capsys.readouterr().err == f"error: --rows: no int8\n  want: some of {', '.join(CASES)}\n"


def test_rows_run_after_those_that_they_need():
    names = list(CASES)
    assert all(names.index(first) < names.index(name) for name, first in NEEDED.items())


def test_a_line_says_whether_it_is_well_and_what_stands_beside_it():
    assert as_text(line("loss", 4.25, twin=4.5, ok=False, note="why")).split() == (
        ["BAD", "loss", "4.25", "(the", "CPU:", "4.5)", "why"]
    )
    assert as_text(line("said", None, ok=True)) == "  ok  said"


def test_a_loss_far_from_that_of_fp32_is_bad():
    near, far = ({"losses": [4.0, 3.0, 2.0, last], "images_per_second": 500.0} for last in (1.05, 1.2))
    assert [steps_lines(STEPS, fp32)[0]["ok"] for fp32 in (near, far, {})] == [True, False, True]
    told = steps_lines(STEPS, near)
    assert told[1]["note"] == "19.0 ms of kernels (970, launched 143 times) in a step of 20.0 ms; copies 1.0"
    assert told[2]["value"] == pytest.approx(95.0)


def test_differences_are_shares_of_the_twin():
    assert apart([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)


def test_a_trace_tells_what_a_step_spends_on_what(tmp_path):
    events = [
        {"cat": "kernel", "name": "sm90_xmma_fprop_implicit_gemm", "dur": 3000.0},
        {"cat": "kernel", "name": "batch_norm_transform", "dur": 500.0},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD", "dur": 500.0},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "dur": 9000.0},
        {"name": "process_name"},
    ]
    trace = tmp_path / "trace.json"
    trace.write_text(json.dumps({"traceEvents": events}))
    found = kernels(trace, steps=2)
    # 4 ms of 3 kernels in two steps
    assert (found["kernel_ms"], found["kernels"], found["launches"]) == (2.0, 1.5, 0.5)
    assert found["kinds"] == {"convolutions and products": 1.5, "normalization": 0.25, "copies": 0.25}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("triton_poi_fused__native_batch_norm_legit", "normalization"),
        ("multi_tensor_apply_kernel", "optimizer"),
        ("nvjet_sm90_tst_256x128", "convolutions and products"),
        ("vectorized_elementwise_kernel", "element by element"),
        ("a kernel", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel, kind):
    assert kind_of(kernel) == kind


def dry(folder: Path, *rows: str) -> tuple[int, list[dict]]:
    """The status and the kept rows of a dry run."""
    command = [sys.executable, "-m", "tests.bench.gpu_check", "--dry", "--folder", str(folder), "--rows", *rows]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    kept = [json.loads(text) for text in (folder / "rows.jsonl").read_text().splitlines()]
    assert all(as_text(row) in done.stdout for row in kept), done.stderr
    return done.returncode, kept


@pytest.mark.slow
def test_a_dry_run_tries_a_row_on_the_cpu(tmp_path):
    status, rows = dry(tmp_path, "augmentation")
    assert (status, [row["row"] for row in rows]) == (0, ["data", "augmentation", "augmentation"])
    assert (rows[1]["value"], rows[1]["ok"]) == (0, True)


@pytest.mark.slow
def test_every_row_runs_dry(tmp_path):
    names = [name for name in CASES if not name.startswith("compiled")]
    status, rows = dry(tmp_path, *names)
    assert (status, [row for row in rows if row["ok"] is False]) == (0, [])
    assert {row["row"] for row in rows} == set(names)


@pytest.mark.slow
def test_a_row_that_fails_says_why_and_holds_back_no_other(tmp_path):
    drawn = tmp_path / "drawn"
    drawn.mkdir()  # not drawn by this project
    status, rows = dry(tmp_path, "augmentation", "fp32")
    assert (status, [row["row"] for row in rows]) == (1, ["data", "fp32", "augmentation", "augmentation"])
    assert rows[0]["what"].startswith("failed: exit status 1; ") and "was not drawn by this project" in rows[0]["what"]
    assert rows[2]["ok"] is True
