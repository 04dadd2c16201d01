"""Room on a disk is asked for before the work."""

import shutil
from pathlib import Path

import pytest

from reid.errors import ArtifactError
from reid.files.room import require_room


def test_a_disk_without_room_is_an_error_that_says_how_much_is_wanted(tmp_path: Path) -> None:
    require_room(tmp_path / "new" / "file", 1, purpose="for a file")
    wanted = shutil.disk_usage(tmp_path).total + (1 << 40)
    with pytest.raises(ArtifactError) as caught:
        require_room(tmp_path / "new" / "file", wanted, purpose="for a file", advice="free some")
    first, found, want = str(caught.value).splitlines()
    assert first == f"{tmp_path}/new/file: no room for a file"
    assert found.startswith("  found: ")
    assert found.endswith(" MiB free")
    assert want == f"  want:  {wanted >> 20:,} MiB; free some"
