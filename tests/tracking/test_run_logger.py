import pytest
import pytorch_lightning as pl
import torch
from tracking_support import history, rows, runs

from curvature.tracking import NullTracker, Tracker, default_uri
from curvature.tracking.lightning import RunLogger


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", self.layer(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(logger, folder):
    loader = torch.utils.data.DataLoader(torch.ones(40, 2), batch_size=2)
    trainer = pl.Trainer(
        logger=logger,
        max_epochs=1,
        val_check_interval=10,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
    )
    trainer.fit(Regression(), loader, torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2))


@pytest.mark.filterwarnings("ignore")
def test_what_a_module_logs_is_in_mlflow_once_by_step(outputs, tmp_path):
    tracker = Tracker(outputs / "runs" / "p" / "a", default_uri(outputs), "p", "base-s0", flush_seconds=0.05)
    tracker.start()
    logger = RunLogger(tracker)
    assert (logger.name, logger.version) == ("p", "base-s0")
    fit(logger, tmp_path)
    assert tracker.finish("FINISHED", timeout_s=60)
    ((run_id, _),) = runs(outputs / "mlflow.db", "p")
    losses = history(outputs / "mlflow.db", run_id, "train/loss")
    assert [step for step, _ in losses] == list(range(20))
    assert losses[0][1] > losses[-1][1]
    assert [step for step, _ in history(outputs / "mlflow.db", run_id, "val/loss")] == [9, 19]
    names = rows(outputs / "mlflow.db", "SELECT DISTINCT key FROM metrics ORDER BY key")
    assert names == [("train/loss",), ("val/loss",)]
    assert rows(outputs / "mlflow.db", "SELECT * FROM params") == []


@pytest.mark.filterwarnings("ignore")
def test_a_follower_process_logs_nothing(tmp_path):
    fit(RunLogger(NullTracker()), tmp_path)
    assert list(tmp_path.iterdir()) == []
