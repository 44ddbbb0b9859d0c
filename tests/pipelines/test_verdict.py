"""The verdict follows the independent figures, and nothing that praises itself."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.report.findings import Evidence, Finding
from pipelines.report.study_findings import study_findings
from pipelines.report.verdict import findings, in_brief

REAL, HALF, QUARTER, UNTRAINED = 0.0, 40.0, 130.0, 580.0


def figure(value: float, margin: float = 5.0) -> dict[str, float]:
    return {"value": value, "low": value - margin, "high": value + margin}


def evidence(kid: float, *, rank: float = 50.0, **changes: Any) -> Evidence:
    """Of images at this distance; `changes` replace figures by name, "training/…" of one split."""
    values = {
        "judge/kid": kid,
        "judge/kid_from_true_embedding": kid,
        "judge/kid_blurred_2": HALF,
        "judge/kid_blurred_4": QUARTER,
        "judge/precision": 0.8,
        "judge/recall": 0.7,
        "judge/own_original": 0.5,
        "colour/closer_to_own": 0.9,
        "clip/retrieval_at_1": 0.5,
        "prior/cosine_over_mean": 0.7,
        "prior/retrieval_at_1": 0.2,
        "decoder/squared_error_over_text": 0.7,  # above 0.6 is better than the baseline
        "pixels/roughness": 1.0,
        "pixels/colourfulness": 1.0,
    }
    records: dict[str, dict[str, Any]] = {}
    for name in (f"{split}/{metric}" for split in ("held_out", "training") for metric in values):
        metric = name.partition("/")[2]
        value = changes.get(name, changes.get(metric, values[metric]))
        is_distance = "kid" in name
        threshold = 0.05 if "retrieval" in name else 0.6
        better = value < UNTRAINED - 20 if is_distance else value > threshold
        records[name] = {
            "value": figure(value, 5.0 if is_distance else 0.02),
            "baseline": figure(UNTRAINED if is_distance else 0.5, 0.02),
            "reference": figure(REAL) if is_distance else figure(0.8, 0.02),
            "comparison": "better" if better else "unclear",
        }
    components = {"effective_rank": rank, "width": 64}
    return Evidence(records, "judge", "prior", components, steps={"decoder": 10})


def verdict(kid: float, *, rank: float = 50.0, **changes: Any) -> dict[str, Finding]:
    """What is said, by subject."""
    return {found.subject: found for found in findings(evidence(kid, rank=rank, **changes))}


@pytest.mark.parametrize(
    ("kid", "level", "words"),
    [
        (575, "bad", "no closer to real images than those of untrained models"),
        (285, "bad", "blobs, not objects"),
        (90, "fair", "soft or distorted"),
        (30, "good", "can still be distinguished from real ones"),
        (2, "good", "cannot tell"),
    ],
)
def test_the_distance_to_real_images_decides(kid: float, level: str, words: str) -> None:
    images = verdict(kid)["Images"]
    assert images.level == level
    assert words in images.text
    assert f"{kid} [{kid - 5} to {kid + 5}]" in images.text


def study_record(name: str, kid: float, gain: float, colour_gain: float = 0.0) -> dict[str, Any]:
    """A variant of a study; a gain is an interval of ± 2."""
    group, _, label = name.partition("/")
    gains = {"judge/kid": gain, "closer_in_colour": colour_gain}
    return {
        "name": name,
        "group": group,
        "label": label,
        "decoder": "decoder" if label != "caption_only" else label,
        "decoder_guidance": 2.0,
        "figures": {"judge/kid": figure(kid), "closer_in_colour": figure(0.7, 0.1)},
        "gains": {metric: figure(value, 2.0) for metric, value in gains.items()},
    }


def test_a_study_tells_what_the_prior_embeddings_and_guidance_do() -> None:
    standard = study_record("source/prior", 100, 0)

    def said(*others: dict[str, Any]) -> str:
        records = [standard, *others]
        return " ".join(f.text for f in study_findings(records, judge="judge", prior="prior"))

    worse, same = (study_record("source/text_embedding", 100 - g, g) for g in (-30, 0))
    assert "earns its place" in said(worse)
    assert "adds nothing that shows" in said(same)
    baseline = study_record("source/caption_only", 150, -50)
    assert "Image embeddings help" in said(same, baseline)
    guided = study_record("decoder_guidance/8", 60, 40)
    assert "A guidance scale of 8 for the decoder" in said(same, guided)
    assert "colours follow the captions less" not in said(same, guided)
    pale = study_record("decoder_guidance/8", 60, 40, colour_gain=-5)
    assert "colours follow the captions less" in said(same, pale)


def test_nothing_but_the_clip_is_diagnosed_if_images_are_noise() -> None:
    (only,) = verdict(575).values()
    assert "noise" in only.text
    assert "Steps so far: decoder 10." in only.advice
    at_chance = verdict(575, **{"clip/retrieval_at_1": 0.01, "pixels/roughness": 3.0})
    assert list(at_chance) == ["Images", "What to do first", "CLIP"]
    assert "does not recognise held-out pairs" in at_chance["CLIP"].text


def test_the_limit_is_the_decoder_unless_true_embeddings_give_better_images() -> None:
    decoder = verdict(285)["Decoder"].text
    assert "the decoder limits how real the images look" in decoder
    assert "what is drawn is limited by the embeddings" in decoder
    alike = verdict(285, **{"decoder/squared_error_over_text": 0.5})["Decoder"].text
    assert "what is drawn" not in alike
    prior = verdict(285, **{"judge/kid_from_true_embedding": 100.0})
    assert "the prior limits the images" in prior["Prior"].text
    assert not {"Prior", "Decoder"} & set(verdict(2))


@pytest.mark.parametrize(
    ("kid", "words", "advice"),
    [
        (575, "noise: KID × 1000 of 575 [570 to 580]; untrained models 580", "Train longer"),
        (285, "blobs: KID × 1000 of 285 [280 to 290]; real images at a quarter", "the decoder"),
        (90, "objects: KID × 1000 of 90 [85 to 95]; real images at half their", "the decoder"),
        (30, "close to real images: KID × 1000 of 30 [25 to 35]", ""),
        (2, "like real images: KID × 1000 of 2 [-3 to 7]", "Evaluate more captions"),
    ],
)
def test_the_verdict_in_brief_is_the_images_and_the_first_advice(
    kid: float, words: str, advice: str
) -> None:
    brief = in_brief(findings(evidence(kid)))
    assert words in brief.images
    assert advice in brief.first_step
    assert bool(advice) == bool(brief.first_step)
    assert "\n" not in brief.images + brief.first_step


def test_in_brief_the_clip_comes_first_if_it_is_at_fault() -> None:
    brief = in_brief(findings(evidence(285, rank=4.2)))
    assert brief.images.startswith("blobs")
    assert brief.first_step.startswith("Improve the CLIP")


def test_a_collapsed_clip_is_named_and_comes_first() -> None:
    assert not {"CLIP", "What to do first"} & set(verdict(90))
    collapsed = verdict(285, rank=4.2)
    assert "effective rank is 4.2 of 64" in collapsed["CLIP"].text
    assert "Train the CLIP longer" in collapsed["CLIP"].advice
    assert "Improve the CLIP" in collapsed["What to do first"].text
    overfits = verdict(285, rank=4.2, **{"held_out/clip/retrieval_at_1": 0.1})["CLIP"]
    assert "overfits" in overfits.text
    assert "more varied captions" in overfits.advice


def test_a_prior_that_overfits_or_is_a_constant_is_named() -> None:
    overfitted = verdict(2, **{"training/prior/cosine_over_mean": 0.99})["Prior"]
    assert (overfitted.level, "overfits" in overfitted.text) == ("bad", True)
    known = {"training/prior/cosine_over_mean": 0.99, "held_out/clip/retrieval_at_1": 0.2}
    assert "the CLIP limits it" in verdict(2, **known)["Prior"].text
    constant = verdict(2, **{"prior/cosine_over_mean": 0.51})["Prior"]
    assert "no better than their mean" in constant.text


def test_many_near_duplicates_are_suspicious() -> None:
    assert "Data" not in verdict(90)
    (data,) = (
        found
        for found in findings(replace(evidence(90), near_duplicates=0.42))
        if found.subject == "Data"
    )
    assert "42.0% of the pairs" in data.text


def test_images_that_look_alike_are_blamed_on_guidance_if_they_look_real() -> None:
    assert "Variety" not in verdict(90)
    alike = verdict(90, **{"judge/recall": 0.1})["Variety"]
    assert "guidance" in alike.advice
    assert "Variety" not in verdict(90, **{"judge/recall": 0.1, "judge/precision": 0.05})


def test_captions_that_change_nothing_are_noticed() -> None:
    assert verdict(90)["Captions"].level == "good"
    assert verdict(90, **{"colour/closer_to_own": 0.8})["Captions"].level == "fair"
    assert verdict(90, **{"colour/closer_to_own": 0.51})["Captions"].level == "bad"


def test_what_was_not_measured_is_left_out() -> None:
    assert findings(Evidence({}, "judge", "prior", {"effective_rank": 60, "width": 64})) == []
    assert in_brief([]) == ("", "")


def test_speckle_blur_and_strong_colours_are_named() -> None:
    assert not {"Texture", "Guidance"} & set(verdict(90))
    assert "speckle" in verdict(90, **{"pixels/roughness": 1.7})["Texture"].text
    assert "blurred" in verdict(90, **{"pixels/roughness": 0.5})["Texture"].text
    assert "guidance is too strong" in verdict(90, **{"pixels/colourfulness": 1.5})["Guidance"].text


def test_copies_of_training_images_are_named_if_held_out_captions_have_none() -> None:
    assert "Memorisation" not in verdict(90)
    copied = verdict(2, **{"training/judge/own_original": 0.9})["Memorisation"]
    assert copied.level == "bad"
    assert "90.0%" in copied.text
    assert "50.0%" in copied.text
