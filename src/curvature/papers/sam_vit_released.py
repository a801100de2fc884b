"""Top-1 accuracy of released weights on ImageNet, ImageNetV2 and the reassessed labels, as timm evaluates them.

    python run.py experiment=paper/sam_vit_released data_root=DIR

It anchors the evaluation at paper scale: timm reports figures for the SAM weights that were released.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curvature.data.files import Files, scan
from curvature.data.robustness import SETS, TestSet
from curvature.errors import ConfigError

REASSESSED = ("imagenet_v2", "imagenet_real")


class Pictures(Dataset[Tensor]):
    """Files in RGB, each through ``transform``."""

    def __init__(self, paths: NDArray[np.bytes_], transform: Any) -> None:
        self.files, self.transform = Files(paths), transform

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, index: int) -> Tensor:
        (picture,) = self.files(np.array([index]))
        pixels: Tensor = self.transform(picture.convert("RGB"))
        return pixels


def released_accuracy(
    seed: int,
    name: str = "vit_base_patch16_224.sam_in1k",
    root: str | None = None,
    checkpoint: str | None = None,
    batch_size: int = 250,
    num_workers: int = 8,
    device: str | None = None,
) -> dict[str, float]:
    """Accuracy of one pretrained network of timm, with the size, crop, interpolation and normalisation it names.

    Args:
        seed: nothing depends on it.
        name: of timm's network and weights.
        root: the data root with ``imagenet/val``, ``imagenetv2-matched-frequency`` and ``imagenet_real.json``.
        checkpoint: local file with the weights; without it timm takes them from its hub, or its cache.
        batch_size: pictures at once.
        num_workers: processes that decode.
        device: where to run; default ``cuda`` if there is one, else ``cpu``.

    Returns:
        ``released/imagenet``, ``released/imagenet_v2`` and ``released/imagenet_real``, shares in [0, 1].

    Raises:
        ConfigError: a missing directory or file, or another number of classes than the network's.
    """
    import timm

    if checkpoint is not None and not Path(checkpoint).is_file():
        raise ConfigError("module.functions.0.checkpoint", checkpoint, "a file with weights, or null")
    test_sets = list(imagenet_sets(root))
    overlay = None if checkpoint is None else {"file": checkpoint}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    classes = len(scan(Path(root or "") / "imagenet" / "val")[2])
    if model.num_classes != classes:
        raise ConfigError("data_root", root, f"imagenet/val with the {model.num_classes} classes of {name}")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.eval().to(where)
    predicted: dict[bytes, int] = {}
    found = {}
    for test_set in test_sets:
        new = np.array([path for path in test_set.paths if path not in predicted])
        loader = DataLoader(Pictures(new, transform), batch_size, num_workers=num_workers)
        predicted |= zip(new.tolist(), predictions(model, loader, where, test_set.name), strict=True)
        found[f"released/{test_set.name}"] = accuracy([predicted[path] for path in test_set.paths], test_set.labels)
    return found


def imagenet_sets(root: str | None) -> Iterator[TestSet]:
    """The validation set, then ImageNetV2 and the validation set with reassessed labels; they share pictures.

    Raises:
        ConfigError: a part of them is not below ``root``.
    """
    folder = Path(root or "")
    if root is None or not (folder / "imagenet" / "val").is_dir():
        raise ConfigError("data_root", root, "a directory with imagenet/val/<class>/*.JPEG")
    paths, labels, classes = scan(folder / "imagenet" / "val")
    yield TestSet("imagenet", paths, labels)
    for name in REASSESSED:
        yield from SETS[name](folder, "imagenet", classes)


@torch.inference_mode()
def predictions(
    model: torch.nn.Module, loader: DataLoader[Tensor], device: torch.device, description: str
) -> list[int]:
    """The class with the largest logit for every picture of ``loader`` (B, C, H, W), with a progress bar."""
    from rich.progress import track

    if not len(loader):
        return []
    batches = track(loader, description=description, total=len(loader))
    return torch.cat([model(batch.to(device, non_blocking=True)).argmax(-1).cpu() for batch in batches]).tolist()


def accuracy(predicted: Sequence[int], labels: Tensor) -> float:
    """Share of predictions that are right: equal to the label (N,), or among the labels (N, C) bool."""
    chosen = torch.tensor(predicted)
    right = labels[torch.arange(len(chosen)), chosen] if labels.ndim == 2 else labels == chosen
    return float(right.double().mean())
