"""Findings that cost much to find, kept beside the index of images: unchanged pictures are not compared again."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reid.data.file_index import is_text
from reid.data.findings import Finding
from reid.errors import ArtifactError
from reid.files.lineage import code_sha256
from reid.files.records import read_or_set_aside
from reid.files.writing import replacing

logger = logging.getLogger(__name__)


@dataclass
class _Known:
    about: str
    """Hash of all that the findings depend on."""
    findings: list[Finding]


def known_or_found(file: Path, *, about: Sequence[object], find: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings in the file if they were made `about` the same and by the same code; else those of `find`.

    about: what the findings depend on, as JSON can write it. The file only saves time: if it cannot be written that is
    a warning.
    """
    digest = hashlib.sha256(json.dumps([code_sha256(), *about]).encode()).hexdigest()
    known = read_or_set_aside(file, _Known)
    if known is not None and known.about == digest:
        return known.findings
    found = list(find())
    text = json.dumps({"about": digest, "findings": [asdict(one) for one in found]}, default=str, ensure_ascii=False)
    if not is_text(text):  # it names a file of bytes that are no UTF-8
        return found
    try:
        with replacing(file) as partial:
            partial.write_text(text, encoding="utf-8")
    except ArtifactError as error:
        logger.warning("the next run compares all pictures again: %s", error)
    return found
