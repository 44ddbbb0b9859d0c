"""dalle2-pytorch's networks, sized to have about as many parameters as ours."""

from dalle2_pytorch import DiffusionPriorNetwork, Unet
from torch import Tensor

from benchmarks.contest import Contestant, Inputs
from benchmarks.sizes import GUIDANCE_SCALE, STEPS, Sizes

LIBRARY = "dalle2-pytorch"


def prior(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The network of the prior. Its blocks are larger by a sixth, so it has fewer of them."""
    model = DiffusionPriorNetwork(
        dim=sizes.embed_dim,
        num_timesteps=STEPS,
        max_text_len=sizes.text_tokens,
        depth=max(1, sizes.prior_depth * 6 // 7),
        dim_head=sizes.head_channels,
        heads=sizes.embed_dim // sizes.head_channels,
    )
    given = {"text_embed": inputs.text_embeds, "text_encodings": inputs.text_hidden}

    def call(cond_scale: float) -> Tensor:
        out: Tensor = model.forward_with_cond_scale(
            inputs.image_embeds, inputs.timesteps, cond_scale=cond_scale, **given
        )
        return out

    return Contestant(LIBRARY, model, lambda: call(1.0), lambda: lambda: call(GUIDANCE_SCALE))


def decoder(sizes: Sizes, inputs: Inputs) -> Contestant:
    """The decoder's U-Net, for the smallest images."""
    attends = tuple(
        sizes.image_size >> level in sizes.attention_resolutions
        for level in range(len(sizes.channel_multipliers))
    )
    model = Unet(
        dim=sizes.channels,
        dim_mults=sizes.channel_multipliers,
        channels_out=6,
        num_resnet_blocks=sizes.residual_blocks,
        image_embed_dim=sizes.embed_dim,
        cond_on_image_embeds=True,
        text_embed_dim=sizes.embed_dim,
        cond_on_text_encodings=True,
        cond_dim=6 * sizes.channels,
        max_text_len=sizes.text_tokens,
        self_attn=attends,
    )

    def call(cond_scale: float) -> Tensor:
        out: Tensor = model.forward_with_cond_scale(
            inputs.pixels,
            inputs.timesteps,
            cond_scale=cond_scale,
            image_embed=inputs.image_embeds,
            text_encodings=inputs.text_hidden,
        )
        return out

    return Contestant(LIBRARY, model, lambda: call(1.0), lambda: lambda: call(GUIDANCE_SCALE))


def upsampler(sizes: Sizes, inputs: Inputs) -> Contestant:
    """An upsampler's U-Net."""
    model = Unet(
        dim=sizes.upsampler_channels,
        dim_mults=sizes.channel_multipliers,
        num_resnet_blocks=sizes.residual_blocks,
        lowres_cond=True,
    )

    def predict() -> Tensor:
        out: Tensor = model(
            inputs.pixels, inputs.timesteps, image_embed=None, lowres_cond_img=inputs.low_res
        )
        return out

    def sample() -> Tensor:
        out: Tensor = model(
            inputs.large_pixels,
            inputs.timesteps[:1],
            image_embed=None,
            lowres_cond_img=inputs.large_low_res,
        )
        return out

    return Contestant(LIBRARY, model, predict, lambda: sample)
