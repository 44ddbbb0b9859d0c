"""What a study says in words: which source, baseline or guidance scale is better."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.report.findings import Finding, interval
from pipelines.report.page import number, percent
from pipelines.study.measure import COLOUR
from pipelines.study.variants import DECODER, SWEEPS, TEXT_EMBEDDING

Record = Mapping[str, Any]


def study_findings(records: Sequence[Record], *, judge: str, prior: str) -> Iterator[Finding]:
    """Findings from distances by the judge. prior: the name of the first one."""
    metric = f"{judge}/kid"
    by_name = {record["name"]: record for record in records}
    standard = by_name[f"source/{prior}"]
    yield _prior(by_name[f"source/{TEXT_EMBEDDING}"], standard, metric)
    baselines = [r for r in records if r["group"] == "source" and r["decoder"] != DECODER]
    for baseline in baselines:
        yield _baseline(baseline, standard, metric)
    for group, model in SWEEPS.items():
        better = [r for r in records if r["group"] == group and r["gains"][metric]["low"] > 0]
        if better:
            yield _guidance(max(better, key=lambda r: _gain(r, metric)), standard, metric, model)


def _gain(record: Record, metric: str) -> float:
    return float(record["gains"][metric]["value"])


def _prior(text: Record, standard: Record, metric: str) -> Finding:
    """Whether the prior is better than no prior: the text embedding as if it were an image's."""
    gain = text["gains"][metric]
    figures = f"{_figure(standard, metric)} and {_figure(text, metric)}"
    if gain["high"] < 0:
        return Finding(
            "good",
            "Prior",
            "The prior earns its place: its images are closer to real ones than those drawn from "
            f"the captions' own CLIP embeddings ({figures}).",
        )
    return Finding(
        "fair",
        "Prior",
        "The prior adds nothing that shows: giving the decoder the captions' CLIP embeddings, as "
        f"if they were images', draws images that are as close to real ones ({figures}).",
        "Improve the decoder and the CLIP first; then a better prior can show.",
    )


def _baseline(baseline: Record, standard: Record, metric: str) -> Finding:
    gain, name = baseline["gains"][metric], baseline["label"].replace("_", " ")
    figures = f"{_figure(standard, metric)} and {_figure(baseline, metric)}"
    if gain["high"] < 0:
        text = f"Image embeddings help: the images are closer to real ones than those of “{name}”"
        return Finding("good", "Baseline", f"{text} ({figures}), a decoder trained without them.")
    if gain["low"] > 0:
        text = f"Image embeddings do not help yet: “{name}”, a decoder trained without them, draws"
        advice = "Train a better CLIP, or use a pretrained one."
        return Finding("bad", "Baseline", f"{text} images closer to real ones ({figures}).", advice)
    text = f"No clear difference between the images and those of “{name}”, a decoder trained"
    return Finding("fair", "Baseline", f"{text} without image embeddings ({figures}).")


def _guidance(best: Record, standard: Record, metric: str, model: str) -> Finding:
    cost = ""
    if best["gains"][COLOUR]["high"] < 0:
        cost = (
            " But their colours follow the captions less "
            f"({_figure(best, COLOUR, percent)} and {_figure(standard, COLOUR, percent)})."
        )
    return Finding(
        "fair",
        "Guidance",
        f"A guidance scale of {best['label']} for the {model} draws images closer to real ones "
        f"than the present {number(standard[f'{model}_guidance'])} ({_figure(best, metric)} and "
        f"{_figure(standard, metric)}).{cost}",
        f"Set evaluate.sampling.{model}.guidance_scale={best['label']}, and look at the images.",
    )


def _figure(record: Record, metric: str, text: Callable[[float], str] = number) -> str:
    return interval(record["figures"][metric], text)
