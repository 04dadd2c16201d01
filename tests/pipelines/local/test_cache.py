"""The store: digests of content, finished results, attempts cut short."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ir import Task
from pipelines.local.cache import Prepared, Store, content_digest, key_of, key_parts, stamps
from pipelines.local.task_files import Artifact, Outputs

TASK = Task(
    name="gen-trt-engine",
    image="x:1",
    command=("run", "{{$}}"),
    environment={},
    cacheable=True,
    gpus=0,
    parameters={},
    parameter_types={},
    artifacts={},
    output_parameters={},
    output_artifacts={"data": "system.Dataset"},
    needs=frozenset(),
)
TRAIN = replace(
    TASK,
    name="train",
    output_parameters={"mAP": "NUMBER_DOUBLE"},
    output_artifacts={"data": "system.Dataset", "metrics": "system.Metrics"},
)


def finished(store: Store) -> Path:
    folder = store.folder("train", "key")
    store.prepare(folder, TRAIN, afresh=False)
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "deep" / "a").write_text("a")
    (folder / "data" / "b").write_text("b")
    (folder / "metrics").write_text("{}")
    artifacts = {
        "data": Artifact(folder / "data", "system.Dataset", {"lines": ["hello"]}),
        "metrics": Artifact(folder / "metrics", "system.Metrics", {"mAP": 0.5}),
    }
    outputs = Outputs({"mAP": 0.5}, artifacts)
    store.finish(folder, outputs=outputs, parts={"spec": "1"}, seconds=3.0)
    return folder


def test_a_finished_result_is_found_again_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    result = store.look_up(folder, TRAIN)
    assert result is not None
    assert result.outputs.parameters == {"mAP": 0.5}
    assert result.outputs.lines == ["hello"]
    assert result.digests == {name: content_digest(folder / name) for name in ("data", "metrics")}
    assert result.seconds == 3.0
    assert [name for name, _, _ in stamps(folder / "data")] == ["b", "deep/a"]


def test_a_result_folder_that_was_moved_still_holds(tmp_path: Path) -> None:
    finished(Store(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    store = Store(tmp_path / "there")
    result = store.look_up(store.folder("train", "key"), TRAIN)
    assert result is not None
    assert result.outputs.artifacts["data"].path == tmp_path / "there" / "pipeline" / "train" / "key" / "data"


@pytest.mark.parametrize("damage", ["alter", "delete"])
def test_only_the_damaged_output_is_moved_aside_before_a_new_attempt(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    file = folder / "data" / "b"
    file.unlink() if damage == "delete" else file.write_text("other")
    assert store.look_up(folder, TRAIN) is None
    prepared = store.prepare(folder, TRAIN, afresh=False)
    assert (prepared.resumes, prepared.objection) == (False, "")
    assert (folder / "metrics").exists()
    assert not (folder / "data").exists()
    assert prepared.aside is not None
    assert prepared.aside.parent == folder
    assert (prepared.aside / "data" / "deep" / "a").read_text() == "a"
    assert [path.name for path in prepared.aside.iterdir()] == ["data"]


def test_what_was_set_aside_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    shutil.rmtree(folder / "data" / "deep")
    (folder / "metrics").unlink()
    prepared = store.prepare(folder, TRAIN, afresh=False)
    assert prepared.aside is not None
    assert store.prepare(folder, TRAIN, afresh=False) == Prepared(resumes=False, aside=None, objection="")
    assert (prepared.aside / "data" / "b").read_text() == "b"


def test_files_of_an_editor_or_a_desktop_are_no_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("train", "key")
    folder.mkdir(parents=True)
    for name in (".DS_Store", ".task.json.swp", "mlflow.json.damaged", "log.txt"):
        (folder / name).touch()
    assert not store.prepare(folder, TRAIN, afresh=False).resumes


def test_an_output_that_is_gone_altogether_leaves_nothing_to_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    shutil.rmtree(folder / "data")
    assert store.prepare(folder, TRAIN, afresh=False) == Prepared(resumes=False, aside=None, objection="")


def test_the_outputs_of_a_task_that_is_never_cached_are_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    assert store.prepare(folder, TRAIN, afresh=True) == Prepared(resumes=False, aside=None, objection="")
    assert [path.name for path in folder.iterdir()] == ["parameters"]


def test_a_file_that_no_stage_wrote_is_no_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    before = store.look_up(folder, TRAIN)
    (folder / "data" / "model.onnx").write_text("exported later")
    (folder / "data" / "deep" / "notes.txt").write_text("mine")
    assert before is not None
    assert store.look_up(folder, TRAIN) == before
    os.utime(folder / "data" / "b", (1, 1))  # the content decides, of the recorded files alone
    assert store.look_up(folder, TRAIN) == before


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Changes task.json; its text afterwards."""
    record = json.loads((folder / "task.json").read_text())
    change(record)
    text = json.dumps(record)
    (folder / "task.json").write_text(text)
    return text


def test_a_changed_path_touches_nothing_and_is_reported(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis").write_text("years")
    for number, path in enumerate([str(foreign), "../../../../foreign", "", ".", "..", "data/deep", "a\\b", "a\0b"]):
        store = Store(tmp_path / f"results {number}")
        folder = finished(store)
        text = changed(folder, lambda record, path=path: record["artifacts"]["data"].update(path=path, digest="1"))
        assert store.look_up(folder, TRAIN) is None
        prepared = store.prepare(folder, TRAIN, afresh=number % 2 == 1)
        assert prepared.objection == f"artifacts.data.path: found {path!r}, want a plain name"
        assert prepared.aside is not None
        assert (prepared.aside / "task.json").read_text() == text
        assert prepared.resumes == (number % 2 == 0)
        assert (folder / "data" / "b").read_text() == "b"
        assert (foreign / "thesis").read_text() == "years"


@pytest.mark.parametrize("target", ["foreign", "links in a circle"])
def test_a_link_that_leads_out_of_the_folder_is_no_output(tmp_path: Path, target: str) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    (folder / "data").rename(tmp_path / "foreign")
    (folder / "data").symlink_to(tmp_path / "foreign" if target == "foreign" else folder / "data")
    assert store.look_up(folder, TRAIN) is None
    prepared = store.prepare(folder, TRAIN, afresh=True)
    assert prepared.objection == "artifacts.data.path: data is a link that leads out of the folder"
    assert (tmp_path / "foreign" / "b").read_text() == "b"


def test_a_record_that_names_itself_as_an_output_is_no_traceback(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    changed(folder, lambda record: record["artifacts"]["data"].update(path="task.json"))
    store.prepare(folder, TRAIN, afresh=True)
    assert not (folder / "task.json").exists()


@pytest.mark.parametrize("name", ["/etc/hostname", "../metrics", "deep/../../metrics"])
def test_a_recorded_file_outside_its_artifact_is_not_read(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    changed(folder, lambda record: record["artifacts"]["data"].update(files=[[name, 1, 1]]))
    prepared = store.prepare(folder, TRAIN, afresh=False)
    assert (
        prepared.objection == f"artifacts.data.files.0: found [{name!r}, 1, 1], want the name of a file of the artifact"
    )


def test_a_task_json_that_was_cut_anywhere_is_no_finished_result(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    whole = (folder / "task.json").read_bytes().rstrip()
    for length in range(len(whole)):
        (folder / "task.json").write_bytes(whole[:length])
        assert store.look_up(folder, TRAIN) is None
        assert store.why_not_cached("train", {}) == ""
    prepared = store.prepare(folder, TRAIN, afresh=False)
    assert prepared.resumes
    assert prepared.objection.startswith("found no JSON: Expecting ',' delimiter at line ")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, entry in inner for place in places(entry, (*path, key)))]


@pytest.mark.parametrize("other", [None, 7, "text", [], {}, [[]], True])
def test_a_task_json_of_other_types_gives_no_traceback(tmp_path: Path, other: object) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    store.point_latest("train", folder)
    whole = (folder / "task.json").read_text()
    for place in places(json.loads(whole)):
        for leave_out in (False, True):
            record = {"": json.loads(whole)}
            *way, last = ("", *place)
            holder: Any = record
            for key in way:
                holder = holder[key]
            holder[last] = other
            if leave_out:
                del holder[last]
            (folder / "task.json").write_text(json.dumps(record.get("")))
            result = store.look_up(folder, TRAIN)
            store.why_not_cached("train", {})
            if result is not None:
                assert result.outputs.metrics.keys() <= {"mAP"}
                assert set(result.outputs.parameters) == {"mAP"}
                assert set(result.digests) == {"data", "metrics"}
                assert all(isinstance(line, str) for line in result.outputs.lines)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"", None])
def test_a_task_json_that_is_none_at_all_is_set_aside(tmp_path: Path, content: bytes | None) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    if content is None:
        (folder / "task.json").unlink()
        (folder / "task.json").mkdir()
    else:
        (folder / "task.json").write_bytes(content)
    assert store.look_up(folder, TRAIN) is None
    prepared = store.prepare(folder, TRAIN, afresh=False)
    assert prepared.objection
    assert prepared.aside is not None
    assert not (folder / "task.json").exists()
    assert (folder / "data" / "b").exists()


def test_an_attempt_resumes_what_an_interrupted_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("train", "key")
    assert not store.prepare(folder, TRAIN, afresh=False).resumes
    assert not store.prepare(folder, TRAIN, afresh=False).resumes  # the first wrote nothing
    (folder / "log.txt").write_text("started")
    assert not store.prepare(folder, TRAIN, afresh=False).resumes
    (folder / "model").mkdir()
    assert store.prepare(folder, TRAIN, afresh=False).resumes
    assert (folder / "model").exists()


def test_latest_leads_to_the_folder_of_the_last_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    store.point_latest("train", tmp_path)
    store.point_latest("train", folder)
    link = tmp_path / "latest" / "train"
    assert link.resolve() == folder
    assert str(link.readlink()) == "../pipeline/train/key"
    assert store.why_not_cached("train", {"spec": "2"}) == "changed: spec"
    assert store.why_not_cached("train", {"spec": "1", "code": "x"}) == "changed: code"
    assert store.why_not_cached("train", {"spec": "1"}) == "its outputs were changed or deleted"
    assert store.why_not_cached("evaluate", {"spec": "1"}) == ""


def test_a_key_has_every_part_of_what_decides_a_result() -> None:
    def key(**changed: dict[str, str]) -> str:
        given = {"parameters": {"spec": "a"}, "digests": {"data": "1"}, "code": {"code": "x"}, **changed}
        return key_of(TASK, key_parts(TASK, **given))  # type: ignore[arg-type]

    keys = [
        key(),
        key(parameters={"spec": "b"}),
        key(digests={"data": "2"}),
        key(code={"code": "y"}),
    ]
    assert len(set(keys)) == 4
    assert key() == keys[0]


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e"]), st.binary(max_size=8), min_size=1))
def test_a_digest_follows_names_and_contents_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for root, names in ((one, sorted(files)), (two, sorted(files, reverse=True))):
        for name in names:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(files[name])
            os.utime(root / name, (len(name), len(name)))
    assert content_digest(one) == content_digest(two)
    first = two / min(files)
    first.write_bytes(first.read_bytes() + b"!")
    assert content_digest(one) != content_digest(two)
    first.rename(first.with_name("renamed"))
    assert content_digest(one) != content_digest(two)
