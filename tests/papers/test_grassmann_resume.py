"""A run of subspaces and Euclidean weights that is stopped and continued ends bit for bit as one that was not."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from test_grassmann_head import CONF

from curvature.engine import run
from curvature.papers.grassmann_head import GrassmannClassifier

STOP = 13


class Stopped(Exception):
    pass


def config(outputs, transport):
    overrides = [
        "experiment=grassmann_head",
        f"outputs={outputs}",
        f"optimizer.special.subspaces.transport={transport}",
        "optimizer.special.subspaces.reorth_every=4",
        "tracking=offline",
        "trainer.enable_progress_bar=false",
        "callbacks.transfer=null",
        "checkpoint.every_n_steps=5",
        "max_steps=24",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=overrides)


@pytest.mark.parametrize("transport", ["projection", "exact"])
def test_resume_is_bitwise(transport, tmp_path, monkeypatch):
    straight = run(config(tmp_path / "straight", transport))
    step = GrassmannClassifier.optimizer_step

    def stop(self, inputs, labels):
        if self.trainer.global_step == STOP:
            raise Stopped
        return step(self, inputs, labels)

    with monkeypatch.context() as patch:
        patch.setattr(GrassmannClassifier, "optimizer_step", stop)
        with pytest.raises(Stopped):
            run(config(tmp_path / "stopped", transport))
    resumed = run(config(tmp_path / "stopped", transport))
    assert resumed.fingerprint == straight.fingerprint and resumed.trained
    weights = [
        torch.load(result.directory / "checkpoints" / "weights.pt", weights_only=True) for result in (straight, resumed)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {k: v for k, v in straight.metrics.items() if not k.startswith("time/")} == {
        k: v for k, v in resumed.metrics.items() if not k.startswith("time/")
    }
