"""Karlo in small, built by diffusers and transformers with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.unclip.toys import perturb, seeded
from unclip.interop.clip_towers import write_tokenizer

EMBED, CONTEXT, SMALL, LARGE = 16, 24, 8, 16
UNET = {
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def text_encoder() -> Any:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=EMBED,
        intermediate_size=4 * EMBED,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=EMBED,
    )
    return perturb(CLIPTextModelWithProjection(config), seed=1)


def image_encoder() -> Any:
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        projection_dim=EMBED,
        image_size=16,
        patch_size=8,
    )
    return perturb(CLIPVisionModelWithProjection(config), seed=2)


def prior() -> Any:
    model = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=EMBED
    )
    model = perturb(model, seed=3)
    model.clip_std.data.abs_().add_(0.5)
    return model


def text_proj() -> Any:
    model = UnCLIPTextProjModel(
        clip_embeddings_dim=EMBED, time_embed_dim=32, cross_attention_dim=CONTEXT
    )
    return perturb(model, seed=4)


def decoder() -> Any:
    model = UNet2DConditionModel(
        sample_size=SMALL,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
        block_out_channels=(8, 16, 24),
        cross_attention_dim=CONTEXT,
        class_embed_type="identity",
        resnet_time_scale_shift="scale_shift",
        **UNET,
    )
    return tamed(model, seed=5)


def super_res(seed: int) -> Any:
    model = UNet2DModel(
        sample_size=LARGE,
        in_channels=6,
        out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",) * 3,
        up_block_types=("ResnetUpsampleBlock2D",) * 3,
        block_out_channels=(8, 16, 16),
        add_attention=False,
        **UNET,
    )
    return tamed(model, seed=seed)


def scheduler(prediction: str, variance: str, limit: float) -> Any:
    return UnCLIPScheduler(
        prediction_type=prediction, variance_type=variance, clip_sample_range=limit
    )


def common(folder: Path) -> dict[str, Any]:
    """The components that both pipelines have."""
    torch.manual_seed(0)  # where the libraries' own initial weights come from
    write_tokenizer(folder, context_length=77)
    return {
        "text_encoder": text_encoder(),
        "tokenizer": CLIPTokenizer.from_pretrained(folder),
        "text_proj": text_proj(),
        "decoder": decoder(),
        "super_res_first": super_res(6),
        "super_res_last": super_res(7),
        "decoder_scheduler": scheduler("epsilon", "learned_range", 1.0),
        "super_res_scheduler": scheduler("epsilon", "fixed_small_log", 1.0),
    }


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def text_to_image(folder: Path) -> Any:
    return quiet(
        UnCLIPPipeline(
            prior=prior(),
            prior_scheduler=scheduler("sample", "fixed_small_log", 5.0),
            **common(folder),
        )
    )


def variation(folder: Path) -> Any:
    extractor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    return quiet(
        UnCLIPImageVariationPipeline(
            image_encoder=image_encoder(), feature_extractor=extractor, **common(folder)
        )
    )


def save(pipeline: Any, folder: Path) -> None:
    """As published: what diffusers writes since it set them aside, it cannot load itself."""
    pipeline.save_pretrained(folder)
    file = folder / "model_index.json"
    index = json.loads(file.read_text()) | {"text_proj": ["unclip", "UnCLIPTextProjModel"]}
    file.write_text(json.dumps(index))


def tamed(model: Any, *, seed: int) -> Any:
    """Random weights whose ε is small, so that steps at high guidance do not amplify rounding."""
    model = perturb(model, seed=seed)
    model.conv_out.weight.data.mul_(0.1)
    return model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of any element."""
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().max().item()
