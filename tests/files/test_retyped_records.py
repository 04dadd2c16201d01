"""Each record of the product, cut at any byte or with any value retyped: its reader reads it, or raises a ReidError."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.entry import read_ports
from components.nodes.files import errors_of, outcome_of, read_request
from components.nodes.settings import Nodes
from pipelines.ir import Task
from pipelines.local.cache import Store
from pipelines.local.run_record import close_killed_runs
from pipelines.local.task_files import read_outputs
from reid.contract import Contract
from reid.data.fetch import _check_stamp
from reid.data.file_index import VERSION, ImageFacts, _load
from reid.data.market1501 import Manifest
from reid.deploy.build_record import BuildRecord, Profile, read_record
from reid.drawn.dataset import _read_stamp
from reid.errors import ReidError
from reid.files.hashes import file_sha256
from reid.files.locks import _read_holder
from reid.stages.earlier_results import Build, Figures, Parity, read_earlier
from reid.stages.outcome import Outcome
from reid.thresholds import Threshold, Thresholds
from reid.tracking.journal import Address, Journal

OTHERS = (
    None,
    [],
    {},
    "",
    -1,
    0,
    True,
    0.5,
    10**40,
    float("inf"),
    "x" * 5000,
    [[]],
    {"a": 1},
    "\0",
    "../..",
    "\x1b[2J",
)
TASK = Task(
    name="train",
    image="",
    command=(),
    environment={},
    cacheable=True,
    gpus=0,
    parameters={},
    parameter_types={},
    artifacts={},
    output_parameters={"mAP": "NUMBER_DOUBLE", "name": "STRING"},
    output_artifacts={"model": "system.Model", "metrics": "system.Metrics"},
    needs=frozenset(),
)
LISTED = {"artifacts": [{"name": "model", "uri": "/m", "type": {"schemaTitle": "system.Model"}, "metadata": {}}]}
SPLIT = {"root": "/data", "images": [["a.jpg", 1, 2]]}
CONTRACT = asdict(Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16))


@dataclass(frozen=True)
class Kind:
    """A record: the file's name, its sound content, and what reads it from the folder that holds it."""

    file: str
    content: Any
    read: Callable[[Path], object]
    lines: bool = False


def _read_lock(folder: Path) -> object:
    descriptor = os.open(folder / ".lock", os.O_RDONLY)
    try:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _read_journal(folder: Path) -> object:
    journal = Journal(folder)
    journal.append_metrics({"loss": 1.0}, 1)
    journal.close()
    return journal.after(0)[0], journal.has_curve("loss")


def _read_engine(folder: Path) -> object:
    (folder / "model.engine").write_bytes(b"plan")
    record = read_record(folder / "model.engine")
    return record.preprocessing, record.known_thresholds


def _store(folder: Path) -> object:
    store = Store(folder.parent)
    found = store.look_up(folder, TASK)
    if found:
        assert all(isinstance(value, float) for value in found.outputs.metrics.values())
        assert all(isinstance(line, str) for line in found.outputs.lines)
    return store.prepare(folder, TASK, afresh=len(list(folder.iterdir())) % 2 == 0)


def _outputs(folder: Path) -> object:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "metrics").write_text("{}")
    outputs = read_outputs(TASK, folder, {})
    return outputs.metrics, outputs.lines


MADE = {"path": "model", "schema": "system.Model", "metadata": {"lines": ["a"]}, "digest": "d", "files": [["a", 1, 2]]}
MEASURED = Thresholds((Threshold("1e-3", 0.001, 0.5, 0.9, 0.001),), "9 images", 10, 20)
KINDS = {
    "run": Kind(
        "runs.json",
        {"state": "running", "stages": {"train": {"state": "running", "seconds": 1.0}}},
        close_killed_runs,
    ),
    "task": Kind(
        "task.json",
        {
            "seconds": 1.5,
            "key_parts": {"spec": "a"},
            "parameters": {"mAP": 0.5, "name": "n"},
            "artifacts": {
                "model": MADE,
                "metrics": MADE | {"path": "metrics", "schema": "system.Metrics", "metadata": {"mAP": 0.5}},
            },
        },
        _store,
    ),
    "executor output": Kind(
        "executor_output.json",
        {
            "parameterValues": {"mAP": 0.5, "name": "n"},
            "artifacts": {
                "model": {"artifacts": [{"name": "model", "uri": "/m", "metadata": {"lines": ["a"]}}]},
                "metrics": {"artifacts": [{"metadata": {"mAP": 0.5}}]},
            },
        },
        _outputs,
    ),
    "executor input": Kind(
        "input",
        {
            "inputs": {"parameterValues": {"spec": "a"}, "artifacts": {"dataset": LISTED}},
            "outputs": {
                "parameters": {"mAP": {"outputFile": "/o"}},
                "artifacts": {"model": LISTED},
                "outputFile": "/out",
            },
        },
        lambda folder: read_ports((folder / "input").read_text(encoding="utf-8", errors="surrogateescape")),
    ),
    "address": Kind(
        "mlflow.json",
        asdict(Address("http://store", "train", "a", "b", sent={"a": 12}, before={"a": {"loss": 3}})),
        Address.load,
    ),
    "journal": Kind(
        "mlflow.jsonl",
        [
            {"metrics": {"loss": 1.0}, "step": 1, "time": 2},
            {"dataset": {"name": "n", "digest": "d", "source_type": "local", "source": "{}"}, "time": 1},
            {"params": {"a": "b"}, "parent": True},
            {"artifact": "/a", "folder": None},
            {"end": "FINISHED", "time": 3},
        ],
        _read_journal,
        lines=True,
    ),
    "lock": Kind(".lock", {"user": "train", "pid": 12, "host": "h", "since": "now"}, _read_lock),
    "index": Kind(
        "index.json",
        {"version": VERSION, "files": {"/a.jpg": [[1, 2, 3], asdict(ImageFacts("0" * 64, 9, 1, 2, "RGB", "JPEG"))]}},
        lambda folder: _load(folder / "index.json"),
    ),
    "source": Kind("source.json", {"sha256": "0" * 64, "url": "u"}, lambda folder: _check_stamp(folder, "0" * 64)),
    "drawn": Kind("synthetic.json", {"persons": 3, "seed": 1}, _read_stamp),
    "manifest": Kind(
        "dataset",
        {
            "fingerprint": "f",
            **dict.fromkeys(("train", "query", "gallery"), SPLIT),
            "train_sets": [["one", 0, 6, 0.5]],
            "test_sets": [{"name": "t", "fingerprint": "f", "query": SPLIT, "gallery": SPLIT}],
            "trained_on": ["main"],
        },
        lambda folder: Manifest.load(folder / "dataset"),
    ),
    "build": Kind(
        "build.json",
        asdict(
            BuildRecord(
                True,
                None,
                "o",
                CONTRACT,
                "FP16",
                Profile(1, 2, 3),
                64,
                engine_sha256="",
                targets=["8.0"],
                speed=[{"batch_size": 1, "images_per_second": 5.0}],
                thresholds=json.loads(MEASURED.to_json()),
            )
        ),
        _read_engine,
    ),
    "metrics": Kind(
        "metrics.json",
        {"headline": "plain", "mAP": 0.5, "rank1": 0.5, "reranked_mAP": 0.5, "reranked_rank1": 0.5},
        lambda folder: read_earlier(folder / "metrics.json", Figures),
    ),
    "parity": Kind(
        "parity.json",
        {
            "checkpoint": "c",
            "checkpoint_sha256": "c",
            "onnx_sha256": "o",
            "passed": True,
            "worst_cosine": 1.0,
            "images": 9,
        },
        lambda folder: read_earlier(folder / "parity.json", Parity),
    ),
    "build of register": Kind(
        "build.json",
        {"built": True, "onnx_sha256": "o", "parity": {"passed": True}, "speed": [], "reason": None},
        lambda folder: read_earlier(folder / "build.json", Build),
    ),
    "thresholds": Kind(
        "thresholds.json",
        json.loads(MEASURED.to_json()),
        lambda folder: Thresholds.from_json((folder / "thresholds.json").read_text(errors="replace")),
    ),
    "request": Kind("request.json", {"spec": "a"}, lambda folder: read_request(folder / "request.json")),
    "end": Kind(
        "nodes/0.json",
        {"outcome": asdict(Outcome({"mAP": 0.5}, {"a": 1}, ["l"], {"p": {}})), "exit_status": 2, "error": "e"},
        lambda folder: (outcome_of(folder), errors_of(folder)),
    ),
    "nodes": Kind(
        "nodes",
        {"count": 2, "gpus": 1, "runtime": "r", "resources": {"a": {"b": "c"}}, "node_selector": {"a": "b"}},
        lambda folder: Nodes.from_environment({"REID_NODES": (folder / "nodes").read_text(errors="replace")}),
    ),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in inner for place in places(entry, (*path, key)))]


def replaced(content: Any, place: tuple[Any, ...], other: object) -> Any:
    """The document with another value at this place."""
    whole = {"": copy.deepcopy(content)}
    *way, last = ("", *place)
    holder: Any = whole
    for key in way:
        holder = holder[key]
    holder[last] = other
    return whole[""]


def text_of(kind: Kind, content: Any) -> bytes:
    """The file's bytes."""
    if kind.lines and isinstance(content, list):
        return "".join(json.dumps(line) + "\n" for line in content).encode()
    return json.dumps(content).encode()


def read_or_refuse(kind: Kind, folder: Path, content: bytes) -> bool:
    """Whether the reader takes these bytes; any exception that is no ReidError passes through."""
    file = folder / kind.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    if kind.file == "build.json":
        content = content.replace(b'"engine_sha256": ""', b'"engine_sha256": "' + PLAN.encode() + b'"')
        file.write_bytes(content)
    try:
        kind.read(folder)
    except ReidError:
        return False
    return True


PLAN = "0" * 64


@pytest.fixture(autouse=True)
def plan_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan").write_bytes(b"plan")
    monkeypatch.setitem(globals(), "PLAN", file_sha256(tmp_path / "plan"))


@pytest.mark.parametrize("name", KINDS)
def test_a_sound_record_is_read(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    assert read_or_refuse(kind, tmp_path / "key", text_of(kind, kind.content))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_record_that_was_cut_or_retyped_gives_no_other_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = data.draw(st.sampled_from(sorted(KINDS)))
    kind = KINDS[name]
    whole = text_of(kind, kind.content)
    if data.draw(st.booleans()):
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.sampled_from(places(kind.content)))
        content = text_of(kind, replaced(kind.content, place, data.draw(st.sampled_from(OTHERS))))
    read_or_refuse(kind, tmp_path_factory.mktemp("record") / "key", content)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_value_of_every_record_retyped_and_every_cut(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    whole = text_of(kind, kind.content)
    contents = [whole[:length] for length in range(0, len(whole), 3)]
    contents += [
        text_of(kind, replaced(kind.content, place, other)) for place in places(kind.content) for other in OTHERS
    ]
    contents += [b"[" * 500_000, b"\xff", b"{}", b"null", b'{"a": 1e999}', b'{"a": ' + b"9" * 5000 + b"}"]
    for number, content in enumerate(contents):
        read_or_refuse(kind, tmp_path / str(number) / "key", content)
