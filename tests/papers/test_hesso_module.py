"""The paper's module and its claims files: arms compose and build, rescaling keeps the function."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.claims.schema import load
from curvature.errors import ConfigError
from curvature.models.vision import parameter_count, vgg16_bn
from curvature.optim.hesso import HESSO
from curvature.optim.hesso.facts import quadratic_facts
from curvature.papers.hesso import Hesso
from curvature.pruning import build_search_space
from curvature.pruning.coverage import ours, torch_pruning

ROOT = Path(__file__).parents[2]


def composed(*overrides, experiment="hesso"):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}", "data_root=/", *overrides])


def test_claims_files_name_every_claim_and_their_arms_compose():
    claims = load(ROOT / "experiments" / "hesso" / "claims.yaml")
    assert [claim.id for claim in claims.claims] == [f"C{number}" for number in range(1, 13)]
    targets = {name: composed(*arm.overrides).get("optimizer") for name, arm in claims.arms.items()}
    for name, optimizer in targets.items():
        asked = name.rpartition("-")[2]
        if asked.isdigit():
            assert optimizer.target_group_sparsity == int(asked) / 100
        assert ("cric" in name) == (optimizer is not None and "CRIC" in optimizer._target_)
    for arm in load(ROOT / "experiments" / "hesso" / "claims.lab.yaml").arms.values():
        composed(*arm.overrides, experiment="lab/hesso")


def built(*overrides):
    cfg = composed(*overrides)
    datamodule = instantiate(cfg.data)
    datamodule.setup("fit")
    torch.manual_seed(0)
    module = instantiate(cfg.module)
    module.check_data(datamodule)
    return module, datamodule


def test_optimiser_is_made_from_the_search_space_of_the_model():
    module, _ = built("optimizer.target_group_sparsity=0.85")
    ((optimizer,), _) = module.configure_optimizers()
    assert isinstance(optimizer, HESSO) and module.search_space.size == 128
    assert optimizer.pruner.target == 108


def test_pretraining_learns_and_rescaling_keeps_the_function():
    factors = "module.rescale={1.weight: 0.01, 1.bias: 0.01, 3.weight: 100.0}"
    plain, datamodule = built("module.pretrain_steps=150")
    inputs, labels = datamodule.measurement_batches(400, "test", 400)[0]
    before = (plain.model(inputs).argmax(-1) == labels).float().mean()
    plain.pretrain(datamodule)
    logits = plain.model(inputs)
    assert (logits.argmax(-1) == labels).float().mean() > max(0.7, before + 0.3)
    rescaled, datamodule = built("module.pretrain_steps=150", factors)
    rescaled.pretrain(datamodule)
    rescaled.apply_rescale()
    torch.testing.assert_close(rescaled.model(inputs), logits, atol=1e-3, rtol=1e-3)
    assert rescaled.model[1].weight.norm() < 0.02 * plain.model[1].weight.norm()


LAB = {(): 11_173_962, ("+recipe=hesso_resnet50_cifar10",): 23_520_842, ("+recipe=hesso_vgg16_cifar10",): 14_728_266}


@pytest.mark.parametrize(("recipe", "parameters"), LAB.items())
def test_networks_of_the_lab_have_the_size_of_the_papers(recipe, parameters):
    cfg = composed(*recipe, experiment="lab/hesso")
    assert parameter_count(lambda: instantiate(cfg.model)) == parameters
    assert cfg.optimizer.target_group_sparsity == (0.8 if recipe else 0.7)


def test_the_vgg_of_the_lab_takes_a_step_and_refuses_other_images():
    cfg = composed("+recipe=hesso_vgg16_cifar10", experiment="lab/hesso")
    model = instantiate(cfg.model)
    space = build_search_space(model, torch.randn(2, 3, 32, 32))
    assert space.size == 4224
    optimizer = HESSO(space, lr=0.01, target_group_sparsity=0.8, pruning_steps=1)
    for _ in range(2):
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    assert int(optimizer.pruned.sum()) == int(0.8 * 4224)
    with pytest.raises(ConfigError, match="image_shape"):
        vgg16_bn([3, 28, 28], 10)


def test_mistakes_are_named():
    for wrong in ({"pretrain_steps": -1}, {"rescale": {"9.weight": 2.0}}):
        with pytest.raises(ConfigError, match="module"):
            Hesso(model=torch.nn.Linear(2, 2), optimizer=HESSO, schedule=None, num_classes=2, max_steps=1, **wrong)
    with pytest.raises(ConfigError, match="pruning_steps"):
        built("optimizer.pruning_steps=700")


def test_coverage_tells_exact_from_wrong():
    assert ours("group normalisation").exact and ours("group normalisation").removed > 0.4
    assert not torch_pruning("group normalisation").exact
    assert torch_pruning("residual").exact
    assert ours("tied embedding").tied and torch_pruning("tied embedding").tied is False


def test_quadratic_facts_know_the_best_choice(monkeypatch):
    monkeypatch.setattr("curvature.optim.hesso.facts.QUADRATICS", 3)
    found = quadratic_facts(0)
    assert found["pooled/excess_median"] == pytest.approx(1.0) and found["pooled/worse"] == 0
    assert found["one_point/excess_median"] > 1
