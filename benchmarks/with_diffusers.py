"""The modules of Karlo's pipeline in diffusers, called as its `UnCLIPPipeline` calls them."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import Tensor, nn

from benchmarks.contest import Contestant, Inputs
from benchmarks.sizes import GUIDANCE_SCALE, Sizes
from unclip.denoising.guidance import classifier_free

LIBRARY = "diffusers"


def prior(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The prior's transformer."""
    model = PriorTransformer(
        num_attention_heads=sizes.prior_width // sizes.head_channels,
        attention_head_dim=sizes.head_channels,
        num_layers=sizes.prior_depth,
        embedding_dim=sizes.embed_dim,
        num_embeddings=sizes.text_tokens,
    )

    def call(copies: int) -> Tensor:
        out: Tensor = model(
            inputs.image_embeds.repeat(copies, 1),
            inputs.timesteps.repeat(copies),
            proj_embedding=inputs.text_embeds.repeat(copies, 1),
            encoder_hidden_states=inputs.text_hidden.repeat(copies, 1, 1),
            attention_mask=inputs.tokens.repeat(copies, 1).ne(0),
        ).predicted_image_embedding
        return out

    return Contestant(LIBRARY, model, lambda: call(1), lambda: lambda: _guided(call(2)))


def decoder(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The U-Net, and the text projection, which runs once for all sampling steps."""
    text_proj = UnCLIPTextProjModel(
        clip_embeddings_dim=sizes.embed_dim,
        time_embed_dim=4 * sizes.channels,
        cross_attention_dim=sizes.embed_dim,
    )
    unet = _conditional_unet(sizes)
    mask = nn.functional.pad(inputs.tokens.ne(0), (4, 0), value=True)

    def project(copies: int) -> tuple[Tensor, Tensor]:
        context, embedding = text_proj(
            image_embeddings=inputs.image_embeds,
            prompt_embeds=inputs.text_embeds.repeat(copies, 1),
            text_encoder_hidden_states=inputs.text_hidden.repeat(copies, 1, 1),
            do_classifier_free_guidance=copies == 2,
        )
        return context, embedding

    def call(copies: int, context: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = unet(
            inputs.pixels.repeat(copies, 1, 1, 1),
            inputs.timesteps.repeat(copies),
            encoder_hidden_states=context,
            class_labels=embedding,
            attention_mask=mask.repeat(copies, 1),
        ).sample
        return out

    def sampler() -> Callable[[], Tensor]:
        context, embedding = project(2)
        return lambda: _guided(call(2, context, embedding)[:, :3])

    both = nn.ModuleList([text_proj, unet])
    return Contestant(LIBRARY, both, lambda: call(1, *project(1)), sampler)


def upsampler(sizes: Sizes, inputs: Inputs) -> Contestant:
    """One of the upsampler's two U-Nets."""
    levels = len(sizes.channel_multipliers)
    model = UNet2DModel(
        sample_size=sizes.large_size,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels,
        add_attention=False,
        **_common(sizes, sizes.upsampler_channels),
    )

    def predict() -> Tensor:
        x = torch.cat([inputs.pixels, inputs.low_res], dim=1)
        out: Tensor = model(x, inputs.timesteps).sample
        return out

    def sample() -> Tensor:
        x = torch.cat([inputs.large_pixels, inputs.large_low_res], dim=1)
        out: Tensor = model(x, inputs.timesteps[:1]).sample
        return out

    return Contestant(LIBRARY, model, predict, lambda: sample)


def _conditional_unet(sizes: Sizes) -> UNet2DConditionModel:
    attends = [
        sizes.image_size >> level in sizes.attention_resolutions
        for level in range(len(sizes.channel_multipliers))
    ]
    down, up = (
        [attending if here else f"Resnet{way}sampleBlock2D" for here in attends]
        for way, attending in (
            ("Down", "SimpleCrossAttnDownBlock2D"),
            ("Up", "SimpleCrossAttnUpBlock2D"),
        )
    )
    return UNet2DConditionModel(
        sample_size=sizes.image_size,
        in_channels=3,
        out_channels=6,
        down_block_types=tuple(down),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=tuple(reversed(up)),
        cross_attention_dim=sizes.embed_dim,
        class_embed_type="identity",
        **_common(sizes, sizes.channels),
    )


def _common(sizes: Sizes, channels: int) -> dict[str, Any]:
    return {
        "block_out_channels": tuple(channels * m for m in sizes.channel_multipliers),
        "layers_per_block": sizes.residual_blocks,
        "attention_head_dim": sizes.head_channels,
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 32,
    }


def _guided(both: Tensor) -> Tensor:
    unconditional, conditional = both.chunk(2)
    return classifier_free(conditional, unconditional, guidance_scale=GUIDANCE_SCALE)
