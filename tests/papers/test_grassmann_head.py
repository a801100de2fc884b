"""The paper's module in the engine: recipes, heads, frozen subspaces, mixing, resume, clipping, probes."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from curvature.callbacks.features import linear_probe
from curvature.callbacks.subspaces import pairwise_angles
from curvature.data.digit_groups import GroupedDigitsDataModule
from curvature.data.subspace_classes import SubspaceClassesDataModule
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.geometry import grassmann
from curvature.models.heads import GrassmannHead
from curvature.models.mlp import HeadedNetwork
from curvature.optim.hybrid import Hybrid
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.optim.schedules import constant, multistep
from curvature.papers.grassmann_head import GrassmannClassifier

CONF = Path(__file__).parents[2] / "conf"
HEADS = sorted(path.stem for path in (CONF / "head").glob("*.yaml"))
BACKBONES = {
    "resnet50": (23_508_032, 2048),
    "resnet50d": (23_527_264, 2048),
    "resnext50": (22_979_904, 2048),
    "resnet101d": (42_520_000, 2048),
    "resnet152d": (58_160_000, 2048),
    "vgg13_bn": (128_960_000, 4096),
    "swin_t": (27_519_354, 768),
    "deit3_s": (21_670_000, 384),
}
ADDITIONS = ("grassmann_sigmoid", "grassmann_fixres", "grassmann_cifar10_subset")
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("grassmann_*.yaml") if path.stem not in ADDITIONS)


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["experiment=grassmann_head", *overrides])


def small(tmp_path, *overrides):
    return composed(
        f"outputs={tmp_path}", "max_steps=12", "tracking=offline", "trainer.enable_progress_bar=false", *overrides
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_have_the_papers_features(name, tmp_path):
    cfg = composed(f"model=headed_{name}", "data=imagenet", f"data_root={tmp_path}")
    with torch.device("meta"):
        model = instantiate(cfg.model)
        logits = model(torch.zeros(2, 3, 224, 224))
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    parameters, features = BACKBONES[name]
    assert backbone == pytest.approx(parameters, rel=1e-3)
    assert logits.shape == (2, 1000)
    assert model.head.subspaces.shape == (1000, features, 8)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_build_their_optimiser_and_schedule(recipe, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "config", overrides=["experiment=paper/grassmann_head", f"+recipe={recipe}", f"data_root={tmp_path}"]
        )
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    instantiate(cfg.data)
    mixing = instantiate(cfg.module.mixing)
    cfg.module.mixing = None
    with torch.device("meta"):
        module = instantiate(cfg.module)
    if mixing is not None:
        images, labels = mixing(torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 999]))
        assert images.shape == (4, 3, 8, 8) and labels.shape == (4, 1000)
        assert labels.sum(-1).tolist() == pytest.approx([1.0] * 4)
    (optimizer,), _ = module.configure_optimizers()
    (group,) = [g for g in optimizer.param_groups if any(p is module.grassmann.subspaces for p in g["params"])]
    assert "weight_decay" not in group
    assert (
        group["initial_lr"]
        == {"rsgd_sgd": 0.1, "rsgd_adamw": 0.1, "rsgd_lamb": 0.3}[
            {"grassmann_step": "rsgd_sgd", "grassmann_swin_t": "rsgd_adamw"}.get(recipe, "rsgd_lamb")
        ]
    )
    assert all(g["initial_lr"] == cfg.lr for g in optimizer.param_groups if g is not group)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_in_the_engine(head, tmp_path):
    extra = [] if head == "grassmann" else ["optimizer=sgd"]
    result = run(small(tmp_path, f"head={head}", "max_steps=40", "lr=0.05", *extra))
    assert result.metrics["train/loss_last"] < result.metrics["train/loss_first"]
    assert 0.5 < result.metrics["transfer/fine"] <= 1.0
    assert ("subspaces/drift" in result.metrics) == (head == "grassmann")
    plot = result.directory / "artifacts" / "plots" / "principal_angles.png"
    assert plot.is_file() == (head == "grassmann")


@pytest.mark.parametrize("optimizer", ["rsgd_sgd", "rsgd_adamw", "rsgd_lamb"])
def test_hybrids_train_both_sides(optimizer, tmp_path):
    cfg = small(tmp_path, f"optimizer={optimizer}", "lr=0.004", "max_steps=30")
    torch.manual_seed(0)
    before = {name: p.detach().clone() for name, p in instantiate(cfg.model).named_parameters()}
    result = run(cfg)
    after = torch.load(result.directory / "checkpoints" / "weights.pt", weights_only=True)
    assert before.keys() == {name.removeprefix("model.") for name in after if name.removeprefix("model.") in before}
    assert result.metrics["train/loss_last"] < 0.8 * result.metrics["train/loss_first"]
    assert result.metrics["subspaces/drift"] < 1e-5 and result.metrics["subspaces/turn"] > 1e-3


def test_subspaces_keep_single_precision_when_the_network_trains_in_half(tmp_path):
    result = run(small(tmp_path, "trainer.precision=bf16-mixed", "max_steps=30", "callbacks.transfer=null"))
    weights = torch.load(result.directory / "checkpoints" / "weights.pt", weights_only=True)
    assert weights["model.head.subspaces"].dtype == torch.float32
    assert result.metrics["subspaces/drift"] < 1e-5 and result.metrics["subspaces/turn"] > 1e-3
    assert result.metrics["train/loss_last"] < result.metrics["train/loss_first"]


def test_a_step_beyond_a_quarter_turn_is_seen(tmp_path):
    options = "optimizer.special.subspaces.lr=60", "callbacks.transfer=null"
    assert run(small(tmp_path, *options)).metrics["subspaces/turn"] > torch.pi / 2


def test_frozen_subspaces_do_not_move_and_principal_ones_are_those_of_the_features(tmp_path):
    cfg = small(tmp_path, "module.subspaces=principal", "model=headed_pixels", "callbacks.transfer=null")
    result = run(cfg)
    weights = torch.load(result.directory / "checkpoints" / "weights.pt", weights_only=True)
    data = instantiate(cfg.data)
    data.setup("fit")
    images, labels = data.measurement_batches(data.train_size, "train", batch_size=10_000)[0]
    head = GrassmannHead(64, 5, subspace_dim=8)
    head.set_to_principal(images.flatten(1), labels)
    points = weights["model.head.subspaces"]
    torch.testing.assert_close(points @ points.mT, head.subspaces @ head.subspaces.mT, atol=1e-4, rtol=0)
    assert result.metrics["subspaces/turn"] < 1e-4


def module(head=None, backbone=None, **options):
    head = head or partial(GrassmannHead, subspace_dim=2)
    network = HeadedNetwork(backbone or torch.nn.Flatten(), head, in_features=6, num_classes=3)
    optimizer = partial(
        Hybrid,
        default=partial(torch.optim.SGD, lr=0.1),
        special={"subspaces": partial(RiemannianSGD, lr=0.1)},
    )
    return GrassmannClassifier(
        model=network, optimizer=optimizer, schedule=constant, num_classes=3, max_steps=5, **options
    )


def test_impossible_combinations_are_refused():
    with pytest.raises(ConfigError, match=r"module\.subspaces"):
        module(subspaces="thawed")
    with pytest.raises(ConfigError, match=r"module\.subspaces"):
        module(head=torch.nn.Linear, subspaces="frozen")
    with pytest.raises(ConfigError, match="sigmoid"):
        module(criterion=torch.nn.BCEWithLogitsLoss())
    with pytest.raises(ConfigError, match=r"data\.groups"):
        GroupedDigitsDataModule(groups=[0, 0, 2, 2, 2, 2, 2, 2, 2, 2], num_classes=3, batch_size=8)


def test_clipping_leaves_the_subspaces_out():
    model = module(max_grad_norm=1.0, backbone=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 6)))
    clipped = model._clipped()
    assert len(clipped) == 2 and all(a is b for a, b in zip(clipped, model.model.backbone.parameters(), strict=True))


def test_mixing_is_a_function_of_seed_and_step_and_spares_the_global_generator():
    from types import SimpleNamespace

    from torchvision.transforms.v2 import MixUp

    model = module(mixing=MixUp(alpha=0.8, num_classes=3), mixing_seed=3)
    images, labels = torch.rand(6, 1, 1, 6), torch.arange(6) % 3

    def mixed(step):
        model._trainer = SimpleNamespace(global_step=step, global_rank=0)
        return model._mixed(images, labels)

    state = torch.get_rng_state()
    first, soft = mixed(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert torch.equal(mixed(5)[0], first)
    assert not torch.equal(mixed(6)[0], first) and not torch.equal(first, images)
    assert soft.shape == (6, 3)


def test_groups_leave_digits_out():
    data = GroupedDigitsDataModule(
        groups=[0, 1, 2, 3, 4, -1, -1, -1, -1, -1], num_classes=5, batch_size=8, val_size=50, test_size=200
    )
    data.setup("fit")
    assert data.train_size + data.val_size + data.test_size == 901
    images, labels = data.measurement_batches(100, "test")[0]
    assert images.min() >= 0.0 and images.max() <= 1.0 and labels.unique().tolist() == [0, 1, 2, 3, 4]
    resized = GroupedDigitsDataModule(num_classes=10, image_shape=(3, 32, 32), batch_size=8, test_size=200)
    resized.setup("fit")
    assert resized.measurement_batches(2, "train")[0][0].shape == (2, 3, 32, 32)


def test_oracle_subspaces_classify_the_synthetic_classes():
    data = SubspaceClassesDataModule(num_classes=10, image_shape=(1, 1, 32), batch_size=64, val_size=200)
    data.setup("fit")
    train, test = (
        data.measurement_batches(size, split, 10_000)[0] for size, split in ((2000, "train"), (4000, "test"))
    )
    head = GrassmannHead(32, 10, subspace_dim=4)
    head.set_to_principal(train[0].flatten(1), train[1])
    accuracy = (head(test[0].flatten(1)).argmax(-1) == test[1]).double().mean().item()
    assert accuracy == pytest.approx(0.98, abs=0.02)


def test_linear_probe_chooses_the_penalty_on_validation_data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.eye(3, 8, dtype=torch.float64)[labels] + 0.05 * torch.randn(
        300, 8, dtype=torch.float64, generator=generator
    )
    train, val, test = ((features[part], labels[part]) for part in (slice(0, 150), slice(150, 200), slice(200, 300)))
    assert linear_probe(train, val, test, [1e-6, 1.0]) == 1.0
    skewed = torch.cat([test[0][:60], test[0][test[1] == 0]]), torch.cat([test[1][:60], test[1][test[1] == 0]])
    wrong = skewed[0], torch.where(skewed[1] == 2, 0, skewed[1])
    assert linear_probe(train, val, wrong, [1.0], per_class=True) != linear_probe(train, val, wrong, [1.0])


def test_pairwise_angles_are_symmetric_with_a_zero_diagonal():
    points = grassmann.random_point(4, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = pairwise_angles(points)
    torch.testing.assert_close(table, table.transpose(0, 1), atol=1e-6, rtol=0)
    assert table.diagonal().abs().max() < 1e-5
    assert table[0, 1].tolist() == pytest.approx(
        torch.rad2deg(grassmann.principal_angles(points[0], points[1])).tolist()
    )


def test_milestones_divide_the_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = multistep(optimizer, max_steps=10, milestones=[0.3, 0.6, 0.9])
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])
    with pytest.raises(ConfigError, match="milestones"):
        multistep(optimizer, max_steps=10, milestones=[0.6, 0.3])
