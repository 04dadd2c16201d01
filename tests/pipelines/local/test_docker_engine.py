"""What is said where there is no Docker, or no daemon."""

import os
from pathlib import Path

import pytest

from pipelines.local.docker_engine import engine
from reid.errors import PipelineError


def test_without_docker_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PipelineError) as caught:
        engine()
    assert str(caught.value) == (
        "RUNNER=docker: no `docker` command here\n  want: Docker on PATH; RUNNER=process needs no containers"
    )


@pytest.mark.parametrize(
    "script",
    ['echo "Cannot connect to the daemon" >&2; exit 1', 'echo \'{"ServerErrors": ["Cannot connect to the daemon"]}\''],
    ids=["new client", "old client"],
)
def test_a_daemon_that_does_not_answer_is_reported(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PipelineError) as caught:
        engine()
    assert str(caught.value) == (
        "RUNNER=docker: the Docker daemon does not answer\n  found: Cannot connect to the daemon\n"
        "  want:  a running daemon that this user may use; RUNNER=process needs no containers"
    )
