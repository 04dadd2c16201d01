"""How much an exported file may differ from its checkpoint: an INT8 or FP8 file has limits of its own."""

from reid.deploy.comparison import Limits
from reid.spec.deploy_sections import Export
from reid.spec.idle import EIGHT_BITS


def limits_of(section: Export) -> Limits:
    """How much a file of the section's data type may differ from the checkpoint."""
    limits = section.quantization if section.data_type in EIGHT_BITS else section
    return Limits(limits.min_cosine, limits.max_mAP_drop, limits.max_rank1_drop)


def limits_section(section: Export) -> str:
    """The section of the spec that holds them."""
    return "export.quantization" if section.data_type in EIGHT_BITS else "export"
