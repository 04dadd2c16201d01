import time

import numpy as np
import pytest

from reid.deploy.speed import measure_speed
from tests.exporting import contract_of
from tests.networks import network_settings


def test_the_median_call_decides_and_the_warm_up_does_not_count():
    calls: list[int] = []

    def network(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        time.sleep(0.5 if len(calls) == 1 else 0.01)
        return images

    rows = measure_speed(network, [2, 4], contract=contract_of(network_settings()), seconds=0.05)
    assert [row.batch_size for row in rows] == [2, 4]
    assert set(calls) == {2, 4}
    for row in rows:
        assert 10 <= row.latency_ms < 400  # 10 ms and what a busy machine adds; the slow first call is not in it
        assert row.images_per_second == pytest.approx(1000 * row.batch_size / row.latency_ms)
