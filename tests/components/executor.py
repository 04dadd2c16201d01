"""What a runner starts a stage with, for the tests of the entry."""

import json
from pathlib import Path
from typing import Any

from components.entry import main


def listed(name: str, uri: str, schema: str, **more: str) -> dict[str, Any]:
    """An output artifact as KFP's driver lists it: named as its port, without metadata."""
    kind = {"schemaTitle": schema, "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": name, "type": kind, "uri": uri, **more}]}


def taken(name: str, uri: str) -> dict[str, Any]:
    """An input artifact as KFP's driver lists it: named by its id in ML Metadata, of a type that says nothing."""
    session = {"Provider": "minio", "Params": {"fromEnv": "false", "endpoint": "minio-service.kubeflow:9000"}}
    metadata = {"display_name": name, "store_session_info": json.dumps(session), "lines": {"list": ["13 images"]}}
    return {"artifacts": [{"name": "17", "type": {"instanceSchema": ""}, "uri": uri, "metadata": metadata}]}


EXECUTOR_LOGS = {
    "executor-logs": {
        "artifacts": [
            {
                "name": "executor-logs",
                "type": {"schemaTitle": "system.Artifact"},
                "uri": "minio://mlpipeline/v2/artifacts/person-reid/5f0c/evaluate/9d41/executor-logs-0",
            }
        ]
    }
}
"""What the driver of KFP 2.17 adds to the outputs of every task, unless the cluster sets PUBLISH_LOGS=false.

The launcher ends the address with the number of the attempt.
"""


def executor_input(folder: Path, spec: str = "results_dir: /r\n") -> str:
    """What the launcher of KFP 2.17 starts the evaluate stage with, in a folder of this machine."""
    of_resources = {"accelerator_count": "0", "pipelinechannel--embedding_gpus": "0"}
    ports = {
        "inputs": {
            "parameterValues": {"spec": spec, "fingerprint": "f1", **of_resources},
            "artifacts": {
                "dataset": taken("dataset", str(folder / "dataset")),
                "model": taken("model", str(folder / "model")),
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
