"""Finds the ImageNet weights of a backbone: in the cache of timm's hub, on the hub, or nowhere, which is an error."""

import threading
import urllib.error
import urllib.request
from pathlib import Path

import timm

from reid.errors import ArtifactError
from reid.model.backbones import OWN, timm_name
from reid.model.ibn import IBN_RESNETS

HUB_TIMEOUT_S = 4.0
"""How long timm's hub may take to answer."""


def imagenet_weights(backbone: str) -> Path:
    """timm's file of ImageNet weights, from the hub or its cache; raises ArtifactError soon if neither has it."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if backbone in OWN:
        raise ArtifactError(
            f"model.pretrain_choice: imagenet: {backbone} is on no hub that this project can download from\n"
            f"  set model.pretrained_model_path to {_published(backbone)}, "
            "or model.pretrain_choice to '' for random weights"
        )
    known = timm.get_pretrained_cfg(timm_name(backbone))
    repository = known.hf_hub_id if known is not None else None
    way_out = (
        f"  set model.pretrained_model_path to a torchvision or timm file of {backbone}, "
        "or model.pretrain_choice to '' for random weights"
    )
    if not repository:
        raise ArtifactError(f"model.pretrain_choice: imagenet: timm knows no weights of {backbone}\n{way_out}")
    cached = huggingface_hub.try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    address = huggingface_hub.constants.ENDPOINT
    unreachable = _why_unreachable(address)
    if unreachable is None:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, "model.safetensors"))
        except (HfHubHTTPError, OSError) as error:
            unreachable = str(error).partition("\n")[0]
    raise ArtifactError(
        f"model.pretrain_choice: imagenet: cannot get {repository} from {address} ({unreachable})\n{way_out}"
    )


def _published(backbone: str) -> str:
    """The file in which the authors of an OWN network published its ImageNet weights."""
    if backbone in IBN_RESNETS:
        return f"{IBN_RESNETS[backbone]}_ibn_a-*.pth, a release of github.com/XingangPan/IBN-Net"
    return f"{backbone}_imagenet.pth, of the model zoo of github.com/KaiyangZhou/deep-person-reid"


def _why_unreachable(address: str) -> str | None:
    """Why nothing answers at `address` within HUB_TIMEOUT_S, or None if something does."""
    answer: list[str | None] = [f"no answer within {HUB_TIMEOUT_S:.0f} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S):
                answer[0] = None
        except urllib.error.HTTPError:
            answer[0] = None  # an answer, though a refusal
        except (OSError, ValueError) as error:
            answer[0] = str(getattr(error, "reason", error))

    # in a thread, because a silent name server keeps getaddrinfo waiting far beyond any timeout of urlopen
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_TIMEOUT_S)
    return answer[0]
