"""Names of our parameters in Karlo's original checkpoints and in OpenAI's CLIP.

Names follow karlo/models/{prior_model,decoder_model,sr_64_256}.py and karlo/modules/{xf,unet}.py of
kakaobrain/karlo. Fused projections must be regrouped first; see `karlo_checkpoints`.
"""

from collections.abc import Iterator

from unclip.interop.key_mapping import KeyMapping, Table, below, block_table
from unclip.models import (
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UNetConfig,
)
from unclip.models.karlo import ClipTextConfig

PRIOR, DECODER, UPSAMPLER = "prior", "decoder", "upsampler"
CLIP, STATISTICS = "clip", "statistics"

PRIOR_BLOCK = {
    "norm_attention": ("ln_1",),
    "attention.to_qkv": ("attn.c_qkv",),
    "attention.to_out": ("attn.c_proj",),
    "norm_mlp": ("ln_2",),
    "mlp.0": ("mlp.c_fc",),
    "mlp.2": ("mlp.c_proj",),
}
CLIP_BLOCK = {
    "norm_attention": ("ln_1",),
    "attention.to_qkv.weight": ("attn.in_proj_weight",),
    "attention.to_qkv.bias": ("attn.in_proj_bias",),
    "attention.to_out": ("attn.out_proj",),
    "norm_mlp": ("ln_2",),
    "mlp.0": ("mlp.c_fc",),
    "mlp.2": ("mlp.c_proj",),
}
RESIDUAL = {
    "norm_in": ("in_layers.0",),
    "conv_in": ("in_layers.2",),
    "to_scale_shift": ("emb_layers.1",),
    "to_shift": ("emb_layers.1",),  # a block has either this or to_scale_shift
    "norm_out": ("out_layers.0",),
    "conv_out": ("out_layers.3",),
    "skip": ("skip_connection",),
}
ATTENTION = {
    "norm": ("norm",),
    "to_qkv": ("qkv",),
    "context_to_kv": ("encoder_kv",),
    "to_out": ("proj_out",),
}


def prior_table(config: KarloPriorConfig) -> Table:
    """Table for a PriorTransformer of xf.py."""
    modules = {
        "from_hidden": ("text_enc_proj",),
        "from_text_embeds": ("text_emb_proj",),
        "time.mlp.0": ("time_embed.0",),
        "time.mlp.2": ("time_embed.2",),
        "from_image_embeds": ("clip_img_proj",),
        "transformer.norm": ("final_ln",),
        "to_image_embeds": ("out_proj",),
    }
    table = {name: KeyMapping(PRIOR, (f"model.{path}",)) for name, (path,) in modules.items()}
    table |= {
        "query": KeyMapping(PRIOR, ("model.prd_emb",), leading=2),
        "positions": KeyMapping(PRIOR, ("model.positional_embedding",), leading=1),
        "mean": KeyMapping(STATISTICS, ("mean",)),
        "std": KeyMapping(STATISTICS, ("std",)),
    }
    for i in range(config.depth):
        path = f"model.transformer.resblocks.{i}"
        table |= block_table(f"transformer.blocks.{i}", PRIOR, path, PRIOR_BLOCK)
    return table | below("text_encoder", text_table(config.text_encoder))


def decoder_table(config: KarloDecoderConfig) -> Table:
    """Table for a PLMImUNet of unet.py."""
    modules = {
        "null_image_embeds": "cf_param",
        "from_text_embeds": "text_feat_proj",
        "from_image_embeds": "clip_emb",
        "to_image_tokens": "clip_tok_proj",
        "from_hidden": "text_seq_proj.0",
        "norm_hidden": "text_seq_proj.1",
    }
    table = {name: KeyMapping(DECODER, (f"model.{path}",)) for name, path in modules.items()}
    table |= below("unet", unet_table(config.unet, DECODER, "model", config.image_size))
    return table | below("text_encoder", text_table(config.text_encoder))


def upsampler_table(config: KarloUpsamplerConfig) -> Table:
    """Table for the two SuperResUNetModels of unet.py."""
    networks = {"unet": "model_first_steps", "last_unet": "model_last_step"}
    table: Table = {}
    for name, path in networks.items():
        table |= below(name, unet_table(config.unet, UPSAMPLER, path, config.image_size))
    return table


def text_table(config: ClipTextConfig) -> Table:
    """Table for the text tower of OpenAI's CLIP."""
    table = {
        "embed": KeyMapping(CLIP, ("token_embedding",)),
        "positions": KeyMapping(CLIP, ("positional_embedding",)),
        "transformer.norm": KeyMapping(CLIP, ("ln_final",)),
        "project.weight": KeyMapping(CLIP, ("text_projection",), transposed=True),
    }
    for i in range(config.depth):
        path = f"transformer.resblocks.{i}"
        table |= block_table(f"transformer.blocks.{i}", CLIP, path, CLIP_BLOCK)
    return table


def unet_table(config: UNetConfig, component: str, prefix: str, image_size: int) -> Table:
    """Table for a UNetModel of unet.py, whose tensor names start with `prefix`."""
    modules = {
        "time.mlp.0": "time_embed.0",
        "time.mlp.2": "time_embed.2",
        "stem": "input_blocks.0.0",
        "norm": "out.0",
        "out": "out.2",
    }
    table = {name: KeyMapping(component, (f"{prefix}.{p}",)) for name, p in modules.items()}
    for ours, residual, attention in _blocks(config, image_size):
        table |= block_table(f"{ours}.residual", component, f"{prefix}.{residual}", RESIDUAL)
        table |= block_table(f"{ours}.attention", component, f"{prefix}.{attention}", ATTENTION)
    return table


def _blocks(config: UNetConfig, image_size: int) -> Iterator[tuple[str, str, str]]:
    """The path of each of our blocks, and of its residual block and attention in Karlo."""
    levels, count = len(config.channel_multipliers), config.residual_blocks
    for i in range(levels * (count + 1) - 1):  # the last level has no downsampling block
        yield f"down.{i}", f"input_blocks.{i + 1}.0", f"input_blocks.{i + 1}.1"
    attends_in_middle = bool(config.attention_resolutions)
    yield "middle.0", "middle_block.0", "middle_block.1"
    yield "middle.1", f"middle_block.{1 + attends_in_middle}", "none"
    ours, theirs = 0, 0
    for level in reversed(range(levels)):
        attends = image_size >> level in config.attention_resolutions
        for _ in range(count + 1):
            yield f"up.{ours}", f"output_blocks.{theirs}.0", f"output_blocks.{theirs}.1"
            ours, theirs = ours + 1, theirs + 1
        if level:  # the upsampling block is part of the last output block
            yield f"up.{ours}", f"output_blocks.{theirs - 1}.{1 + attends}", "none"
            ours += 1
