"""The latent and text-to-image pipelines of the paper from local folders, with tiny components of random weights."""

import string

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from PIL import Image

from curvature.errors import ConfigError
from curvature.samplers.features import FeatureNet
from curvature.samplers.pipelines import inception, pipeline_study
from curvature.samplers.schedulers import (
    LMLDDIMScheduler,
    LMLDEISMultistepScheduler,
    LMLDPMSolverScheduler,
    LMLFlowMatchEulerScheduler,
    LMLPNDMScheduler,
    LMLUniPCMultistepScheduler,
)

transformers = pytest.importorskip("transformers")

ARMS = {
    "base": {"solver": "dpm_3m"},
    "same": {"solver": "dpm_3m", "correction": "lml", "lamb": 1e-3},
    "lml": {"solver": "dpm_3m", "correction": "lml", "beta": 0.4},
}
LEVELS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}


def clip(projection=False):
    letters = string.ascii_lowercase
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=12)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1,
        max_position_embeddings=12, projection_dim=16, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    model = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, model(config)


def vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip


def text_unet(**options):
    return UNet2DConditionModel(
        in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2, **LEVELS, **options,
    )  # fmt: skip


def latent():
    quantised = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4, num_vq_embeddings=2**14, sample_size=16,
    )  # fmt: skip
    # Codes as far apart as the latents of a random network, or else almost every latent has the same one.
    torch.nn.init.normal_(quantised.quantize.embedding.weight, std=100.0)
    unet = UNet2DModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **LEVELS,
    )
    return LDMPipeline(quantised, unet, DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)), {}


def stable_diffusion():
    tokenizer, encoder = clip()
    pipeline = StableDiffusionPipeline(
        vae(), encoder, tokenizer, text_unet(cross_attention_dim=16),
        PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return pipeline, {"guidance_scale": 7.5}


def stable_diffusion_xl():
    (tokenizer, first), (_, second) = clip(), clip(projection=True)
    unet = text_unet(
        cross_attention_dim=32, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    parts = {"text_encoder": first, "text_encoder_2": second, "tokenizer": tokenizer, "tokenizer_2": tokenizer}
    pipeline = StableDiffusionXLPipeline(vae=vae(), unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    return pipeline, {"guidance_scale": 7.5}


def pixart():
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", -1.0),
        ("\u2581", -2.0),
        *((c, -3.0) for c in string.ascii_lowercase),
    ]
    encoder = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    transformer = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, attention_head_dim=4, num_attention_heads=4, caption_channels=16,
        cross_attention_dim=16,
    )  # fmt: skip
    tokenizer = transformers.T5TokenizerFast(vocab=pieces, extra_ids=0)
    pipeline = PixArtAlphaPipeline(tokenizer, encoder, vae(), transformer, DPMSolverMultistepScheduler())
    return pipeline, {"guidance_scale": 7.5, "use_resolution_binning": False}


@pytest.mark.parametrize("make", [latent, stable_diffusion, stable_diffusion_xl, pixart])
def test_pipelines_of_the_paper_are_loaded_sampled_and_corrected(make, tmp_path):
    torch.manual_seed(0)
    pipeline, call = make()
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "real").mkdir()
    for index in range(8):
        pixels = torch.randint(0, 256, (20, 18, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
        Image.fromarray(pixels.numpy()).save(tmp_path / "real" / f"{index}.png")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na boat\n")

    def features():
        torch.manual_seed(1)
        return FeatureNet((3, 16, 16), 10, (16, 4)).requires_grad_(False)

    found = pipeline_study(
        0, str(tmp_path / "model"), str(tmp_path / "real"), features, ARMS, steps=[4], samples=3, batch_size=2,
        resolution=16, prompts=str(tmp_path / "prompts.txt") if call else None, call=call, device="cpu",
    )  # fmt: skip
    assert found["fid/same/nfe_4"] == found["fid/base/nfe_4"]
    assert found["fid/lml/nfe_4"] != found["fid/base/nfe_4"]


VP = [LMLDDIMScheduler, LMLDPMSolverScheduler, LMLUniPCMultistepScheduler, LMLDEISMultistepScheduler, LMLPNDMScheduler]


@pytest.mark.parametrize("cls", VP)
@pytest.mark.parametrize("make", [latent, stable_diffusion])
def test_every_scheduler_replaces_that_of_a_stock_pipeline(cls, make, tmp_path):
    torch.manual_seed(0)
    pipeline, call = make()
    # Products of float32 numbers depend on where they lie in memory, so both pipelines come from a file.
    pipeline.save_pretrained(tmp_path / "stock")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "stock", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    call |= {"prompt": "a cat", "guidance_scale": 2.0} if call else {}
    base, images = cls.__mro__[2], []
    config = {**pipeline.scheduler.config, "clip_sample": False}
    for chosen in (base.from_config(config), cls.from_config(config), cls.from_config(config, beta=0.4)):
        pipeline.scheduler = chosen
        generator = torch.Generator().manual_seed(1)
        images.append(pipeline(num_inference_steps=6, generator=generator, output_type="np", **call).images)
    assert (images[0] == images[1]).all()
    assert abs(images[2] - images[0]).max() > 1e-3
    pipeline.save_pretrained(tmp_path / "corrected")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "corrected", local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    again = loaded(num_inference_steps=6, generator=generator, output_type="np", **call).images
    assert isinstance(loaded.scheduler, cls)
    assert (again == images[2]).all()


def test_the_flow_matching_scheduler_in_the_pipeline_of_flux():
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    decoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), block_out_channels=(4,),
        latent_channels=1, norm_num_groups=1, sample_size=8, shift_factor=0.1, scaling_factor=1.5,
    )  # fmt: skip
    nothing = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    images = []
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        LMLFlowMatchEulerScheduler(use_dynamic_shifting=True),
        LMLFlowMatchEulerScheduler(use_dynamic_shifting=True, beta=0.4),
    ):
        pipeline = FluxPipeline(scheduler=scheduler, vae=decoder, transformer=transformer, **nothing)
        pipeline.set_progress_bar_config(disable=True)
        texts = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(2))
        images.append(
            pipeline(
                prompt_embeds=texts, pooled_prompt_embeds=texts[:, 0], height=8, width=8, num_inference_steps=5,
                generator=torch.Generator().manual_seed(1), output_type="np", max_sequence_length=8,
            ).images
        )  # fmt: skip
    assert (images[0] == images[1]).all()
    assert abs(images[2] - images[0]).max() > 1e-5


def test_inception_reads_local_weights_that_hold_nothing_but_tensors(tmp_path):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / "inception.pth"

    class Untrained(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments, **options):
            """Keep the weights of the constructor."""

    torch.save({}, path)
    torch.manual_seed(0)
    torch.save(Untrained("inception-v3-compat", ["2048"], str(path)).state_dict(), path)
    net = inception(str(path))
    images = torch.rand(2, 3, 40, 40)
    features = net(images)
    assert features.shape == (2, net.num_features) == (2, 2048)
    assert features.isfinite().all() and not torch.equal(features[0], features[1])
    torch.testing.assert_close(net((images * 255).round() / 255), features)
    torch.save(print, path)
    with pytest.raises(ConfigError, match="inception_weights"):
        inception(str(path))
