"""What a compiled pipeline tells the train stage about a training on several nodes, in one environment variable.

The pod of the train stage only submits such a training and follows it: it has no GPU and little memory. So the size of
a node's pod cannot be read from it, and travels here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from reid.files.records import read_json_text

ENVIRONMENT = "REID_NODES"
"""Set in the train stage, and in validate, which refuses a form that asks for something else."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a training, all of one size."""

    count: int
    gpus: int = 0
    """GPUs of each node; 0: it trains on CPUs."""
    runtime: str = "torch-distributed"
    """The TrainingRuntime of the namespace, or the ClusterTrainingRuntime, that the TrainJob names."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Requests and limits of each node, GPUs included, as Kubernetes writes them."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of the machines that a node may run on, in addition to those of the train stage."""

    def as_text(self) -> str:
        """The value of the environment variable."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Nodes | None":
        """The nodes for which this pipeline was compiled; None if it was compiled for a training in one pod."""
        text = environment.get(ENVIRONMENT)
        return read_json_text(text, cls, source=ENVIRONMENT) if text else None

    def refusal(self, num_nodes: int, parameters: Mapping[str, Any]) -> str:
        """What a spec or the form's parameter `gpus` asks for that this pipeline was not compiled for; "" if nothing.

        Kubernetes reads the size of a node from the TrainJob, so both numbers are fixed when the pipeline is compiled.
        """
        if num_nodes != self.count:
            return f"train.num_nodes: {num_nodes}; this pipeline was compiled for {self.count} nodes"
        asked = str(parameters.get("gpus", self.gpus or "")).strip() or "0"
        if asked != str(self.gpus):
            return f"pipeline parameter gpus: {asked}; this pipeline was compiled for {self.gpus} GPUs in each node"
        return ""
