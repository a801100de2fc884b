"""What the paper states that needs no training run: each function takes a seed and returns metrics by name."""

import statistics

import torch
from torch import Tensor, nn

from curvature.optim.hesso.cric import HESSOCRIC
from curvature.optim.hesso.hesso import HESSO
from curvature.pruning import build_search_space, rows_as_groups, zero_groups
from curvature.pruning.inputs import Inputs
from curvature.pruning.report import slim_report
from curvature.pruning.space import SearchSpace
from curvature.pruning.zoo import ZOO

RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
QUADRATICS = 50
GROUPS, SIZE = 8, 5
DISTANCES = (0.125, 0.25, 0.5, 1.0)
POINTS = 20


class Separable(nn.Module):
    """f = 1/2 sum_g a_g ||x_g - x*_g||^2 at its minimum, a_g = 10^U(-2, 2), ||x*_g|| = 10^U(-1/2, 1/2)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(2, GROUPS, 1, dtype=torch.float64, generator=generator)
        self.a = 10 ** (4 * uniform[0] - 2)
        direction = torch.randn(GROUPS, SIZE, dtype=torch.float64, generator=generator)
        self.minimum = 10 ** (uniform[1] - 0.5) * direction / direction.norm(dim=1, keepdim=True)
        self.x = nn.Parameter(self.minimum.clone())

    def forward(self) -> Tensor:
        return (0.5 * self.a * (self.x - self.minimum).square()).sum()

    def costs(self) -> Tensor:
        """(G,) loss after removal of each group alone; costs of several add up."""
        return 0.5 * self.a[:, 0] * self.minimum.square().sum(1)


def quadratic_facts(seed: int) -> dict[str, float]:
    """Loss after removal of 4 of 8 groups over that of the best choice, 50 quadratics at their minima, lr 0.

    ``one_point/excess_median`` of one-point Taylor saliency, which is zero for every group, so that the first four go;
    ``cric/excess_median`` and ``cric/worse``, the share of quadratics on which CRIC does worse than that, with Taylor
    saliency, 20 sampling steps, no loss term; ``pooled/...`` with criteria normalised after averaging.
    """
    found = {}
    arms = {"cric": "pointwise", "pooled": "pooled"}
    excess: dict[str, list[float]] = {"one_point": [], **{name: [] for name in arms}}
    worse = dict.fromkeys(arms, 0)
    for index in range(QUADRATICS):
        costs = Separable(seed * QUADRATICS + index).costs()
        best, first = float(costs.sort().values[: GROUPS // 2].sum()), float(costs[: GROUPS // 2].sum())
        excess["one_point"].append(first / best)
        for name, normalisation in arms.items():
            left = float(costs[_followed(seed * QUADRATICS + index, normalisation)].sum())
            excess[name].append(left / best)
            worse[name] += left > first * (1 + 1e-12)
    for name, values in excess.items():
        found[f"{name}/excess_median"] = statistics.median(values)
    return found | {f"{name}/worse": count / QUADRATICS for name, count in worse.items()}


def _followed(seed: int, normalisation: str) -> Tensor:
    model = Separable(seed)
    optimizer = HESSOCRIC(
        rows_as_groups(model),
        lr=0.0,
        criteria={"taylor_first_order": 1.0},
        loss_term="none",
        sampling_steps=20,
        hybrid_training_steps=1,
        normalisation=normalisation,
    )
    while optimizer.phase != "frozen":
        optimizer.zero_grad()
        loss = model()
        loss.backward()
        optimizer.step(loss=loss)
    return optimizer.pruned


def control_facts(seed: int) -> dict[str, float]:
    """HESSO on three networks and five targets, 24 steps of SGD on random data.

    ``control/missed`` is the largest difference of the number of zero groups to K, ``control/slim_error`` the largest
    difference of outputs of the slim network. Targets are cut to what survivors allow.
    """
    missed, error = 0, 0.0
    for name in ("residual", "transformer, RMSNorm", "gated linear unit"):
        for ratio in RATIOS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                build, example = ZOO[name]
                model, inputs = build(), Inputs.of(example())
            space = build_search_space(model, inputs)
            ratio = min(ratio, (space.size - len(space.nodes)) / space.size)
            optimizer = HESSO(space, lr=0.01, target_group_sparsity=ratio, pruning_steps=20, pruning_periods=4)
            for step in range(24):
                optimizer.zero_grad()
                batch = inputs.like(24 * seed + step).cast(torch.device("cpu"), torch.float32)
                model(*batch.value).square().mean().backward()
                optimizer.step()
            missed = max(missed, abs(int(zero_groups(model, space).sum()) - optimizer.pruner.target))
            error = max(error, slim_report(model, space, repetitions=0)["slim/max_difference"])
    return {"control/missed": float(missed), "control/slim_error": error}


def path_facts(seed: int) -> dict[str, float]:
    """Saliencies of the 64 units of an MLP that was trained on digits for 300 steps, against what their removal costs.

    ``taylor/error_<c>``: mean |f(x with group at (1-c) x_g) - f(x) + c <grad_g, x_g>| over units, for several distances
    c on the way to zero, and ``taylor/order``, its log-log slope. ``taylor/rank_one_point`` and ``taylor/rank_path``:
    Spearman's correlation of the true |f(x without g) - f(x)| with |<grad_g, x_g>| at x, and with its mean over 20
    midpoints on the way. ``taylor/path_error``: largest difference of the path integral to the true change, over the
    largest change.
    """
    from scipy.stats import spearmanr

    model, space, x, y = _digits_net(seed)
    parameters = [p for p, _, _ in HESSO(space, target_group_sparsity=0.0).pruner.layout.members]
    origin = [p.detach().clone() for p in parameters]

    def at(group: int, factor: float) -> tuple[float, float]:
        """Loss, and <grad_g, x_g> with x_g from the origin, with the unit's slices times ``factor``."""
        with torch.no_grad():
            for p, old in zip(parameters, origin, strict=True):
                p.copy_(old)
                p[group] = factor * old[group]
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, parameters)
        product = sum(float((g[group] * old[group]).sum()) for g, old in zip(gradients, origin, strict=True))
        with torch.no_grad():
            for p, old in zip(parameters, origin, strict=True):
                p.copy_(old)
        return float(loss.detach()), product

    errors = dict.fromkeys(DISTANCES, 0.0)
    true, one_point, along, integral = [], [], [], []
    for group in range(space.size):
        loss, product = at(group, 1.0)
        for c in DISTANCES:
            changed, _ = at(group, 1.0 - c)
            errors[c] += abs(changed - loss + c * product) / space.size
        true.append(changed - loss)
        one_point.append(abs(product))
        products = [at(group, 1.0 - (i + 0.5) / POINTS)[1] for i in range(POINTS)]
        integral.append(-sum(products) / POINTS)
        along.append(sum(map(abs, products)) / POINTS)
    absolute = [abs(value) for value in true]
    slope = torch.tensor([errors[c] for c in DISTANCES]).log().diff().sum() / torch.tensor(DISTANCES).log().diff().sum()
    return {f"taylor/error_{c:g}": value for c, value in errors.items()} | {
        "taylor/order": float(slope),
        "taylor/rank_one_point": float(spearmanr(absolute, one_point).statistic),
        "taylor/rank_path": float(spearmanr(absolute, along).statistic),
        "taylor/path_error": max(abs(a - b) for a, b in zip(true, integral, strict=True)) / max(absolute),
    }


def _digits_net(seed: int) -> tuple[nn.Module, SearchSpace, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    source = load_digits()
    x = torch.from_numpy(source.data)[:600].double() / 16.0
    y = torch.from_numpy(source.target)[:600].long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, build_search_space(model, x[:2]), x, y
