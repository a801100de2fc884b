"""Oracles 11 and 12, the imbalanced splits, DomainBed's held-out parts, pictures by domain."""

import numpy as np
import pytest
import torch
from PIL import Image

from curvature.data.colored_digits import ColoredDigits, color, imbalanced
from curvature.data.domain_pictures import DomainFolders, DomainParquet
from curvature.data.seeds import holdout, seed_hash
from curvature.errors import ConfigError


def within(count: float, total: int, probability: float) -> bool:
    return abs(count / total - probability) < 4 * (probability * (1 - probability) / total) ** 0.5


@pytest.mark.parametrize("flip", [0.1, 0.2, 0.9])
def test_colours_and_labels_disagree_as_often_as_they_should(flip):
    size = 20_000
    digits = torch.arange(size) % 10
    images, labels = color(torch.ones(size, 2, 2), digits, flip, seed=3)
    lit = images.flatten(2).sum(2) > 0
    assert (lit.sum(1) == 1).all()
    colors = lit.long().argmax(1)
    assert within(float((colors != labels).sum()), size, flip)
    assert within(float((labels != (digits < 5).long()).sum()), size, 0.25)


def test_gray_keeps_both_channels_and_the_labels():
    digits = torch.arange(50) % 10
    gray, labels = color(torch.rand(50, 3, 3), digits, 0.9, seed=1, gray=True)
    colored, same = color(torch.rand(50, 3, 3), digits, 0.9, seed=1)
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    assert torch.equal(labels, same)
    assert not torch.equal(colored[:, 0], colored[:, 1])


def test_digits_are_disjoint_between_training_environments_and_test():
    data = ColoredDigits(repeats=1, seed=2)
    data.setup()
    shapes = [e.split.source.tensor.amax(1).flatten(1) for e in data.environments[:3]]
    assert [len(s) for s in shapes] == [600, 600, 597]
    rows = {tuple(row.tolist()) for row in torch.cat(shapes)}
    assert len(rows) == 1797
    assert [e.role for e in data.environments] == ["train", "train", "test", "extra"]
    inputs, labels = next(data.evaluations[0].batches())
    assert inputs.shape == (600, 2, 8, 8) and labels.unique().tolist() == [0, 1]
    assert float(inputs.max()) <= 1.0


def test_data_do_not_depend_on_anything_but_their_seed():
    def batch(**options):
        data = ColoredDigits(**options)
        data.setup()
        return next(iter(data.train_loader()))[0][0]

    torch.manual_seed(7)
    first = batch(seed=1)
    torch.manual_seed(8)
    assert torch.equal(first, batch(seed=1))
    assert not torch.equal(first, batch(seed=2))


def test_imbalanced_splits():
    small = np.arange(1000) % 2 == 0
    first, second = imbalanced(small, "as_described", 0.97)
    assert (small[first].sum(), (~small[first]).sum()) == (485, 15)
    assert (small[second].sum(), (~small[second]).sum()) == (15, 485)
    first, second = imbalanced(small, "as_released", 0.97)
    assert (small[first].sum(), (~small[first]).sum()) == (500, 30)
    assert (small[second].sum(), (~small[second]).sum()) == (0, 470)
    assert sorted(np.concatenate([first, second])) == list(range(1000))


def test_domainbed_form_has_three_environments_and_held_out_parts():
    data = ColoredDigits(form="domainbed", holdout_fraction=0.2, batch_size=64, test_envs=[2])
    data.setup()
    assert [e.name for e in data.environments] == ["+90%", "+80%", "-90%"]
    assert [len(e.split) for e in data.evaluations] == [480, 119] * 3
    loader = data.train_loader()
    loader.start_batch = 3
    resumed = next(iter(loader))
    assert [len(x) for x, _ in resumed] == [64, 64]
    fresh = iter(data.train_loader())
    for _ in range(4):
        expected = next(fresh)
    assert torch.equal(resumed[1][0], expected[1][0])


def test_seeds_are_domainbeds():
    assert seed_hash(1, 1) == 1442673865
    kept, out = holdout(50, 0.2, trial_seed=0, environment=1)
    assert len(out) == 10 and sorted([*kept, *out]) == list(range(50))
    keys = list(range(50))
    np.random.RandomState(seed_hash(0, 1)).shuffle(keys)
    assert out.tolist() == keys[:10]


def test_folders_in_domainbeds_layout(tmp_path):
    for domain, value in (("art", 10), ("photo", 200)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / domain / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 7), (value, i, 0)).save(folder / f"{i}.png")
    data = DomainFolders("pets", str(tmp_path), image_shape=[3, 8, 8], num_classes=2, test_envs=[1], batch_size=2)
    data.setup()
    assert [e.name for e in data.environments] == ["art", "photo"]
    ((inputs, _),) = next(iter(data.train_loader()))
    assert inputs.shape == (2, 3, 8, 8)
    torch.testing.assert_close(inputs[:, 0], torch.full((2, 8, 8), 10 / 127.5 - 1))
    Image.new("RGB", (9, 7)).save(tmp_path / "pets" / "photo" / "cat" / "3.png")
    (tmp_path / "pets" / "art" / "cow").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "pets" / "art" / "cow" / "0.png")
    other = DomainFolders("pets", str(tmp_path), image_shape=[3, 8, 8], num_classes=2, test_envs=[1])
    with pytest.raises(ConfigError, match="same classes"):
        other.setup()


def test_parquet_with_a_domain_column(tmp_path):
    import datasets

    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(6)]
    columns = {"image": pictures, "label": [0, 1, 0, 1, 0, 1], "domain": ["b", "a", "b", "a", "b", "a"]}
    (tmp_path / "few" / "data").mkdir(parents=True)
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.to_parquet(str(tmp_path / "few" / "data" / "train-00000-of-00001.parquet"))
    options = {"root": str(tmp_path), "image_shape": [3, 8, 8], "num_classes": 2, "test_envs": [0], "batch_size": 3}
    data = DomainParquet("few", **options)
    data.setup()
    assert [(e.name, e.split.labels.tolist()) for e in data.environments] == [("a", [1] * 3), ("b", [0] * 3)]
    inputs, _ = next(data.evaluations[0].batches())
    expected = torch.tensor([1, 3, 5]) / 127.5 - 1
    torch.testing.assert_close(inputs[:, 0, 0, 0], expected)
    with pytest.raises(ConfigError, match="domain_column"):
        DomainParquet("few", domain_column="style", **options).setup()


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"source": "cifar"}, "data.source"),
        ({"balance": "odd"}, "data.balance"),
        ({"form": "domainbed", "balance": "as_released"}, "data.balance"),
        ({"holdout_fraction": 1.0}, "data.holdout_fraction"),
        ({"test_envs": [9]}, "data.test_envs"),
        ({"train_per_env": 900}, "data.test_size"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"source": "mnist"}, "data_root"),
    ],
)
def test_bad_input_names_its_key(options, key):
    with pytest.raises(ConfigError) as error:
        ColoredDigits(**options).setup()
    assert error.value.key == key
