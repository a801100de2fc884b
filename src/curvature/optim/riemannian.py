"""geoopt's optimisers over named parameters; weight decay touches neither parameters on a manifold nor scalars.

The scalars of these networks are dispersions of batch norms, which decay would shrink until all outputs were the bias.
"""

from collections.abc import Iterable
from typing import Any

import geoopt
from torch import Tensor
from torch.optim import Optimizer

NamedParameters = Iterable[tuple[str, Tensor]]


class RiemannianAdam(geoopt.optim.RiemannianAdam):
    """geoopt's optimiser, which continues bit for bit: torch loads Adam's step counts as float32 tensors, and geoopt's
    bias corrections would from then on be computed in single precision."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["step"] = int(state["step"])


def riemannian_adam(
    params: NamedParameters, lr: float, weight_decay: float = 0.0, amsgrad: bool = True, **options: Any
) -> Optimizer:
    """Riemannian Adam; positive definite parameters move under the affine-invariant metric.

    Args:
        params: named parameters.
        lr: learning rate of all of them.
        weight_decay: of parameters without a manifold that are not scalars.
        amsgrad: as in ``torch.optim.Adam``.
        **options: of geoopt's optimiser.
    """
    return RiemannianAdam(_groups(params, weight_decay), lr=lr, amsgrad=amsgrad, **options)


def riemannian_sgd(
    params: NamedParameters, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, **options: Any
) -> Optimizer:
    """``geoopt.optim.RiemannianSGD``; arguments as in :func:`riemannian_adam`."""
    return geoopt.optim.RiemannianSGD(_groups(params, weight_decay), lr=lr, momentum=momentum, **options)


def _groups(params: NamedParameters, weight_decay: float) -> list[dict[str, Any]]:
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for _, parameter in params:
        exempt = isinstance(parameter, geoopt.ManifoldParameter) or parameter.ndim == 0
        (kept if exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
