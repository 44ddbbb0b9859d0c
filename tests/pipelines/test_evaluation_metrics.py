"""The metrics, on samples whose quality is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from pipelines.artifacts.schema import PIXEL_STATISTICS, THUMBNAIL_SIDE, features_of
from pipelines.evaluation.images import decode_thumbnails, encode_thumbnail
from pipelines.evaluation.judging import JUDGED
from pipelines.evaluation.metrics.colour import (
    colour_distances,
    foreground_colours,
    shares_closer_to_own,
)
from pipelines.evaluation.metrics.metric import Measurement, Split
from pipelines.evaluation.metrics.suite import Measured, Subjects, measure_split
from pipelines.evaluation.samples import COLUMNS, DESCRIBED, Reference, Samples

WIDTH = 16


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    vectors[:, 0] += 4  # as those of a CLIP, which lie in a cone
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def disc(colour: Sequence[int], background: str = "white") -> Image.Image:
    image = Image.new("RGB", (64, 64), background)
    ImageDraw.Draw(image).ellipse((12, 12, 52, 52), fill=tuple(colour))
    return image


def measured(rows: int, *, perfect: bool) -> dict[str, Measurement]:
    return {m.name: m for m in everything(rows, perfect=perfect).measurements}


def everything(rows: int, *, perfect: bool) -> Measured:
    """Metrics of a generator that reproduces each caption's own image, or another's."""
    images, other = unit(rows, 0), np.roll(unit(rows, 0), 3, axis=0)
    colours = np.random.default_rng(1).integers(0, 200, (rows, 3)).tolist()
    own = [encode_thumbnail(disc(colour)) for colour in colours]
    wrong = [*own[3:], *own[:3]]
    made = images if perfect else other
    columns: dict[str, Any] = {
        "key": [f"{n:03d}" for n in range(rows)],
        "held_out": [True] * rows,
        "image_embeds": list(images),
        "text_embeds": list(images),
        "predicted_image_embeds": list(made),
        "generated_embeds": list(made),
        "untrained_embeds": list(-images),
        "from_true_embedding_embeds": list(made),
        "from_shuffled_embedding_embeds": list(np.roll(images, 1, axis=0)),
        **{f"{image}_{name}": [0.5] * rows for image in DESCRIBED for name in PIXEL_STATISTICS},
        "original_thumbnail": own,
        "generated_thumbnail": own if perfect else wrong,
        "from_true_embedding_thumbnail": own if perfect else wrong,
        "from_shuffled_embedding_thumbnail": [*own[1:], own[0]],
    }
    features = {
        "original": images,
        "generated": made if perfect else made + 1,
        "untrained": -images,
        "from_true_embedding": made,
        "blurred_2": images + 0.02,
        "blurred_4": images + 0.2,
    }
    assert set(features) == set(JUDGED)
    judged = {features_of(image, "judge"): list(values) for image, values in features.items()}
    samples = Samples(pa.table({name: columns[name] for name in COLUMNS} | judged))
    real = {"key": columns["key"], "image_embeds": list(unit(rows, 5))}
    reference = Reference(pa.table(real | {features_of("original", "judge"): list(unit(rows, 6))}))
    split = Split("held_out", samples, reference)
    return measure_split(split, Subjects(("prior",), ("judge",)))


def test_a_perfect_generator_beats_every_baseline():
    metrics = measured(32, perfect=True)
    assert len(metrics) == 27
    descriptive = {m.name for m in metrics.values() if m.is_descriptive}
    assert descriptive == {
        *("judge/kid_blurred_2", "judge/kid_blurred_4"),
        *("pixels/roughness", "pixels/colourfulness"),
        *("judge/precision", "fidelity/precision"),
    }
    equal = {m.name for m in metrics.values() if m.comparison not in ("better", "none")}
    assert equal == {"decoder/clip_cosine_over_text", "decoder/squared_error_over_text"}
    assert metrics["fidelity/frechet_distance"].value.value == pytest.approx(0, abs=1e-4)
    assert metrics["colour/closer_to_own"].value.value == 1
    assert metrics["decoder/squared_error"].value.value == 0


def test_a_generator_of_other_captions_images_is_faithful_to_none():
    metrics = measured(32, perfect=False)
    assert metrics["prior/retrieval_at_1"].value.value == 0
    assert metrics["generated/clip_score"].value.value < 70
    assert 0.3 < metrics["colour/closer_to_own"].value.value < 0.7
    # The images themselves are real.
    assert metrics["fidelity/frechet_distance"].comparison == "better"


def test_a_judge_measures_how_far_images_are_from_real_ones():
    perfect, other = measured(64, perfect=True), measured(64, perfect=False)
    order = ["kid_blurred_2", "kid_blurred_4"]
    two, four = (perfect[f"judge/{name}"].value for name in order)
    assert two.high < four.low < perfect["judge/kid"].baseline.low
    real = perfect["judge/kid"].reference
    assert real is not None
    assert real.low < 0.5 * four.value
    assert other["judge/kid"].value.low > four.high
    assert perfect["judge/precision"].value.value == 1
    assert other["judge/precision"].value.value < 0.2
    assert {m.name for m in perfect.values() if not m.independent} == {
        *(f"clip/retrieval_at_{rank}" for rank in (1, 10)),
        *(
            f"prior/{n}"
            for n in ("cosine", "cosine_over_mean", "retrieval_at_1", "retrieval_at_10")
        ),
        *(f"fidelity/{n}" for n in ("frechet_distance", "cmmd", "precision", "recall")),
        *("generated/clip_score", "generated/clip_score_over_untrained"),
        *("decoder/clip_cosine", "decoder/clip_cosine_over_text"),
    }


def test_metrics_that_need_more_rows_are_left_out():
    assert set(measured(32, perfect=True)) - set(measured(5, perfect=True)) == {
        *("clip/retrieval_at_10", "prior/retrieval_at_10"),
        *(f"fidelity/{n}" for n in ("frechet_distance", "cmmd", "precision", "recall")),
        *(f"judge/{n}" for n in ("kid", "kid_from_true_embedding", "precision", "recall")),
        *(f"judge/kid_{n}" for n in ("blurred_2", "blurred_4")),
    }


def test_a_note_says_how_many_captions_each_metric_needs():
    (note,) = everything(5, perfect=True).notes
    assert "the 5 captions of the split held_out are too few for judge/kid (needs 8)" in note
    assert "clip/retrieval_at_10 (needs 11)" in note
    assert everything(32, perfect=True).notes == []


def test_a_perfect_generator_is_nearest_to_its_own_original_by_the_judge():
    assert measured(32, perfect=True)["judge/own_original"].value.value == 1
    other = measured(32, perfect=False)["judge/own_original"]
    assert (other.value.value, other.comparison) == (0, "worse")
    assert other.baseline.value == 1 / 32


def test_the_reference_is_named_with_its_number_of_rows():
    metrics = measured(32, perfect=True)
    assert metrics["fidelity/cmmd"].reference_name == "32 real training images"


def test_a_foreground_colour_does_not_depend_on_the_background():
    images = [disc((200, 30, 10), "white"), disc((200, 30, 10), "black")]
    colours = foreground_colours(decode_thumbnails([encode_thumbnail(p) for p in images]))
    assert colour_distances(colours, colours).max() < 0.2
    assert np.abs(colours - np.array([200, 30, 10]) / 255).max() < 0.15


def test_a_image_without_foreground_has_the_colour_of_all_of_it():
    plain = encode_thumbnail(Image.new("RGB", (40, 40), (10, 20, 30)))
    assert len(plain) == 3 * THUMBNAIL_SIDE**2
    assert np.allclose(foreground_colours(decode_thumbnails([plain])) * 255, [[10, 20, 30]])


def test_indistinguishable_colours_are_closer_to_their_own_half_the_time():
    assert (shares_closer_to_own(np.zeros((5, 5))) == 0.5).all()
    assert (shares_closer_to_own(1 - np.eye(5)) == 1).all()
    assert (shares_closer_to_own(np.eye(5)) == 0).all()
