"""Each network of Karlo, with the weights that diffusers and transformers gave theirs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.unclip import karlo_toys as toys
from tests.unclip.toys import agree
from unclip.interop import read_pipeline
from unclip.pipeline import UnclipPipeline

CAPTIONS = ["a red cube on a blue cube!", "two cats"]
NONE = torch.zeros(2, dtype=torch.bool)
STEPS = [0, 3, 500, 999]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return toys.text_to_image(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> UnclipPipeline:
    folder = tmp_path_factory.mktemp("karlo")
    theirs.save_pretrained(folder)
    return read_pipeline(folder)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def encoded(theirs: Any, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Text embeddings, hidden states and mask as their pipeline makes them."""
    inputs = theirs.tokenizer(
        captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    out = theirs.text_encoder(inputs.input_ids)
    return out.text_embeds, out.last_hidden_state, inputs.attention_mask.bool()


@pytest.mark.parametrize("captions", [CAPTIONS, ["", "x"], ["word " * 200, "!!!"]])
def test_the_text_tower_is_theirs_wherever_a_caption_is(
    theirs: Any, ours: UnclipPipeline, captions: list[str]
) -> None:
    text_embeds, hidden, mask = encoded(theirs, captions)
    text = ours.cascade.decoder.text_encoder(ours.tokenize(captions))
    length = text.hidden.shape[1]
    assert torch.equal(text.visible, mask[:, :length])
    agree(
        "CLIP text tower, hidden states", text.hidden[text.visible], hidden[mask], tolerance=CLOSE
    )
    agree("CLIP text tower, embeddings", text.text_embeds, text_embeds, tolerance=CLOSE)


@pytest.mark.parametrize("step", STEPS)
def test_the_prior_is_theirs(theirs: Any, ours: UnclipPipeline, step: int) -> None:
    text_embeds, hidden, mask = encoded(theirs, CAPTIONS)
    x, model = toys.noise(2, toys.EMBED), ours.cascade.prior
    assert model is not None
    condition = model.condition(ours.tokenize(CAPTIONS), None, NONE)
    expected = theirs.prior(
        x,
        step,
        proj_embedding=text_embeds,
        encoder_hidden_states=hidden,
        attention_mask=mask,
    ).predicted_image_embedding
    made = model(x, torch.tensor([step] * 2), condition)
    agree(f"Karlo prior, timestep {step}", made, expected, tolerance=CLOSE)
    made, expected = model.to_image_space(x), theirs.prior.post_process_latents(x)
    agree("Karlo prior, to image space", made, expected, tolerance=CLOSE)


def test_standardising_is_the_inverse_of_going_to_image_space(ours: UnclipPipeline) -> None:
    prior, x = ours.cascade.prior, toys.noise(2, toys.EMBED)
    assert prior is not None
    torch.testing.assert_close(prior.to_image_space(prior.standardise(x)), x)


@pytest.mark.parametrize("step", STEPS)
def test_the_decoder_with_its_text_projection_is_theirs(
    theirs: Any, ours: UnclipPipeline, step: int
) -> None:
    text_embeds, hidden, mask = encoded(theirs, CAPTIONS)
    x, image_embeds = toys.noise(2, 3, 8, 8), toys.noise(2, toys.EMBED, seed=1)
    context, embedding = theirs.text_proj(
        image_embeddings=image_embeds,
        prompt_embeds=text_embeds,
        text_encoder_hidden_states=hidden,
        do_classifier_free_guidance=False,
    )
    expected = theirs.decoder(
        x,
        step,
        encoder_hidden_states=context,
        class_labels=embedding,
        attention_mask=torch.nn.functional.pad(mask, (4, 0), value=True),
    ).sample
    model = ours.cascade.decoder
    condition = model.condition(
        image_embeds, ours.tokenize(CAPTIONS), drop_image=NONE, drop_text=NONE
    )
    made = model(x, torch.tensor([step] * 2), condition)
    agree(f"Karlo decoder, timestep {step}", made, expected, tolerance=CLOSE)


def test_dropping_both_conditions_is_their_unconditional_half(
    theirs: Any, ours: UnclipPipeline
) -> None:
    text_embeds, hidden, mask = encoded(theirs, ["", "", *CAPTIONS])
    context, embedding = theirs.text_proj(
        image_embeddings=toys.noise(2, toys.EMBED),
        prompt_embeds=text_embeds,
        text_encoder_hidden_states=hidden,
        do_classifier_free_guidance=True,
    )
    condition = ours.cascade.decoder.condition(
        toys.noise(2, toys.EMBED), ours.tokenize(CAPTIONS), drop_image=~NONE, drop_text=~NONE
    )
    kept = torch.nn.functional.pad(mask[:2], (4, 0), value=True)
    agree("Karlo decoder, null embedding", condition.embedding, embedding[:2], tolerance=CLOSE)
    made = condition.context[condition.visible]
    agree("Karlo decoder, null context", made, context[:2][kept], tolerance=CLOSE)


@pytest.mark.parametrize("step", STEPS)
def test_both_upsamplers_are_theirs(theirs: Any, ours: UnclipPipeline, step: int) -> None:
    x, enlarged = toys.noise(2, 3, 16, 16), toys.noise(2, 3, 16, 16, seed=1)
    both, model = torch.cat([x, enlarged], dim=1), ours.cascade.upsamplers["upsampler_1"]
    timesteps = torch.tensor([step] * 2)
    first, last = (
        net(both, step).sample for net in (theirs.super_res_first, theirs.super_res_last)
    )
    made = model(x, timesteps, enlarged)
    agree(f"Karlo upsampler, timestep {step}", made, first, tolerance=CLOSE)
    made = model.forward_last(x, timesteps, enlarged)
    agree(f"Karlo upsampler, last network, timestep {step}", made, last, tolerance=CLOSE)
    assert toys.distance(first, last) > 0.01


def test_both_towers_of_clip_are_theirs(tmp_path: Path) -> None:
    theirs = toys.variation(tmp_path / "tokenizer")
    theirs.save_pretrained(tmp_path / "karlo")
    ours = read_pipeline(tmp_path / "karlo")
    assert ours.clip is not None
    pictures = [Image.effect_noise((40, 28), 90).convert("RGB"), Image.new("RGB", (16, 16), "red")]
    pixels = theirs.feature_extractor(images=pictures, return_tensors="pt").pixel_values
    agree(
        "CLIP preprocessing", ours.clip.preprocess(pictures), pixels, tolerance=0.03
    )  # one of 255
    expected = theirs.image_encoder(ours.clip.preprocess(pictures)).image_embeds
    agree("CLIP image tower", ours.image_embeds(pictures), expected, tolerance=CLOSE)
    text_embeds = encoded(theirs, CAPTIONS)[0]
    unit = torch.nn.functional.normalize(text_embeds, dim=-1)
    agree("CLIP text tower in open_clip", ours.clip.encode_texts(CAPTIONS), unit, tolerance=CLOSE)
