"""The library's three functions for a notebook: open a model, embed a folder of images, score query against gallery.

    from reid import embed, open_model, score

    model = open_model("results/train/reid_model_best.pth")
    scored = score(embed(model, "market/query"), embed(model, "market/bounding_box_test"))
    print(scored.plain.scores.mAP, scored.reranked.scores.mAP)

Default values are the spec's own. `reid/__init__.py` offers these functions without loading anything before their use.
"""

from pathlib import Path

from reid.data.file_names import file_names
from reid.data.market1501 import list_folder
from reid.data.no_images import found_instead
from reid.data.on_disk import ImagesOnDisk
from reid.deploy import opening
from reid.deploy.opening import OpenModel
from reid.distributed.devices import AUTO, first_device
from reid.embeddings import Embeddings
from reid.embeddings import embed as embed_pixels
from reid.errors import DatasetError
from reid.retrieval.on_device import require_device
from reid.scoring.ranking import Scored
from reid.scoring.ranking import score as score_both
from reid.spec import Experiment

DATASET, RE_RANKING = Experiment().dataset, Experiment().re_ranking


def open_model(model: str | Path, *, device: str = AUTO, images: int = 0) -> OpenModel:
    """The model of a checkpoint, ONNX file or TensorRT engine, or the best checkpoint of a model directory.

    device: cpu, a GPU as torch names it (cuda:0), or auto: the first GPU, else the CPU. images: about how many will be
    embedded; from 2,000 on, a convolutional checkpoint on the CPU is translated for ONNX Runtime, which is faster.
    Raises ArtifactError if the file is missing or no model, SpecError if the device is not there.
    """
    file = opening.find_checkpoint(Path(model))
    return opening.open_model(file, device=first_device() if device == AUTO else device, images=images)


def embed(
    model: OpenModel,
    folder: str | Path,
    *,
    file_name: str = DATASET.file_name,
    batch_size: int = DATASET.val_batch_size,
    unknown_camera: int = 1,
) -> Embeddings:
    """The embeddings of all images of a folder, sorted by file name, not normalised; folders in it are not read.

    file_name: how names give person and camera, as dataset.file_name of the spec: market1501, dukemtmc or a regular
    expression. unknown_camera: the camera of all images if names give none; it must differ between query and gallery,
    because the metric leaves out images of the query's own camera. Raises DatasetError if the folder is missing, has no
    image, or has images that are misnamed or unreadable.
    """
    names = file_names(file_name, cameras=DATASET.cameras)
    listing = list_folder(Path(folder).absolute(), names=names, unknown_camera=unknown_camera)
    if listing.misnamed:
        raise DatasetError(
            f"{listing.root}: {len(listing.misnamed)} of {len(listing.files)} images are not {names.wanted}\n"
            f"  first: {listing.misnamed[0]}"
        )
    if not listing.files:
        raise DatasetError(f"{listing.root}: no image in this folder{found_instead(listing)}")
    contract = model.contract
    return embed_pixels(
        listing.split,
        ImagesOnDisk(listing.split, height=contract.height, width=contract.width, channels=contract.channels),
        model.network,
        contract=contract,
        batch_size=batch_size,
        what=f"embedding {listing.root.name}",
    )


def score(
    query: Embeddings,
    gallery: Embeddings,
    *,
    k1: int = RE_RANKING.k1,
    k2: int = RE_RANKING.k2,
    lambda_value: float = RE_RANKING.lambda_value,
    max_rank: int = RE_RANKING.max_rank,
    device: str = RE_RANKING.device,
) -> Scored:
    """mAP, CMC and mINP of the gallery ranked for each query: `.plain.scores`, and re-ranked `.reranked.scores`.

    k1, k2, lambda_value: k-reciprocal re-ranking, Zhong et al., CVPR 2017, arXiv:1701.08398. Junk (person -1) in the
    gallery is left out. device: cpu, cuda:0, or auto: the first GPU if its memory suffices, else the CPU. Raises
    DatasetError if no query has an image of its person in another camera.
    """
    require_device(device)
    return score_both(
        query,
        gallery.without_junk(),
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        max_rank=max_rank,
        device=device,
        evaluate_device=first_device() if device == AUTO else device,
    )
