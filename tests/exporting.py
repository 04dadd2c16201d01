"""Exported networks for the tests of what reads an ONNX file."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from reid.contract import Contract
from reid.deploy.onnx import read_onnx
from reid.deploy.onnx_ends import PixelPort, with_preprocessing
from reid.deploy.onnx_export import export_onnx
from reid.model.embedder import Embedder, build_embedder
from tests.networks import network_settings


def contract_of(settings: dict[str, Any], **changes: Any) -> Contract:
    """The contract of a network built from `settings`; with `changes`."""
    channels = settings["input_channels"]
    values = {
        "height": settings["height"],
        "width": settings["width"],
        "channels": channels,
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
        "embedding": settings["feat_dim"],
        "flip": settings["with_flip_feature"],
        "channel_order": "RGB" if channels == 3 else "L",
    }
    return Contract(**values | changes)


def images(count: int, channels: int = 3) -> torch.Tensor:
    """Noise (count, channels, 64, 32), another for each count."""
    return torch.randn(count, channels, 64, 32, generator=torch.Generator().manual_seed(count))


def some_network(**changes: Any) -> Embedder:
    """An embedder in eval mode with random weights, whose BatchNorms have seen a batch."""
    settings = network_settings(**changes)
    torch.manual_seed(0)
    network = build_embedder(**settings)
    with torch.no_grad():
        network.train()(images(8, settings["input_channels"]))
    return network.eval()


def exported(path: Path, *, key: str | None = None, **changes: Any) -> tuple[Path, Embedder, Contract]:
    """`some_network` written to `path`."""
    network = some_network(**changes)
    contract = contract_of(network.settings)
    export_onnx(network, path, contract=contract, settings=network.settings, opset=18, overwrite=False, key=key)
    return path, network, contract


def prepared_inside(path: Path, port: PixelPort, **ends: bool) -> Path:
    """`some_network` as a file that takes pixels; neither mirrored nor of length 1 unless `ends` say so."""
    exported(path)
    model, contract = read_onnx(path)
    content = with_preprocessing(model, contract, port, **{"mirror": False, "unit_length": False} | ends)
    path.write_bytes(content.SerializeToString())
    return path


class MeanColour(nn.Module):
    """Images (B, 3, 64, 32) -> (B, 16), sixteen mixtures of their mean colour; exported in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.mixtures = nn.Parameter(torch.arange(48.0).reshape(3, 16) / 48)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = pixels.mean(dim=(2, 3)) @ self.mixtures
        return mixed
