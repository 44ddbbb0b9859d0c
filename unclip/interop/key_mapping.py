"""Names of our parameters in the layouts of diffusers and transformers.

A table maps the path of our module or parameter to paths in the other layout. If there are several
paths, ours is a fused projection: the concatenation of their tensors along the first axis.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from unclip.models import (
    KarloDecoderConfig,
    KarloPriorConfig,
    KarloUpsamplerConfig,
    UNetConfig,
)
from unclip.models.karlo import ClipTextConfig

PRIOR, TEXT_PROJ, DECODER = "prior", "text_proj", "decoder"
TEXT_ENCODER, IMAGE_ENCODER = "text_encoder", "image_encoder"
SUPER_RES_FIRST, SUPER_RES_LAST = "super_res_first", "super_res_last"


class KeyMapping(NamedTuple):
    """Where the other layout has the weights of our module or parameter."""

    component: str
    paths: tuple[str, ...]
    leading: int = 0  # axes of length 1 in front of the other tensor
    transposed: bool = False  # the other tensor is the transposed matrix

    def names(self, rest: str) -> tuple[str, ...]:
        """The paths, each extended by `rest`: the name of a tensor relative to the module."""
        return tuple(path + rest for path in self.paths)


Table = dict[str, KeyMapping]

RESIDUAL = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "to_scale_shift": "time_emb_proj",
    "to_shift": "time_emb_proj",  # a block has either this or to_scale_shift
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
}
ATTENTION = {
    "norm": ("group_norm",),
    "to_qkv": ("to_q", "to_k", "to_v"),
    "context_to_kv": ("add_k_proj", "add_v_proj"),
    "to_out": ("to_out.0",),
}
PRIOR_BLOCK = {
    "norm_attention": ("norm1",),
    "attention.to_qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.to_out": ("attn1.to_out.0",),
    "norm_mlp": ("norm3",),
    "mlp.0": ("ff.net.0.proj",),
    "mlp.2": ("ff.net.2",),
}
CLIP_BLOCK = {
    "norm_attention": ("layer_norm1",),
    "attention.to_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.to_out": ("self_attn.out_proj",),
    "norm_mlp": ("layer_norm2",),
    "mlp.0": ("mlp.fc1",),
    "mlp.2": ("mlp.fc2",),
}
OPEN_CLIP_BLOCK = {
    "ln_1": ("layer_norm1",),
    "attn.in_proj_weight": tuple(f"self_attn.{name}_proj.weight" for name in "qkv"),
    "attn.in_proj_bias": tuple(f"self_attn.{name}_proj.bias" for name in "qkv"),
    "attn.out_proj": ("self_attn.out_proj",),
    "ln_2": ("layer_norm2",),
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}


def prior_table(config: KarloPriorConfig) -> Table:
    """Table for a PriorTransformer."""
    table = {
        "from_hidden": KeyMapping(PRIOR, ("encoder_hidden_states_proj",)),
        "from_text_embeds": KeyMapping(PRIOR, ("embedding_proj",)),
        "time.mlp.0": KeyMapping(PRIOR, ("time_embedding.linear_1",)),
        "time.mlp.2": KeyMapping(PRIOR, ("time_embedding.linear_2",)),
        "from_image_embeds": KeyMapping(PRIOR, ("proj_in",)),
        "query": KeyMapping(PRIOR, ("prd_embedding",), leading=2),
        "positions": KeyMapping(PRIOR, ("positional_embedding",), leading=1),
        "transformer.norm": KeyMapping(PRIOR, ("norm_out",)),
        "to_image_embeds": KeyMapping(PRIOR, ("proj_to_clip_embeddings",)),
        "mean": KeyMapping(PRIOR, ("clip_mean",), leading=1),
        "std": KeyMapping(PRIOR, ("clip_std",), leading=1),
    }
    for i in range(config.depth):
        table |= block_table(
            f"transformer.blocks.{i}", PRIOR, f"transformer_blocks.{i}", PRIOR_BLOCK
        )
    return table | below("text_encoder", text_table(config.text_encoder))


def decoder_table(config: KarloDecoderConfig) -> Table:
    """Table for an UnCLIPTextProjModel and a UNet2DConditionModel."""
    projections = {
        "null_image_embeds": "learned_classifier_free_guidance_embeddings",
        "from_text_embeds": "embedding_proj",
        "from_image_embeds": "clip_image_embeddings_project_to_time_embeddings",
        "to_image_tokens": "clip_extra_context_tokens_proj",
        "from_hidden": "encoder_hidden_states_proj",
        "norm_hidden": "text_encoder_hidden_states_norm",
    }
    table = {ours: KeyMapping(TEXT_PROJ, (theirs,)) for ours, theirs in projections.items()}
    table |= below("unet", unet_table(config.unet, DECODER))
    return table | below("text_encoder", text_table(config.text_encoder))


def upsampler_table(config: KarloUpsamplerConfig) -> Table:
    """Table for two UNet2DModels."""
    first = below("unet", unet_table(config.unet, SUPER_RES_FIRST))
    return first | below("last_unet", unet_table(config.unet, SUPER_RES_LAST))


def text_table(config: ClipTextConfig) -> Table:
    """Table for a CLIPTextModelWithProjection."""
    table = {
        "embed": KeyMapping(TEXT_ENCODER, ("text_model.embeddings.token_embedding",)),
        "positions": KeyMapping(TEXT_ENCODER, ("text_model.embeddings.position_embedding.weight",)),
        "transformer.norm": KeyMapping(TEXT_ENCODER, ("text_model.final_layer_norm",)),
        "project": KeyMapping(TEXT_ENCODER, ("text_projection",)),
    }
    for i in range(config.depth):
        theirs = f"text_model.encoder.layers.{i}"
        table |= block_table(f"transformer.blocks.{i}", TEXT_ENCODER, theirs, CLIP_BLOCK)
    return table


def open_clip_table(text_layers: int, vision_layers: int) -> Table:
    """Table for both towers of CLIP, from an open_clip model."""
    table = {
        "positional_embedding": KeyMapping(
            TEXT_ENCODER, ("text_model.embeddings.position_embedding.weight",)
        ),
        "token_embedding": KeyMapping(TEXT_ENCODER, ("text_model.embeddings.token_embedding",)),
        "ln_final": KeyMapping(TEXT_ENCODER, ("text_model.final_layer_norm",)),
        "text_projection": KeyMapping(TEXT_ENCODER, ("text_projection.weight",), transposed=True),
        "visual.class_embedding": KeyMapping(
            IMAGE_ENCODER, ("vision_model.embeddings.class_embedding",)
        ),
        "visual.positional_embedding": KeyMapping(
            IMAGE_ENCODER, ("vision_model.embeddings.position_embedding.weight",)
        ),
        "visual.conv1": KeyMapping(IMAGE_ENCODER, ("vision_model.embeddings.patch_embedding",)),
        "visual.ln_pre": KeyMapping(IMAGE_ENCODER, ("vision_model.pre_layrnorm",)),
        "visual.ln_post": KeyMapping(IMAGE_ENCODER, ("vision_model.post_layernorm",)),
        "visual.proj": KeyMapping(IMAGE_ENCODER, ("visual_projection.weight",), transposed=True),
    }
    for ours, component, theirs, layers in (
        ("transformer", TEXT_ENCODER, "text_model", text_layers),
        ("visual.transformer", IMAGE_ENCODER, "vision_model", vision_layers),
    ):
        for i in range(layers):
            block = f"{theirs}.encoder.layers.{i}"
            table |= block_table(f"{ours}.resblocks.{i}", component, block, OPEN_CLIP_BLOCK)
    return table


def unet_table(config: UNetConfig, component: str) -> Table:
    """Table for a UNet2DModel or UNet2DConditionModel; may include modules that ours lacks."""
    plain = {
        "time.mlp.0": "time_embedding.linear_1",
        "time.mlp.2": "time_embedding.linear_2",
        "stem": "conv_in",
        "norm": "conv_norm_out",
        "out": "conv_out",
    }
    table = {ours: KeyMapping(component, (theirs,)) for ours, theirs in plain.items()}
    for ours, residual, attention in _blocks(config):
        for name, theirs in RESIDUAL.items():
            table[f"{ours}.residual.{name}"] = KeyMapping(component, (f"{residual}.{theirs}",))
        table |= block_table(f"{ours}.attention", component, attention, ATTENTION)
    return table


def _blocks(config: UNetConfig) -> Iterator[tuple[str, str, str]]:
    """The path of each of our blocks, and of its residual block and attention in diffusers."""
    levels, blocks = len(config.channel_multipliers), config.residual_blocks
    down, up = 0, 0
    for level in range(levels):
        inner = [(f"resnets.{i}", f"attentions.{i}") for i in range(blocks)]
        for residual, attention in [*inner, *_last("downsamplers.0", level < levels - 1)]:
            theirs = f"down_blocks.{level}"
            yield f"down.{down}", f"{theirs}.{residual}", f"{theirs}.{attention}"
            down += 1
    for i in range(2):
        yield f"middle.{i}", f"mid_block.resnets.{i}", f"mid_block.attentions.{i}"
    for level in range(levels):
        inner = [(f"resnets.{i}", f"attentions.{i}") for i in range(blocks + 1)]
        for residual, attention in [*inner, *_last("upsamplers.0", level < levels - 1)]:
            theirs = f"up_blocks.{level}"
            yield f"up.{up}", f"{theirs}.{residual}", f"{theirs}.{attention}"
            up += 1


def _last(resampler: str, exists: bool) -> list[tuple[str, str]]:
    """The resampling block at the end of a level in diffusers, if any; it has no attention."""
    return [(resampler, "none")] if exists else []


def block_table(
    ours: str, component: str, theirs: str, names: Mapping[str, tuple[str, ...]]
) -> Table:
    """Table for one block, from the names of its modules."""
    return {
        f"{ours}.{name}": KeyMapping(component, tuple(f"{theirs}.{path}" for path in paths))
        for name, paths in names.items()
    }


def below(prefix: str, table: Table) -> Table:
    """The table with `prefix` added to our paths, for a model that is a submodule of another."""
    return {f"{prefix}.{ours}": theirs for ours, theirs in table.items()}


def find(table: Table, name: str) -> tuple[KeyMapping, tuple[str, ...]]:
    """The mapping of our parameter, and the names of its tensors in the other layout."""
    path = name
    while path not in table:
        path, dot, _ = path.rpartition(".")
        assert dot, f"no rule for {name}"
    return table[path], table[path].names(name[len(path) :])
