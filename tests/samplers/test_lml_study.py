"""Orders of the solvers, the study's arms, its calibration and the facts the claims rest on."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from curvature.errors import ConfigError
from curvature.samplers.facts import correction_facts, hessian_facts, langevin_facts, order_facts, rounding_facts
from curvature.samplers.study import (
    Arm,
    analytic_study,
    arms_of,
    compare,
    draw,
    end_of,
    predictor,
    released_study,
    scheduler,
)
from curvature.samplers.targets import GaussianMixture, power_law_gaussian, random_mixture

F64 = torch.float64


def test_solver_orders_and_the_missing_factor_of_two():
    orders = order_facts(0)
    assert orders["order/ddim"] == pytest.approx(1.0, abs=0.1)
    assert orders["order/dpm_2m"] == pytest.approx(2.0, abs=0.1)
    assert orders["order/dpm_3m"] == pytest.approx(2.0, abs=0.1)
    assert 2.8 < orders["order/dpm_3m_d2"] < 3.2


def test_first_order_data_form_is_ddim_too():
    target = random_mixture(4, 3)
    noise = torch.randn(8, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    predict = predictor(target)
    one = draw(predict, scheduler(Arm("ddim"), 10, 4), noise, 10)
    other = draw(predict, scheduler(Arm("dpmpp_2m"), 10, 4), noise, 10)
    data_form = DPMSolverMultistepScheduler(solver_order=1, final_sigmas_type="sigma_min")
    found = draw(predict, data_form, noise.float(), 10)
    torch.testing.assert_close(found.double(), one, rtol=0, atol=1e-4)
    assert (other - one).abs().max() > 1e-3


def test_gaussian_samples_have_the_propagated_covariance():
    target = GaussianMixture(torch.zeros(1, 3, dtype=F64), torch.tensor([0.04, 0.25, 1.0], dtype=F64))
    predict = predictor(target)
    ones = torch.ones(1, 3, dtype=F64)
    for solver in ("ddim", "dpm_2m", "dpm_3m", "dpmpp_2m"):
        gain = draw(predict, scheduler(Arm(solver), 10, 3), ones, 10)
        twice = draw(predict, scheduler(Arm(solver), 10, 3), 2 * ones, 10)
        torch.testing.assert_close(twice, 2 * gain, rtol=1e-6, atol=0)
        fine = draw(predict, scheduler(Arm(solver), 500, 3), ones, 500)
        torch.testing.assert_close(fine[0] ** 2, end_of(target).variances, rtol=0.05, atol=0)


def test_rescaling_matches_the_variance_of_its_arm_on_other_noise():
    target = random_mixture(8, 4)
    arms = arms_of(
        {
            "base": {"solver": "dpm_3m"},
            "lml": {"solver": "dpm_3m", "correction": "lml", "beta": 0.3},
            "rescale": {"solver": "dpm_3m", "match_variance_of": "lml"},
        }
    )
    generator = torch.Generator().manual_seed(0)
    noise, calibration = torch.randn(2, 2000, 8, generator=generator, dtype=F64)
    found = {name: x.var(0).sum().item() for name, x in compare(predictor(target), arms, 8, noise, calibration)}
    assert abs(found["lml"] / found["base"] - 1) > 0.02
    assert found["rescale"] == pytest.approx(found["lml"], rel=0.01)


def test_equal_model_calls_and_timesteps():
    seen = {}
    for name, arm in arms_of(
        {"a": {"solver": "dpm_3m"}, "b": {"solver": "unipc", "correction": "lml", "beta": 0.1}}
    ).items():
        calls = seen.setdefault(name, [])

        def predict(x, t, calls=calls):
            calls.append(t)
            return 0.5 * x

        draw(predict, scheduler(arm, 10, 4), torch.randn(2, 4), 10)
    assert seen["a"] == seen["b"]
    assert len(seen["a"]) == 10
    assert seen["a"][0] == 999


def test_study_reports_every_arm_and_is_deterministic():
    arms = {"base": {"solver": "dpm_2m"}, "noise": {"solver": "dpm_2m", "correction": "noise_control", "beta": 0.2}}
    first = analytic_study(3, random_mixture(4, 3), arms, [5], 100, reference_steps=50)
    again = analytic_study(3, random_mixture(4, 3), arms, [5], 100, reference_steps=50)
    assert first == again
    assert len(first) == 14
    assert first["moment_w2/base/nfe_5"] != first["moment_w2/noise/nfe_5"]


def test_released_settings_change_samples_only_in_float32():
    found = released_study(0, power_law_gaussian(), [10])
    assert 0.3 < found["released/change_fp32/nfe_10"] < 1.2
    assert found["released/change_fp64/nfe_10"] < 1e-6
    assert found["released/change_exact/nfe_10"] == 0
    assert 2e-8 < found["released/ratio/nfe_10"] < 5e-7


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"a": {"solver": "euler"}}, "arms.a.solver"),
        ({"a": {"solver": "ddim", "match_variance_of": "b"}}, "arms.a.match_variance_of"),
        ({"a": {"solver": "ddim", "kappa": 2.0}}, "kappa"),
        ({"a": {"solver": "ddim", "correction": "lm"}}, "correction"),
    ],
)
def test_bad_arms_are_refused(config, key):
    with pytest.raises(ConfigError) as error:
        arms_of(config)
    assert error.value.key == key


def test_facts_of_correction_hessian_langevin_and_rounding():
    found = correction_facts(1) | hessian_facts(1, 300) | langevin_facts(1) | rounding_facts(1)
    assert found["correction/dense_error"] < 1e-10
    assert found["correction/angle_over_bound"] <= 1 + 1e-9
    assert found["correction/condition_error"] < 1e-9
    assert found["correction/finite"] == 1
    assert found["correction/identity_error"] < 1e-12
    assert found["hessian/residual_error"] < 1e-10
    assert found["hessian/bound_ratio"] <= 1
    assert found["hessian/pointwise/t_600"] > 0.5
    assert found["langevin/flux_error"] < 1e-10
    assert found["langevin/first_order_slope"] == pytest.approx(-1, abs=0.01)
    measured = {0.1: 26.9, 1: 3.37, 10: 0.457, 100: 0.0565}
    for lamb, value in measured.items():
        assert found[f"langevin/defect/lamb_{lamb:g}"] == pytest.approx(value, rel=0.35)
    assert found["rounding/exact_float32"] <= 1e-6
    assert found["rounding/released_float32"] > 0.1
    assert found["rounding/float64"] < 1e-7
