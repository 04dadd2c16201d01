import json
import time
from contextlib import nullcontext

import numpy as np
import pytest

from tests.bench.bench_serving import ORT, TORCH, main
from tests.bench.serving_load import Found, load, times_as_fast
from tests.triton_server import tritonserver


def test_clients_call_at_the_same_time_and_every_call_is_counted():
    def connect():
        def call(images):
            time.sleep(0.02)

        return nullcontext(call)

    latencies, rate = load(connect, images=np.zeros((3, 1, 1, 3), np.uint8), clients=4, seconds=0.2)
    assert len(latencies) >= 8
    assert min(latencies) >= 20
    assert rate < 4 * 3 / 0.02  # never more than four calls of three images every 20 ms
    assert rate > 2 * 3 / 0.02  # and more than half as many as that if none waits for another


def test_at_least_two_calls_are_made_however_long_they_take():
    latencies, _ = load(
        lambda: nullcontext(lambda images: time.sleep(0.01)), images=np.zeros((1, 1)), clients=1, seconds=0
    )
    assert len(latencies) == 2


def test_an_error_of_a_client_ends_the_others_and_is_raised():
    clients = iter(range(3))

    def connect():
        if next(clients) == 1:
            raise ValueError("no connection")
        return nullcontext(lambda images: None)

    with pytest.raises(ValueError, match="no connection"):
        load(connect, images=np.zeros((1, 1)), clients=3, seconds=5)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    one, other = Found([1, 2, 3], [10, 4, 30]), Found([1], [5, 4, 10])  # 2, 1, 3
    assert times_as_fast(one, other) == 2
    assert (one.rate, one.percentile(50)) == (10, 2)


@pytest.mark.slow
def test_the_part_measures_every_runner_and_says_why_one_is_missing(tmp_path):
    tritonserver()
    small = ["--backbone", "timm/test_resnet", "--height", "64", "--width", "32"]
    main([*small, "--rounds", "1", "--seconds", "0", "--folder", str(tmp_path)])
    rows = json.loads((tmp_path / "bench_serving.json").read_text())["rows"]
    measured = {(found["runner"], found["batch"], found["clients"]): found for found in rows if found["value"]}
    for runner in (TORCH, ORT.format("FP32"), ORT.format("FP16")):
        assert {(runner, 1, 16), (runner, 64, 1)} <= measured.keys()
    triton = {runner for runner, _, _ in measured if runner.startswith("Triton")}
    assert {"Triton, batching off", "Triton, batching on", "Triton, batching on, prepares inside"} <= triton
    for found in measured.values():
        assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert (tmp_path / "bench_serving.png").exists()
    assert all("not measured: " in found["note"] for found in rows if not found["value"])
