"""The verdict follows the independent figures, and nothing that praises itself."""

from typing import Any

import pytest

from pipelines.report.verdict import Evidence, Finding, findings

REAL, HALF, QUARTER, UNTRAINED = 0.0, 40.0, 130.0, 580.0


def figure(value: float, margin: float = 5.0) -> dict[str, float]:
    return {"value": value, "low": value - margin, "high": value + margin}


def verdict(kid: float, *, rank: float = 50.0, **changes: Any) -> dict[str, Finding]:
    """What is said of images at this distance; `changes` replace figures by name."""
    kids = {
        "judge/kid": kid,
        "judge/kid_from_true_embedding": kid,
        "judge/kid_blurred_2": HALF,
        "judge/kid_blurred_4": QUARTER,
        "judge/precision": 0.8,
        "judge/recall": 0.7,
        "colour/closer_to_own": 0.8,
        "prior/cosine": 0.7,
        "judge/own_original": 0.5,
        "pixels/roughness": 1.0,
        "pixels/colourfulness": 1.0,
    } | changes
    wide = {"judge/kid", *(name for name in kids if "kid" in name)}
    records: dict[str, dict[str, Any]] = {}
    for split in ("held_out", "training"):
        for name, value in kids.items():
            margin = 5.0 if name in wide else 0.02
            better = value < UNTRAINED - 20 if "kid" in name else value > 0.6
            if (split, name) == ("training", "judge/own_original"):
                value = changes.get("own_training_original", value)
            records[f"{split}/{name}"] = {
                "value": figure(value, margin),
                "baseline": figure(UNTRAINED),
                "reference": figure(REAL) if "kid" in name else figure(0.8, 0.02),
                "comparison": "better" if better else "unclear",
            }
    if "training_cosine" in changes:
        records["training/prior/cosine"]["value"] = figure(changes["training_cosine"], 0.02)
    found = findings(Evidence(records, "judge", "prior", {"effective_rank": rank, "width": 64}))
    return {finding.subject: finding for finding in found}


@pytest.mark.parametrize(
    ("kid", "level", "words"),
    [
        (575, "bad", "no closer to real ones than those of untrained models"),
        (285, "bad", "blobs, not objects"),
        (90, "fair", "soft or distorted"),
        (30, "good", "can still be told from real ones"),
        (2, "good", "cannot tell"),
    ],
)
def test_the_distance_to_real_images_decides(kid: float, level: str, words: str) -> None:
    images = verdict(kid)["Images"]
    assert images.level == level
    assert words in images.text
    assert f"{kid} [{kid - 5} to {kid + 5}]" in images.text


def test_the_limit_is_the_decoder_unless_true_embeddings_give_better_images() -> None:
    assert "Decoder" in verdict(285)
    prior = verdict(285, **{"judge/kid_from_true_embedding": 100.0})
    assert "the prior limits the images" in prior["Prior"].text
    assert not {"Prior", "Decoder"} & set(verdict(2))


def test_a_collapsed_clip_and_an_overfitted_prior_are_named() -> None:
    assert "CLIP" not in verdict(90)
    assert "effectively 4.2 of 64 dimensions" in verdict(90, rank=4.2)["CLIP"].text
    overfitted = verdict(2, training_cosine=0.99)["Prior"]
    assert (overfitted.level, "overfits" in overfitted.text) == ("bad", True)


def test_images_that_look_alike_are_blamed_on_guidance() -> None:
    assert "Variety" not in verdict(90)
    alike = verdict(90, **{"judge/recall": 0.1})["Variety"]
    assert "guidance" in alike.advice
    poor = verdict(90, **{"judge/recall": 0.1, "judge/precision": 0.05})["Variety"]
    assert "guidance" not in poor.advice


def test_captions_that_change_nothing_are_noticed() -> None:
    assert verdict(90)["Captions"].level == "good"
    assert verdict(90, **{"colour/closer_to_own": 0.51})["Captions"].level == "bad"


def test_what_was_not_measured_is_left_out() -> None:
    assert findings(Evidence({}, "judge", "prior", {"effective_rank": 60, "width": 64})) == []


def test_speckle_blur_and_strong_colours_are_named() -> None:
    assert not {"Texture", "Guidance"} & set(verdict(90))
    assert "speckle" in verdict(90, **{"pixels/roughness": 1.7})["Texture"].text
    assert "blurred" in verdict(90, **{"pixels/roughness": 0.5})["Texture"].text
    assert "guidance is too strong" in verdict(90, **{"pixels/colourfulness": 1.5})["Guidance"].text


def test_copies_of_training_images_are_named_if_held_out_captions_have_none() -> None:
    assert "Memorisation" not in verdict(90)
    copied = verdict(2, own_training_original=0.9)["Memorisation"]
    assert copied.level == "bad"
    assert "90.0%" in copied.text
    assert "50.0%" in copied.text
