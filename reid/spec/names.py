"""Names and numbers that the spec takes from torch, timm and ONNX, without loading them: that takes seconds.

tests/spec/test_names.py compares each with the packages as they are installed.
"""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic_core import PydanticCustomError

from reid.data.file_names import file_names

Optimizer = Literal[
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"
]
"""The optimizers of torch.optim that can train the network; reid.training.schedule says why others cannot."""
FUSED_OPTIMIZERS = ("Adagrad", "Adam", "AdamW", "SGD")
"""The optimizers that can make their whole step in one kernel."""
FIRST_OPSET, LAST_OPSET = 18, 25
"""First and last version of ONNX's operators that torch's exporter can write for any network."""
FIRST_FP8_OPSET = 19
"""First version of ONNX's operators that has float8."""
BACKBONES = (
    *("resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152"),
    *("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"),
    *("vit_tiny_patch16", "vit_small_patch16", "vit_base_patch16"),
    *("resnet_18_ibn_a", "resnet_34_ibn_a", "resnet_50_ibn_a", "resnet_101_ibn_a"),
    *("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0"),
    *("osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25"),
)
"""The backbones of reid.model.backbones; any model of timm is another."""
ANY_TIMM = "timm/"

_REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)
_OLDER_NAMES = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OTHER_VITS = re.compile(r"relpos|rope|dinov3|sapiens2|lingbot|_pe_|_sam_|_r26_|_r50_|_resnet")
_KEY = re.compile(r"""['"](\w+)['"]\s*:""")


def require_backbone(name: str) -> str:
    """The name, if there is such a backbone; the part of a timm name behind its dot is not checked."""
    model = name.removeprefix(ANY_TIMM).partition(".")[0]
    if name in BACKBONES or (name.startswith(ANY_TIMM) and model in (timm_models() or [model])):
        return name
    known = [*BACKBONES, *(ANY_TIMM + model for model in sorted(timm_models()))]
    nearest = did_you_mean(name.partition(".")[0], known)
    wanted = f"{', '.join(BACKBONES)}, or {ANY_TIMM}<name> for any model of timm{nearest}"
    raise PydanticCustomError("backbone", "{wanted}", {"wanted": wanted})


def is_vit(backbone: str) -> bool:
    """Whether it is a Vision Transformer with learned positions; timm calls a few other networks vit_... too."""
    model = backbone.removeprefix(ANY_TIMM)
    return model.startswith(("vit_", "deit", "flexivit_", "test_vit")) and not _OTHER_VITS.search(model)


def is_swin(backbone: str) -> bool:
    """Whether it is a Swin Transformer, of this project or of timm."""
    return backbone.removeprefix(ANY_TIMM).startswith("swin_")


def trains_as_taos_swin(backbone: str) -> bool:
    """Whether TAO trains it on bicubically resized images, and erases with noise: by its name, as there."""
    return "swin" in backbone


def require_persons(value: object) -> object:
    """The value, if it is a whole number of persons from 2 on, or a share of them between 0 and 1."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 2
    if not whole and not (isinstance(value, float) and 0 < value < 1):
        raise PydanticCustomError("persons", "a whole number from 2 on, or a share above 0 and below 1, e.g. 0.1")
    return value


def require_file_name(pattern: str) -> str:
    """The pattern, if it can find the persons in file names."""
    try:
        file_names(pattern, cameras="file_name")
    except ValueError as error:
        raise PydanticCustomError("file_name", "{wanted}", {"wanted": str(error)}) from None
    return pattern


@cache
def timm_models() -> frozenset[str]:
    """The models of timm, older names too, read in its source: 0.05 s, and to import it is 3 s. Empty without timm."""
    timm = importlib.util.find_spec("timm")
    if timm is None or timm.origin is None:
        return frozenset()
    names: set[str] = set()
    for file in Path(timm.origin).parent.glob("models/*.py"):
        source = file.read_text(encoding="utf-8")
        names.update(_REGISTERED.findall(source))
        names.update(key for block in _OLDER_NAMES.findall(source) for key in _KEY.findall(block))
    return frozenset(names)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant, in upper or lower case; "" if none is spelled alike."""
    by_lower_case = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wrong.lower(), by_lower_case, n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[close[0]]}?" if close else ""
