"""diffusers' scheduler contract, parity with the base schedulers, and where the correction enters a step."""

import copy
import inspect

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DEISMultistepScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)

from curvature.errors import ConfigError
from curvature.samplers import levenberg_marquardt_correction, released_correction
from curvature.samplers.schedulers import (
    LMLDDIMScheduler,
    LMLDPMSolverScheduler,
    LMLFlowMatchEulerScheduler,
    LMLPNDMScheduler,
    LMLUniPCMultistepScheduler,
    levenberg_marquardt_scheduler,
)

NOISE_FORM = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
BASES = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpm1": (DPMSolverMultistepScheduler, {"solver_order": 1, **NOISE_FORM}),
    "dpm2-heun": (DPMSolverMultistepScheduler, {"solver_type": "heun", **NOISE_FORM}),
    "dpm3": (DPMSolverMultistepScheduler, {"solver_order": 3, **NOISE_FORM}),
    "dpm++3": (DPMSolverMultistepScheduler, {"solver_order": 3}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {}),
    "deis": (DEISMultistepScheduler, {"solver_order": 3}),
    "euler": (EulerDiscreteScheduler, {}),
    "flow": (FlowMatchEulerDiscreteScheduler, {}),
}
SHAPE = (2, 3, 4, 4)


def model(x, t):
    return torch.tanh(0.7 * x + torch.roll(x, 1, -1) * 0.2 + float(t) / 2000)


def sample(scheduler, steps=7, shape=SHAPE, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    scheduler.set_timesteps(steps)
    calls = 0
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, t), t, x).prev_sample
        calls += 1
    return x, calls


@pytest.mark.parametrize("name", BASES)
def test_without_a_correction_it_is_the_base_scheduler(name):
    base, options = BASES[name]
    expected, calls = sample(base(**options))
    derived = levenberg_marquardt_scheduler(base)
    for correction in ({"correction": "none"}, {"correction": "lml", "kappa": 0.0, "lamb": 1e-3}):
        found, made = sample(derived(**options, **correction))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert made == calls


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("lamb", [0.0, 1e-9, 1.0, 1e9])
def test_without_kappa_every_solver_is_its_base_in_double_precision(steps, lamb):
    for name in ("dpm1", "dpm3", "dpm++3", "unipc"):
        base, options = BASES[name]
        derived = levenberg_marquardt_scheduler(base)
        off, _ = sample(derived(**options, correction="none"), steps, dtype=torch.float64)
        on, _ = sample(derived(**options, lamb=lamb), steps, dtype=torch.float64)
        assert (on - off).abs().max() < 1e-12


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("correction", ["lml", "lml_released_fp32", "noise_control", "rescale_control"])
def test_every_correction_changes_every_solver(name, correction):
    base, options = BASES[name]
    derived = levenberg_marquardt_scheduler(base)
    off, _ = sample(derived(**options, correction="none"), 10)
    on, _ = sample(derived(**options, correction=correction, lamb=1e-1, kappa=0.05, shrink=0.05), 10)
    if (name, correction) == ("pndm", "lml_released_fp32"):
        # PNDM visits a timestep twice, with an increment of zero, for which the released order has no guard.
        assert on.isnan().all()
        return
    assert on.isfinite().all()
    assert (on - off).abs().max() > 1e-4


def test_dpm_corrects_the_whole_increment():
    scheduler = LMLDPMSolverScheduler(solver_order=1, lamb=2.0, kappa=0.4, **NOISE_FORM)
    base = DPMSolverMultistepScheduler(solver_order=1, **NOISE_FORM)
    for s in (scheduler, base):
        s.set_timesteps(6)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    memory = None
    for index, t in enumerate(scheduler.timesteps[:4]):
        eps = model(x, t)
        abar = 1 / (1 + base.sigmas[index : index + 2] ** 2)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        g = (sigma[1] - alpha[1] / alpha[0] * sigma[0]).double() * eps
        expected = (alpha[1] / alpha[0]).double() * x + levenberg_marquardt_correction(g, memory, 2.0, 0.4)
        x, memory = scheduler.step(eps, t, x).prev_sample, g
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_corrects_the_renoising_term_only(prediction):
    scheduler = LMLDDIMScheduler(clip_sample=False, prediction_type=prediction, lamb=5.0, kappa=0.3)
    scheduler.set_timesteps(10)
    abar = scheduler.alphas_cumprod.double()
    x, memory = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), None
    for t in scheduler.timesteps[:5]:
        output, a, b = model(x, t), abar[t], abar[t - 100]
        if prediction == "epsilon":
            eps = output
        elif prediction == "sample":
            eps = (x - a.sqrt() * output) / (1 - a).sqrt()
        else:
            eps = a.sqrt() * output + (1 - a).sqrt() * x
        clean = (x - (1 - a).sqrt() * eps) / a.sqrt()
        expected = b.sqrt() * clean + (1 - b).sqrt() * levenberg_marquardt_correction(eps, memory, 5.0, 0.3)
        found = scheduler.step(output, t, x)
        torch.testing.assert_close(found.prev_sample, expected, rtol=1e-5, atol=1e-5)
        x, memory = expected, eps


def test_released_arm_reproduces_the_released_operations():
    x, lamb = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), 1e-5
    scheduler = LMLFlowMatchEulerScheduler(correction="lml_released_fp32", lamb=lamb)
    scheduler.set_timesteps(5)
    t, step = scheduler.timesteps[0], scheduler.sigmas[1] - scheduler.sigmas[0]
    velocity = model(x, t)
    found = scheduler.step(velocity, t, x).prev_sample
    torch.testing.assert_close(found, x + step * released_correction(velocity, None, lamb, 0.0))
    assert (found - x - step * velocity).abs().max() > 1e-4


def test_setting_timesteps_forgets_the_previous_image():
    scheduler = LMLDPMSolverScheduler(solver_order=3, lamb=1.0, kappa=0.3, **NOISE_FORM)
    first, _ = sample(scheduler)
    sample(scheduler, shape=(5, 3, 4, 4), seed=1)
    again, _ = sample(scheduler)
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    noise = LMLDPMSolverScheduler(correction="noise_control", beta=0.2)
    torch.testing.assert_close(sample(noise)[0], sample(noise)[0], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 10), (1, 4, 6), (2, 3, 4, 4), (2, 4, 2, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_any_rank_and_dtype(shape, dtype):
    for cls in (LMLDPMSolverScheduler, LMLDDIMScheduler):
        found, _ = sample(cls(beta=0.1), 5, shape, dtype)
        assert found.shape == shape
        assert found.isfinite().all()
    assert sample(LMLDPMSolverScheduler(beta=0.1), 5, shape, dtype)[0].dtype == dtype


@pytest.mark.parametrize("name", BASES)
def test_saved_and_loaded_gives_identical_outputs(name, tmp_path):
    base, options = BASES[name]
    derived = levenberg_marquardt_scheduler(base)
    scheduler = derived(**options, lamb=0.7, kappa=0.2, num_train_timesteps=900)
    scheduler.save_pretrained(tmp_path)
    loaded = derived.from_pretrained(tmp_path)
    assert (loaded.config.lamb, loaded.config.kappa, loaded.config.num_train_timesteps) == (0.7, 0.2, 900)
    torch.testing.assert_close(sample(loaded)[0], sample(scheduler)[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", BASES)
def test_tuples_single_images_changed_batches_and_what_the_base_class_reads_back(name, tmp_path):
    base, options = BASES[name]
    derived = levenberg_marquardt_scheduler(base)
    scheduler = derived(**options, beta=0.2)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    found = []
    for return_dict in (True, False):
        scheduler.set_timesteps(6, device="cpu")
        value = x
        for t in scheduler.timesteps[:4]:
            out = scheduler.step(model(value, t), t, value, return_dict=return_dict)
            assert isinstance(out, tuple) != return_dict
            value = out.prev_sample if return_dict else out[0]
        found.append(value)
    torch.testing.assert_close(*found, rtol=0, atol=0)
    together = sample(scheduler, shape=SHAPE)[0]
    first = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()[:1]
    scheduler.set_timesteps(7)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(first, t) if hasattr(scheduler, "scale_model_input") else first
        first = scheduler.step(model(scaled, t), t, first).prev_sample
    torch.testing.assert_close(first, together[:1], rtol=1e-5, atol=1e-5)
    scheduler.save_pretrained(tmp_path)
    plain = base.from_pretrained(tmp_path)
    torch.testing.assert_close(sample(plain)[0], sample(base(**options))[0], rtol=0, atol=0)
    with pytest.raises((ValueError, TypeError)) as refusal:
        base(**options).step(x, 0, x)
    with pytest.raises(refusal.type):
        derived(**options).step(x, 0, x)


@pytest.mark.parametrize("grid", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_other_noise_grids_are_kept(grid):
    base = DPMSolverMultistepScheduler(solver_order=3, **{grid: True})
    ours = LMLDPMSolverScheduler.from_config(base.config, correction="none")
    for scheduler in (base, ours):
        scheduler.set_timesteps(9)
    torch.testing.assert_close(ours.sigmas, base.sigmas, rtol=0, atol=0)
    torch.testing.assert_close(sample(ours, 9)[0], sample(base, 9)[0], rtol=0, atol=1e-6)


def test_from_config_both_ways():
    base = DPMSolverMultistepScheduler(beta_schedule="scaled_linear", solver_order=3, timestep_spacing="trailing")
    ours = LMLDPMSolverScheduler.from_config(base.config, lamb=0.01, kappa=0.1)
    assert (ours.config.solver_order, ours.config.beta_schedule, ours.config.lamb) == (3, "scaled_linear", 0.01)
    back = DPMSolverMultistepScheduler.from_config(ours.config)
    torch.testing.assert_close(sample(back)[0], sample(base)[0], rtol=0, atol=0)
    ddim = LMLDDIMScheduler.from_config(LMLUniPCMultistepScheduler.from_config(ours.config).config)
    assert (ddim.config.lamb, ddim.config.beta_schedule, ddim.config.timestep_spacing) == (
        0.01,
        "scaled_linear",
        "trailing",
    )
    assert ours.compatibles


def test_signatures_are_those_that_pipelines_look_at():
    for cls, base in ((LMLDPMSolverScheduler, DPMSolverMultistepScheduler), (LMLDDIMScheduler, DDIMScheduler)):
        for method in ("step", "set_timesteps"):
            assert inspect.signature(getattr(cls, method)) == inspect.signature(getattr(base, method))
        names = inspect.signature(cls.__init__).parameters
        assert set(inspect.signature(base.__init__).parameters) | {"lamb", "kappa", "beta"} <= set(names)
    with pytest.raises(TypeError):
        LMLDPMSolverScheduler(lambda_=1.0)


def test_trained_betas_add_noise_begin_index_and_length():
    betas = torch.linspace(1e-3, 0.03, 50).numpy()
    ours, base = LMLDPMSolverScheduler(trained_betas=betas, beta=0.1), DPMSolverMultistepScheduler(trained_betas=betas)
    torch.testing.assert_close(ours.betas, base.betas)
    x, noise = torch.randn(2, 2, 3, 4, 4)
    both = []
    for s in (LMLDPMSolverScheduler(beta=0.1), DPMSolverMultistepScheduler()):
        assert len(s) == 1000
        s.set_timesteps(8)
        s.set_begin_index(3)
        both.append(s.add_noise(x, noise, s.timesteps[3:4].expand(2)))
        s.step(x, s.timesteps[3], x)
        assert (s.step_index, s.begin_index, s.init_noise_sigma) == (4, 3, 1.0)
    torch.testing.assert_close(*both)


def test_stochastic_variants_are_left_alone():
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    found = []
    for cls, options, generator in zip(
        (LMLDPMSolverScheduler, DPMSolverMultistepScheduler), ({"beta": 0.5}, {}), generators
    ):
        scheduler = cls(algorithm_type="sde-dpmsolver++", **options)
        scheduler.set_timesteps(4)
        x = torch.ones(SHAPE)
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t), t, x, generator=generator).prev_sample
        found.append(x)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_freeze_limits_the_correction_to_late_steps():
    off, _ = sample(LMLDDIMScheduler(correction="none"), 10)
    assert (sample(LMLDDIMScheduler(beta=0.3, freeze=1.0), 10)[0] - off).abs().max() == 0
    late = LMLDDIMScheduler(beta=0.3, freeze=0.5)
    late.set_timesteps(10)
    plain = DDIMScheduler()
    plain.set_timesteps(10)
    x = torch.randn(SHAPE)
    changed = []
    for t in late.timesteps:
        found, expected = (s.step(model(x, t), t, x).prev_sample for s in (late, plain))
        changed.append(not torch.equal(found, expected))
        x = expected
    assert not any(changed[:5])
    assert all(changed[5:9])


@pytest.mark.parametrize(
    "options",
    [{"correction": "lm"}, {"lamb": -1.0}, {"kappa": 1.0}, {"beta": float("nan")}, {"freeze": 2.0}, {"d2_factor": 3}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LMLDPMSolverScheduler(**options)


def test_no_autograd_no_parameters_and_copies():
    scheduler = LMLDPMSolverScheduler(beta=0.1)
    assert not hasattr(scheduler, "parameters")
    twin = copy.deepcopy(scheduler)
    torch.testing.assert_close(sample(twin)[0], sample(scheduler)[0], rtol=0, atol=0)
    assert not sample(scheduler)[0].requires_grad


def test_in_a_stock_pipeline_which_can_be_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), norm_num_groups=4,
    )  # fmt: skip
    images = []
    for cls, options in (
        (DPMSolverMultistepScheduler, {}),
        (LMLDPMSolverScheduler, {}),
        (LMLDPMSolverScheduler, {"beta": 0.3}),
    ):
        pipeline = DDPMPipeline(unet=unet, scheduler=cls(**options))
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        images.append(pipeline(batch_size=2, generator=generator, num_inference_steps=4, output_type="np").images)
    assert (images[0] == images[1]).all()
    assert abs(images[2] - images[0]).max() > 1e-4
    pipeline.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, LMLDPMSolverScheduler) and loaded.scheduler.config.beta == 0.3
    generator = torch.Generator().manual_seed(1)
    again = loaded(batch_size=2, generator=generator, num_inference_steps=4, output_type="np").images
    assert (again == images[2]).all()


def test_pndm_and_unipc_are_corrected_at_their_own_updates():
    for cls in (LMLPNDMScheduler, LMLUniPCMultistepScheduler):
        off, _ = sample(cls(correction="none"), 10, dtype=torch.float64)
        once, twice = (sample(cls(beta=beta), 10, dtype=torch.float64)[0] - off for beta in (1e-3, 2e-3))
        assert once.norm() < 0.05 * off.norm()
        assert (twice - 2 * once).norm() < 0.1 * once.norm()
