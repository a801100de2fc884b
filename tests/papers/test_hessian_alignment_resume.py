"""A run on several domains that is stopped and continued ends bit for bit as one that was not."""

import pytest
import torch
from test_hessian_alignment_module import composed

from curvature.engine import run
from curvature.papers.hessian_alignment import HessianAlignment

STOP = 7
METHODS = [
    ["method=hutchinson", "method.diag_estimator=shared", "method.n_probes=3", "anneal_steps=4"],
    ["method=fishr", "method.ema=0.9", "method.reset_optimizer=true", "anneal_steps=6"],
    ["method=fish"],
]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[0])
def test_resume_is_bitwise(method, tmp_path, monkeypatch):
    options = "max_steps=12", "data.batch_size=32", "checkpoint.every_n_steps=5", *method
    straight = run(composed(tmp_path / "straight", *options))
    step = HessianAlignment.training_step

    def stop(self, batch, batch_idx):
        if self.trainer.global_step == STOP:
            raise Stopped
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(HessianAlignment, "training_step", stop)
        with pytest.raises(Stopped):
            run(composed(tmp_path / "stopped", *options))
    resumed = run(composed(tmp_path / "stopped", *options))
    assert resumed.fingerprint == straight.fingerprint and resumed.trained
    weights = [torch.load(r.directory / "checkpoints" / "weights.pt", weights_only=True) for r in (straight, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    torch.testing.assert_close(resumed.metrics, straight.metrics, rtol=0, atol=0, equal_nan=True)
