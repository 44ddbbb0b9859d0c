import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.unclip.toys import make_batch, sampling_with, seeded, toy_cascade, unit
from unclip.config import ConfigError
from unclip.embeddings.pca import Moments, fit
from unclip.generation import Cascade
from unclip.manipulate import (
    Latent,
    class_probabilities,
    decode,
    encode,
    enlarge,
    importance_of_the_prior,
    inpaint,
    interpolate,
    pca_reconstruct,
    shrink_mask,
    slerp,
    text_diff,
    to_pixels,
    variations,
)

SAMPLING = sampling_with(
    prior={"guidance_scale": 1.0, "candidates": 1},
    decoder={"sampler": "dpm_solver_pp_2m", "num_inference_steps": 20, "guidance_scale": 1.5},
    eta=1.0,
)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return toy_cascade(SAMPLING)


@pytest.fixture(scope="module")
def latents(cascade: Cascade) -> tuple[Latent, Latent]:
    """Two images that the decoder itself made, so that it can make them again."""
    noise = torch.randn(2, 3, 8, 8, generator=seeded(5))
    pixels = decode(cascade, Latent(unit(2, 8, seed=6), noise))
    both = encode(cascade, pixels, unit(2, 8, seed=6))
    return (
        Latent(both.image_embeds[:1], both.noise[:1]),
        Latent(both.image_embeds[1:], both.noise[1:]),
    )


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def angle(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a, b, dim=-1).clamp(-1, 1).acos()


@pytest.mark.parametrize("weights", [torch.tensor([0.0, 1.0])])
def test_slerp_ends_at_its_two_vectors(weights: Tensor) -> None:
    start, end = 3 * unit(1, 8, seed=1), unit(1, 8, seed=2)
    torch.testing.assert_close(slerp(start, end, weights), torch.cat([start, end]))


def test_slerp_of_unit_vectors_has_norm_one_and_an_angle_linear_in_the_weight() -> None:
    start, end = unit(1, 16, seed=1), unit(1, 16, seed=2)
    weights = torch.linspace(0, 1, 11)
    between = slerp(start, end, weights)
    torch.testing.assert_close(between.norm(dim=-1), torch.ones(11))
    wanted = weights * angle(start, end)
    torch.testing.assert_close(angle(start, between), wanted, atol=1e-3, rtol=0)


def test_slerp_of_a_vector_with_itself_stays_there() -> None:
    start = unit(1, 8)
    torch.testing.assert_close(
        slerp(start, start.clone(), torch.linspace(0, 1, 5)), start.expand(5, -1)
    )


def test_a_latent_without_eta_reconstructs_its_image(cascade: Cascade) -> None:
    noise = torch.randn(4, 3, 8, 8, generator=seeded(5))
    pixels = decode(cascade, Latent(unit(4, 8, seed=6), noise))
    latent = encode(cascade, pixels, unit(4, 8, seed=6))
    other = Latent(latent.image_embeds, torch.randn(4, 3, 8, 8, generator=seeded(7)))
    error, by_chance = (rms(decode(cascade, one) - pixels) for one in (latent, other))
    assert error < 0.25 * by_chance


def test_variations_share_the_embedding_and_differ_by_eta(
    cascade: Cascade, latents: tuple[Latent, Latent]
) -> None:
    exact, near, far = (
        variations(cascade, latents[0], count=3, eta=eta, generator=seeded()) for eta in (0, 0.2, 1)
    )
    reconstruction = decode(cascade, latents[0])
    torch.testing.assert_close(exact, reconstruction.expand(3, -1, -1, -1), atol=1e-4, rtol=0)
    assert 0 < rms(near - reconstruction) < rms(far - reconstruction)
    assert not torch.equal(far[0], far[1])


def test_an_interpolation_ends_at_both_reconstructions(
    cascade: Cascade, latents: tuple[Latent, Latent]
) -> None:
    walk = interpolate(cascade, *latents, weights=torch.linspace(0, 1, 5))
    for place, latent in ((0, latents[0]), (-1, latents[1])):
        wanted = decode(cascade, latent)[0]
        torch.testing.assert_close(walk[place], wanted, atol=1e-3, rtol=0)


def test_an_interpolation_with_one_noise_changes_by_the_embedding_alone(
    cascade: Cascade, latents: tuple[Latent, Latent]
) -> None:
    noise = torch.randn(1, 3, 8, 8, generator=seeded(8))
    same = Latent(latents[0].image_embeds, latents[1].noise)
    weights = torch.tensor([0.0, 1.0])
    walk = interpolate(cascade, latents[0], same, weights=weights, noise=noise)
    torch.testing.assert_close(walk[0], walk[1], atol=1e-4, rtol=0)
    walk = interpolate(cascade, *latents, weights=weights, noise=noise)
    assert rms(walk[0] - walk[1]) > 1e-3


@pytest.mark.parametrize("known", [False, True])
def test_no_turn_towards_a_text_is_the_reconstruction(
    cascade: Cascade, latents: tuple[Latent, Latent], known: bool
) -> None:
    edited = text_diff(
        cascade,
        latents[0],
        unit(1, 8, seed=9),
        from_text_embeds=unit(1, 8, seed=10) if known else None,
        thetas=torch.tensor([0.0, 0.25, 0.5]),
    )
    reconstruction = decode(cascade, latents[0])[0]
    torch.testing.assert_close(edited[0], reconstruction, atol=1e-4, rtol=0)
    assert 0 < rms(edited[1] - reconstruction) < rms(edited[2] - reconstruction)


def test_a_full_turn_towards_a_text_decodes_its_direction(
    cascade: Cascade, latents: tuple[Latent, Latent]
) -> None:
    text, before = unit(1, 8, seed=9), unit(1, 8, seed=10)
    edited = text_diff(
        cascade, latents[0], text, from_text_embeds=before, thetas=torch.tensor([1.0])
    )
    direction = Latent(F.normalize(text - before, dim=-1), latents[0].noise)
    torch.testing.assert_close(edited, decode(cascade, direction), atol=1e-3, rtol=0)


def test_all_components_reconstruct_and_counts_beyond_the_width_are_all(
    cascade: Cascade, latents: tuple[Latent, Latent]
) -> None:
    basis = fit(Moments.of(unit(100, 8, seed=11)))
    first, all_of_them, more = pca_reconstruct(cascade, latents[0], basis, components=[1, 8, 320])
    reconstruction = decode(cascade, latents[0])[0]
    torch.testing.assert_close(all_of_them, reconstruction, atol=1e-3, rtol=0)
    torch.testing.assert_close(more, all_of_them, atol=1e-4, rtol=0)
    assert rms(first - reconstruction) > 1e-3


def test_the_conditions_differ_by_what_the_decoder_is_told_alone(cascade: Cascade) -> None:
    batch = make_batch(8)
    without = importance_of_the_prior(
        cascade, batch["tokens"], batch["text_embeds"], generator=seeded()
    )
    assert list(without) == ["caption", "text embedding", "prior"]
    calm = replace(cascade, sampling=replace(SAMPLING, eta=0.0))
    equal = importance_of_the_prior(
        calm, batch["tokens"], batch["text_embeds"], batch["text_embeds"], generator=seeded()
    )
    torch.testing.assert_close(equal["text embedding"], equal["true embedding"])
    assert rms(equal["caption"] - equal["prior"]) > 1e-3
    assert rms(equal["text embedding"] - equal["prior"]) > 1e-3


def test_class_probabilities_prefer_the_closest_class() -> None:
    classes = unit(3, 8, seed=1)
    probabilities = class_probabilities(classes.flip(0), classes, logit_scale=10.0)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
    assert probabilities.argmax(-1).tolist() == [2, 1, 0]
    even = class_probabilities(classes, classes, logit_scale=0.0)
    torch.testing.assert_close(even, torch.full((3, 3), 1 / 3))


def scene() -> tuple[Tensor, Tensor]:
    pixels = torch.rand(2, 3, 32, 32, generator=seeded(12)) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[:, :, 5:20, 9:27] = True
    return pixels, mask


@pytest.mark.parametrize("captioned", [False, True])
def test_inpainting_keeps_what_is_known_to_the_bit_and_paints_the_rest(
    cascade: Cascade, captioned: bool
) -> None:
    (pixels, mask), batch = scene(), make_batch(8, count=2)
    painted = inpaint(
        cascade,
        pixels,
        mask,
        batch["image_embeds"],
        batch["tokens"] if captioned else None,
        generator=seeded(),
    )
    known = ~mask.expand_as(pixels)
    assert torch.equal(painted[known], pixels[known])
    assert not torch.isclose(painted[~known], pixels[~known]).all()
    assert painted.abs().max() <= 1


def test_inpainting_under_an_empty_mask_changes_nothing(cascade: Cascade) -> None:
    pixels, mask = scene()
    painted = inpaint(
        cascade, pixels, torch.zeros_like(mask), unit(2, 8), generator=seeded(), resamplings=1
    )
    assert torch.equal(painted, pixels)


def test_what_is_painted_follows_what_is_known(cascade: Cascade) -> None:
    pixels, mask = scene()
    first, second = (
        inpaint(cascade, known, mask, unit(2, 8), generator=seeded()) for known in (pixels, -pixels)
    )
    assert not torch.isclose(first, second)[mask.expand_as(pixels)].all()


def test_a_shrunk_mask_is_set_wherever_any_pixel_was() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[0, 0, 5, 2] = True
    assert shrink_mask(mask, 4).nonzero().tolist() == [[0, 0, 2, 1]]
    assert torch.equal(shrink_mask(mask, 8), mask)


def test_inpainting_refuses_a_mask_of_another_size(cascade: Cascade) -> None:
    pixels, mask = scene()
    with pytest.raises(ConfigError, match=r"mask has shape \(2, 1, 16, 16\), but \(2, 1, 32, 32\)"):
        inpaint(cascade, pixels, shrink_mask(mask, 16), unit(2, 8), generator=seeded())


def test_encoding_refuses_images_of_another_size(cascade: Cascade) -> None:
    with pytest.raises(ConfigError, match="to_pixels"):
        encode(cascade, torch.zeros(1, 3, 16, 16), unit(1, 8))


def test_equal_images_are_enlarged_equally(cascade: Cascade) -> None:
    pixels = make_batch(8, count=1)["pixels"].expand(2, -1, -1, -1)
    large = enlarge(cascade, pixels)
    assert large.shape == (2, 3, 32, 32)
    assert torch.equal(large[0], large[1])


def test_images_become_squares_of_the_decoders_size(cascade: Cascade) -> None:
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    pixels = to_pixels(cascade, [wide, wide.convert("L"), wide.resize((4, 4))])
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels[0, :, 0, 0].tolist() == [1, -1, -1]
    assert math.isclose(pixels[1].std().item(), 0, abs_tol=1e-6)
