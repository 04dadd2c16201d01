import logging
import os
from pathlib import Path

import pytest

from reid.stages.work_folder import EMPTIES, empty_for, work_folder
from reid.training.compile_cache import keep_compiled_code


def test_compiled_code_is_kept_on_the_work_volume_and_outlives_a_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path))
    monkeypatch.setenv("KFP_RUN_ID", "a-run")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled_code()
    kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert kept == tmp_path / "compiled"
    work = work_folder("train")
    assert work and kept not in (work, *work.parents) and work not in kept.parents
    work.mkdir(parents=True)
    empty_for(next(stage for stage, emptied in EMPTIES.items() if emptied == "train"))
    assert not work.exists() and kept.is_dir()


@pytest.mark.parametrize("environment", [{}, {"REID_WORK_DIR": "/volume", "TORCHINDUCTOR_CACHE_DIR": "/mine"}])
def test_without_a_volume_or_with_a_folder_that_is_named_nothing_changes(environment):
    before = dict(environment)
    keep_compiled_code(environment)
    assert environment == before


def test_a_volume_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    environment = {"REID_WORK_DIR": str(tmp_path / "file")}
    with caplog.at_level(logging.WARNING):
        keep_compiled_code(environment)
    assert "TORCHINDUCTOR_CACHE_DIR" not in environment
    assert caplog.messages == [f"{tmp_path}/file/compiled: Not a directory; the next training compiles again"]
