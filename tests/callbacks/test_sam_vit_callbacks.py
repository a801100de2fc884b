"""Block curvature and tangent kernel through the command line: present, consistent, and kept by a resumed run."""

import json

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from curvature.callbacks.blocks import HessianBlocks
from curvature.callbacks.measures import Measures
from curvature.callbacks.tangent_kernel import TangentKernelCondition
from curvature.configs import config_directory
from curvature.engine import run
from curvature.errors import ConfigError


def metrics(root):
    (record,) = root.rglob("run.json")
    return json.loads(record.read_text())["metrics"]


def test_both_report_and_blocks_do_not_exceed_the_whole(command, tmp_path):
    result = command(
        "run.py",
        "experiment=sam_vit",
        "model=mixer_desk",
        "+debug=smoke",
        "+callbacks=[blocks,tangent_kernel]",
        "+callbacks.measures.measures=[lambda_max]",
        "callbacks.measures.images=16",
        "callbacks.blocks.images=16",
        "callbacks.step_time=null",
    )
    assert result.returncode == 0, result.stderr
    found = metrics(tmp_path / "outputs")
    blocks = {name: value for name, value in found.items() if name.startswith("blocks/")}
    expected = {"embedding", "token_mixing", "channel_mixing", "block1", "block2", "block3", "last"}
    assert {name.removeprefix("blocks/") for name in blocks} == expected
    assert blocks["blocks/last"] == blocks["blocks/block3"]
    assert max(blocks.values()) <= found["sharpness/lambda_max"] * (1 + 2e-3)
    assert all(found[f"ntk/condition_number/{mode}"] > 1 for mode in ("per_logit", "sum_logits", "trace"))


def test_a_resumed_run_keeps_the_kernel_of_its_initial_weights():
    before, after = TangentKernelCondition(), TangentKernelCondition()
    before.results = {"ntk/condition_number/per_logit": 7.0}
    after.load_state_dict(before.state_dict())

    trainer = pl.Trainer(logger=False, accelerator="cpu", devices=1, enable_checkpointing=False)
    after.on_fit_start(trainer, torch.nn.Linear(1, 1))
    assert after.results == before.results


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="modes"):
        TangentKernelCondition(modes=["mean"])
    with pytest.raises(ConfigError, match="images"):
        TangentKernelCondition(images=100)

    with pytest.raises(ConfigError, match=r"measures\.batch_size"):
        Measures(batch_size=0)
    with pytest.raises(ConfigError, match=r"blocks\.batch_size"):
        HessianBlocks(batch_size=0)

    class Module:
        model = torch.nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="blocks"):
        HessianBlocks().setup(None, Module(), "fit")


def desk(tmp_path, *overrides):
    """A desk run of two steps without the progress bar; overrides come last."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        quiet = [f"outputs={tmp_path}", "tracking=offline", "trainer.enable_progress_bar=false", "max_steps=2"]
        return run(compose("config", overrides=["experiment=sam_vit", "test=false", *quiet, *overrides]))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.train_size=100"], "callbacks.measures.images=256"),
        (["callbacks.measures=null", "+callbacks=blocks", "callbacks.blocks.images=301"], "callbacks.blocks.images"),
        (
            ["callbacks.measures=null", "+callbacks=tangent_kernel", "data.train_size=10", "data.batch_size=10"],
            "callbacks.tangent_kernel.images=16",
        ),
        (["+recipe=sam_vit_adversarial", "callbacks.adversarial.images=1001"], "callbacks.adversarial.images"),
    ],
    ids=["measures", "blocks", "tangent kernel", "adversarial"],
)
def test_more_images_than_there_are_is_an_error_before_training(tmp_path, overrides, key, monkeypatch):
    monkeypatch.setattr("curvature.papers.sam_vit.SamViT.training_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=key):
        desk(tmp_path, *overrides)


def test_measures_do_not_depend_on_the_size_of_their_batches(tmp_path):
    options = ["model=mixer_desk", "+callbacks=blocks", "callbacks.step_time=null", "callbacks.measures.draws=2"]
    options += ["callbacks.measures.images=16", "callbacks.blocks.images=16"]
    whole = desk(tmp_path, *options).metrics
    parts = desk(tmp_path, *options, "+callbacks.measures.batch_size=7", "+callbacks.blocks.batch_size=7").metrics
    chosen = [name for name in whole if name.split("/")[0] in ("sharpness", "blocks", "activity", "train")]
    assert len(chosen) > 12
    for name in set(chosen) - {"sharpness/trace"}:
        assert parts[name] == pytest.approx(whole[name], rel=1e-3), name
