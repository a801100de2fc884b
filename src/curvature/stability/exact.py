"""Facts that need no training: random linear problems, scaling laws of random nets, and a wrong interpolator.

Each function computes metrics for one seed; a claim takes them over many seeds.
"""

import itertools
import math

import numpy as np
import torch

from curvature.stability import diagonal, relu
from curvature.stability.linearised import LinearisedSGD
from curvature.stability.problems import sparse_regression
from curvature.stability.spectrum import sharpness


def linear_metrics(seed: int) -> dict[str, float]:
    """Bounds and identities for one set of 4 to 8 random gradients in 3 to 12 dimensions.

    ``linear/<bound>`` is critical learning rate x metric / bound for single samples, at most 1 where the bound is
    necessary; ``linear/trace_batch`` is the trace bound as for single samples, but at batch size 2;
    ``linear/gd_threshold_error`` and ``linear/loss_identity_error`` are errors.
    """
    generator = np.random.default_rng([seed, 3])
    samples, parameters = int(generator.integers(4, 9)), int(generator.integers(3, 13))
    scale = generator.exponential(size=(samples, 1)) if seed % 2 else 1.0
    gradients = scale * generator.standard_normal((samples, parameters))
    sgd = LinearisedSGD.from_gradients(gradients)
    single = sgd.tightness(1)
    contraction = sgd.contraction_learning_rate(1)
    hessian = gradients.T @ gradients / samples
    largest = float(np.linalg.eigvalsh(hessian)[-1])
    full_step = np.eye(parameters) - sgd.critical_learning_rate(samples) * hessian
    residuals = gradients @ generator.standard_normal(parameters)
    eta = float(generator.uniform(0.1, 1.5)) * sgd.critical_learning_rate(2)
    losses = []
    for batch in itertools.combinations(range(samples), 2):
        chosen = list(batch)
        after = residuals - eta / 2 * gradients @ (gradients[chosen].T @ residuals[chosen])
        losses.append(after @ after / (2 * samples))
    return {
        "linear/trace": single.trace,
        "linear/frobenius": single.frobenius,
        "linear/lambda_max": single.lambda_max,
        "linear/non_uniformity": single.non_uniformity,
        "linear/non_uniformity_contraction": contraction * sgd.non_uniformity,
        "linear/lambda_max_contraction": contraction * largest / 2,
        "linear/trace_batch": sgd.critical_learning_rate(2) * sgd.sharpness.trace / 2,
        "linear/trace_general": max(sgd.tightness(b).trace for b in range(1, samples + 1)),
        "linear/gd_threshold_error": abs(float(np.linalg.eigvalsh(full_step)[0]) + 1),
        "linear/loss_identity_error": abs(sgd.expected_next_loss(residuals, eta, 2) / float(np.mean(losses)) - 1),
    }


def scaling_metrics(seed: int, width: int = 64, samples: int = 3000) -> dict[str, float]:
    """Sharpness of random ReLU nets (d = 16, 64, 256) over its closed form in norms, and the exact one of linear nets.

    ``scaling/relu/trace/d<d>`` is 1 in the population; ``frobenius`` and ``lambda_max`` are over
    ``sum ||w||^2 + sqrt(d) sum a^2`` and ``sum ||w||^2 + sum a^2``. ``scaling/diagonal/<metric>_error`` is the relative
    error of trace, Frobenius norm and largest eigenvalue against l1, l2 and linf norm of beta for balanced layers, on
    inputs whose second moment is exactly isotropic.
    """
    generator = torch.Generator().manual_seed(seed)
    metrics: dict[str, float] = {}
    for dim in (16, 64, 256):
        a = torch.randn(width, generator=generator, dtype=torch.float64)
        w = torch.randn(width, dim, generator=generator, dtype=torch.float64) / dim**0.25
        inputs = torch.randn(samples, dim, generator=generator, dtype=torch.float64)
        inputs *= math.sqrt(dim) / inputs.norm(dim=1, keepdim=True)
        first, second = w.square().sum(), a.square().sum()
        measured = sharpness(relu.gram(a, w, inputs[: samples // 4]))
        metrics |= {
            f"scaling/relu/trace/d{dim}": float(relu.trace(a, w, inputs) / relu.population_trace(a, w)),
            f"scaling/relu/frobenius/d{dim}": float(measured.frobenius / (first + math.sqrt(dim) * second)),
            f"scaling/relu/lambda_max/d{dim}": float(measured.lambda_max / (first + second)),
            f"scaling/relu/balance/d{dim}": float(relu.norms(a, w)["imbalance"]),
        }
    dim, count, variance = 40, 90, 1 / 3
    columns = torch.linalg.qr(torch.randn(count, dim, generator=generator, dtype=torch.float64))[0]
    beta = torch.randn(dim, generator=generator, dtype=torch.float64)
    found = sharpness(diagonal.gram(*diagonal.balanced(beta), columns * math.sqrt(variance * count)))
    wanted = (2 * variance * torch.linalg.vector_norm(beta, order) for order in (1, 2, torch.inf))
    for name, value, norm in zip(found._fields, found, wanted):
        metrics[f"scaling/diagonal/{name}_error"] = abs(float(value / norm) - 1)
    return metrics


def witness_metrics(seed: int, dim: int = 1000, samples: int = 300) -> dict[str, float]:
    """A wrong interpolator against the truth of a sparse regression, both with balanced layers.

    The least-l2 interpolant beats the truth in largest eigenvalue, so every learning rate at which gradient descent
    keeps the truth keeps it too; its trace is several times larger. ``witness/<metric>_ratio`` is wrong over true.
    ``witness/excluded_above`` is the critical learning rate of the wrong one under single-sample SGD,
    ``witness/truth_kept_below`` that of the truth.
    """
    problem = sparse_regression(seed, dim, samples, test_samples=1)
    assert problem.truth is not None
    wrong = torch.linalg.lstsq(problem.inputs, problem.targets[:, None], driver="gelsd").solution[:, 0]
    grams = [diagonal.gram(*diagonal.balanced(beta), problem.inputs) for beta in (wrong, problem.truth)]
    bad, good = (LinearisedSGD(gram) for gram in grams)
    ratios = {
        f"witness/{name}_ratio": getattr(bad.sharpness, name) / getattr(good.sharpness, name)
        for name in ("trace", "frobenius", "lambda_max")
    }
    return {
        **ratios,
        "witness/trace": bad.sharpness.trace,
        "witness/test_loss": float(diagonal.population_loss(wrong, problem.truth)),
        "witness/train_error": float((problem.inputs @ wrong - problem.targets).abs().max()),
        "witness/gd_excluded_above": bad.critical_learning_rate(samples),
        "witness/gd_truth_kept_below": good.critical_learning_rate(samples),
        "witness/excluded_above": bad.critical_learning_rate(1),
        "witness/truth_kept_below": good.critical_learning_rate(1),
    }
