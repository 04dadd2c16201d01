"""Reading compiled pipelines: what is understood, and what is refused by name."""

# mypy: disable-error-code="untyped-decorator"
from collections.abc import Callable
from pathlib import Path

import pytest
from kfp import compiler, dsl

from pipelines import ir
from reid.errors import PipelineError
from tests.pipelines.mini import mini


@dsl.container_component
def plain() -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="x:1", command=["true"])


@dsl.container_component
def takes(count: int, name: str = "n", wanted: dsl.OutputPath(str) = "") -> dsl.ContainerSpec:  # type: ignore[valid-type]
    return dsl.ContainerSpec(image="x:1", command=["run"], args=["{{$}}"])


@dsl.container_component
def old_placeholder(name: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image="x:1", command=["echo", name])


def compiled(pipeline: Callable[..., object], folder: Path) -> Path:
    path = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path


def test_tasks_come_in_an_order_in_which_they_can_run(tmp_path: Path) -> None:
    pipeline = ir.load(compiled(mini, tmp_path))
    order = [task.name for task in pipeline.tasks]
    assert order.index("make") < min(order.index("left"), order.index("right"))
    assert order[-1] == "join"
    left = next(task for task in pipeline.tasks if task.name == "left")
    assert left.parameters == {"score": ir.TaskOutput("make", "score"), "spec": ir.PipelineParameter("left_spec")}
    assert left.artifacts == {"source": ir.TaskOutput("make", "data")}
    assert left.output_artifacts == {"data": "system.Dataset", "metrics": "system.Metrics"}
    assert left.needs == {"make"}
    assert left.cacheable


def test_constants_defaults_and_explicit_order_are_read(tmp_path: Path) -> None:
    @dsl.pipeline(name="constants")
    def constants() -> None:
        first = plain()
        takes(count=3).after(first).set_caching_options(False).set_env_variable("A", "b")

    task = ir.load(compiled(constants, tmp_path)).tasks[1]
    assert task.parameters == {"count": ir.Constant(3.0), "name": ir.Constant("n")}
    assert ir.cast(3.0, task.parameter_types["count"]) == 3
    assert task.needs == {"plain"}
    assert not task.cacheable
    assert task.environment == {"A": "b"}
    assert task.command == ("run", "{{$}}")


def test_arguments_are_checked_and_defaults_filled_in(tmp_path: Path) -> None:
    @dsl.pipeline(name="two")
    def two(count: int, name: str = "anna") -> None:
        takes(count=count, name=name)

    pipeline = ir.load(compiled(two, tmp_path))
    assert pipeline.arguments({"count": 2}) == {"count": 2, "name": "anna"}
    with pytest.raises(PipelineError) as missing:
        pipeline.arguments({})
    assert str(missing.value) == "pipeline two: parameter 'count' has no value"
    with pytest.raises(PipelineError) as unknown:
        pipeline.arguments({"count": 2, "nmae": "x"})
    assert str(unknown.value) == "pipeline two: unknown parameter 'nmae'\n  want: count, name"


@dsl.pipeline(name="condition")
def with_condition(name: str = "x") -> None:
    with dsl.If(name == "x"):
        plain()


@dsl.pipeline(name="loop")
def with_loop() -> None:
    with dsl.ParallelFor([1, 2]):
        plain()


@dsl.pipeline(name="exit")
def with_exit_handler() -> None:
    with dsl.ExitHandler(plain()):
        plain()


@dsl.pipeline(name="importer")
def with_importer() -> None:
    dsl.importer(artifact_uri="s3://bucket/data", artifact_class=dsl.Dataset)


@dsl.pipeline(name="inner")
def inner() -> None:
    plain()


@dsl.pipeline(name="outer")
def with_nested_pipeline() -> None:
    inner()


@dsl.pipeline(name="text")
def with_text_of_outputs(name: str = "x") -> None:
    takes(count=1, name=f"hello {name}")


@dsl.pipeline(name="old")
def with_old_placeholder(name: str = "x") -> None:
    old_placeholder(name=name)


@pytest.mark.parametrize(
    ("pipeline", "text"),
    [
        (with_condition, "task condition-1: the local runner can't run dsl.If or dsl.ExitHandler (triggerPolicy)"),
        (with_loop, "task for-loop-2: the local runner can't run dsl.ParallelFor (parameterIterator)"),
        (with_exit_handler, "task exit-handler-1: the local runner can't run a nested pipeline (dag)"),
        (with_importer, "task importer: the local runner can't run importer instead of a container"),
        (with_nested_pipeline, "task inner: the local runner can't run a nested pipeline (dag)"),
        (
            with_text_of_outputs,
            "task takes: the local runner can't run the value of parameter 'name': "
            '{"runtimeValue": {"constant": "hello {{$.inputs.parameters[\'pipelinechannel--name\']}}"}}',
        ),
        (
            with_old_placeholder,
            "task old-placeholder: the local runner can't run the placeholder in "
            "\"{{$.inputs.parameters['name']}}\"; {{$}} is the one it knows",
        ),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(pipeline: Callable[..., object], text: str, tmp_path: Path) -> None:
    path = compiled(pipeline, tmp_path)
    with pytest.raises(PipelineError) as caught:
        ir.load(path)
    assert str(caught.value) == text
