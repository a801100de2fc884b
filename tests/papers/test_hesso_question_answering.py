"""BERT for questions: the size of BERT-base without memory, metrics by hand, and a small one trained and pruned."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torchmetrics.text import SQuAD

from curvature.data.generated_questions import generated_vocabulary
from curvature.engine import run
from curvature.errors import ConfigError
from curvature.models.question_answering import BertQuestionAnswering, SpanCrossEntropy
from curvature.pruning import build_search_space

CONF = Path(__file__).parents[2] / "conf"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
}
SMALL = ["max_steps=12", "optimizer.start_step=2", "optimizer.pruning_steps=8", "optimizer.pruning_periods=2",
         "data.train_articles=8", "data.test_articles=2", "data.batch_size=8", "trainer.val_check_interval=6",
         "model.sizes.hidden_size=16", "model.sizes.intermediate_size=24", "threads=1", "tracking=offline",
         "trainer.enable_progress_bar=false", "callbacks.slim.latency_repetitions=0"]  # fmt: skip


def composed(*overrides, experiment="hesso", recipe=("+recipe=hesso_bert_desk",)):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"experiment={experiment}", *recipe, *overrides])


def test_bert_base_has_its_size_and_the_recipe_its_steps():
    cfg = composed("data_root=/", experiment="paper/hesso_bert", recipe=())
    with torch.device("meta"):
        model = instantiate(cfg.model, checkpoint=None)
    vocabulary, width, inner, layers = 30522, 768, 3072, 12
    embeddings = (vocabulary + 512 + 2) * width + 2 * width
    layer = 4 * (width * width + width) + 2 * (width * inner) + inner + width + 4 * width
    assert sum(p.numel() for p in model.parameters()) == embeddings + layers * layer + 2 * width + 2 == 108_893_186
    epoch = 88524 // cfg.data.batch_size
    assert cfg.max_steps == 10 * epoch
    assert cfg.optimizer.start_step == cfg.optimizer.pruning_steps == 2 * epoch
    assert (cfg.lr, cfg.optimizer.variant, cfg.optimizer.target_group_sparsity) == (3e-5, "adamw", 0.1)
    assert (cfg.data.max_length, cfg.data.stride, cfg.optimizer.pruning_periods) == (384, 128, 10)
    assert (cfg.optimizer.direction, cfg.optimizer.weight_decay, cfg.module.max_grad_norm) == ("variant", 0.01, None)
    assert cfg.data.batch_size == 12 and cfg.module.get("longest_answer", 30) == 30
    parameter = torch.nn.Parameter(torch.zeros(1))
    schedule = instantiate(cfg.schedule)(torch.optim.SGD([parameter], lr=1.0), max_steps=cfg.max_steps)
    rates = [schedule.lr_lambdas[0](step) for step in (0, cfg.max_steps // 2, cfg.max_steps)]
    assert rates == pytest.approx([1.0, 0.5, 0.0], abs=1e-4)


def test_logits_at_the_labels_answer_everything_whichever_window_holds_the_answer():
    data = instantiate(composed().data, train_articles=8, test_articles=4)
    data.setup()
    windows = data.splits["test"]
    rows = windows.of_questions(np.arange(len(windows.questions)))
    _, labels = windows.examples(rows)
    assert len(rows) > len(windows.questions) and (labels == 0).all(1).any()
    logits = torch.zeros(len(rows), windows.input_ids.shape[1], 2)
    answered = labels.any(1).nonzero().flatten()
    for side in (0, 1):
        logits[answered, labels[answered, side], side] = 9.0
    found = SQuAD()(*windows.answers(torch.from_numpy(rows), logits))
    assert (float(found["f1"]), float(found["exact_match"])) == (100.0, 100.0)
    logits[answered] = 0.0
    assert float(SQuAD()(*windows.answers(torch.from_numpy(rows), logits))["exact_match"]) < 50.0


def test_desk_model_has_the_vocabulary_of_the_generated_corpus():
    assert composed().model.vocabulary == len(generated_vocabulary())


@pytest.mark.parametrize(
    ("prediction", "references", "f1", "exact"),
    [
        ("the Norman dukes", ["Norman dukes"], 1.0, 1),
        ("Norman, dukes!", ["norman dukes"], 1.0, 1),
        ("an old Norman duke", ["Norman dukes"], 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2), 0),
        ("in 1834", ["1834", "in 1834"], 1.0, 1),
        ("in the year 1834", ["1834", "in 1834"], 0.8, 0),
        ("blue blue", ["blue"], 2 / 3, 0),
        ("red", ["blue"], 0.0, 0),
        ("", ["blue"], 0.0, 0),
    ],
)
def test_metrics_are_those_of_squad(prediction, references, f1, exact):
    target = {"id": "0", "answers": {"text": references, "answer_start": [0] * len(references)}}
    found = SQuAD()([{"id": "0", "prediction_text": prediction}], [target])
    assert float(found["f1"]) == pytest.approx(100 * f1, abs=1e-4)
    assert float(found["exact_match"]) == 100 * exact


def test_loss_is_the_mean_of_the_cross_entropies_of_start_and_end():
    logits, labels = torch.randn(3, 7, 2, dtype=torch.float64), torch.tensor([[1, 2], [0, 0], [4, 6]])
    starts, ends = (logits[:, :, side].log_softmax(1)[range(3), labels[:, side]] for side in (0, 1))
    expected = -(starts.mean() + ends.mean()) / 2
    torch.testing.assert_close(SpanCrossEntropy()(logits, labels), expected)


def test_heads_and_hidden_units_are_the_groups_and_padding_makes_no_difference():
    torch.manual_seed(0)
    model = BertQuestionAnswering(50, SIZES).eval()
    tokens = torch.randint(1, 50, (2, 10))
    inputs = {"input_ids": tokens, "token_type_ids": (torch.arange(10) > 4).long().expand(2, -1)}
    inputs["attention_mask"] = (torch.arange(10) < 8).long().expand(2, -1)
    space = build_search_space(model, inputs)
    assert space.size == 2 * (4 + 24) and {node.size for node in space.nodes} == {4, 24}
    assert not any("embeddings" in cut.tensor for node in space.nodes for cut in node.cuts)
    shorter = model(**{name: value[:, :8] for name, value in inputs.items()})
    torch.testing.assert_close(model(**inputs)[:, :8], shorter)


def test_a_checkpoint_is_read_from_safetensors_alone(tmp_path):
    from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering

    pretrained = BertForPreTraining(BertConfig(vocab_size=50, **SIZES))
    pretrained.save_pretrained(tmp_path / "pretrained")
    model = BertQuestionAnswering(50, checkpoint=str(tmp_path / "pretrained"))
    assert model.positions == 48
    expected = dict(pretrained.bert.named_parameters())
    for name, parameter in model.network.bert.named_parameters():
        assert torch.equal(parameter, expected[name])
    with pytest.raises(ConfigError, match=r"model\.vocabulary"):
        BertQuestionAnswering(51, checkpoint=str(tmp_path / "pretrained"))
    pickled = tmp_path / "pickled"
    BertForQuestionAnswering(BertConfig(vocab_size=50, **SIZES)).config.save_pretrained(pickled)
    torch.save(pretrained.state_dict(), pickled / "pytorch_model.bin")
    for folder in (pickled, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"model\.checkpoint"):
            BertQuestionAnswering(50, checkpoint=str(folder))


def test_a_checkpoint_without_a_layer_is_refused(tmp_path):
    from transformers import BertConfig, BertForQuestionAnswering

    fewer = BertForQuestionAnswering(BertConfig(vocab_size=50, **(SIZES | {"num_hidden_layers": 1})))
    fewer.save_pretrained(tmp_path)
    BertConfig(vocab_size=50, **SIZES).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"missing are bert\.encoder\.layer\.1"):
        BertQuestionAnswering(50, checkpoint=str(tmp_path))


@pytest.mark.parametrize("sizes", [{"no_such_size": 1}, {"hidden_size": 10, "num_attention_heads": 3}])
def test_sizes_that_bert_does_not_take_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"model\.sizes"):
        BertQuestionAnswering(50, sizes)


def test_bert_is_trained_and_pruned_and_the_slim_network_is_the_masked_one(tmp_path):
    metrics = run(composed(f"outputs={tmp_path}", *SMALL)).metrics
    assert metrics["groups/total"] == 2 * (4 + 24)
    assert metrics["groups/zero"] == metrics["groups/target"] == 28
    assert metrics["params/left"] < 1 and metrics["slim/max_difference"] < 1e-12
    assert metrics["passes/forward"] == metrics["passes/backward"] == 1
    for split in ("val", "test"):
        assert 0 <= metrics[f"{split}/exact_match"] <= metrics[f"{split}/f1"] <= 100
        assert metrics[f"{split}/loss"] > 0


def test_a_model_for_fewer_tokens_than_the_data_has_is_refused(tmp_path):
    for override, key in (("model.vocabulary=300", "model.vocabulary"), ("module.longest_answer=0", "longest_answer")):
        with pytest.raises(ConfigError, match=key):
            run(composed(f"outputs={tmp_path}", *SMALL, override))
    with pytest.raises(ConfigError, match=r"data\.max_length"):
        run(composed(f"outputs={tmp_path}", *SMALL, "model.sizes.max_position_embeddings=40"))
