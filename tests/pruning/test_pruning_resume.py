"""Runs that are stopped in the middle of a period end with the numbers of one that was not."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from curvature.callbacks import interrupt
from curvature.callbacks.pruning import PruneWhileTraining, SlimReport
from curvature.engine import run

CONF = Path(__file__).parents[2] / "conf"
SHORT = ["tracking=offline", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]
CASES = {
    "optimiser": ["experiment=hesso", "max_steps=20", "module.pretrain_steps=5",
                  "callbacks.slim.latency_repetitions=0"],
    "cric": ["experiment=hesso", "optimizer=hesso_cric", "max_steps=40", "module.pretrain_steps=5",
             "optimizer.sampling_steps=2", "optimizer.max_cycle_period=4", "optimizer.hybrid_training_steps=8",
             "callbacks.slim.latency_repetitions=0"],
    "super-resolution": ["experiment=hesso", "+recipe=hesso_carn_desk", "model.width=4", "model.stages=1",
                         "data.patches_per_image=10", "data.patch_size=8", "data.batch_size=8", "max_steps=12",
                         "optimizer.start_step=2", "optimizer.pruning_steps=8", "optimizer.pruning_periods=1",
                         "callbacks.slim.latency_repetitions=0"],
    "question answering": ["experiment=hesso", "+recipe=hesso_bert_desk", "data.train_articles=8",
                           "data.test_articles=2", "data.batch_size=8", "model.sizes.hidden_size=16", "max_steps=20",
                           "model.sizes.hidden_dropout_prob=0.1", "optimizer.start_step=2",
                           "optimizer.pruning_steps=12", "optimizer.pruning_periods=2",
                           "callbacks.slim.latency_repetitions=0"],
    "callback": ["experiment=sam_vit", "+pruning=hesso", "max_steps=20", "callbacks.measures=null",
                 "callbacks.step_time=null", "callbacks.pruning.periods=2", "callbacks.pruning.latency_repetitions=0"],
}  # fmt: skip


def metrics_of(outputs, case):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return run(compose("config", overrides=[*CASES[case], *SHORT, f"outputs={outputs}"])).metrics


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_to_the_same_numbers(case, tmp_path, monkeypatch):
    whole = metrics_of(tmp_path / "whole", case)
    watched = PruneWhileTraining if case == "callback" else SlimReport
    original = watched.on_train_batch_end

    def stop_at_seven(self, trainer, *args):
        original(self, trainer, *args)
        if trainer.global_step == 7:
            interrupt.request_stop("the test")

    monkeypatch.setattr(watched, "on_train_batch_end", stop_at_seven)
    with pytest.raises(interrupt.Interrupted):
        metrics_of(tmp_path / "stopped", case)
    interrupt.clear()
    monkeypatch.undo()
    assert metrics_of(tmp_path / "stopped", case) == whole
    assert whole["groups/zero"] == whole["groups/target"] > 0
