"""Language models: the size of Phi-2 without memory, and a small one that is trained and pruned on tokens in files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from curvature.data.tokens import TokenDataModule
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.language import CausalLM, TokenCrossEntropy

CONF = Path(__file__).parents[2] / "conf"
SMALL = ["model.sizes={hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 4}",
         "data.num_classes=16", "data.length=8", "data.batch_size=8", "data.num_workers=0", "max_steps=12",
         "optimizer.start_step=2", "optimizer.pruning_steps=8", "optimizer.pruning_periods=2",
         "optimizer.target_group_sparsity=0.5", "trainer.val_check_interval=6"]  # fmt: skip
OFFLINE = ["tracking=offline", "trainer.enable_progress_bar=false", "callbacks.slim.latency_repetitions=0"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["experiment=hesso", "+recipe=hesso_phi2", *overrides])


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "tokens"
    folder.mkdir()
    tokens = np.random.default_rng(0).integers(0, 16, 1000).astype(np.int32)
    np.save(folder / "train.npy", tokens)
    np.save(folder / "test.npy", tokens[:200])
    return tmp_path


def test_phi2_has_its_published_size():
    cfg = composed("data_root=/")
    assert (cfg.scale, cfg.optimizer.variant, cfg.module.pretrain_steps) == ("paper", "adamw", 0)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == 2_779_683_840
    assert model.network.model.layers[0].self_attn.rotary_ndims == 32


@pytest.mark.parametrize("architecture", ["phi", "llama"])
def test_a_language_model_is_trained_and_pruned(texts, architecture):
    sizes = [*SMALL, f"model.architecture={architecture}"]
    metrics = run(composed(f"data_root={texts}", f"outputs={texts}", *sizes, *OFFLINE)).metrics
    assert metrics["groups/total"] == 2 * (4 + 32)
    assert metrics["groups/zero"] == metrics["groups/target"] == 36
    assert metrics["params/left"] < 1 and metrics["slim/max_difference"] < 1e-9
    assert 0 <= metrics["test/accuracy"] <= 1


def test_labels_are_the_next_tokens_and_the_loss_is_a_mean_over_tokens(texts):
    data = TokenDataModule(str(texts), "tokens", 16, 8, batch_size=4)
    data.setup()
    inputs, labels = data.measurement_batches(6, "test", 3)[0]
    assert inputs.dtype == torch.int64 and inputs.shape == labels.shape == (3, 8)
    assert torch.equal(inputs[:, 1:], labels[:, :-1].long())
    logits = torch.randn(3, 8, 16)
    expected = -logits.log_softmax(-1).gather(-1, labels.long()[..., None]).mean()
    torch.testing.assert_close(TokenCrossEntropy()(logits, labels), expected)


def test_what_cannot_work_is_said(texts):
    with pytest.raises(ConfigError, match=r"model\.architecture"):
        CausalLM("no_such_model", 16)
    with pytest.raises(ConfigError, match=r"data\.length"):
        TokenDataModule(str(texts), "tokens", 16, 0, batch_size=4)
    for length, name in ((8, "missing"), (300, "tokens")):
        with pytest.raises(ConfigError, match="data_root"):
            TokenDataModule(str(texts), name, 16, length, batch_size=4).setup()
    with pytest.raises(ConfigError, match=r"data\.num_classes"):
        TokenDataModule(str(texts), "tokens", 15, 8, batch_size=4).setup()
