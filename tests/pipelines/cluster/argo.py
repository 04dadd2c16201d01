"""Argo's part in a retry (workflow/controller/operator.go, processNodeRetries, v4.0.5), and KFP's part before it."""

from dataclasses import dataclass
from typing import Any

LOST, FAILED = "Error", "Failed"
"""A pod that was deleted, or whose node is gone; a process that ended with an exit code, or a pod that was evicted."""
STOCK = "OnError"
"""The retryPolicy of KFP's workflow-controller-configmap (workflowDefaults), which merges into every template."""


@dataclass(frozen=True)
class Retry:
    """What Argo decides once an attempt has ended: a new attempt after some seconds, and when it ends that one."""

    wait_s: float
    deadline_s: float
    """Seconds after the first attempt's start at which a later attempt is ended, however well it works."""


def strategy_of(task: dict[str, Any]) -> dict[str, Any]:
    """Argo's retryStrategy of a task in the compiled pipeline: KFP hands on whole seconds (container.go, 614-648)."""
    policy = task["retryPolicy"]
    factor = policy["backoffFactor"]
    assert factor == int(factor)  # Argo reads a whole number
    return {
        "limit": policy["maxRetryCount"],
        "duration": int(policy["backoffDuration"].removesuffix("s")),
        "factor": int(factor),
        "maxDuration": int(policy["backoffMaxDuration"].removesuffix("s")),
    }


def after_attempt(
    strategy: dict[str, Any], *, attempts: int, ended_at_s: float, phase: str, policy: str = STOCK
) -> Retry | str:
    """What follows the last of `attempts`, which ended so long after the first one's start: a retry, or why none."""
    deadline_s = strategy["maxDuration"]
    if ended_at_s > deadline_s:
        return "Max duration limit exceeded"
    wait_s = strategy["duration"] * strategy["factor"] ** (attempts - 1)
    if ended_at_s + wait_s > deadline_s:
        return "Backoff would exceed max duration limit"
    if phase == FAILED and policy == STOCK:
        return "Node not set to be retried"
    if attempts > strategy["limit"]:
        return "No more retries left"
    return Retry(wait_s, deadline_s)
