"""What a Triton server may answer: types, sizes and ranges are checked here, before anything is made of an answer.

Shapes: B images of a request, D embedding width.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from reid.console.plain import beginning
from reid.deploy.onnx import OUTPUT
from reid.errors import ServerError

LARGEST_ANSWER = 2**24
"""Most bytes of a configuration or of a list of models, 16 MiB."""
LARGEST_HEAD = 2**20
"""Most bytes of what describes the outputs, before their numbers."""
BYTES_A_NUMBER = 32
"""Most bytes of a number: 4 in binary form, about 24 as JSON."""
LARGEST_IMAGE = 2**22
"""Most values of an image, height x width x channels: 4 million, about 1,180 x 1,180 pixels in colour."""
LARGEST_EMBEDDING = 2**16
"""Most values of an embedding."""
SHOWN = 120
"""Most characters of an answer that an error shows."""
WHOLE = re.compile(r"-?[0-9]{1,19}")


def _number(value: Any) -> Any:
    """gRPC's JSON writes whole numbers of 64 bits as texts."""
    return int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else value


Size = Annotated[int, BeforeValidator(_number), Field(ge=-1, le=2**31)]


class _Answer(BaseModel):
    """Entries of an answer that are not named here are ignored: servers of other versions have others."""

    model_config = ConfigDict(strict=True, frozen=True)


class Port(_Answer):
    """An input or output of a model; protobuf's JSON leaves out what is zero or empty."""

    name: str = ""
    data_type: str = ""
    dims: list[Size] = Field([], max_length=16)


class Parameter(_Answer):
    """A parameter of a model's configuration."""

    string_value: str = ""


class ServedConfig(_Answer):
    """The part of inference.ModelConfig that a client needs."""

    max_batch_size: Size = 0
    input: list[Port] = Field([], max_length=100)
    output: list[Port] = Field([], max_length=100)
    parameters: dict[str, Parameter] = Field({}, max_length=1000)

    def text(self, key: str) -> str | None:
        """The parameter of this name; None if there is none."""
        return self.parameters[key].string_value if key in self.parameters else None


class _ListedModel(_Answer):
    name: str
    version: str = ""


_LISTED = TypeAdapter(list[_ListedModel])


def parsed(body: bytes | str, where: str) -> Any:
    """The JSON of an answer; raises ServerError if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ServerError(f"{where}: the answer is not JSON ({shown(why)})\n  found: {shown(body)}") from None


def config_of(answer: Any, where: str) -> ServedConfig:
    """The checked configuration of a model; raises ServerError if the answer is none."""
    try:
        return ServedConfig.model_validate(answer)
    except ValidationError as error:
        raise _odd(
            error, f"{where}: the model's configuration", "a model's configuration, as Triton gives it"
        ) from None


def names_of(answer: Any, where: str) -> list[str]:
    """The names and versions of a server's models, sorted; raises ServerError if the answer is no list of models."""
    listed = answer.get("models", []) if isinstance(answer, dict) else answer
    try:
        models = _LISTED.validate_python(listed)
    except ValidationError as error:
        raise _odd(error, f"{where}: the list of models", "entries with a name, as Triton gives them") from None
    return sorted(shown(f"{model.name} version {model.version}" if model.version else model.name) for model in models)


def _odd(error: ValidationError, what: str, wanted: str) -> ServerError:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    problem = "should be an object" if first["type"] in ("model_type", "dict_type") else first["msg"].lower()
    return ServerError(
        f"{what}: {shown(field)}{': ' if field else ''}{problem.removeprefix('input ')}\n"
        f"  found: {_found(first['input'])}\n  want:  {wanted}"
    )


def _found(value: Any) -> str:
    """A value as an error shows it: a number, the beginning of a text, or the type of anything else."""
    if isinstance(value, (str, bytes)):
        return shown(repr(value[:SHOWN]))
    plain = isinstance(value, (bool, int, float, type(None)))
    kinds = {"dict": "an object", "list": "a list"}
    return shown(repr(value)) if plain else kinds.get(type(value).__name__, type(value).__name__)


def shown(text: str | bytes, most: int = SHOWN) -> str:
    """The beginning of a text as an error may show it."""
    return beginning(text, most)


@dataclass(frozen=True)
class Output:
    """An output of an answer, as it came: nothing of it is known to be right."""

    kind: Any
    """Its type, "FP32" if all is well."""
    shape: Any
    data: bytes | memoryview | Sequence[Any] | None
    """The numbers in binary form, or a list of them."""


def embeddings_of(output: Output | None, *, images: int, width: int, where: str) -> NDArray[np.float32]:
    """The checked embeddings (B, D) of an answer; raises ServerError if they are not what was asked for."""
    wanted = f"{OUTPUT}, FP32, {(images, width)} (images, embedding), as its contract says"
    if output is None:
        raise ServerError(f"{where} answers without the output {OUTPUT}\n  want: {wanted}")
    shape = output.shape if isinstance(output.shape, (list, tuple)) else [output.shape]
    if output.kind != "FP32" or list(shape) != [images, width] or any(isinstance(size, bool) for size in shape):
        kind = shown(output.kind) if isinstance(output.kind, str) else _found(output.kind)
        sizes = ", ".join(_found(size) for size in shape[:8])
        raise ServerError(f"{where} answers with an output of type {kind} and shape ({sizes})\n  want: {wanted}")
    vectors = _numbers(output.data, images * width, where).reshape(images, width)
    if len(bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        raise ServerError(
            f"{where} answers with embeddings that are not finite\n  found: {len(bad)} of {images}, the first is "
            f"that of image {bad[0]} of the request\n  want: finite numbers"
        )
    return vectors


def _numbers(data: Any, count: int, where: str) -> NDArray[np.float32]:
    """`count` numbers, from binary form or from a list."""
    wanted = f"  want: {count} numbers in {4 * count} bytes"
    if isinstance(data, (bytes, memoryview)):
        if len(data) != 4 * count:
            raise ServerError(f"{where} answers with an output of {len(data)} bytes\n{wanted}")
        return np.frombuffer(data, "<f4").astype(np.float32)
    plain = isinstance(data, list) and all(isinstance(value, (int, float)) for value in data)
    if not plain or len(data) != count:
        found = f"{len(data)} values" if isinstance(data, list) else type(data).__name__
        raise ServerError(f"{where} answers with an output of {found}\n{wanted}")
    try:
        with np.errstate(over="ignore"):
            return np.array(data, np.float64).astype(np.float32)
    except OverflowError:  # a whole number beyond float64
        return np.full(count, np.inf, np.float32)
