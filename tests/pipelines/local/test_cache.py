"""The store: digests of content, finished results, attempts cut short."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ir import Task
from pipelines.local.cache import Store, content_digest, key_of, key_parts, stamps
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


def finished(store: Store) -> Path:
    folder = store.folder("train", "key")
    store.prepare(folder, afresh=False)
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "data" / "deep" / "a").write_text("a")
    (folder / "data" / "b").write_text("b")
    outputs = Outputs({"mAP": 0.5}, {"data": Artifact(folder / "data", "system.Dataset", {"lines": ["hello"]})})
    store.finish(folder, outputs=outputs, parts={"spec": "1"}, seconds=3.0)
    return folder


def test_a_finished_result_is_found_again_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = finished(store)
    result = store.look_up(folder)
    assert result is not None
    assert result.outputs.parameters == {"mAP": 0.5}
    assert result.outputs.lines == ["hello"]
    assert result.digests == {"data": content_digest(folder / "data")}
    assert result.seconds == 3.0
    assert [name for name, _, _ in stamps(folder / "data")] == ["b", "deep/a"]


def test_a_result_folder_that_was_moved_still_holds(tmp_path: Path) -> None:
    finished(Store(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    store = Store(tmp_path / "there")
    result = store.look_up(store.folder("train", "key"))
    assert result is not None
    assert result.outputs.artifacts["data"].path == tmp_path / "there" / "pipeline" / "train" / "key" / "data"


def test_only_the_damaged_output_is_removed_before_a_new_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("train", "key")
    store.prepare(folder, afresh=False)
    for name in ("model", "report"):
        (folder / name).write_text(name)
    artifacts = {name: Artifact(folder / name, "system.Artifact") for name in ("model", "report")}
    store.finish(folder, outputs=Outputs({}, artifacts), parts={}, seconds=1.0)
    (folder / "report").write_text("other")
    assert store.look_up(folder) is None
    assert store.prepare(folder, afresh=False) is False
    assert (folder / "model").exists()
    assert not (folder / "report").exists()


def test_an_attempt_goes_on_with_what_an_interrupted_one_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("train", "key")
    assert store.prepare(folder, afresh=False) is False
    assert store.prepare(folder, afresh=False) is False  # the first wrote nothing
    (folder / "log.txt").write_text("started")
    assert store.prepare(folder, afresh=False) is False
    (folder / "model").mkdir()
    assert store.prepare(folder, afresh=False) is True
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
