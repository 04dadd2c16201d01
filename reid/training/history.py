"""The history of a training: a row for each epoch, and the file that holds them.

A row has epoch (from 0; -1 is the untrained network), step, train_loss and its parts, accuracy, gradient_norm,
learning_rate, images_per_second, seconds, on a GPU gpu_memory_gb (the most that was allocated there so far), and in
fp16 skipped_steps (those whose gradient overflowed; gradient_norm is the mean over the others). If the epoch was
validated it also has mAP, rank1, rank5, rank10, mINP, val_loss and validation_seconds; if that was done on held-out
persons (dataset.validation_persons), also validation_persons and validation_images, their numbers.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from reid.files.writing import replacing

Row = dict[str, float]

UNTRAINED = -1
"""The epoch of the untrained network's row."""


def best_row(history: Sequence[Row]) -> Row:
    """The row of the trained epoch with the highest mAP, the first of equals; empty if none was validated."""
    validated = [row for row in history if row["epoch"] != UNTRAINED and "mAP" in row]
    return max(validated, key=lambda row: row["mAP"], default={})


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """Writes history.json, one row a line."""
    rows = ",\n".join(json.dumps(row) for row in history)
    with replacing(folder / "history.json") as partial:
        partial.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def sentence(row: Row, *, is_best: bool) -> str:
    """An epoch's row in the words of the log."""
    parts = [f"loss {row['train_loss']:.3f}", f"{row['images_per_second']:.0f} images/s"]
    if "mAP" in row:
        parts[1:1] = [f"mAP {100 * row['mAP']:.1f}", f"rank-1 {100 * row['rank1']:.1f}"]
    return ", ".join(parts) + (" (best)" if is_best else "")
