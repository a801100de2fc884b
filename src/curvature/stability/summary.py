"""From the lanes of one sweep over learning rates to the numbers that claims are judged by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import spearmanr

from curvature.stability.eligibility import Conduct, ineligible
from curvature.stability.linearised import LinearisedSGD
from curvature.stability.sampling import noise_factor

SWEPT = ("test/loss", "test/accuracy", "norm/l1", "norm/path_norm", "sharpness/trace", "sharpness/lambda_max")
REASONS = ("diverged", "learning rate decayed", "not converged", "clipped")


@dataclass(frozen=True)
class Lane:
    """The end of one replica.

    Attributes:
        label: names the lane within metrics, e.g. ``lr_0.004``.
        position: where it stands on the axis of the sweep.
        rate: learning rate it really had.
        conduct: how it went.
        sgd: linearisation at its end.
        values: further metrics by name, e.g. ``test/loss`` and ``norm/l1``.
    """

    label: str
    position: float
    rate: float
    conduct: Conduct
    sgd: LinearisedSGD
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def eligible(self) -> bool:
        """Whether stability bounds apply."""
        return ineligible(self.conduct) is None


def lane_metrics(lane: Lane, batch_size: int, replacement: bool = True) -> dict[str, float]:
    """Metrics of one lane, without its label.

    Ratios are metric over bound: ``stability/trace`` is ``rate p tr(G) / 2`` (0 for gradient descent), ``trace_full``
    the same with p = 1, ``lambda_max`` is ``rate lambda_max / 2``, ``frobenius`` is ``rate ||G||_F sqrt(p mu)``,
    ``non_uniformity`` is ``rate s sqrt(p)``; ``worst_alignment`` is that mu, ``rate`` is the learning rate over the
    critical one, ``growth`` the factor of ``E||theta||^2`` a step. ``stability/eligible`` is 1 or 0,
    ``stability/ineligible`` the place of the reason in :data:`REASONS`, from 1.
    """
    p = noise_factor(lane.sgd.samples, batch_size, replacement)
    trace, frobenius, largest = lane.sgd.sharpness
    reason = ineligible(lane.conduct)
    metrics = {
        **lane.values,
        "train/loss": lane.conduct.loss,
        "sharpness/trace": trace,
        "sharpness/frobenius": frobenius,
        "sharpness/lambda_max": largest,
        "stability/trace": lane.rate * p * trace / 2,
        "stability/trace_full": lane.rate * trace / 2,
        "stability/lambda_max": lane.rate * largest / 2,
        "stability/frobenius": lane.rate * frobenius * math.sqrt(p * max(lane.sgd.worst_alignment, 0.0)),
        "stability/non_uniformity": lane.rate * lane.sgd.non_uniformity * math.sqrt(p),
        "stability/worst_alignment": lane.sgd.worst_alignment,
        "stability/rate": lane.rate / lane.sgd.critical_learning_rate(batch_size, replacement),
        "stability/growth": lane.sgd.growth_factor(lane.rate, batch_size, replacement),
        "stability/eligible": float(reason is None),
        "run/steps": float(lane.conduct.steps),
        "run/last_clipped": float(lane.conduct.last_clipped),
    }
    if reason is not None:
        metrics["stability/ineligible"] = float(REASONS.index(reason) + 1)
    return metrics


def sweep_metrics(lanes: Sequence[Lane], per_lane: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of a whole sweep.

    For each ``stability/...`` ratio its maximum and minimum over *eligible* lanes; none of them exists if no lane is
    eligible, so that nothing can be concluded then. For the metrics in :data:`SWEPT`, over the lanes that did not
    diverge: ``sweep/spearman/<metric>`` is the rank correlation with the place on the axis, ``sweep/ratio/<metric>`` is
    largest over smallest, ``sweep/last/<metric>`` the value at the last place.
    """
    eligible = [metrics for lane, metrics in zip(lanes, per_lane) if lane.eligible]
    metrics = {"stability/eligible_lanes": float(len(eligible))}
    names = ("trace", "trace_full", "lambda_max", "frobenius", "non_uniformity", "rate", "growth")
    for name in names if eligible else ():
        values = [lane[f"stability/{name}"] for lane in eligible]
        metrics[f"stability/{name}_max"], metrics[f"stability/{name}_min"] = max(values), min(values)
    kept = [(lane.position, m) for lane, m in zip(lanes, per_lane) if not lane.conduct.diverged]
    kept.sort(key=lambda pair: pair[0])
    for name in [n for n in SWEPT if kept and n in kept[0][1]]:
        values = [m[name] for _, m in kept]
        metrics[f"sweep/last/{name}"] = values[-1]
        if min(values) > 0:
            metrics[f"sweep/ratio/{name}"] = max(values) / min(values)
        if len(set(values)) > 1:
            metrics[f"sweep/spearman/{name}"] = float(spearmanr([p for p, _ in kept], values).statistic)
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
