"""The types of the spec's fields: the base class of sections, and ranges, texts and paths that many fields share."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from reid.files.paths import expanded
from reid.spec.facts import NamesGpus, NoPath, ReadBy, Reads, Replaced, Writes


def _switch(value: Any) -> Any:
    """YAML reads a bare on or off as true or false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def _expanded(path: str) -> str:
    try:
        return expanded(path)
    except ValueError as error:
        raise PydanticCustomError("home_folder", "{wanted}", {"wanted": str(error)}) from None


Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]

Text = Annotated[str, NoPath()]
ExpandHome = AfterValidator(_expanded)
ReadFile = Annotated[str, ExpandHome, Reads("file")]
ReadFolder = Annotated[str, ExpandHome, Reads("folder")]
WrittenFile = Annotated[str, ExpandHome, Writes("file")]
WrittenFolder = Annotated[str, ExpandHome, Writes("folder")]
ResultsFolder = Annotated[WrittenFolder, ReadBy(), Replaced("the runner says where the results are")]
"""Folder of the results of a task that is a stage of the pipeline too."""

Device = Annotated[Text, Field(pattern=r"^(auto|cpu|cuda:\d+)$")]
Sha256 = Annotated[Text, Field(pattern=r"^[0-9a-fA-F]{64}$")]
ServedName = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
RegisteredName = Annotated[Text, Field(pattern=r"^[^/:]*[^/:\s][^/:]*$")]
OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4 = rf"^{OCTET}(\.{OCTET}){{3}}$"
IPv4 = Annotated[Text, Field(pattern=IPV4)]
ComputeCapability = Annotated[Text, Field(pattern=r"^\d+\.\d$")]
PATTERNS = {
    r"^(auto|cpu|cuda:\d+)$": "either auto, cpu or cuda:<number>",
    r"^[0-9a-fA-F]{64}$": "64 hexadecimal digits",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*$": "only letters, digits, _, . and -, beginning with a letter or a digit",
    r"^[^/:]*[^/:\s][^/:]*$": "a name without / and :",
    IPV4: "an IPv4 address, e.g. 127.0.0.1",
    r"^\d+\.\d$": "two numbers around a dot, e.g. 8.6",
    r"^.+:[fF][pP]32$": "a layer and :fp32, e.g. base.conv1:fp32",
}
"""What a text of each pattern is, in words."""
GpuIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), NamesGpus()]
GpuId = Annotated[int, Field(ge=0), NamesGpus()]


class Section(BaseModel):
    """A part of the spec: unknown keys and silent conversions are refused, and so are infinite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
