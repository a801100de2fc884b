"""Block curvature and tangent kernel through the command line: present, consistent, and kept by a resumed run."""

import json

import pytest
import pytorch_lightning as pl
import torch

from curvature.callbacks.blocks import HessianBlocks
from curvature.callbacks.tangent_kernel import TangentKernelCondition
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

    class Module:
        model = torch.nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="blocks"):
        HessianBlocks().setup(None, Module(), "fit")
