"""A torch network that takes decoded images: their bytes are sent to its device and normalised there.

On a GPU the host does not wait: while one batch is sent, computed and copied back, the next one is read.
Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.contract import Contract
from reid.data.augment import normalize
from reid.distributed.devices import too_many_images
from reid.embeddings import OfPixels


def of_pixels(
    network: Callable[[Tensor], Tensor], *, contract: Contract, device: torch.device, channels_last: bool
) -> OfPixels:
    """network: images (B, C, H, W) float32 on `device`, as the contract wants them -> embeddings (B, D).

    Its start raises SpecError if the memory of a GPU runs out.
    """

    def start(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        contract.check_size(pixels)
        try:
            with torch.inference_mode():
                images = normalize(_send(pixels, device), mean=contract.mean, std=contract.std)
                return _start_fetch(network(images if channels_last else images.contiguous()).float())
        except torch.OutOfMemoryError as error:
            raise too_many_images("dataset.val_batch_size", str(device), len(pixels), error) from error

    return OfPixels(start)


def _send(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    here = torch.from_numpy(pixels)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


def _start_fetch(vectors: Tensor) -> Callable[[], NDArray[np.float32]]:
    """A function that waits for these vectors, but not for work that the device was given after them."""
    if vectors.device.type != "cuda":
        return vectors.cpu().numpy
    here = torch.empty(vectors.shape, pin_memory=True)
    here.copy_(vectors, non_blocking=True)
    done = torch.cuda.current_stream(vectors.device).record_event()

    def wait() -> NDArray[np.float32]:
        done.synchronize()
        found: NDArray[np.float32] = here.numpy()
        return found

    return wait
