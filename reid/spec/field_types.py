"""What the fields of the spec are made of: a section, and the ranges that many of them share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _switch(value: Any) -> Any:
    """YAML reads a bare on or off as true or false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]
GpuIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Section(BaseModel):
    """A part of the spec: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=())
