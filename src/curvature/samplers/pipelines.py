"""Pretrained diffusers pipelines from local folders, sampled by every arm from equal seeds, judged by FID."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvature.errors import ConfigError
from curvature.samplers.study import SOLVERS, Arm, arms_of, inference_steps, matching_shrink, readme_lamb

CALIBRATION_SEED = 2**32
"""Images on which a variance is matched have seeds from here on, which no image that counts has."""

RESCALE = {"correction": "rescale_control"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def pipeline_study(
    seed: int,
    checkpoint: str | None,
    reference: str | None,
    features: Callable[[], nn.Module],
    arms: Mapping[str, Mapping[str, Any]],
    steps: Sequence[int],
    samples: int,
    batch_size: int,
    resolution: int,
    prompts: str | None = None,
    call: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    device: str | None = None,
    calibration: int = 64,
) -> dict[str, float]:
    """Frechet distance of each arm's images, at equal numbers of model calls and from equal seeds.

    Args:
        seed: image i is drawn from the generator seed ``seed * samples + i``, whatever the arm.
        checkpoint: folder of a diffusers pipeline (``model_index.json``); nothing is downloaded or executed from it.
        reference: folder of real images, resized and centre-cropped to ``resolution``.
        features: factory of the feature extractor; see :func:`inception`.
        arms: see :func:`curvature.samplers.study.arms_of`; with ``match_variance_of``, ``shrink`` is chosen on
            ``calibration`` other images, whose variance is taken after decoding.
        steps: numbers of model calls (of pairs of calls with guidance).
        samples: images an arm.
        batch_size: images a call.
        resolution: side of the images.
        prompts: text file with one prompt a line, used in order; None for unconditional pipelines.
        call: further arguments of the pipeline, e.g. ``guidance_scale``.
        dtype: of the weights; corrections are computed in float32 at least.
        device: where to sample; the default is the GPU if there is one.
        calibration: images that a variance is matched on, at least 2.

    Returns:
        ``fid/<arm>/nfe_<steps>``, and ``shrink/<arm>/nfe_<steps>`` of arms that match a variance.

    Raises:
        ConfigError: a folder or file that is missing or unusable, or too few prompts.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    chosen = arms_of(arms)
    if calibration < 2:
        raise ConfigError("calibration", calibration, "at least 2 images")
    texts = _prompts(prompts, samples)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = _load(checkpoint, dtype).to(place)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    distance = FrechetInceptionDistance(features(), reset_real_features=False, normalize=True).to(place)
    for batch in _images(reference, resolution, batch_size):
        distance.update(batch.to(place), real=True)
    options: dict[str, Any] = {"output_type": "np", **(call or {})}

    def drawn(scheduler: Any, calls: int, first_seed: int, number: int) -> Iterator[Tensor]:
        pipeline.scheduler = scheduler
        for first in range(0, number, batch_size):
            size = min(batch_size, number - first)
            what: dict[str, Any] = {"batch_size": size} if texts is None else {"prompt": texts[first : first + size]}
            what["generator"] = [torch.Generator().manual_seed(first_seed + first + i) for i in range(size)]
            images = pipeline(num_inference_steps=inference_steps(scheduler, calls), **options, **what).images
            yield torch.from_numpy(images).permute(0, 3, 1, 2).float()

    def variance(arm: Arm, calls: int, **own: Any) -> float:
        start, number = CALIBRATION_SEED + seed * calibration, min(calibration, samples)
        images = torch.cat(list(drawn(pipeline_scheduler(arm, config, calls, **own), calls, start, number)))
        return float(images.var(0).sum())

    def shrink(arm: Arm, other: Arm, calls: int) -> float:
        wanted = variance(other, calls)
        return matching_shrink(lambda value: variance(arm, calls, **RESCALE, shrink=value), wanted)

    metrics = {}
    for count in steps:
        for name, arm in chosen.items():
            own: dict[str, Any] = {}
            if arm.match_variance_of is not None:
                own = {**RESCALE, "shrink": shrink(arm, chosen[arm.match_variance_of], count)}
                metrics[f"shrink/{name}/nfe_{count}"] = own["shrink"]
            distance.reset()
            for images in drawn(pipeline_scheduler(arm, config, count, **own), count, seed * samples, samples):
                distance.update(images.to(place), real=False)
            metrics[f"fid/{name}/nfe_{count}"] = float(distance.compute())
    return metrics


def pipeline_scheduler(arm: Arm, config: Any, steps: int, **own: Any) -> Any:
    """The arm's scheduler with the noise schedule of ``config``, ending at its smallest noise level.

    Args:
        arm: what to build; ``readme_lamb`` is the documented damping of CIFAR-10 as it stands, without scaling.
        config: of the scheduler that the pipeline was saved with.
        steps: number of model calls.
        **own: override the arm's options.
    """
    from curvature.samplers import schedulers

    name, solver = SOLVERS[arm.solver]
    chosen = {"correction": "none", **arm.options, **own}
    if chosen.pop("readme_lamb", False) and "lamb" not in chosen:
        chosen["lamb"] = readme_lamb(steps)
    return getattr(schedulers, name).from_config(config, **{"timestep_spacing": "linspace", **solver, **chosen})


def inception(weights: str | None) -> nn.Module:
    """The Inception network of Frechet distances, (B, 3, H, W) in [0, 255] -> (B, 2048), from a local file.

    Args:
        weights: ``pt_inception-2015-12-05-6726825d.pth`` as distributed for ``torch-fidelity``.

    Raises:
        ConfigError: the file is missing or holds more than tensors, or ``torch-fidelity`` is not installed.
    """
    if weights is None or not Path(weights).is_file():
        raise ConfigError("inception_weights", weights, "a local file with the Inception weights of torch-fidelity")
    try:
        # torch-fidelity unpickles whatever the file holds.
        torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError("inception_weights", weights, "a file of tensors, without code") from None
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        net = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
    except ModuleNotFoundError:
        raise ConfigError("inception_weights", weights, "used with torch-fidelity installed") from None
    return _Bytes(net)


class _Bytes(nn.Module):
    """Inception reads bytes; images here are floats in [0, 1]."""

    num_features = 2048

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net((images * 255).round().clamp(0, 255).to(torch.uint8))
        return features


def _load(checkpoint: str | None, dtype: str) -> Any:
    from diffusers import DiffusionPipeline

    if checkpoint is None or not (Path(checkpoint) / "model_index.json").is_file():
        raise ConfigError("checkpoint", checkpoint, "a local folder with a diffusers pipeline (model_index.json)")
    pipeline = DiffusionPipeline.from_pretrained(
        checkpoint, local_files_only=True, use_safetensors=True, torch_dtype=getattr(torch, dtype)
    )
    if getattr(pipeline, "safety_checker", None) is not None:
        # It would replace images by black ones, which would enter the distance.
        pipeline.safety_checker = None
    return pipeline


def _prompts(path: str | None, count: int) -> list[str] | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise ConfigError("prompts", path, "a text file with one prompt a line")
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if len(lines) < count:
        raise ConfigError("samples", count, f"at most the number of prompts, {len(lines)}")
    return lines[:count]


def _images(folder: str | None, resolution: int, batch_size: int) -> Iterator[Tensor]:
    from PIL import Image
    from torchvision.transforms import v2

    paths = sorted(path for path in Path(folder or "").rglob("*") if path.suffix.lower() in SUFFIXES) if folder else []
    if len(paths) < 2:
        raise ConfigError("reference", folder, "a folder of at least two images")
    steps = [v2.Resize(resolution), v2.CenterCrop(resolution), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose(steps)
    for first in range(0, len(paths), batch_size):
        yield torch.stack([transform(Image.open(path).convert("RGB")) for path in paths[first : first + batch_size]])
