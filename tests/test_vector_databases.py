"""The lines of docs/search.md that load embeddings into a vector database, run as they stand there."""

from pathlib import Path

import numpy as np
import pytest

from reid.embedding_files.rows import About, blocks_of
from reid.embedding_files.writing import write_embeddings
from reid.embeddings import Embeddings
from tests.documents import ROOT, blocks
from tests.postgres import postgres, vector_is_here

SEARCH = ROOT / "docs" / "search.md"
DATABASES = {
    "psycopg2": '"postgresql://user@localhost/persons"',
    "qdrant_client": 'QdrantClient(url="http://localhost:6333")',
    "pymilvus": 'MilvusClient("http://localhost:19530")',
}
"""Module -> the place in its lines that names the server."""


def lines_of(module: str) -> str:
    """The lines of the page that begin with the import of a module."""
    return next(text for text in blocks(SEARCH, "py") if text.startswith((f"import {module}", f"from {module}")))


def some_crops(path: Path) -> Embeddings:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 24)).astype(np.float32)
    rows = Embeddings([f"/d/{row}.jpg" for row in range(300)], np.arange(300), np.arange(300) % 6 + 1, vectors)
    write_embeddings(path, blocks_of({"gallery": rows}), rows=300, width=24, about=About())
    return rows


@pytest.mark.parametrize("module", DATABASES)
def test_the_lines_are_python_and_read_the_file_that_we_write(module, tmp_path, monkeypatch):
    some_crops(tmp_path / "crops.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(lines_of("pyarrow"), names)
    assert names["width"] == 24
    assert len(names["query"]) == 24  # type: ignore[arg-type]
    assert DATABASES[module] in lines_of(module)
    compile(lines_of(module), str(SEARCH), "exec")


@pytest.mark.slow
@pytest.mark.skipif(not vector_is_here(), reason="no PostgreSQL with pgvector here; .ci/run installs one")
def test_pgvector_finds_what_an_exact_search_finds(tmp_path, monkeypatch):
    rows = some_crops(tmp_path / "crops.parquet")
    monkeypatch.chdir(tmp_path)
    unit = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    cosine = unit @ unit[0]
    names: dict[str, object] = {}
    with postgres(vector=True) as address:
        server = address.replace("postgresql+psycopg2", "postgresql")
        exec(lines_of("pyarrow") + lines_of("psycopg2").replace(DATABASES["psycopg2"], f'"{server}"'), names)
    hits = names["hits"]
    assert isinstance(hits, list)
    assert [path for path, _ in hits] == [rows.paths[row] for row in np.argsort(-cosine, kind="stable")[:10]]
    assert [similarity for _, similarity in hits] == pytest.approx(np.sort(cosine)[::-1][:10], abs=1e-6)
