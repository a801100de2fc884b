"""Several optimisers that act as one: parameters are dealt out by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.errors import ConfigError
from curvature.optim.passes import evaluated


class Hybrid(Optimizer):
    """One ``torch.optim.Optimizer`` over parts that follow different rules, e.g. SGD on weights, Riemannian SGD on
    subspaces.

    The parts' groups are this optimiser's groups, in the order ``special`` then ``default``, and the state is one
    dictionary, so that a learning-rate schedule, a checkpoint or gradient clipping sees all of it once. A schedule that
    multiplies initial rates (``LambdaLR``) gives every part the same shape with its own peak.

    Args:
        params: named parameters, as from ``module.named_parameters()``.
        default: factory for the parameters that no special rule claims.
        special: substring of a parameter's name -> factory; the first match claims the parameter.

    Raises:
        ConfigError: ``params`` are not named, or a special rule claims nothing.
    """

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]],
        default: Callable[..., Optimizer],
        special: Mapping[str, Callable[..., Optimizer]],
    ) -> None:
        named = list(params)
        if not all(isinstance(item, tuple) and len(item) == 2 for item in named):
            raise ConfigError("optimizer.params", "unnamed tensors", "pairs (name, parameter)")
        owner = {name: next((part for part in special if part in name), None) for name, _ in named}
        self.parts: list[Optimizer] = []
        for part, factory in [*special.items(), (None, default)]:
            claimed = [(name, parameter) for name, parameter in named if owner[name] is part]
            if part is not None and not claimed:
                raise ConfigError("optimizer.special", part, "a part of some parameter's name")
            if claimed:
                self.parts.append(factory(claimed))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let every part act on this optimiser's own groups and state."""
        start = 0
        for part in self.parts:
            end = start + len(part.param_groups)
            for parameter, state in part.state.items():
                self.state.setdefault(parameter, state)
            part.param_groups = self.param_groups[start:end]
            part.state = self.state
            start = end

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate ``closure`` once, then one step of every part; returns what ``closure`` returned."""
        loss = evaluated(closure)
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        super().load_state_dict(state_dict)
        for part in self.parts:
            part.state = self.state
        self._share()
