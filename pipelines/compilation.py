"""Writes the compiled pipeline into a file."""

from pathlib import Path

from pipelines.cluster.resources import Resources
from pipelines.reid_pipeline import compiled
from reid.files.writing import write_text


def compile_pipeline(path: Path, *, resources: Resources | None = None, spec_text: str | None = None) -> None:
    """Writes the compiled pipeline, the same bytes for the same arguments and image names."""
    write_text(path, compiled(resources=resources, spec_text=spec_text))
