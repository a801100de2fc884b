"""Plain values are checked against the annotations of what they are handed to, before it is built."""

import pytest
from omegaconf import OmegaConf

from curvature.arguments import check_arguments
from curvature.errors import ConfigError

MEASURES = {"_target_": "curvature.callbacks.measures.Measures"}
MODULE = {"_target_": "curvature.papers.sam_vit.SamViT"}


@pytest.mark.parametrize(
    "values",
    [
        {"images": 3, "tolerance": 1, "every_n_steps": None, "sigmas": [0, 0.5]},
        {"unknown": "3"},
        {"measures": []},
    ],
)
def test_values_of_the_annotated_types_pass(values):
    check_arguments(OmegaConf.create({"measures": MEASURES | values}), "callbacks")


@pytest.mark.parametrize(
    ("values", "key", "wanted"),
    [
        ({"images": "3"}, "callbacks.measures.images='3'", "type int"),
        ({"images": 3.0}, "callbacks.measures.images=3.0", "type int"),
        ({"images": True}, "callbacks.measures.images=True", "type int"),
        ({"images": None}, "callbacks.measures.images=None", "type int"),
        ({"tolerance": float("nan")}, "callbacks.measures.tolerance=nan", "a number"),
        ({"sigmas": [0.1, "x"]}, "callbacks.measures.sigmas=", "Sequence[float]"),
        ({"sigmas": {"a": 1}}, "callbacks.measures.sigmas=", "Sequence[float]"),
        ({"every_n_steps": "often"}, "callbacks.measures.every_n_steps='often'", "int | None"),
        ({"images": "${other}", "other": "x"}, "callbacks.measures.images='x'", "type int"),
    ],
)
def test_other_values_are_named(values, key, wanted):
    node = MEASURES | values
    if "other" in node:
        cfg = OmegaConf.create({"other": node.pop("other"), "callbacks": {"measures": node}})
    else:
        cfg = OmegaConf.create({"callbacks": {"measures": node}})
    with pytest.raises(ConfigError) as error:
        check_arguments(cfg.callbacks, "callbacks")
    assert key in str(error.value) and wanted in str(error.value)


def test_options_that_go_to_a_base_class_and_nested_parts_are_checked():
    with pytest.raises(ConfigError, match=r"module\.max_grad_norm='x'"):
        check_arguments(OmegaConf.create(MODULE | {"max_grad_norm": "x"}), "module")
    nested = MODULE | {"optimizer": {"_target_": "curvature.optim.SAM", "_partial_": True, "rho": [1]}}
    with pytest.raises(ConfigError, match=r"module\.optimizer\.rho=\[1\]"):
        check_arguments(OmegaConf.create(nested), "module")
    with pytest.raises(ConfigError, match=r"parts\.1\.images='x'"):
        check_arguments(OmegaConf.create([MEASURES, MEASURES | {"images": "x"}]), "parts")


def test_mappings_and_lists_of_what_cannot_be_checked_are_mappings_and_lists():
    data = {"_target_": "curvature.data.digits.DigitsDataModule"}
    check_arguments(OmegaConf.create({"data": data | {"corruptions": {"a": {"_target_": "x"}, "b": None}}}), "x")
    with pytest.raises(ConfigError, match=r"data\.corruptions=1\.5"):
        check_arguments(OmegaConf.create(data | {"corruptions": 1.5}), "data")
    evaluations = {"_target_": "curvature.training.evaluations.Evaluations"}
    check_arguments(OmegaConf.create(evaluations | {"functions": {"_target_": "a.function"}}), "module")
    with pytest.raises(ConfigError, match=r"module\.functions=3"):
        check_arguments(OmegaConf.create(evaluations | {"functions": 3}), "module")


@pytest.mark.parametrize(("name", "value"), [("lr", "3"), ("weight_decay", {"a": 1}), ("betas", 1), ("betas", [0.9])])
def test_numbers_of_the_optimizers_of_torch_are_checked(name, value):
    node = OmegaConf.create({"_target_": "torch.optim.AdamW", "lr": 0.1, "betas": [0.9, 0.999], "amsgrad": None})
    check_arguments(node, "optimizer")
    node[name] = value
    with pytest.raises(ConfigError, match=f"optimizer\\.{name}="):
        check_arguments(node, "optimizer")


def test_other_libraries_are_left_alone():
    check_arguments(OmegaConf.create({"_target_": "fractions.Fraction", "numerator": []}), "number")
