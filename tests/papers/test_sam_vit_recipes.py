"""The further methods of the paper through the engine: what each reports, what each leaves alone."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.callbacks.fine_tuning import FineTuning
from curvature.data.digit_groups import GroupedDigitsDataModule
from curvature.engine import run
from curvature.errors import CurvatureError
from curvature.papers.sam_vit import SamViT, SupervisedContrastive

CONF = Path(__file__).parents[2] / "conf"
LOSSES = ("train/loss", "train/loss_perturbed")
SMALL = ["tracking=offline", "trainer.enable_progress_bar=false", "callbacks.measures=null", "callbacks.step_time=null"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["experiment=sam_vit", *overrides])


def trained(tmp_path, *overrides):
    """The finished run and its weights."""
    result = run(composed(f"outputs={tmp_path}", *SMALL, "test=false", *overrides))
    return result, torch.load(result.directory / "checkpoints" / "weights.pt", weights_only=True)


def distance(a, b, part):
    inside = [name for name in a if name.startswith("model.") and (".head." in name) == (part == "classifier")]
    return max((a[name] - b[name]).abs().max().item() for name in inside)


@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
@pytest.mark.parametrize(
    "change",
    [["+recipe=sam_vit_aug"], ["+recipe=sam_vit_adversarial", "callbacks.adversarial.images=50"]],
    ids=["augmentation", "adversarial"],
)
def test_changed_batches_change_training_and_depend_on_the_seed(tmp_path, optimizer, change):
    options = [f"optimizer={optimizer}", "max_steps=4"]
    _, plain = trained(tmp_path, *options)
    result, changed = trained(tmp_path, *options, *change)
    _, again = trained(tmp_path / "again", *options, *change)
    _, other = trained(tmp_path, *options, *change, "module.batch_seed=7")
    assert distance(plain, changed, "features") > 1e-6
    assert distance(changed, again, "features") == 0.0
    assert distance(changed, other, "features") > 1e-6
    if "adversarial" in change[0]:
        assert 0.0 <= result.metrics["test/adversarial_accuracy"] <= 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sam"])
def test_contrastive_learning_has_two_phases(tmp_path, optimizer):
    options = [f"optimizer={optimizer}", "+recipe=sam_vit_contrastive", "schedule=constant"]

    def weights(steps, contrastive):
        return trained(tmp_path, *options, f"max_steps={steps}", f"module.contrastive_steps={contrastive}")[1]

    one, two, longer = weights(4, 3), weights(7, 3), weights(7, 6)
    assert distance(one, two, "features") == 0.0 and distance(one, two, "classifier") > 1e-4
    assert distance(two, longer, "features") > 1e-4
    cfg = composed(*SMALL, *options, "max_steps=7", "module.contrastive_steps=7")
    with pytest.raises(Exception, match="contrastive_steps"):
        instantiate(cfg.module)


@pytest.mark.parametrize("optimizer", ["sam", "asam", "gsam"])
def test_the_classifier_on_contrastive_features_is_trained_without_perturbation(tmp_path, optimizer, monkeypatch):
    seen = []

    def recorded(self, batch, batch_idx):
        loss = SamViT.training_step(self, batch, batch_idx)
        seen.append(self.trainer.optimizers[0].last_perturbed_loss is not None)
        return loss

    monkeypatch.setattr(SupervisedContrastive, "training_step", recorded, raising=False)
    recipe = ["+recipe=sam_vit_contrastive", "max_steps=5", "module.contrastive_steps=3"]
    trained(tmp_path, f"optimizer={optimizer}", *recipe)
    assert seen == [True, True, True, False, False]


def test_transfer_fine_tunes_a_copy_in_the_same_way_for_every_arm(tmp_path):
    recipe = ["data=digit_groups", "+recipe=sam_vit_transfer", "max_steps=4"]
    plain, weights = trained(tmp_path, "optimizer=adamw", *recipe)
    name = "fine_tuning/digits_5_to_9"
    assert plain.metrics[name] == plain.metrics["fine_tuning/mean"]
    assert 0.25 < plain.metrics[name] <= 1.0
    _, kept = trained(tmp_path, "optimizer=adamw", *recipe, "callbacks.fine_tuning.max_steps=101")
    assert all(torch.equal(weights[key], kept[key]) for key in weights)
    assert weights["model.head.weight"].shape == (5, 32)


def test_fine_tuning_needs_its_data_before_training(tmp_path):
    target = GroupedDigitsDataModule(range(10), num_classes=10, batch_size=50, train_size=5000)
    tuning = FineTuning({"digits": target}, torch.optim.AdamW, lambda o, max_steps: None, 1)
    with pytest.raises(CurvatureError, match="train_size"):
        tuning.setup(type("Trainer", (), {"is_global_zero": True}), None, "fit")  # type: ignore[arg-type]


def test_losses_at_w_and_at_w_plus_e_are_logged_apart(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(SamViT, "log_step", lambda self, values: seen.append(values))
    trained(tmp_path, "optimizer=sam", "max_steps=3", "rho=0.5")
    losses = {name: [float(values[name]) for values in seen if name in values] for name in LOSSES}
    assert [len(values) for values in losses.values()] == [3, 3]
    assert all(there > here for here, there in zip(*losses.values(), strict=True))
