"""Facts of the LML paper that need no training: functions of a seed to metrics."""

import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from curvature.samplers.correction import levenberg_marquardt_correction, released_correction
from curvature.samplers.study import SOLVERS, Arm, draw, predictor, scheduler
from curvature.samplers.targets import GaussianMixture, random_mixture

NOISE_CONSTANT = 3.6e-8
"""Relative change of the released order in float32 without memory, times ``lamb / ||g||^2``."""

COST_DIMS = (10_000, 100_000, 1_000_000)


def correction_facts(seed: int) -> dict[str, float]:
    """The closed form against a dense solve, its cost, its stability and its identity without memory (C1, C3, C9)."""
    generator = torch.Generator().manual_seed(seed)
    g, p = torch.randn(2, 32, 48, generator=generator, dtype=torch.float64)
    dense, angle, finite, condition = 0.0, 0.0, 1.0, 0.0
    for lamb in (1e-2, 1.0, 1e2):
        for kappa in (0.1, 0.5, 0.9):
            v = kappa * p + (1 - kappa) * g
            matrix = lamb * torch.eye(48, dtype=torch.float64) + v[:, :, None] * v[:, None, :]
            solved = torch.linalg.solve(matrix, g)
            expected = solved * (g.norm(dim=1) / solved.norm(dim=1))[:, None]
            found = levenberg_marquardt_correction(g, p, lamb, kappa)
            dense = max(dense, float((found - expected).abs().max()))
            bound = (v * g).sum(1).abs() / g.norm(dim=1) / (2 * math.sqrt(lamb))
            cosine = (found * g).sum(1) / g.square().sum(1)
            angle = max(angle, float(((1 - cosine**2).clamp_min(0).sqrt() / cosine / bound).max()))
            predicted = 1 + v.square().sum(1) / lamb
            condition = max(condition, float((torch.linalg.cond(matrix) / predicted - 1).abs().max()))
    for exponent in range(-12, 13):
        found = levenberg_marquardt_correction(g.float(), p.float(), 10.0**exponent, 0.3)
        finite = min(finite, float(found.isfinite().all()))
    return {
        "correction/dense_error": dense,
        "correction/angle_over_bound": angle,
        "correction/condition_error": condition,
        "correction/finite": finite,
        "correction/identity_error": _identity_error(seed),
        "correction/cost_slope": _cost_slope(generator),
    }


def hessian_facts(seed: int, points: int = 1000) -> dict[str, float]:
    """The rank-one model of the diffusion Hessian: exact residual, mean, bound, and its error point by point (C2).

    Returns:
        ``hessian/residual_error``: relative error of ``F - s s^T = (I - E[z z^T | x]) / sigma^2``; ``hessian/mean_z``:
        largest entry of ``mean(s s^T) - mean(F)`` in standard errors; ``hessian/bound_ratio``: largest
        ``||F - s s^T|| sigma^2 / (1 + max_y ||x - alpha y||^2 / sigma^2)`` for point masses;
        ``hessian/pointwise/t_<t>``: median of ``||F - s s^T|| / ||F||``.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    target = GaussianMixture(means, 0.25 * torch.logspace(0, -1, 4, dtype=torch.float64))
    masses = GaussianMixture(means, torch.zeros(4, dtype=torch.float64))
    levels = scheduler(Arm("ddim"), 1, 1).alphas_cumprod.double()
    metrics = {"hessian/residual_error": 0.0, "hessian/mean_z": 0.0, "hessian/bound_ratio": 0.0}
    for timestep in (20, 200, 600, 950):
        alpha, sigma = float(levels[timestep].sqrt()), float((1 - levels[timestep]).sqrt())
        x = target.noised(alpha, sigma).sample(points, generator)
        gap, curvature = _rank_one_gap(target, x, alpha, sigma)
        closed = (torch.eye(4, dtype=torch.float64) - target.noise_second_moment(x, alpha, sigma)) / sigma**2
        error = float((gap - closed).norm() / closed.norm())
        deviations = float((gap.mean(0) / (gap.std(0) / math.sqrt(points))).abs().max())
        near = masses.noised(alpha, sigma).sample(points, generator)
        reach = (near[:, None] - alpha * means).square().sum(-1).max(1).values / sigma**2
        norms = torch.linalg.matrix_norm(_rank_one_gap(masses, near, alpha, sigma)[0], 2)
        metrics["hessian/residual_error"] = max(metrics["hessian/residual_error"], error)
        metrics["hessian/mean_z"] = max(metrics["hessian/mean_z"], deviations)
        ratio = float((norms * sigma**2 / (1 + reach)).max())
        metrics["hessian/bound_ratio"] = max(metrics["hessian/bound_ratio"], ratio)
        relative = torch.linalg.matrix_norm(gap, 2) / torch.linalg.matrix_norm(curvature, 2)
        metrics[f"hessian/pointwise/t_{timestep}"] = float(relative.median())
    return metrics


def langevin_facts(seed: int) -> dict[str, float]:
    """Damped Langevin dynamics ``dx = (M s + div M) dt + sqrt(2 M) dW`` with ``M = (lamb I + s s^T)^{-1}`` (C8).

    Returns:
        ``langevin/flux_error``: probability flux of the stationary density, relative to ``|M s|``, with the
        divergence; ``langevin/defect/lamb_<lamb>``: root mean square of ``|div M|`` over that of ``|M s|``, the flux
        without it; ``langevin/defect_slope`` and ``langevin/first_order_slope``: log-log slopes, over large damping, of
        that defect and of the distance of the correction to the plain update.
    """
    generator = torch.Generator().manual_seed(seed)
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    x = torch.randn(500, 2, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T

    def weighted(point: Tensor, lamb: float) -> Tensor:
        score = -precision @ point
        density = torch.exp(-0.5 * point @ precision @ point)
        matrix: Tensor = density * torch.linalg.inv(
            lamb * torch.eye(2, dtype=torch.float64) + torch.outer(score, score)
        )
        return matrix

    metrics, defects, dampings = {"langevin/flux_error": 0.0}, [], (0.1, 1.0, 10.0, 100.0, 1000.0)
    for lamb in dampings:
        score = -x @ precision
        squared = score.square().sum(1, keepdim=True)
        pull = score / (lamb + squared)
        turned = -score @ precision
        along = (score * turned).sum(1, keepdim=True)
        divergence = (turned - torch.trace(precision) * score) / (lamb + squared)
        divergence = -(divergence - 2 * score * along / (lamb + squared) ** 2) / lamb
        jacobian: Any = torch.func.vmap(torch.func.jacrev(lambda point, value=lamb: weighted(point, value)))(x)
        density = torch.exp(-0.5 * (x @ precision * x).sum(1, keepdim=True))
        flux = (pull + divergence) * density - torch.einsum("bijj->bi", jacobian)
        error = float((flux / density).norm() / pull.norm())
        metrics["langevin/flux_error"] = max(metrics["langevin/flux_error"], error)
        defects.append(float(divergence.norm() / pull.norm()))
        metrics[f"langevin/defect/lamb_{lamb:g}"] = defects[-1]
    g, p = torch.randn(2, 64, 16, generator=generator, dtype=torch.float64)
    changes = [float((levenberg_marquardt_correction(g, p, lamb, 0.4) - g).norm()) for lamb in (1e4, 1e5, 1e6)]
    metrics["langevin/defect_slope"] = _slope(dampings[-3:], defects[-3:])
    metrics["langevin/first_order_slope"] = _slope((1e4, 1e5, 1e6), changes)
    return metrics


def rounding_facts(seed: int) -> dict[str, float]:
    """The released order of operations without memory, for which exact arithmetic changes nothing (C10).

    Returns:
        With ratios written as ``1e_06``: ``rounding/change/<ratio>``: median relative change of random g in float32
        at ``lamb / ||g||^2 = ratio``; ``rounding/log2_off/<ratio>``: its distance to ``3.6e-8 / ratio`` in factors of
        two; ``rounding/float64``: the largest change in float64; ``rounding/exact_float32`` and
        ``rounding/released_float32``: relative error, with memory, of the exact form (largest) and of the released
        order (median).
    """
    generator = torch.Generator().manual_seed(seed)
    g, p = torch.randn(2, 64, 3072, generator=generator, dtype=torch.float64)
    squares = float(g.square().sum(1).mean())
    metrics = {"rounding/float64": 0.0, "rounding/exact_float32": 0.0, "rounding/released_float32": 0.0}
    for ratio in (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 1e-4):
        single, lamb, label = g.float(), ratio * squares, f"{ratio:.0e}".replace("-", "_")
        change = float(_relative(released_correction(single, None, lamb, 0.0).double(), single.double()).median())
        metrics[f"rounding/change/{label}"] = change
        metrics[f"rounding/log2_off/{label}"] = abs(math.log2(change * ratio / NOISE_CONSTANT))
        double = float(_relative(released_correction(g, None, lamb, 0.0), g).max())
        metrics["rounding/float64"] = max(metrics["rounding/float64"], double)
        exact = levenberg_marquardt_correction(g.float().double(), p.float().double(), lamb, 0.1 * ratio)
        found = levenberg_marquardt_correction(g.float(), p.float(), lamb, 0.1 * ratio)
        error = float(_relative(found.double(), exact).max())
        metrics["rounding/exact_float32"] = max(metrics["rounding/exact_float32"], error)
        released = float(
            _relative(released_correction(g.float(), p.float(), lamb, 0.1 * ratio).double(), exact).median()
        )
        metrics["rounding/released_float32"] = max(metrics["rounding/released_float32"], released)
    return metrics


def order_facts(seed: int) -> dict[str, float]:
    """Log-log slopes of the error over the number of steps, for a 1-D Gaussian of variance 1/4 with primed history.

    The grid is uniform in log(alpha / sigma) from -2 to 2.5, with 80 to 1280 steps: below, the error of the
    corrected update changes sign. The seed does not matter.
    """
    arms = {"ddim": ("ddim", 1), "dpm_2m": ("dpm_2m", 1), "dpm_3m": ("dpm_3m", 1), "dpm_3m_d2": ("dpm_3m", 2)}
    counts = (80, 160, 320, 640, 1280)
    return {
        f"order/{name}": -_slope(counts, [_order_error(solver, factor, count) for count in counts])
        for name, (solver, factor) in arms.items()
    }


def _order_error(solver: str, d2_factor: int, steps: int) -> float:
    options = {} if solver == "ddim" else {"d2_factor": d2_factor}
    chosen = scheduler(Arm(solver), steps + 2, 1, **options)
    chosen.set_timesteps(steps + 2)
    width = 4.5 / steps
    logs = -2.0 + width * torch.arange(-2, steps + 1, dtype=torch.float64)
    chosen.sigmas = torch.exp(-logs)
    alphas, sigmas = torch.sigmoid(2 * logs).sqrt(), torch.sigmoid(-2 * logs).sqrt()
    deviations = (0.25 * alphas**2 + sigmas**2).sqrt()
    path = deviations / deviations[2]
    noises = [sigma * x / deviation**2 for sigma, x, deviation in zip(sigmas, path, deviations)]
    order = chosen.config.solver_order
    chosen.model_outputs = [noises[i].reshape(1, 1) for i in range(2 - order, 2)][-order:]
    chosen.lower_order_nums = order
    chosen.set_begin_index(2)
    x = torch.ones(1, 1, dtype=torch.float64)
    for index in range(2, steps + 2):
        x = chosen.step(sigmas[index] * x / deviations[index] ** 2, chosen.timesteps[index], x).prev_sample
    return float((x - path[-1]).abs())


def _identity_error(seed: int) -> float:
    target = random_mixture(8, 4)
    predict, worst = predictor(target), 0.0
    noise = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for solver in SOLVERS:
        for steps in (5, 10, 20):
            base = draw(predict, scheduler(Arm(solver), steps, 8), noise, steps)
            for lamb in (1e-9, 1e-3, 1.0, 1e6):
                arm = Arm(solver, {"correction": "lml", "lamb": lamb})
                worst = max(worst, float((draw(predict, scheduler(arm, steps, 8), noise, steps) - base).abs().max()))
    return worst


def _cost_slope(generator: torch.Generator) -> float:
    inputs = {dim: torch.randn(2, 1, dim, generator=generator) for dim in COST_DIMS}
    times: dict[int, list[float]] = {dim: [] for dim in COST_DIMS}
    for _ in range(9):
        for dim, (g, p) in inputs.items():
            rounds = max(1, COST_DIMS[-1] // dim // 4)
            start = time.perf_counter()
            for _ in range(rounds):
                levenberg_marquardt_correction(g, p, 1.0, 0.3)
            times[dim].append((time.perf_counter() - start) / rounds)
    return _slope(COST_DIMS, [statistics.median(values) for values in times.values()])


def _rank_one_gap(target: GaussianMixture, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    curvature, score = -target.hessian(x, alpha, sigma), target.score(x, alpha, sigma)
    return curvature - score[:, :, None] * score[:, None, :], curvature


def _relative(found: Tensor, exact: Tensor) -> Tensor:
    return (found - exact).norm(dim=1) / exact.norm(dim=1)


def _slope(x: Any, y: Any) -> float:
    logs, values = torch.tensor(x, dtype=torch.float64).log(), torch.tensor(y, dtype=torch.float64).log()
    centred = logs - logs.mean()
    return float((centred * values).sum() / centred.square().sum())
