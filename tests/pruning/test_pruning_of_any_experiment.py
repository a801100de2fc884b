"""``+pruning=hesso`` on experiments that know nothing of it: a ViT under SAM, a Grassmann head with two optimisers."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from curvature.callbacks.pruning import PruneWhileTraining
from curvature.engine import run
from curvature.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
SHORT = ["max_steps=14", "tracking=offline", "trainer.enable_progress_bar=false", "callbacks.pruning.periods=2"]
CASES = {
    "sam_vit": ["callbacks.measures=null", "callbacks.step_time=null", "trainer.val_check_interval=7"],
    "grassmann_head": [
        "callbacks.structure=null", "callbacks.transfer=null", "callbacks.angles=null", "trainer.val_check_interval=7",
    ],
}  # fmt: skip


@pytest.mark.parametrize("experiment", CASES)
def test_the_model_of_another_paper_is_pruned_while_it_trains(experiment, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = [f"experiment={experiment}", "+pruning=hesso", f"outputs={tmp_path}", *SHORT, *CASES[experiment]]
        cfg = compose("config", overrides=[*options, f"callbacks.pruning.save={tmp_path / 'slim'}"])
    metrics = run(cfg).metrics
    assert metrics["groups/zero"] == metrics["groups/target"] == metrics["groups/total"] // 2 > 0
    assert metrics["slim/max_difference"] <= 1e-12
    assert metrics["params/left"] < 0.9 and metrics["macs/left"] < 0.9
    if experiment == "grassmann_head":
        assert metrics["subspaces/drift"] < 1e-4
    weights = torch.load(tmp_path / "slim" / "weights.pt", weights_only=True)
    assert sum(value.numel() for value in weights.values()) < metrics["params/dense"] * 1.02
    assert (tmp_path / "slim" / "recipe.json").read_text().startswith('{"keep"')


def test_shares_of_training_are_checked():
    for wrong in ({"start": 0.6}, {"start": -0.1}, {"duration": 1.1}):
        with pytest.raises(ConfigError):
            PruneWhileTraining(100, **wrong)
