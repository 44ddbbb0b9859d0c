"""The smallest models that still have every part, and batches for them."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from unclip.clip.frozen import FrozenClip
from unclip.clip.training import ClipArchitecture, build_clip
from unclip.generation import (
    Cascade,
    DecoderSampling,
    PriorSampling,
    SamplingConfig,
    UpsamplerSampling,
)
from unclip.kinds import build
from unclip.models import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionPriorConfig,
    EclipsePriorConfig,
    LinearPriorConfig,
    TextEncoderConfig,
    UNetConfig,
    UpsamplerConfig,
)
from unclip.pipeline import UnclipPipeline
from unclip.presets import CLIP_VOCAB_SIZE, Preset

TEXT = TextEncoderConfig(vocab_size=50, context_length=6, width=16, depth=1, heads=2)
UNET = UNetConfig(
    channels=8,
    channel_multipliers=(1, 2),
    residual_blocks=1,
    attention_resolutions=(4,),
    head_channels=8,
    norm_groups=4,
    dropout=0.0,
)
PRIOR = DiffusionPriorConfig(
    embed_dim=8,
    width=16,
    depth=1,
    heads=2,
    text_encoder=TEXT,
    schedule="cosine",
    train_timesteps=100,
    embedding_scale=8**0.5,
    text_dropout=0.1,
)
AR_PRIOR = ARPriorConfig(
    embed_dim=8,
    width=16,
    depth=2,
    heads=2,
    text_encoder=TEXT,
    dimensions=5,
    buckets=16,
    bucket_reach=3.0,
    dot_bins=4,
    text_dropout=0.5,
)
LINEAR_PRIOR = LinearPriorConfig(embed_dim=8)
ECLIPSE_PRIOR = EclipsePriorConfig(
    embed_dim=8,
    width=16,
    depth=2,
    heads=2,
    text_encoder=TEXT,
    contrastive_weight=0.2,
    contrastive_temperature=0.07,
    text_dropout=0.1,
)
DECODER = DecoderConfig(
    image_size=8,
    embed_dim=8,
    image_tokens=4,
    unet=UNET,
    text_encoder=TEXT,
    schedule="cosine",
    train_timesteps=100,
    prediction="v",
    learned_variance=False,
    min_snr_gamma=None,
    image_dropout=0.1,
    text_dropout=0.5,
)


def upsampler_config(low_res_size: int) -> UpsamplerConfig:
    return UpsamplerConfig(
        image_size=2 * low_res_size,
        low_res_size=low_res_size,
        unet=UNetConfig(
            channels=8,
            channel_multipliers=(1, 2),
            residual_blocks=1,
            attention_resolutions=(),
            head_channels=8,
            norm_groups=4,
            dropout=0.0,
        ),
        schedule="linear",
        train_timesteps=100,
        prediction="epsilon",
        min_snr_gamma=5.0,
        residual_scale=None if low_res_size == 8 else 4.0,
        crop_fraction=0.5,
        degradation="gaussian_blur",
        degradation_probability=0.5,
        low_res_noise=None,
    )


PRESET = Preset(
    prior=PRIOR,
    decoder=DECODER,
    upsamplers={"upsampler_1": upsampler_config(8), "upsampler_2": upsampler_config(16)},
)
SAMPLING = SamplingConfig(
    prior=PriorSampling(sampler="ddim", num_inference_steps=4, guidance_scale=2.0, candidates=2),
    decoder=DecoderSampling(
        sampler="ddim", num_inference_steps=4, guidance_scale=2.0, dynamic_threshold=None
    ),
    upsamplers={
        name: UpsamplerSampling(sampler="ddim", num_inference_steps=2) for name in PRESET.upsamplers
    },
    eta=0.0,
    bf16=False,
)


def sampling_with(
    sampling: SamplingConfig = SAMPLING,
    *,
    prior: Mapping[str, object] | None = None,
    decoder: Mapping[str, object] | None = None,
    **changes: object,
) -> SamplingConfig:
    """The settings with changes to those of the prior and the decoder."""
    parts = {
        "prior": replace(sampling.prior, **(prior or {})),
        "decoder": replace(sampling.decoder, **(decoder or {})),
    }
    return replace(sampling, **parts, **changes)  # type: ignore[arg-type]


def toy_cascade(sampling: SamplingConfig = SAMPLING, **models: object) -> Cascade:
    """Perturbed models of `PRESET`, in which `models` replace some."""
    torch.manual_seed(0)
    made = {
        name: perturb(build(config), seed=seed)
        for seed, (name, config) in enumerate(PRESET.models.items())
    }
    parts = {
        "prior": made.pop("prior"),
        "decoder": made.pop("decoder"),
        "upsamplers": made,
        "sampling": sampling,
    }
    return Cascade(**{**parts, **models})  # type: ignore[arg-type]


CLIP_ARCHITECTURE = ClipArchitecture(
    embed_dim=PRIOR.embed_dim,
    image_size=16,
    patch_size=8,
    vision_width=64,
    vision_layers=1,
    vision_heads=2,
    text_context_length=8,
    text_width=16,
    text_layers=1,
    text_heads=2,
    init_temperature=0.07,
)


def toy_pipeline() -> UnclipPipeline:
    """The cascade of `PRESET` for captions of CLIP's tokenizer, with a CLIP of random weights."""
    text = replace(TEXT, vocab_size=CLIP_VOCAB_SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = perturb(build(replace(PRIOR, text_encoder=text)))
        decoder = perturb(build(replace(DECODER, text_encoder=text)))
        clip = build_clip(CLIP_ARCHITECTURE)
    device = torch.device("cpu")
    frozen = FrozenClip.from_trained(clip, CLIP_ARCHITECTURE, name="toy", device=device)
    return UnclipPipeline(toy_cascade(prior=prior, decoder=decoder), frozen)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(shape, generator=seeded(seed)), dim=-1)


def make_batch(image_size: int, *, count: int = 4) -> dict[str, Tensor]:
    tokens = torch.randint(1, 50, (count, 6), generator=seeded(1))
    tokens[:, 4:] = 0
    return {
        "pixels": torch.rand(count, 3, image_size, image_size, generator=seeded(2)) * 2 - 1,
        "image_embeds": unit(count, 8, seed=3),
        "text_embeds": unit(count, 8, seed=4),
        "tokens": tokens,
    }


def perturb(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """Move all weights off their start, where last layers are zero and hide what is before them."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def agree(what: str, ours: Tensor, theirs: Tensor, *, tolerance: float = 1e-5) -> None:
    """Print how far two results are apart at most (`pytest -s`), and hold it to the tolerance."""
    assert ours.shape == theirs.shape
    largest = (ours - theirs).abs().max().item()
    print(f"{what}: largest difference {largest:.1e}")
    assert ours.isfinite().all()
    assert largest <= tolerance
