"""Plays the pods of one run of Kubeflow Pipelines as MLflow sees them, one after the other in this process.

    KFP_RUN_ID=… MLFLOW_TRACKING_URI=… python -m tests.tracking_pod FOLDER STAGE…

`STAGE!` fails at its first attempt and is retried in a fresh folder, as in a fresh pod.
"""

import contextlib
import sys
from pathlib import Path

from reid.tracking.stage_run import stage_run


def attempt(stage: str, folder: Path, *, fails: bool) -> None:
    """Plays one pod."""
    with stage_run(stage, folder, experiment="cluster", first=stage == "validate") as run:
        if stage == "validate":
            spec = folder / "spec.yaml"
            spec.write_text("re_ranking: {k1: 20}\n")
            run.describe_pipeline(params={"re_ranking": {"k1": 20}}, tags={"mlflow.runName": "the third"}, spec=spec)
        for step in range(1, 21):
            run.log_metrics({"loss": 1 / step}, step)
        if fails:
            raise OSError("the node is gone")
        run.log_outcome({"mAP": 0.5})


def main(folder: Path, stages: list[str]) -> None:
    """Plays one stage after the other."""
    for stage in stages:
        name = stage.removesuffix("!")
        if stage != name:
            with contextlib.suppress(OSError):
                attempt(name, folder / f"{name}-0", fails=True)
        attempt(name, folder / f"{name}-1", fails=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
