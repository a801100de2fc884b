"""Sharpness of a Gauss-Newton matrix that is only known by its products with vectors, for nets too big for J."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from curvature.errors import ConfigError

Product = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """A Monte-Carlo mean and its standard error."""

    value: float
    error: float


def ggn_product(module: nn.Module, inputs: Tensor) -> tuple[Product, int]:
    """Products with ``G = J^T J / n`` by forward- then reverse-mode differentiation.

    Args:
        module: a net; its outputs for ``inputs`` may have any shape.
        inputs: (n, ...), first dimension the samples.

    Returns:
        A function from flat vectors (P,) to flat vectors (P,), and P.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def predict(values: dict[str, Tensor]) -> Tensor:
        return functional_call(module, values, (inputs,))

    pull = vjp(predict, parameters)[1]

    def product(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        tangent = {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts)}
        push = jvp(predict, (parameters,), (tangent,))[1]
        (back,) = pull(push / len(inputs))
        return torch.cat([back[name].reshape(-1) for name in parameters])

    return product, sum(sizes)


def probe_sharpness(
    product: Product, dimension: int, probes: int, generator: torch.Generator, distribution: str = "rademacher"
) -> tuple[Estimate, Estimate]:
    """Unbiased estimates of the trace and of the *squared* Frobenius norm of a symmetric matrix.

    ``v^T G v`` and ``||G v||^2`` over random ``v``. The variance of the first is ``2 (||G||_F^2 - sum_i G_ii^2)`` a
    Rademacher probe and ``2 ||G||_F^2`` a Gaussian probe (Hutchinson, 1989).

    Args:
        product: multiplies the matrix with a vector (dimension,).
        dimension: number of rows.
        probes: at least 2.
        generator: source of the probes.
        distribution: ``rademacher`` or ``gaussian``.

    Raises:
        ConfigError: too few probes, or an unknown distribution.
    """
    if probes < 2:
        raise ConfigError("probes", probes, "at least 2")
    if distribution not in ("rademacher", "gaussian"):
        raise ConfigError("distribution", distribution, "rademacher or gaussian")
    samples = torch.empty(probes, 2, dtype=torch.float64)
    for index in range(probes):
        vector = torch.randn(dimension, generator=generator, dtype=torch.float64)
        if distribution == "rademacher":
            vector = torch.where(vector < 0, -1.0, 1.0).to(torch.float64)
        image = product(vector)
        samples[index, 0], samples[index, 1] = vector @ image, image @ image
    means, errors = samples.mean(0), samples.std(0) / probes**0.5
    trace, squared = (Estimate(float(m), float(e)) for m, e in zip(means, errors))
    return trace, squared


def largest_eigenvalue(product: Product, dimension: int, tolerance: float = 1e-8) -> float:
    """Largest eigenvalue of a symmetric matrix by Lanczos with restarts, from a fixed start.

    Args:
        product: multiplies the matrix with a float64 vector (dimension,).
        dimension: number of rows, at least 2.
        tolerance: relative residual at which to stop.
    """
    start = np.random.default_rng(0).standard_normal(dimension)
    operator = LinearOperator(
        (dimension, dimension), matvec=lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
    )
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])
