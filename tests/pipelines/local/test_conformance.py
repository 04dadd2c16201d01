"""The same compiled pipeline through kfp's own DockerRunner and through ours, as containers and as processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.run_report import RunReport
from tests.docker_daemon import docker_daemon, python_image  # noqa: F401 - a fixture
from tests.pipelines.mini import STAGES, MiniRepository

WITH_KFP = """
import sys
import docker
from kfp import components, local

repository, results = sys.argv[1:]
mount = docker.types.Mount(repository, repository, type="bind")
local.init(
    runner=local.DockerRunner(mounts=[mount], environment={"PYTHONPATH": repository}), pipeline_root=results
)
components.load_component_from_file(f"{repository}/mini.yaml")(make_spec='{"text": "a"}')
"""


@pytest.mark.slow
def test_kfps_docker_runner_and_both_of_this_project_give_the_same(docker_daemon: None, tmp_path: Path) -> None:  # noqa: F811
    contained = MiniRepository(tmp_path / "repo", tmp_path / "contained", containers=True).write(python_image())
    processed = MiniRepository(tmp_path / "repo", tmp_path / "processed")
    command = [sys.executable, "-c", WITH_KFP, str(contained.root), str(tmp_path / "kfp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = {path.name: path for path in (tmp_path / "kfp").glob("*/*")}
    for report in (contained.run(make={"text": "a"}), processed.run(make={"text": "a"})):
        folders = {stage: task.folder for stage, task in report.tasks.items() if task.folder}
        assert set(folders) == set(reference) == set(STAGES)
        for stage, folder in folders.items():
            assert given(folder) == given(reference[stage])
        assert parameter(report) == float((reference["make"] / "score").read_text())


def given(folder: Path) -> dict[str, Any]:
    """What a task gave: artifact -> its metadata and the content of its files."""
    written = json.loads((folder / "executor_output.json").read_text())
    artifacts = {name: listed["artifacts"][0] for name, listed in written["artifacts"].items()}
    return {
        name: (entry["metadata"], {file.name: file.read_text() for file in Path(entry["uri"]).glob("*")})
        for name, entry in artifacts.items()
    }


def parameter(report: RunReport) -> object:
    return report.tasks["make"].outputs.parameters["score"]
