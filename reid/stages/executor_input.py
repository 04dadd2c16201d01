"""The executor input: the JSON that a runner of KFP gives a task in place of `{{$}}`, as far as it is read here.

The names are those of KFP's JSON.
"""
# ruff: noqa: N815

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel


def _require_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("a path")
    return text


Location = Annotated[str, AfterValidator(_require_path)]


class Kind(BaseModel):
    """The type of an artifact, e.g. system.Model."""

    schemaTitle: str = ""


class ListedArtifact(BaseModel):
    """One artifact with its address."""

    name: str = ""
    uri: Location
    customPath: str | None = None
    type: Kind | None = None


class ListedArtifacts(BaseModel):
    """The artifacts of one port."""

    artifacts: list[ListedArtifact] = []


class OutputParameter(BaseModel):
    """The file for an output parameter."""

    outputFile: Location


class Inputs(BaseModel):
    """What a task is given."""

    parameterValues: dict[str, Any] = {}
    artifacts: dict[str, ListedArtifacts] = {}


class Outputs(BaseModel):
    """The places of what a task makes."""

    parameters: dict[str, OutputParameter] = {}
    artifacts: dict[str, ListedArtifacts] = {}
    outputFile: Location


class ExecutorInput(BaseModel):
    """The whole JSON."""

    inputs: Inputs = Inputs()
    outputs: Outputs
