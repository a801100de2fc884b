"""Oracles 5-7, 9 and the identities of what earlier methods align."""

import itertools

import pytest
import torch
from alignment_cases import autograd_loss, batches, close, dense_gradient, dense_hessian, domains, network, theta
from torch.func import functional_call

from curvature.alignment import CORAL, ERM, HGP, IGA, Domain, Fish, Fishr, Frobenius, Hutchinson, IRMv1, VREx, observe
from curvature.alignment.fishr import gradient_variance
from curvature.alignment.head import augmented, probabilities, residuals
from curvature.alignment.hutchinson import diagonal_estimate
from curvature.alignment.iga import network_gradient
from curvature.alignment.irm import scale_derivative
from curvature.errors import ConfigError

CLASSES = [1, 3]


@pytest.mark.parametrize("classes", CLASSES)
def test_hessian_gradient_product_is_half_the_gradient_of_the_squared_norm(classes):
    net, (domain,) = domains(classes, sizes=(8,))
    head = theta(net).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(autograd_loss(head, domain), head, create_graph=True)
    (half,) = torch.autograd.grad(0.5 * gradient.square().sum(), head, create_graph=True)
    (slope,) = torch.autograd.grad(gradient.norm(), head)
    close(domain.hvp(domain.gradient), half)
    close(domain.hvp(domain.gradient), gradient.norm() * slope)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("center", ["mean_loss", "mean_product"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_hgp_is_what_dense_hessians_give(classes, center, reduction):
    net, found = domains(classes)
    g = torch.stack([dense_gradient(net, d).flatten() for d in found])
    h = torch.stack([dense_hessian(net, d) for d in found])
    products = torch.einsum("eij,ej->ei", h, g)
    middle = h.mean(0) @ g.mean(0) if center == "mean_loss" else products.mean(0)
    terms = 0.3 * (products - middle).square().sum(1) + 0.7 * (g - g.mean(0)).square().sum(1)
    method = HGP(alpha=0.3, beta=0.7, center=center, reduction=reduction)
    close(method.penalty(found, net), terms.sum() if reduction == "sum" else terms.mean())


def test_centres_differ_by_the_mean_product_of_deviations():
    net, found = domains(3)
    g = torch.stack([dense_gradient(net, d).flatten() for d in found])
    h = torch.stack([dense_hessian(net, d) for d in found])
    gap = torch.einsum("eij,ej->ei", h, g).mean(0) - h.mean(0) @ g.mean(0)
    close(gap, torch.einsum("eij,ej->ei", h - h.mean(0), g - g.mean(0)).mean(0))


@pytest.mark.parametrize("method", [HGP(), Hutchinson(), Hutchinson(diag_estimator="shared", n_probes=3), Frobenius()])
def test_penalty_vanishes_for_equal_or_single_domains_and_ignores_duplication(method):
    net, found = domains(3)
    first = found[0]
    close(method.penalty([first, first], net), 0.0, 1e-12)
    close(method.penalty([first], net), 0.0, 1e-12)
    double = Domain(first.features.repeat(2, 1), first.logits.repeat(2, 1), first.labels.repeat(2))
    method.bind(net, 2)
    if isinstance(method, Hutchinson):
        method.draws.zero_()
    plain = method.penalty([first, found[1]], net)
    if isinstance(method, Hutchinson):
        method.draws.zero_()
    close(method.penalty([double, found[1]], net), plain)


def test_hgp_is_zero_with_zero_gradients_and_has_finite_derivatives():
    z = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(6, 1, dtype=torch.float64)
    even = torch.full((6, 1), 0.5, dtype=torch.float64)
    penalty = HGP().penalty([Domain(z, logits, even), Domain(2 * z, logits, even)], network(1))
    (slope,) = torch.autograd.grad(penalty, z)
    assert penalty.item() == 0.0
    close(slope, torch.zeros_like(slope))


@pytest.mark.parametrize("classes", CLASSES)
def test_diagonal_matching_is_what_dense_hessians_give(classes):
    net, found = domains(classes)
    d = torch.stack([dense_hessian(net, domain).diagonal() for domain in found])
    g = torch.stack([dense_gradient(net, domain).flatten() for domain in found])
    expected = (2.0 * (d - d.mean(0)).square() + 0.5 * (g - g.mean(0)).square()).sum(1).mean()
    close(Hutchinson(alpha=2.0, beta=0.5).penalty(found, net), expected)


def test_all_probes_together_give_the_diagonal():
    _, (domain,) = domains(2, sizes=(6,))
    signs = list(itertools.product([-1.0, 1.0], repeat=domain.gradient.numel()))
    probes = torch.tensor(signs, dtype=torch.float64).reshape(-1, *domain.gradient.shape)
    close(diagonal_estimate(domain, probes), domain.diagonal)


def test_one_probe_is_exact_where_the_hessian_is_diagonal():
    z = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    domain = Domain(z, torch.zeros(2, 1, dtype=torch.float64), torch.tensor([0, 1]))
    close(diagonal_estimate(domain, torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)), domain.diagonal)


def off(matrix):
    return matrix.square().sum() - matrix.diagonal().square().sum()


@pytest.mark.parametrize("estimator", ["independent", "shared"])
def test_moments_of_the_estimated_distance(estimator):
    net, found = domains(2, sizes=(6, 8))
    h = torch.stack([dense_hessian(net, d) for d in found])
    gap = h - h.mean(0)
    exact = gap.diagonal(dim1=1, dim2=2).square().sum(1)
    for probes in (1, 4):
        if estimator == "shared":
            extra = torch.stack([off(matrix) for matrix in gap]) / probes
        else:
            extra = torch.stack([off(matrix) + off(h.mean(0)) for matrix in h]) / probes
        method = Hutchinson(beta=0.0, diag_estimator=estimator, n_probes=probes, reduction="sum")
        method.bind(net, 2, seed=3)
        with torch.no_grad():
            drawn = torch.stack([method.penalty(found, net) for _ in range(4000)])
        error = drawn.std() / len(drawn) ** 0.5
        assert abs(drawn.mean() - (exact + extra).sum()) < 4 * error
        if estimator == "shared" and probes == 1:
            close((exact + extra).sum(), gap.flatten(1).square().sum())


def test_variance_of_the_diagonal_estimate():
    net, (domain,) = domains(2, sizes=(6,))
    h = dense_hessian(net, domain)
    expected = (h.square().sum(1) - h.diagonal().square()) / 5
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (4000, 5, *domain.gradient.shape), generator=generator).double() * 2 - 1
    drawn = torch.stack([diagonal_estimate(domain, probes).detach().flatten() for probes in signs])
    close(drawn.var(0), expected, 0.15)
    assert ((drawn.mean(0) - h.diagonal()).abs() < 4 * (expected / 4000).sqrt()).all()


@pytest.mark.parametrize("classes", CLASSES)
def test_earlier_methods_align_parts_of_gradient_and_hessian(classes):
    net, found = domains(classes)
    for domain in found:
        close(scale_derivative(domain.logits, domain.labels), (theta(net) * domain.gradient).sum())
        model_labels = probabilities(domain.logits)
        z2, p = augmented(domain.features).square(), model_labels
        second = (p * (1 - p)).mT @ z2 / len(z2)
        close(second, domain.diagonal)
        per_sample = residuals(domain.logits, domain.labels).unsqueeze(2) * augmented(domain.features).unsqueeze(1)
        close(gradient_variance(domain), per_sample.var(0, correction=0))
    losses = torch.stack([d.loss for d in found])
    close(VREx().penalty(found, net), losses.var(correction=0))
    close(VREx(reduction="sum").penalty(found[:2], net), (losses[0] - losses[1]).square() / 2)
    gradients = torch.stack([network_gradient(d, net) for d in found])
    pairs = sum(gradients[i] @ gradients[j] for i, j in itertools.permutations(range(3), 2))
    close(Fish().penalty(found, net), -pairs)
    close(IGA(reduction="sum").penalty(found, net), (gradients - gradients.mean(0)).square().sum())


def test_fishr_scales_differ_by_the_number_of_terms():
    net, found = domains(3)
    ratio = Fishr(reduction="sum").penalty(found, net) / Fishr(reduction="mean").penalty(found, net)
    close(ratio, 3 * theta(net).numel())


def test_fishr_average_is_divided_by_one_minus_decay():
    net, found = domains(3)
    method = Fishr(ema=0.9)
    method.bind(net, 3)
    v = torch.stack([gradient_variance(d) for d in found])
    close(method.penalty(found, net), (v - v.mean(0)).square().mean())
    total = v + 0.9 * v
    close(method.penalty(found, net), (total - total.mean(0)).square().mean())
    assert set(method.state_dict()) == {"averages"}


def test_irm_on_halves_is_the_product():
    net, found = domains(3)
    expected = [
        scale_derivative(d.logits[0::2], d.labels[0::2]) * scale_derivative(d.logits[1::2], d.labels[1::2])
        for d in found
    ]
    close(IRMv1(unbiased=True).penalty(found, net), torch.stack(expected).mean())


def test_coral_is_the_mean_of_squared_differences_over_pairs():
    net, found = domains(3)
    expected = []
    for a, b in itertools.combinations(found, 2):
        mean = (a.features.mean(0) - b.features.mean(0)).square().mean()
        expected.append(mean + (torch.cov(a.features.mT) - torch.cov(b.features.mT)).square().mean())
    close(CORAL().penalty(found, net), torch.stack(expected).mean())


def test_fish_moves_part_of_the_way_of_its_inner_steps():
    net = network(3)
    data = batches(3)
    start = torch.cat([p.detach().flatten() for p in net.parameters()])
    inner = network(3)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.1)
    for inputs, labels in data:
        optimizer.zero_grad()
        observe(inner, inputs, labels).loss.backward()
        optimizer.step()
    end = torch.cat([p.detach().flatten() for p in inner.parameters()])
    Fish(meta_lr=0.3).update(net, data, torch.optim.SGD(net.parameters(), lr=0.1), 0)
    close(torch.cat([p.detach().flatten() for p in net.parameters()]), start + 0.3 * (end - start))


def switches():
    yield from (ERM(), CORAL(), Fishr(), Fishr(reduction="sum"), Frobenius(), VREx(), IRMv1(), IRMv1(unbiased=True))
    yield IGA()
    for reduction, center in itertools.product(("sum", "mean"), ("mean_loss", "mean_product")):
        yield HGP(reduction=reduction, center=center, rescale=True, weight=3.0)
    for estimator in ("exact", "shared", "independent"):
        yield Hutchinson(diag_estimator=estimator, n_probes=2)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("method", list(switches()), ids=lambda method: type(method).__name__)
def test_gradients_of_the_objective_match_finite_differences(classes, method):
    net, data = network(classes), batches(classes)
    method.bind(net, 3)
    names = [name for name, _ in net.named_parameters()]

    def objective(*values):
        if isinstance(method, Hutchinson):
            method.draws.zero_()
        for name, value in zip(names, values):
            module, attribute = name.rsplit(".", 1)
            owner = net.get_submodule(module)
            owner._parameters.pop(attribute, None)
            setattr(owner, attribute, value)
        return method.objective([observe(net, *batch) for batch in data], net, step=0, l2=0.0)[0]

    values = [p.detach().clone().requires_grad_() for p in net.parameters()]
    if isinstance(method, IGA):
        objective = iga_objective(net, data, names)
    assert torch.autograd.gradcheck(objective, values)


def iga_objective(net, data, names):
    def objective(*values):
        gradients = []
        for inputs, labels in data:
            logits = functional_call(net, dict(zip(names, values)), (inputs,))
            loss = Domain(logits, logits, labels).loss
            found = torch.autograd.grad(loss, values, create_graph=True)
            gradients.append(torch.cat([g.flatten() for g in found]))
        stacked = torch.stack(gradients)
        return (stacked - stacked.mean(0)).square().sum(1).mean()

    return objective


def test_detached_centres_keep_the_value_and_change_the_gradient():
    net, data = network(3), batches(3)
    found = {}
    for detach in (False, True):
        for kind in (HGP, Hutchinson):
            penalty = kind(detach_center=detach).penalty([observe(net, *batch) for batch in data], net)
            gradient = torch.autograd.grad(penalty, list(net.backbone.parameters()))
            found[kind, detach] = float(penalty.detach()), torch.cat([g.flatten() for g in gradient])
    for kind in (HGP, Hutchinson):
        close(found[kind, True][0], found[kind, False][0])
    assert not torch.allclose(found[HGP, True][1], found[HGP, False][1])
    close(found[Hutchinson, True][1], found[Hutchinson, False][1])


def test_schedule_divides_the_whole_objective_by_large_weights():
    net, found = domains(3)
    method = HGP(weight=50.0, anneal_steps=3, rescale=True)
    norms = sum(p.square().sum() for p in net.parameters())
    loss, penalty = torch.stack([d.loss for d in found]).mean(), method.penalty(found, net)
    close(method.objective(found, net, 2, l2=0.1)[0], loss + penalty + 0.1 * norms)
    close(method.objective(found, net, 3, l2=0.1)[0], (loss + 50 * penalty + 0.1 * norms) / 50)


def test_optimizer_is_reset_at_the_anneal_step_only():
    net, data = network(3), batches(3)
    method = IRMv1(weight=2.0, anneal_steps=2, reset_optimizer=True)
    optimizer = torch.optim.Adam(net.parameters())
    steps = []
    for step in range(4):
        method.update(net, data, optimizer, step)
        steps.append(int(next(iter(optimizer.state.values()))["step"]))
    assert steps == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: HGP(center="median"), "method.center"),
        (lambda: HGP(reduction="max"), "method.reduction"),
        (lambda: HGP(weight=-1.0), "method.weight"),
        (lambda: Hutchinson(diag_estimator="guess"), "method.diag_estimator"),
        (lambda: Hutchinson(n_probes=0), "method.n_probes"),
    ],
)
def test_bad_arguments_name_their_key(build, key):
    with pytest.raises(ConfigError) as error:
        build()
    assert error.value.key == key


def test_nonlinear_head_is_refused():
    net = network(3)
    net.head = torch.nn.Sequential(net.head, torch.nn.ReLU())
    with pytest.raises(ConfigError, match=r"model\.head"):
        HGP().bind(net, 2)
