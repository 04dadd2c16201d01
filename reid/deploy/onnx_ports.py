"""Gives an ONNX graph of another exporter this project's input and output: "input" (B, C, H, W), "fc_pred" (B, D).

Names, float16, channels last, a fixed batch, a fixed or open height and width, and further outputs are what exporters
differ in. Each is answered by a few nodes around the graph; `onnx_batch.py` opens a fixed batch.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.onnx import INPUT, OUTPUT, Ports, import_onnx, ports_of, spell
from reid.deploy.onnx_batch import batch_nodes, open_batch
from reid.errors import ArtifactError


@dataclass(frozen=True)
class ForeignPorts:
    """The input and the embedding of another exporter's graph, as it has them."""

    input: str
    output: str
    half: bool
    """Whether the input is float16."""
    channels_last: bool
    """Whether the input is (B, H, W, C)."""
    batch: int
    """The number of images that the graph was made for; 0 if it is open."""
    further: tuple[str, ...] = ()
    """The outputs beside the embedding, which are left out."""

    def in_words(self) -> str:
        """What the file has, for the log."""
        layout = "batch, height, width, channels" if self.channels_last else "batch, channels, height, width"
        batch = f"a batch of {self.batch}, opened" if self.batch else "an open batch"
        kind = "float16" if self.half else "float32"
        return f"input {self.input} ({layout}) in {kind}, output {self.output}, {batch}"

    def renamed_in_words(self) -> str:
        """What is called otherwise from now on, and what is gone, for the log; empty if nothing."""
        renamed = [
            f"{port} {theirs} is {ours}"
            for port, theirs, ours in (("input", self.input, INPUT), ("output", self.output, OUTPUT))
            if theirs != ours
        ]
        left_out = [f"left out: {', '.join(self.further)}"] if self.further else []
        parts = [f"renamed, as TAO's Triton clients ask for them: {', '.join(renamed)}"] if renamed else []
        return "; ".join(parts + left_out)


def foreign_ports(model: Any, contract: Contract, path: Path, *, output: str | None) -> ForeignPorts:
    """The ports of the graph; `output` names the embedding if there are several outputs.

    Raises ArtifactError if there are several inputs, several outputs and no name, no output of this name, or an input
    that is not float32 or float16 images of the contract's size.
    """
    onnx, graph = import_onnx(), model.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [port for port in graph.input if port.name not in weights]  # older exporters list the weights too
    outputs = [port.name for port in graph.output]
    if len(inputs) != 1:
        names = ", ".join(port.name for port in inputs) or "none"
        raise ArtifactError(f"{path}: {len(inputs)} inputs: {names}\n  want: one, the images")
    if (output is None and len(outputs) != 1) or (output is not None and output not in outputs):
        found = spell([port for port in ports_of(model) if port[0] in outputs])
        asked = "" if output is None else f", and none is {output!r}"
        raise ArtifactError(
            f"{path}: {len(outputs)} outputs: {found}{asked}\n  want: --embedding NAME, one of {', '.join(outputs)}"
        )
    kind = inputs[0].type.tensor_type.elem_type
    axes = [axis.dim_value for axis in inputs[0].type.tensor_type.shape.dim]  # an open axis has 0
    plane = [contract.height, contract.width]
    layouts = {False: [contract.channels, *plane], True: [*plane, contract.channels]}
    fitting = [last for last, sizes in layouts.items() if len(axes) == 4 and _agree(axes[1:], sizes)]
    if not fitting or kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        want: Ports = [(inputs[0].name, ["batch", *sizes]) for sizes in layouts.values()]
        raise ArtifactError(
            f"{path}: inputs and outputs are {spell(ports_of(model))}; the input is "
            f"{onnx.TensorProto.DataType.Name(kind).lower()}\n"
            f"  want: {spell(want[:1])} or {spell(want[1:])}, float or float16\n"
            "  as the spec says in model.input_channels, input_height and input_width"
        )
    return ForeignPorts(
        input=inputs[0].name,
        output=output or outputs[0],
        half=kind == onnx.TensorProto.FLOAT16,
        channels_last=fitting[0],
        batch=axes[0],
        further=tuple(name for name in outputs if name != (output or outputs[0])),
    )


def _agree(found: list[int], wanted: list[int]) -> bool:
    return all(axis in (0, size) for axis, size in zip(found, wanted, strict=True))


def with_our_ports(model: Any, ports: ForeignPorts, contract: Contract) -> Any:
    """A copy of the model with "input" (B, C, H, W) and "fc_pred" (B, D), float32 and an open batch."""
    onnx = import_onnx()
    ours = onnx.ModelProto.FromString(model.SerializeToString())
    ours.ir_version = max(ours.ir_version, 4)  # before 4 every weight had to be an input too
    graph = ours.graph
    images, embedding = f"{INPUT}__theirs", f"{OUTPUT}__theirs"
    for name in (INPUT, OUTPUT):
        if name not in (ports.input, ports.output):
            rename_tensor(graph, name, f"{name}__inner")
    rename_tensor(graph, ports.input, images)
    rename_tensor(graph, ports.output, embedding)
    if ports.batch:
        open_batch(ours, ports.batch)
    nodes = [*_entry(ports, images), *graph.node, *_exit(embedding)]
    for field in ("node", "input", "output", "value_info"):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in nodes] if field == "node" else []
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    size = ["batch", contract.channels, contract.height, contract.width]
    float32 = onnx.TensorProto.FLOAT
    graph.input.append(onnx.helper.make_tensor_value_info(INPUT, float32, size))
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, float32, ["batch", contract.embedding]))
    return ours


def _entry(ports: ForeignPorts, images: str) -> Iterator[Any]:
    """The nodes from this project's input to theirs."""
    onnx = import_onnx()
    make, name = onnx.helper.make_node, INPUT
    if ports.channels_last:
        yield make("Transpose", [name], [f"{INPUT}__last"], name=f"{INPUT}__last", perm=[0, 2, 3, 1])
        name = f"{INPUT}__last"
    if ports.half:
        yield make("Cast", [name], [images], name=images, to=onnx.TensorProto.FLOAT16)
    else:
        yield make("Identity", [name], [images], name=images)
    if ports.batch:
        yield from batch_nodes(INPUT)


def _exit(embedding: str) -> Iterator[Any]:
    """The nodes from their output, also of (B, D, 1, 1), to this project's."""
    onnx = import_onnx()
    yield onnx.helper.make_node("Flatten", [embedding], [f"{OUTPUT}__flat"], name=f"{OUTPUT}__flat", axis=1)
    yield onnx.helper.make_node("Cast", [f"{OUTPUT}__flat"], [OUTPUT], name=OUTPUT, to=onnx.TensorProto.FLOAT)


def rename_tensor(graph: Any, old: str, new: str) -> None:
    """Gives a tensor another name, in branches and loops too."""
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = new if entry.name == old else entry.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                rename_tensor(inner, old, new)
