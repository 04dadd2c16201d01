"""What a run of Kubeflow records of itself in MLflow, so that it can be repeated."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from components.entry import main
from reid.files.surroundings import CLUSTER, WHERE, as_tags
from reid.spec import Experiment, load_spec
from reid.stages.outcome import Outcome
from reid.stages.reproduce import differences_of_surroundings
from reid.stages.reproduced_run import read_run
from reid.tracking.stage_run import StageRun
from reid.tracking.store import KFP_RUN, connect
from tests.components.executor import listed


def test_a_run_on_a_cluster_keeps_its_spec_and_what_its_pods_have_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(spec: Experiment, *, report: Path, run: StageRun) -> Outcome:
        run.log_params({"data_fingerprint": "f1"})
        report.write_text("<html>")
        return Outcome({"images": 9.0})

    module = ModuleType("reid.stages.validate")
    module.validate = validate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reid.stages.validate", module)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.delenv("REID_WORK_DIR", raising=False)
    ports = {
        "inputs": {"parameterValues": {"spec": f"results_dir: {tmp_path}\nencryption_key: hush-hush\n"}},
        "outputs": {
            "artifacts": {"report": listed("report", str(tmp_path / "report"), "system.HTML")},
            "outputFile": str(tmp_path / "pod" / "output_metadata.json"),
        },
    }
    assert main(["validate", "--executor-input", json.dumps(ports)]) == 0
    client = connect(store)
    everywhere = [found.experiment_id for found in client.search_experiments()]
    (parent,) = client.search_runs(everywhere, f"tags.`{KFP_RUN}` = 'run-1' and attributes.run_name != 'validate'")
    (tmp_path / "scratch").mkdir()
    run = read_run(parent.info.run_id, scratch=tmp_path / "scratch")
    assert (run.on_a_cluster, run.data_fingerprint, run.numbers["validate"]) == (True, "f1", {"images": 9.0})
    assert load_spec(run.spec, warn=False).results_dir == str(tmp_path)
    assert "hush" not in run.spec.read_text()
    facts, notes = differences_of_surroundings(run)
    assert facts == []  # nor does anything count that an image does not have: a lock, a commit, a machine
    assert "the run was on a cluster: its machines are not known, and on another one the last bits may differ" in notes


def test_packages_that_an_image_lacks_are_no_difference_and_another_version_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reid.stages import reproduce, reproduced_run

    here = {"code_sha256": "c", "packages": "torch 2.14.1, tensorrt-rtx 1.7", "python": "3.11.7", "cpu": "a VAX"}
    monkeypatch.setattr(reproduce, "surroundings", lambda: dict(here))
    (tmp_path / "spec.yaml").write_text(f"results_dir: {tmp_path}\n")

    def differing(**facts: str) -> list[str]:
        known = {"code_sha256": "c", "packages": "torch 2.14.1", "python": "3.11.7", WHERE: CLUSTER, **facts}
        run = reproduced_run.RecordedRun("r", tmp_path / "spec.yaml", known, "", {}, in_mlflow=True)
        assert len(as_tags(known)) == len(known)
        return [fact.name for fact in differences_of_surroundings(run)[0] if fact.decides]

    assert differing() == []
    assert differing(packages="torch 2.13.0") == ["packages"]
    assert differing(packages="torch 2.14.1, scipy 1.18.0") == ["packages"]
    assert differing(code_sha256="d") == ["code_sha256"]
