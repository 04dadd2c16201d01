import threading
from pathlib import Path

import pytest
import torch

from reid.errors import ArtifactError, KeyRefused
from reid.model.checkpoint import load_model
from reid.model.safe_files import read_file
from reid.training.resume import (
    DurableCheckpoints,
    epoch_file,
    give_name,
    newest_checkpoint,
    read_training_checkpoint,
    write_checkpoint,
)


def write(path: Path, epoch: int = 0, **changes: object) -> Path:
    """A checkpoint with all that a training goes on from, and nothing in it."""
    entry = {"format": 1, "model": {}, "contract": "", "persons": []}
    parts = {"state_dict": {}, "global_step": 0, "optimizer_states": [], "reid": entry, "training": {}}
    write_checkpoint({"epoch": epoch, **parts} | changes, path)
    return path


def test_epochs_are_named_as_the_published_tool_names_them():
    assert epoch_file(0) == "model_epoch_000.pth"
    assert epoch_file(1000) == "model_epoch_1000.pth"


def test_a_checkpoint_is_written_whole_and_leaves_no_other_file(tmp_path):
    path = write(tmp_path / "model" / "a.pth", epoch=4)
    write(path, epoch=5)
    assert [file.name for file in path.parent.iterdir()] == ["a.pth"]
    assert DurableCheckpoints().load_checkpoint(path)["epoch"] == 5


def test_what_a_killed_attempt_left_is_no_checkpoint_and_is_overwritten(tmp_path):
    (tmp_path / "a.pth.partial").write_bytes(b"half")
    write(tmp_path / "a.pth", epoch=2)
    assert DurableCheckpoints().load_checkpoint(tmp_path / "a.pth")["epoch"] == 2
    assert not (tmp_path / "a.pth.partial").exists()


def test_a_checkpoint_holds_what_was_at_its_save_whatever_the_training_does_meanwhile(tmp_path):
    weights, history = torch.zeros(3), [{"epoch": 0}]
    checkpoints = DurableCheckpoints()
    hold = threading.Event()
    checkpoints.then(hold.wait)  # as if the disk were slow
    saving = threading.Timer(0.2, hold.set)
    saving.start()
    checkpoints.save_checkpoint({"weights": weights, "history": history}, tmp_path / "a.pth")
    weights += 1
    history.append({"epoch": 1})
    checkpoints.then(lambda: give_name(tmp_path / "a.pth", "latest.pth"))
    checkpoints.wait()
    kept = read_file(tmp_path / "latest.pth")
    assert kept["weights"].tolist() == [0, 0, 0]
    assert kept["history"] == [{"epoch": 0}]


def test_a_checkpoint_that_cannot_be_written_is_told_and_gets_no_name(tmp_path):
    write(tmp_path / "latest.pth", epoch=1)
    (tmp_path / "a.pth").mkdir()
    checkpoints = DurableCheckpoints()
    checkpoints.save_checkpoint({"epoch": 2}, tmp_path / "a.pth")
    checkpoints.then(lambda: give_name(write(tmp_path / "b.pth", epoch=3), "latest.pth"))
    with pytest.raises(ArtifactError, match=r"a\.pth: cannot be written"):
        checkpoints.wait()
    assert read_file(tmp_path / "latest.pth")["epoch"] == 1


def test_a_name_moves_from_file_to_file_and_can_be_given_twice(tmp_path):
    first, second = write(tmp_path / "first.pth", 1), write(tmp_path / "second.pth", 2)
    for source, epoch in ((first, 1), (second, 2), (second, 2)):
        latest = give_name(source, "latest.pth")
        assert torch.load(latest, weights_only=True)["epoch"] == epoch
    assert {file.name for file in tmp_path.iterdir()} == {"first.pth", "second.pth", "latest.pth"}
    assert second.stat().st_ino == (tmp_path / "latest.pth").stat().st_ino


def test_the_newest_epoch_counts_by_its_number_and_other_files_do_not(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for epoch in (998, 1000, 999):
        write(tmp_path / epoch_file(epoch), epoch)
    (tmp_path / "model_epoch_old.pth").write_bytes(b"")
    assert newest_checkpoint(tmp_path).path == tmp_path / "model_epoch_1000.pth"
    assert newest_checkpoint(tmp_path).epochs_done == 1001


def test_a_model_without_its_training_cannot_be_continued(tmp_path):
    torch.save({"state_dict": {}, "reid": {}}, tmp_path / "model.pth")
    with pytest.raises(ArtifactError) as error:
        read_training_checkpoint(tmp_path / "model.pth")
    assert str(error.value) == (
        f"{tmp_path / 'model.pth'}: holds no training to continue\n  want: a checkpoint of this project's train stage"
    )


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"epoch": "5"}, "  found: epoch '5'\n  want:  int, as this project's train stage writes it"),
        ({"training": [1]}, "  found: training [1]\n  want:  dict, as this project's train stage writes it"),
        (
            {"training": {"position": "12"}},
            "  found: position '12'\n  want:  the numbers of whole epochs and of steps after them",
        ),
    ],
)
def test_a_training_of_other_types_cannot_be_continued(tmp_path, changes, found):
    path = write(tmp_path / "model.pth", **changes)
    with pytest.raises(ArtifactError) as error:
        read_training_checkpoint(path)
    assert str(error.value) == f"{path}: holds no training to continue\n{found}"


def test_a_locked_folder_is_not_started_over(tmp_path, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    latest = write(tmp_path / "reid_model_latest.pth", epoch=3)
    assert newest_checkpoint(tmp_path).epochs_done == 4
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open barley")
    with pytest.raises(KeyRefused) as error:
        newest_checkpoint(tmp_path)
    assert str(error.value) == f"{latest}: the key is not the one it was encrypted with, or the file was changed"


def test_a_plain_file_in_the_place_of_an_encrypted_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("REID_ENCRYPTION_KEY", raising=False)
    latest = write(tmp_path / "reid_model_latest.pth", epoch=3)
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    for read in (read_training_checkpoint, load_model):
        with pytest.raises(KeyRefused) as error:
            read(latest)
        assert str(error.value) == (
            f"{latest}: not encrypted, and an encryption key is given\n  want: a file that was encrypted with the key; "
            "or, if the file is trusted, REID_ACCEPT_PLAIN_MODELS=1"
        )
    with pytest.raises(KeyRefused):  # nor is the training started over
        newest_checkpoint(tmp_path)
