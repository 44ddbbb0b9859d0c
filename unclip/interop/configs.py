"""Conversion of our configs from and to the settings of diffusers and transformers.

Their files do not store dropout rates of the conditions, so Karlo's published rates are used.
"""

from unclip.interop.settings import Settings
from unclip.interop.unet_configs import (
    ATTENDING,
    DECODER,
    PLAIN,
    UPSAMPLER,
    Json,
    built,
    read_unet,
    write_unet,
)
from unclip.models import KarloDecoderConfig, KarloPriorConfig, KarloUpsamplerConfig
from unclip.models.karlo import ClipTextConfig

SCHEDULER = {"clip_sample": True, "beta_schedule": "squaredcos_cap_v2"}
PRIOR = {
    "additional_embeddings": 4,
    "dropout": 0.0,
    "time_embed_act_fn": "silu",
    "norm_in_type": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "added_emb_type": "prd",
    "time_embed_dim": None,
    "embedding_proj_dim": None,
    "clip_embed_dim": None,
}
CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0.0}
CLIP_IGNORED = (
    "architectures",
    "bos_token_id",
    "dropout",
    "dtype",
    "eos_token_id",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
)


def read_text(settings: Settings) -> ClipTextConfig:
    """Read the config of a CLIPTextModelWithProjection."""
    width = settings.integer("hidden_size", default=512)
    settings.expect(CLIP | {"intermediate_size": 4 * width})
    settings.ignore(*CLIP_IGNORED)
    config = built(
        settings.where,
        lambda: ClipTextConfig(
            vocab_size=settings.integer("vocab_size", default=49408),
            context_length=settings.integer("max_position_embeddings", default=77),
            width=width,
            depth=settings.integer("num_hidden_layers", default=12),
            heads=settings.integer("num_attention_heads", default=8),
            embed_dim=settings.integer("projection_dim", default=512),
        ),
    )
    settings.finish()
    return config


def write_text(config: ClipTextConfig) -> Json:
    """The inverse of `read_text`."""
    return CLIP | {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "projection_dim": config.embed_dim,
        "bos_token_id": config.start_token,
        "eos_token_id": config.end_token,
        "pad_token_id": config.end_token,
    }


def read_prior(
    settings: Settings, scheduler: Settings, text_encoder: ClipTextConfig
) -> KarloPriorConfig:
    """Read the configs of a PriorTransformer and its scheduler."""
    heads = settings.integer("num_attention_heads", default=32)
    settings.expect(PRIOR | {"num_embeddings": text_encoder.context_length})
    limit = scheduler.number("clip_sample_range", default=1.0)
    config = built(
        settings.where,
        lambda: KarloPriorConfig(
            embed_dim=settings.integer("embedding_dim", default=768),
            width=heads * settings.integer("attention_head_dim", default=64),
            depth=settings.integer("num_layers", default=20),
            heads=heads,
            text_encoder=text_encoder,
            schedule="cosine",
            train_timesteps=_read_scheduler(scheduler, "sample", "fixed_small_log"),
            x_start_limit=limit,
            text_dropout=0.2,
        ),
    )
    settings.finish()
    return config


def write_prior(config: KarloPriorConfig) -> Json:
    """The inverse of `read_prior`, without the scheduler."""
    return PRIOR | {
        "_class_name": "PriorTransformer",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.depth,
        "embedding_dim": config.embed_dim,
        "num_embeddings": config.text_encoder.context_length,
    }


def _read_scheduler(scheduler: Settings, prediction: str, variance: str) -> int:
    """The number of timesteps of an UnCLIPScheduler; all other settings must be Karlo's."""
    timesteps = scheduler.integer("num_train_timesteps", default=1000)
    scheduler.expect(SCHEDULER)
    stated = {"prediction_type": prediction, "variance_type": variance}
    scheduler.expect(stated, stated=tuple(stated))
    scheduler.finish()
    return timesteps


def write_scheduler(timesteps: int, *, prediction: str, variance: str, limit: float) -> Json:
    """The settings of an UnCLIPScheduler."""
    return SCHEDULER | {
        "_class_name": "UnCLIPScheduler",
        "num_train_timesteps": timesteps,
        "prediction_type": prediction,
        "variance_type": variance,
        "clip_sample_range": limit,
    }


def read_decoder(
    settings: Settings, text_proj: Settings, scheduler: Settings, text_encoder: ClipTextConfig
) -> KarloDecoderConfig:
    """Read a UNet2DConditionModel, an UnCLIPTextProjModel and the decoder's scheduler."""
    image_size = settings.integer("sample_size")
    context_width = settings.integer("cross_attention_dim")
    unet = read_unet(settings, DECODER, image_size, ATTENDING)
    text_proj.expect(
        {"cross_attention_dim": context_width, "time_embed_dim": unet.condition_width},
        stated=("cross_attention_dim", "time_embed_dim"),
    )
    scheduler.expect({"clip_sample_range": 1.0})
    config = built(
        settings.where,
        lambda: KarloDecoderConfig(
            image_size=image_size,
            embed_dim=text_proj.integer("clip_embeddings_dim", default=768),
            image_tokens=text_proj.integer("clip_extra_context_tokens", default=4),
            context_width=context_width,
            unet=unet,
            text_encoder=text_encoder,
            schedule="cosine",
            train_timesteps=_read_scheduler(scheduler, "epsilon", "learned_range"),
            image_dropout=0.1,
            text_dropout=0.3,
        ),
    )
    text_proj.finish()
    settings.finish()
    return config


def write_decoder(config: KarloDecoderConfig) -> Json:
    """The UNet2DConditionModel of `read_decoder`."""
    return (
        DECODER
        | write_unet(config.unet, config.image_size, ATTENDING)
        | {"_class_name": "UNet2DConditionModel", "cross_attention_dim": config.context_width}
    )


def write_text_proj(config: KarloDecoderConfig) -> Json:
    """The UnCLIPTextProjModel of `read_decoder`."""
    return {
        "_class_name": "UnCLIPTextProjModel",
        "clip_embeddings_dim": config.embed_dim,
        "clip_extra_context_tokens": config.image_tokens,
        "cross_attention_dim": config.context_width,
        "time_embed_dim": config.unet.condition_width,
    }


def read_upsampler(
    settings: Settings, scheduler: Settings, low_res_size: int
) -> KarloUpsamplerConfig:
    """Read one UNet2DModel and the scheduler that both networks share."""
    image_size = settings.integer("sample_size")
    unet = read_unet(settings, UPSAMPLER, image_size, PLAIN)
    scheduler.expect({"clip_sample_range": 1.0})
    config = built(
        settings.where,
        lambda: KarloUpsamplerConfig(
            image_size=image_size,
            low_res_size=low_res_size,
            unet=unet,
            schedule="cosine",
            train_timesteps=_read_scheduler(scheduler, "epsilon", "fixed_small_log"),
        ),
    )
    settings.finish()
    return config


def write_upsampler(config: KarloUpsamplerConfig) -> Json:
    """The UNet2DModel of `read_upsampler`."""
    unet = write_unet(config.unet, config.image_size, PLAIN)
    return UPSAMPLER | unet | {"_class_name": "UNet2DModel"}
