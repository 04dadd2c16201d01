"""A stage whose node is lost is started again, whenever that happens, and no clock ends it; Argo's part is played."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster.resources import HOUR, Resources
from pipelines.compilation import compile_pipeline
from tests.pipelines.cluster.argo import FAILED, LOST, Retry, after_attempt, strategy_of


def tasks(tmp_path: Path, resources: Resources | None = None) -> dict[str, dict[str, Any]]:
    """The tasks of the compiled pipeline."""
    compile_pipeline(tmp_path / "pipeline.yaml", resources=resources, spec_text="")
    document = next(iter(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())))
    found: dict[str, dict[str, Any]] = document["root"]["dag"]["tasks"]
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return tasks(tmp_path_factory.mktemp("compiled"))


@pytest.mark.parametrize("hours", [0.03, 0.5, 9, 6 * 24])
def test_a_training_that_is_lost_in_any_hour_is_retried_and_then_has_the_time_of_a_whole_attempt(
    compiled: dict[str, dict[str, Any]], hours: float
) -> None:
    strategy = strategy_of(compiled["train"])
    lost_at_s = hours * HOUR
    decided = after_attempt(strategy, attempts=1, ended_at_s=lost_at_s, phase=LOST)
    assert isinstance(decided, Retry)
    assert decided.wait_s == 10
    started_s = lost_at_s + decided.wait_s
    assert decided.deadline_s - started_s > Resources().timeouts["train"]  # the stage's own time-out comes first


def test_the_last_retry_of_the_longest_training_has_its_whole_time_too(compiled: dict[str, dict[str, Any]]) -> None:
    strategy = strategy_of(compiled["train"])
    attempt_s, now_s = Resources().timeouts["train"], 0.0
    for attempt in range(1, Resources().retries + 1):
        now_s += attempt_s + 30 * 24 * HOUR  # and each attempt waits a month for a node
        decided = after_attempt(strategy, attempts=attempt, ended_at_s=now_s, phase=LOST)
        assert isinstance(decided, Retry)
        now_s += decided.wait_s
        assert decided.deadline_s - now_s > attempt_s
    assert after_attempt(strategy, attempts=3, ended_at_s=now_s, phase=LOST) == "No more retries left"


def test_every_stage_is_retried_if_it_is_lost_and_its_failure_is_reported_within_seconds(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for name, task in compiled.items():
        strategy = strategy_of(task)
        assert isinstance(after_attempt(strategy, attempts=1, ended_at_s=100, phase=LOST), Retry), name
        told = after_attempt(strategy, attempts=1, ended_at_s=100, phase=FAILED)
        assert told == "Node not set to be retried", name  # on a stock installation
        assert strategy["duration"] <= 10, name  # which Argo waits before it says so
        retried = after_attempt(strategy, attempts=1, ended_at_s=100, phase=FAILED, policy="Always")
        assert isinstance(retried, Retry), name


def test_the_clusters_file_may_ask_for_more_retries_or_for_none(tmp_path: Path) -> None:
    assert {strategy_of(task)["limit"] for task in tasks(tmp_path, Resources(retries=10)).values()} == {10}
    assert not any("retryPolicy" in task for task in tasks(tmp_path, Resources(retries=0)).values())


def test_the_clock_that_used_to_be_set_ended_a_training_at_its_tenth_minute() -> None:
    former = {"limit": 2, "duration": 60, "factor": 2, "maxDuration": 600}  # seen on KFP 2.17.0
    assert after_attempt(former, attempts=1, ended_at_s=120, phase=LOST) == Retry(60, 600)
    assert after_attempt(former, attempts=1, ended_at_s=9 * HOUR, phase=LOST) == "Max duration limit exceeded"
