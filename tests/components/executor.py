"""What a runner starts a stage with, for the tests of the entry."""

import json
from pathlib import Path
from typing import Any

from components.entry import main


def listed(name: str, uri: str, schema: str, **more: str) -> dict[str, Any]:
    kind = {"schemaTitle": schema, "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": f"{name}-17", "type": kind, "uri": uri, "metadata": {}, **more}]}


EXECUTOR_LOGS = {
    "executor-logs": {
        "artifacts": [
            {
                "name": "executor-logs",
                "type": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"},
                "uri": "minio://mlpipeline/v2/artifacts/person-reid/5f0c/evaluate/9d41/executor-logs",
                "metadata": {},
            }
        ]
    }
}
"""What the driver of KFP 2.17 adds to the outputs of every task, unless the cluster sets PUBLISH_LOGS=false."""


def executor_input(folder: Path, spec: str = "results_dir: /r\n") -> str:
    """What a runner starts the evaluate stage with."""
    ports = {
        "inputs": {
            "parameterValues": {"spec": spec, "fingerprint": "f1"},
            "artifacts": {
                "dataset": listed("dataset", str(folder / "dataset"), "system.Dataset"),
                "model": listed("model", str(folder / "model"), "system.Model"),
            },
        },
        "outputs": {
            "parameters": {"mAP": {"outputFile": str(folder / "out" / "mAP")}},
            "artifacts": {
                "metrics": listed("metrics", str(folder / "out" / "metrics"), "system.Metrics"),
                "results": listed("results", str(folder / "out" / "results"), "system.Artifact"),
                "report": listed("report", str(folder / "out" / "report"), "system.HTML"),
                **EXECUTOR_LOGS,
            },
            "outputFile": str(folder / "kfp_outputs" / "output_metadata.json"),
        },
    }
    return json.dumps(ports)


def start(folder: Path, **options: str) -> int:
    return main(["evaluate", "--executor-input", executor_input(folder, **options)])
