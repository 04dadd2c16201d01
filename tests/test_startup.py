"""No stage loads what it does not use: the modules of a stage by themselves, and the whole of a tiny pipeline run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import bench_startup
from tests.bench.rows import ROOT

HEAVY = {
    *("torch", "torchvision", "pytorch_lightning", "timm", "mlflow", "kfp", "onnx", "onnxruntime", "onnxscript"),
    *("numba", "matplotlib", "pandas", "tensorrt_rtx", "rich", "cryptography"),
}
AT_IMPORT = {
    "validate": set(),
    "manifest": set(),
    "train": {"torch", "torchvision", "pytorch_lightning", "timm", "numba", "matplotlib", "cryptography", "rich"},
    "evaluate": {"numba"},
    "inference": set(),
    "export": {"cryptography"},
    "gen_trt_engine": {"cryptography"},
    "register": set(),
}
"""Of these, what the module of a stage may load; what a stage needs later it imports where it uses it."""
NETWORK = {"torch", "torchvision", "timm", "torch._dynamo"}
NEVER = {
    "validate": {*NETWORK, "pytorch_lightning", "numba", "matplotlib", "onnx", "onnxruntime", "onnxscript", "kfp"},
    "manifest": {*NETWORK, "pytorch_lightning", "numba", "matplotlib", "onnx", "onnxruntime", "onnxscript", "kfp"},
    "train": {"onnx", "onnxruntime", "onnxscript", "kfp"},
    "evaluate": {"pytorch_lightning", "onnx", "onnxruntime", "onnxscript", "kfp"},
    "inference": {"pytorch_lightning", "numba", "matplotlib", "onnx", "onnxruntime", "onnxscript", "kfp"},
    "export": {"pytorch_lightning", "matplotlib", "kfp"},
    "gen_trt_engine": {*NETWORK, "pytorch_lightning", "numba", "matplotlib", "onnxruntime", "onnxscript", "kfp"},
    "register": {*NETWORK, "pytorch_lightning", "numba", "matplotlib", "onnxscript", "kfp"},
}
"""What the process of a stage must not have loaded when it ends, MLflow and all.

evaluate and inference: of the few images here. From reid.deploy.onnx_in_memory.LEAST_IMAGES on, and without a GPU, they
load onnx, onnxscript and onnxruntime, which embed faster.
"""


@pytest.mark.parametrize("stage", AT_IMPORT)
def test_the_module_of_a_stage_loads_no_more_than_it_may(stage: str) -> None:
    code = f"import sys, reid.stages.{stage}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= AT_IMPORT[stage]


def test_each_stage_is_guarded() -> None:
    assert set(AT_IMPORT) == set(NEVER) == set(bench_startup.STAGES)


@pytest.mark.slow
def test_no_process_of_a_pipeline_run_loads_what_its_stage_does_not_use(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(bench_startup.SPEC.format(folder=tmp_path), encoding="utf-8")
    bench_startup.run(tmp_path, PYTHONPROFILEIMPORTTIME="1")
    for stage, banned in NEVER.items():
        log = (tmp_path / "results" / "latest" / stage / "log.txt").read_text(encoding="utf-8", errors="replace")
        loaded = {module for _, module in bench_startup.IMPORT_LINE.findall(log)}
        assert any(name.startswith("mlflow.") for name in loaded), stage  # the log is that of the imports
        assert loaded & banned == set(), stage
