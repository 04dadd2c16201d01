import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from reid.spec import load_spec
from tests.bench.bench_gpu import NAMES, all_rows, main
from tests.bench.gpu_kernels import MODULE
from tests.bench.gpu_measure import LONG, SHORT, SPEC
from tests.bench.gpu_rows import (
    beside_fp32,
    loss_curve,
    product_rows,
    reckoned,
    retrieval_rows,
    training_row,
    whole_rows,
)
from tests.bench.gpu_task import busy_percent, ran_as, stepping
from tests.bench.rows import ROOT, in_a_process

TINY = """
results_dir: {folder}
model: {{backbone: resnet_18, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: 32}}
dataset:
  synthetic: {{root: {folder}/drawn, train_persons: 8, test_persons: 4, images_per_camera: 2, distractors: 2, junk: 0}}
  num_classes: 8
  batch_size: 16
train: {{compile: "off"}}
"""
EPOCHS = [{"epoch": epoch, "step": 104 * (epoch + 1), "train_loss": 3.0} for epoch in range(6)]
HISTORY = [
    {"epoch": -1, "step": 0, "mAP": 0.1, "gpu_memory_gb": 2.0},
    *({"seconds": 30.0, "images_per_second": 443.7, **epoch} for epoch in EPOCHS[:2]),
    *({"seconds": 6.5, "images_per_second": 2048.0, **epoch} for epoch in EPOCHS[2:]),
]
HISTORY[-1] |= {"gpu_memory_gb": 9.5, "validation_seconds": 4.0, "mAP": 0.5}
TRAINED = {
    **{"epochs": 6, "history": HISTORY, "images": 12_065, "batch_size": 128, "seconds": 130.0, "busy": 97.0},
    "ran_as": "precision bf16-mixed, channels last, compiled; images augmented on the device",
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_bench_gpu_refuses_in_one_sentence(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == "error: make bench-gpu needs an NVIDIA GPU, and torch sees none on this machine\n"


def test_the_bench_itself_imports_no_more_than_a_training():
    program = "import sys, tests.bench.bench_gpu, tests.bench.gpu_kernels; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"mlflow", "kfp", "onnx", "onnxruntime", "tritonclient", "tensorrt"} & set(done.stdout.split())


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--rows", "fp16"])
    assert "argument --rows: invalid choice: 'fp16'" in capsys.readouterr().err


def test_every_recipe_is_a_spec_that_says_whether_it_compiles(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC.format(folder=tmp_path))
    found = {name: load_spec(file, overrides=overrides) for name, (_, overrides) in (LONG | SHORT).items()}
    assert {name for name, spec in found.items() if spec.train.compile == "off"} == {"fp32", "no-compile"}
    assert {name for name, spec in found.items() if spec.train.compile == "auto"} == set()
    assert {name for name, spec in found.items() if spec.train.precision == "32"} == {"fp32", "no-bf16"}
    chosen = found["chosen"]
    assert (chosen.dataset.synthetic.train_persons, chosen.dataset.batch_size) == (751, 128)


def test_what_keeps_the_gpu_busy_is_asked_between_the_second_epoch_and_the_last_step():
    log = [(10.0, "12:00:00 epoch 1/4: loss 3.0, 9 images/s"), (15.0, "12:00:05 training: 9/36 images · epoch 2/4")]
    log += [(20.0, "12:00:10 epoch 2/4: loss 2.0, 9 images/s"), (30.0, "12:00:20 epoch 3/4: loss 2.0, 9 images/s")]
    log += [(99.0, "12:01:29 epoch 4/4: loss 1.0, mAP 50.0, rank-1 40.0, 9 images/s (best)")]
    history = [{"epoch": -1}, *({"epoch": epoch, "seconds": 8.0} for epoch in range(4))]
    assert stepping(log, history) == (20.0, 38.0)  # the validation after it lasts until 99
    assert stepping(log[:2], history) is None
    assert stepping(log, history[:3]) is None  # no epoch after those that warm up


def test_busy_is_the_mean_of_the_answers_in_the_window():
    answers = [(19.0, "0"), (21.0, "98"), (25.0, "[N/A]"), (30.0, "94"), (39.0, "7")]
    assert busy_percent(answers, (20.0, 38.0)) == 96.0
    assert busy_percent([(21.0, "0")], (20.0, 38.0)) == 0.0


def test_an_unknown_share_is_not_nought():
    assert busy_percent([(21.0, "[N/A]"), (22.0, "no such file: nvidia-smi")], (20.0, 38.0)) is None
    assert busy_percent([(1.0, "98")], (20.0, 38.0)) is None
    assert busy_percent([(21.0, "98")], None) is None


def test_a_training_tells_how_it_ran():
    line = "03:17:01 training on GPU 0 (NVIDIA H100, 80 GB), precision bf16-mixed, channels last, not compiled; images"
    assert ran_as([(0.0, line)]) == "precision bf16-mixed, channels last, not compiled; images"
    assert ran_as([]) == "not told how"
    refused = "W1124 03:17:05.123 torch/_dynamo/convert_frame.py:1016] WON'T CONVERT forward embedder.py line 72"
    assert ran_as([(0.0, line), (4.0, refused)]).endswith("not compiled; images; 1 parts could not be compiled")


def test_120_epochs_of_market_1501_are_reckoned_from_the_settled_epochs():
    done = reckoned(TRAINED)
    # 104 steps for 12,065 images: 104 x 12,936 / 12,065 = 111.5, so 112; 120 x 112 x 128 / 2,048 = 840 s
    assert (done.rate, done.steps, done.seconds) == (2048.0, 112, 840.0)
    assert done.settling_s == 2 * (30 - 6.5)


def test_a_training_stands_beside_the_chosen_one_and_the_product():
    found = training_row("eager", TRAINED, {"chosen": TRAINED | {"epochs": 20}, "products": {"bfloat16": 486.0}})
    assert (found["what"], found["value"], found["textbook"], found["peak_gb"]) == ("eager, 6 epochs", 2048, 2048, 9.5)
    assert found["limit"] == pytest.approx(20_000)  # 486 TFLOP/s over 3 x 8.1 GFLOP an image
    assert found["note"] == (
        "840 s for 120 epochs of 12,936 images, reckoned; GPU busy 97 %; its process 130 s; "
        "precision bf16-mixed, channels last, compiled; images augmented on the device"
    )
    alone = training_row("as chosen", TRAINED, {"chosen": TRAINED, "products": {"failed": "no memory"}})
    assert not {"textbook", "limit"} & alone.keys()


def test_what_the_reckoned_time_leaves_out_has_rows_of_its_own():
    whole, validated, process, busy = whole_rows(TRAINED)
    assert (whole["value"], whole["limit"]) == (840.0, 300.0)
    assert whole["note"] == (
        "reckoned: 120 x 112 steps of 128 images at 2,048 images/s; "
        "without start, validation, checkpoints; the first 2 epochs took 47 s more"
    )
    assert [entry["value"] for entry in (validated, process, busy)] == [4.0, 130.0, 97.0]


def test_what_is_not_known_is_said_and_has_no_figure():
    old = [{name: value for name, value in entry.items() if name not in ("gpu_memory_gb", "validation_seconds")}
           for entry in HISTORY]  # fmt: skip
    found = TRAINED | {"history": old, "busy": None}
    _, validated, _, busy = whole_rows(found)
    assert (validated["value"], validated["note"]) == (None, "not known: history.json has no validation_seconds")
    assert (busy["value"], busy["note"]) == (None, "not known: nvidia-smi gave no utilization")
    assert training_row("eager", found, {})["peak_gb"] is None


def test_loss_and_map_stand_beside_those_in_fp32():
    ours = [{"epoch": -1}, {"epoch": 0, "step": 100, "train_loss": 5.0}]
    ours += [{"epoch": 1, "train_loss": 4.2, "step": 200, "mAP": 0.5}]
    twin = [*ours[:2], {"epoch": 1, "train_loss": 4.0, "step": 200, "mAP": 0.4}]
    pair = [{"history": ours}, {"history": twin}]
    assert loss_curve(*pair) == {"step": [100, 200], "chosen": [5.0, 4.2], "fp32": [5.0, 4.0]}
    loss, score = beside_fp32(*pair)
    assert loss["what"] == "loss of 200 steps against fp32, farthest epoch"
    assert loss["value"] == pytest.approx(5.0)  # percent: 0.2 of 4
    assert (score["value"], score["textbook"]) == (50.0, 40.0)


def test_only_trainings_of_equally_many_epochs_are_compared():
    told = [entry["what"] for entry in all_rows({"chosen": TRAINED, "fp32": TRAINED})]
    assert "mAP of query and gallery after it" in told[-1]
    assert "mAP" not in str(all_rows({"chosen": TRAINED | {"epochs": 120}, "fp32": TRAINED})[-1])
    assert len(all_rows({"chosen": {"failed": "no memory"}, "fp32": TRAINED})) == 2


@pytest.mark.slow
def test_products_and_retrieval_have_rows_on_the_cpu_too():
    cases = [{"what": "re-ranking", "width": 8, "gallery": 600}, {"what": "re-ranking in blocks", "gallery": 600}]
    small, blocks = (in_a_process(MODULE, case | {"device": "cpu"}) for case in cases)
    rows = retrieval_rows({"256": small, "2048": small, "blocks": blocks})
    assert [entry["unit"] for entry in rows] == ["s"] * 5
    assert all(entry["value"] > 0 for entry in rows)
    assert small["apart"] < 1e-6
    products = in_a_process(MODULE, {"what": "products", "size": 64, "device": "cpu"})
    assert [entry["unit"] for entry in product_rows(products)] == ["TFLOP/s"] * 2


def test_a_measurement_that_fails_says_why_and_holds_back_no_other(tmp_path, capsys):
    arguments = ["--rows", "data", "no-bf16", "--folder", str(tmp_path)]
    assert main(arguments, spec="model: {{backbon: resnet_18}}", gpu="a GPU") == 1
    rows = json.loads((tmp_path / "bench-gpu.json").read_text())["rows"]
    assert [entry["what"] for entry in rows] == ["data", "no-bf16"]
    assert all(entry["note"].startswith("failed: RuntimeError: reid validate: exit status 2: ") for entry in rows)
    assert "model.backbon: unknown key" in rows[1]["note"]
    assert "failed: RuntimeError" in capsys.readouterr().out


def test_figures_of_two_gpus_are_not_mixed(tmp_path, capsys):
    kept = {"machine": {"gpu": "NVIDIA A100"}, "facts": {}}
    (tmp_path / "bench-gpu.json").write_text(json.dumps(kept))
    assert main(["--folder", str(tmp_path)], gpu="NVIDIA H100") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/bench-gpu.json: figures of NVIDIA A100, and this is NVIDIA H100\n  want: another --folder\n"
    )


@pytest.mark.slow
def test_a_bench_that_was_stopped_keeps_what_it_measured_and_resumes(tmp_path, capsys, monkeypatch):
    """As on a GPU, but for the products and the retrieval, which need one; nvidia-smi always answers 97."""
    asked = tmp_path / "bin" / "nvidia-smi"
    asked.parent.mkdir()
    asked.write_text("#!/bin/sh\necho 97\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(asked.parent), prepend=os.pathsep)
    folder, scratch = tmp_path / "results", tmp_path / "scratch"
    arguments = ["--folder", str(folder), "--scratch", str(scratch), "--epochs", "3", "--part", "3"]
    program = (
        f"from tests.bench.bench_gpu import main; main({['--rows', 'data', 'chosen', *arguments]}, "
        f"spec={TINY!r}, gpu='a GPU')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    until = time.monotonic() + 120
    while not (folder / "bench-gpu.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() != 0
    facts = json.loads((folder / "bench-gpu.json").read_text())["facts"]
    assert list(facts) == ["data"]

    names = ["data", "chosen", "embedding", "fp32", "no-channels-last"]
    assert main(["--rows", *names, *arguments], spec=TINY, gpu="a GPU") == 0
    assert f"data: measured {facts['data']['time']}, kept" in capsys.readouterr().err
    found = json.loads((folder / "bench-gpu.json").read_text())
    assert list(found["facts"]) == names
    assert found["rows"] == all_rows(found["facts"])
    assert len(found["loss"]["chosen"]) == len(found["loss"]["fp32"]) == 3
    chosen = found["facts"]["chosen"]
    assert chosen["images"] == found["facts"]["data"]["images"]["train"]
    assert (chosen["batch_size"], chosen["busy"]) == (16, 97.0)
    assert chosen["ran_as"].startswith("precision 32-true, channels last, ")
    assert "channels first" in found["facts"]["no-channels-last"]["ran_as"]
    files = ["bench-gpu-loss.png", "bench-gpu.json", "bench-gpu.png", "bench-gpu.txt"]
    assert sorted(path.name for path in folder.iterdir()) == files

    assert main(["--rows", "no-channels-last", *arguments, "--part", "4"], spec=TINY, gpu="a GPU") == 0
    again = json.loads((folder / "bench-gpu.json").read_text())["facts"]
    assert (again["no-channels-last"]["epochs"], again["chosen"]) == (4, chosen)
    assert set(again) < set(NAMES)
