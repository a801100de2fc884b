"""The checkers of the claims can fail: violating runs are contradicted, those that prove nothing are not testable."""

from dataclasses import replace

import numpy as np
import pytest

from curvature.claims.files import claims_file
from curvature.claims.plan import PlannedRun
from curvature.claims.schema import load
from curvature.claims.verdicts import Result, judge
from curvature.stability import Conduct, LinearisedSGD
from curvature.stability.summary import Lane, lane_metrics, sweep_metrics

CLAIMS = load(claims_file("experiments", "sgd_stability", "desk"))
SETTLED = Conduct(loss=1e-12, label_variance=1.0, steps=1000)
LANES = {
    "dln-sgd": ("0.004", "0.008", "0.016", "0.032", "0.063", "0.126"),
    "relu-sgd": ("0.005", "0.01", "0.02", "0.04", "0.06", "0.1"),
    "digits-sgd": ("0.004", "0.008", "0.016", "0.03"),
    "digits-gd": ("0.016", "0.03", "0.06", "0.1", "0.2", "0.4"),
    "digits-gd-long": ("0.016", "0.4"),
    "relu-continued": ("0.06", "0.1"),
    "relu-gd": ("0.005", "0.01", "0.02", "0.04", "0.06", "0.1", "0.15"),
    "dln-gd-edge": ("0.3", "0.6"),
}


def lane(place: str, trace_ratio: float, lambda_ratio: float, conduct: Conduct, test_loss: float) -> Lane:
    """A lane with given ``rate * tr / 2`` and ``rate * lambda_max / 2``."""
    rate, samples = float(place), 80
    largest = 2 * lambda_ratio / rate
    other = (2 * trace_ratio / rate - largest) / (samples - 1)
    sgd = LinearisedSGD(np.diag([largest, *[other] * (samples - 1)]))
    accuracy = 0.95 - 0.3 * min(test_loss, 2.0) / 2.0
    values = {"test/loss": test_loss, "test/accuracy": accuracy, "norm/path_norm": 100 * test_loss}
    values["norm/l1"] = test_loss
    return Lane(f"lr_{place}", rate, rate, conduct, sgd, values)


def sweep(arm: str, conduct: Conduct = SETTLED, scale: float = 1.0) -> dict[str, float]:
    """Metrics of a run of ``arm`` that is as the paper says; ``scale`` moves its sharpness ratios."""
    descent = "-gd" in arm
    ratios = (3.0, 0.99) if descent else (0.8, 0.05)
    size, replacement = (80, False) if descent else (1, True)
    places = LANES.get(arm, LANES.get(arm.replace("-gd", "-sgd"), ()))
    lanes = []
    for index, place in enumerate(places):
        test_loss = (2.0 if descent else 0.001) if index == len(places) - 1 else (2.1 if descent else 0.1 / 2**index)
        lanes.append(lane(place, scale * ratios[0], scale * ratios[1], conduct, test_loss))
    per_lane = [lane_metrics(one, size, replacement) for one in lanes]
    if not descent:
        for one, values in zip(lanes, per_lane):
            values |= {"generalisation/ratio": 0.01 * scale} if one.eligible else {}
    metrics = {f"{name}/{one.label}": value for one, m in zip(lanes, per_lane) for name, value in m.items()}
    ratios = [values["generalisation/ratio"] for values in per_lane if "generalisation/ratio" in values]
    metrics |= {"generalisation/ratio_max": max(ratios)} if ratios else {}
    return metrics | sweep_metrics(lanes, per_lane)


def scaling(**changed: float) -> dict[str, float]:
    metrics = {f"scaling/diagonal/{name}_error": 1e-15 for name in ("trace", "frobenius", "lambda_max")}
    for dim in (16, 64, 256):
        for name, value in {"trace": 1.0, "frobenius": 0.2, "lambda_max": 0.3, "balance": 1.5}.items():
            metrics[f"scaling/relu/{name}/d{dim}"] = value
    metrics |= {name.replace("__", "/"): value for name, value in changed.items()}
    return {f"{name}/{end}": value for name, value in metrics.items() for end in ("min", "max")}


CONTINUED = {"escape/minimum/test_loss": 0.01, "escape/minimum/trace": 300.0}
REFERENCES = {"reference/constant": 1.5, "reference/least_squares": 0.7}

FACTS = {
    "linear": {
        "linear/trace/max": 0.99,
        "linear/trace_general/max": 0.99,
        "linear/trace_batch/max": 1.4,
        "linear/frobenius/max": 0.5,
        "linear/gd_threshold_error/max": 1e-15,
        "linear/loss_identity_error/max": 1e-15,
        "linear/non_uniformity_contraction/max": 0.9,
        "linear/lambda_max_contraction/max": 0.5,
        "linear/non_uniformity/max": 1.03,
    },
    "balance-sgd": {"balance/final_max": 1.01},
    "balance-gd": {"balance/kept_min": 1.0},
    "escape": {
        "escape/agreement": 1.0,
        "escape/log_slope/lr_0.04": 0.2,
        "escape/log_slope/lr_0.08": 0.5,
        "escape/minimum/trace": 110.0,
        "escape/minimum/almost_sure/lr_0.015": -0.01,
        "escape/agreement_decidable": 1.0,
        "sharpness/trace/lr_0.04": 20.0,
    },
    "scaling": scaling(),
    "witness": {
        "witness/lambda_max_ratio/max": 0.4,
        "witness/trace_ratio/min": 7.0,
        "witness/gd_excluded_above/min": 6.5,
        "witness/gd_truth_kept_below/max": 2.7,
        "witness/excluded_above/max": 0.15,
        "witness/truth_kept_below/min": 1.0,
    },
}


def verdict(claim_id: str, **changed: dict[str, float]) -> str:
    """Verdict over five seeds of runs as the paper says, with the metrics of some arms (``-`` as ``_``) replaced."""
    (claim,) = CLAIMS.select([claim_id])
    runs, results = [], {}
    for arm in dict.fromkeys(name for part in claim.decide for name in part.arms):
        metrics = changed.get(arm.replace("-", "_"), FACTS.get(arm) or sweep(arm)) | REFERENCES
        metrics |= CONTINUED if arm == "relu-continued" else {}
        for seed in CLAIMS.seeds:
            run = PlannedRun(arm, None, seed, f"{arm}{seed}", [])
            runs.append(run)
            jittered = {name: value * (1 + 1e-9 * seed) for name, value in metrics.items()}
            results[run.fingerprint] = Result(run.fingerprint, jittered)
    (judged,) = judge(CLAIMS, [claim], runs, results, "desk")
    return judged.verdict


@pytest.mark.parametrize("claim", [claim.id for claim in CLAIMS.claims])
def test_runs_as_the_paper_says_reproduce_the_claim(claim):
    assert verdict(claim) == "reproduced"


@pytest.mark.parametrize(
    ("claim", "arm", "metrics"),
    [
        ("C1", "dln_sgd", sweep("dln-sgd", scale=1.3)),
        ("C1", "relu_sgd", sweep("relu-sgd", scale=1.3)),
        ("C1", "digits_sgd", sweep("digits-sgd", scale=1.3)),
        ("C1", "linear", FACTS["linear"] | {"linear/trace_general/max": 1.01}),
        ("C2", "dln_gd", sweep("dln-gd", scale=1.1)),
        ("C2", "relu_gd", sweep("relu-gd", scale=0.5)),
        ("C2", "linear", FACTS["linear"] | {"linear/gd_threshold_error/max": 1e-6}),
        ("C3", "relu_sgd", sweep("relu-sgd", scale=20.0)),
        ("C3", "linear", FACTS["linear"] | {"linear/loss_identity_error/max": 1e-9}),
        ("C4", "scaling", scaling(scaling__relu__trace__d64=1.03)),
        ("C4", "scaling", scaling(scaling__relu__trace__d16=0.97)),
        ("C4", "scaling", scaling(scaling__relu__balance__d256=0.99)),
        ("C4", "scaling", scaling(scaling__relu__frobenius__d16=0.3)),
        ("C4", "scaling", scaling(scaling__relu__lambda_max__d256=0.5)),
        ("C5", "scaling", scaling(scaling__diagonal__trace_error=1e-8)),
        ("C5", "scaling", scaling(scaling__diagonal__frobenius_error=1e-8)),
        ("C5", "scaling", scaling(scaling__diagonal__lambda_max_error=1e-8)),
        ("C6", "witness", FACTS["witness"] | {"witness/lambda_max_ratio/max": 1.1}),
        ("C6", "witness", FACTS["witness"] | {"witness/trace_ratio/min": 3.0}),
        ("C6", "witness", FACTS["witness"] | {"witness/gd_excluded_above/min": 1.0}),
        ("C6", "witness", FACTS["witness"] | {"witness/excluded_above/max": 2.0}),
        ("C6", "dln_sgd", sweep("dln-sgd") | {"generalisation/ratio_max": 1.5}),
        ("C6", "relu_sgd", sweep("relu-sgd") | {"generalisation/ratio_max": 1.5}),
        ("C7", "dln_gd", sweep("dln-sgd")),
        ("C7-relu", "relu_sgd", sweep("relu-sgd") | {"test/loss/lr_0.1": 1.0}),
        (
            "C7-digits",
            "digits_sgd",
            sweep("digits-sgd") | {f"test/accuracy/lr_{r}": 0.5 for r in ("0.016", "0.03")},
        ),
        ("C8", "relu_sgd", sweep("relu-sgd") | {"norm/path_norm/lr_0.06": 1e4}),
        ("C8", "relu_sgd", sweep("relu-sgd") | {"test/loss/lr_0.02": 1e4}),
        ("C8", "relu_sgd", sweep("relu-sgd", scale=1.3)),
        ("C8", "relu_sgd", sweep("relu-sgd", scale=0.5)),
        ("C9", "balance_sgd", {"balance/final_max": 1.2}),
        ("C9", "balance_gd", {"balance/kept_min": 0.1}),
        ("P1", "linear", FACTS["linear"] | {"linear/non_uniformity/max": 1.2}),
        ("P2", "escape", FACTS["escape"] | {"escape/agreement": 2 / 3}),
        ("P3", "digits_gd", sweep("digits-gd", scale=0.9)),
    ],
)
def test_a_violating_run_contradicts_the_claim(claim, arm, metrics):
    assert verdict(claim, **{arm: metrics}) == "contradicted"


@pytest.mark.parametrize(
    "conduct",
    [
        replace(SETTLED, last_clipped=999),
        replace(SETTLED, constant_rate=False),
        replace(SETTLED, loss=1e-3),
        replace(SETTLED, diverged=True),
    ],
    ids=["clipped", "decayed", "not converged", "diverged"],
)
@pytest.mark.parametrize(
    ("claim", "arm"),
    [("C1", "dln-sgd"), ("C2", "relu-gd"), ("C3", "digits-sgd"), ("C6", "dln-sgd"), ("C8", "relu-sgd")],
)
def test_runs_that_prove_nothing_are_not_testable_however_much_they_violate(conduct, claim, arm):
    assert verdict(claim, **{arm.replace("-", "_"): sweep(arm, conduct, scale=5.0)}) == "not testable"
