"""The recipes on pictures: transforms, smaller training crops, copies in a batch, the sigmoid loss."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from test_grassmann_head import CONF

from curvature.data.order import SeededBatchSampler
from curvature.data.sources import Split, SplitBatches, TensorSource
from curvature.errors import ConfigError
from curvature.training.losses import SigmoidLoss


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 5), ("val", 2)):
        for name in ("n01", "n02"):
            (folder / "imagenet" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(0, 256, (300, 260, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / "imagenet" / split / name / f"{index}.JPEG")
    return folder


def paper(root, *overrides):
    base = ["experiment=paper/grassmann_head", f"data_root={root}", "data.num_classes=2", "data.val_size=2"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[*base, "data.num_workers=0", *overrides, "data.batch_size=6"])


@pytest.mark.parametrize(
    ("recipe", "side"),
    [
        ("grassmann_swin_t", 224),
        ("grassmann_deit3_s", 224),
        ("grassmann_rsb_a3", 224),
        ("[grassmann_rsb_a1,grassmann_fixres]", 176),
        ("[grassmann_rsb_a2,grassmann_sigmoid]", 224),
    ],
)
def test_recipes_transform_pictures(recipe, side, root):
    cfg = paper(root, f"+recipe={recipe}")
    data = instantiate(cfg.data)
    data.setup("fit")
    images, labels = next(iter(data.train_loader()))
    assert images.shape == (6, 3, side, side) and images.dtype == torch.float32
    assert -1.0 <= images.min() < 0 < images.max() <= 1.0
    if data.repeats == 3:
        assert torch.equal(labels[:3], labels[:1].expand(3))
        assert not torch.equal(images[0], images[1])
    held_out, _ = next(iter(data.test_dataloader()[0]))
    assert held_out.shape[1:] == (3, 224, 224)
    inputs, shares = instantiate(cfg.module.mixing)(images, labels)
    assert inputs.shape == images.shape and shares.shape == (6, 2)
    criterion = instantiate(cfg.module.criterion)
    assert isinstance(criterion, SigmoidLoss) == ("sigmoid" in recipe)
    assert criterion.label_smoothing == (0.1 if "a1" in recipe or "swin" in recipe else 0.0)
    assert criterion(torch.zeros(6, 2), shares) == pytest.approx(torch.log(torch.tensor(2.0)).item())


def test_crops_of_another_shape_must_be_announced(root):
    with pytest.raises(ConfigError, match=r"data\.image_shape"):
        instantiate(paper(root, "data.train_transform.0.size=96").data).setup("fit")


def test_copies_lie_side_by_side_over_all_processes_and_resume_anywhere():
    whole = list(SeededBatchSampler(10, 4, seed=3, repeats=3))
    assert len(whole) == 2
    indices = torch.cat([torch.from_numpy(batch.indices) for batch in whole])
    assert torch.equal(indices[:6], indices[[0, 0, 0, 3, 3, 3]]) and indices[0] != indices[3]
    assert [batch.copies.tolist() for batch in whole] == [[0, 1, 2, 0], [1, 2, 0, 1]]
    shares = [list(SeededBatchSampler(10, 4, 3, rank, 2, repeats=3)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.indices.tolist() == [*shares[0][step].indices, *shares[1][step].indices]
    later = SeededBatchSampler(10, 4, seed=3, repeats=3)
    later.start_batch = 1
    (rest,) = later
    assert rest.indices.tolist() == whole[1].indices.tolist() and rest.copies.tolist() == whole[1].copies.tolist()


def test_copies_are_augmented_on_their_own_and_the_first_as_before():
    drawn = []

    def note(images, seeds):
        drawn.append(seeds)
        return images

    source = TensorSource(torch.zeros(8, 1, 2, 2), torch.zeros(8), augmentation=note)
    batches = SplitBatches(Split(source, torch.arange(8).numpy(), source.labels), augmentation_seed=5)
    for repeats in (1, 2):
        batches.__getitems__(next(iter(SeededBatchSampler(8, 8, seed=1, repeats=repeats))))
    single, double = drawn
    assert len(set(double.tolist())) == 8
    assert double[::2].tolist() == single[:4].tolist()


def test_sigmoid_loss_is_the_mean_over_classes():
    logits = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    p = logits.sigmoid()
    expected = -(p[0, 1].log() + (1 - p[0, 0]).log() + (1 - p[0, 2]).log()) / 3
    torch.testing.assert_close(SigmoidLoss()(logits, torch.tensor([1])), expected)
    shares = torch.tensor([[0.3, 0.7, 0.0]], dtype=torch.float64)
    target = 0.9 * shares + 0.1 / 3
    smoothed = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(SigmoidLoss(0.1)(logits, shares), smoothed)
    with pytest.raises(ConfigError, match="label_smoothing"):
        SigmoidLoss(1.0)
