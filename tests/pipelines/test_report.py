"""The report, made from real artifacts of models with random weights."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.artifacts import PROGRESS_FILE, SAMPLE_FILE, Report
from pipelines.core.events import Event, Output
from pipelines.core.graph import Graph
from pipelines.core.store import Store
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from pipelines.evaluation.images import encode_png
from pipelines.report.config import ReportConfig
from pipelines.report.page import duration, number
from pipelines.stages.data_report import BuildDataReport
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.report import BuildReport
from tests.pipelines import given
from tests.pipelines.given_pairs import HOSTILE_CAPTION, GivenList, GivenVerdicts
from tests.pipelines.local import make
from tests.pipelines.page import Page
from unclip.config import Config

TITLE = "Tiny & <untrained>"


def report_stage(title: str = TITLE, **other_priors: Config) -> BuildReport:
    return report_of(given.evaluate_stage(given.evaluate_config(), **other_priors), title)


def report_of(evaluate: Evaluate, title: str = TITLE) -> BuildReport:
    pairs, embeddings = evaluate.pairs, evaluate.embeddings
    data = BuildDataReport(
        urls=GivenList(pairs),
        pairs=pairs,
        verdicts=GivenVerdicts(pairs),
        embeddings=embeddings,
        selection=evaluate.selection,
        pca=given.GivenPca(),
    )
    return BuildReport(
        evaluation=evaluate,
        data=data,
        clip=evaluate.clip,
        priors=evaluate.priors,
        decoder=evaluate.decoder,
        upsamplers=evaluate.upsamplers,
        config=ReportConfig(title=title),
    )


def read_html(report: Report) -> str:
    with report.folder.open("report.html") as file:
        return file.read().decode()


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> Report:
    return make(Store(str(tmp_path_factory.mktemp("store"))), report_stage(), events)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return read_html(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_report_is_announced_and_titled(report: Report, events: list[Event], page: Page):
    assert Output("report", "report.html") in events
    assert report.title == TITLE
    assert TITLE in page.text


def test_the_decoders_progress_is_shown_if_its_training_stored_samples(report: Report, page: Page):
    assert not report.folder.exists(PROGRESS_FILE)
    assert ("alt", "progress of the decoder") not in page.attributes
    assert ("alt", "interpolation") in page.attributes
    store, stage = Store(str(Path(report.folder.url).parents[1])), report_stage("With samples")
    tiles = [Tile(Image.new("RGB", (8, 8), colour)) for colour in ["white"] * 8 + ["red"] * 8]
    grid = encode_png(draw_grid(in_rows(tiles)))
    make(store, stage.decoder).folder.write_bytes(SAMPLE_FILE.format(10), grid)
    events: list[Event] = []
    again = make(store, stage, events)
    assert Output("report", PROGRESS_FILE) in events
    assert again.folder.exists(PROGRESS_FILE)
    assert ("alt", "progress of the decoder") in Page(read_html(again)).attributes


def test_the_verdict_is_stored_in_brief_as_the_page_has_it(report: Report, page: Page):
    summary = page.text.split("Verdict")[-1]
    assert report.first_step
    assert report.first_step in summary
    figures = report.verdict.split(": ", 1)[-1].split(";")[0].removeprefix("KID × 1000 of ")
    assert figures in summary


def test_nothing_is_loaded_from_anywhere(html: str, page: Page):
    addresses = [v for n, v in page.attributes if n in ("src", "href", "xlink:href") and v]
    assert addresses
    loaded = {a.split(":")[0] if ":" in a else a[0] for a in addresses if a != "data.html"}
    assert loaded == {"data", "#"}
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_captions_cannot_become_markup(page: Page):
    assert HOSTILE_CAPTION in page.text
    assert "script" not in page.tags
    assert not [n for n, _ in page.attributes if n.startswith("on")]


def test_the_data_report_is_linked_and_lies_beside_the_page(
    report: Report, events: list[Event], page: Page
):
    assert ("href", "data.html") in page.attributes
    assert Output("report", "data.html") in events
    with report.folder.open("data.html") as file:
        assert "Data report" in file.read().decode()


def test_every_stage_stands_in_the_lineage_with_its_key_and_time(html: str, page: Page):
    stages = Graph(report_stage().dependencies.values()).stages.values()
    assert {"download", "filter", "pca", "data_report"} < {stage.name for stage in stages}
    for stage in stages:
        assert stage.key in page.text
    lineage = html[html.index('id="lineage"') :]
    assert lineage.count('<td class="n">1 s</td>') == len(stages)  # as `local.make` records


def test_trainings_have_a_curve_or_a_sentence_about_the_missing_history(page: Page):
    assert "No loss was logged while upsampler 2 was trained." in page.text
    histories = 3  # each with a curve, losses by timestep, and health
    assert page.tags.count("svg") == 3 * histories + 2  # similarity and explained variance


def test_rejections_are_listed_by_reason(page: Page):
    assert "private address" in page.text
    assert "not an image" in page.text


def test_both_splits_show_samples_and_metrics(page: Page):
    assert "Training split" in page.text
    assert "Held-out split" in page.text
    strip = 10  # held-out samples at the top
    assert [v for n, v in page.attributes if n == "alt"].count("generated") == strip + 10 + 9


def test_the_title_is_part_of_the_key_and_the_evaluation_is_not_made_again():
    one, other = report_stage("one"), report_stage("other")
    assert one.key != other.key
    assert one.evaluation.key == other.evaluation.key


def test_numbers_are_short_and_keep_their_size():
    assert [number(v) for v in (0.0, 0.12345, -3.14159, 1234.5, 1.5e-7)] == [
        "0",
        "0.123",
        "-3.14",
        "1,234",
        "1.50e-07",
    ]


def test_durations_read_like_clocks():
    assert [duration(s) for s in (None, 3.2, 75, 3700)] == ["–", "3 s", "1 min 15 s", "1 h 1 min"]


def test_any_number_of_priors_is_compared_side_by_side(tmp_path: Path, page: Page):
    others = {"ar": given.small_ar_prior(), "deep": replace(given.small_models().prior, depth=2)}
    html = read_html(make(Store(str(tmp_path)), report_stage(**others)))
    section = html[html.index('<h2 id="priors">') : html.index('<h2 id="training">')]
    headers = re.findall(r'<th class="n">(.*?)<small>(.*?)</small></th>', section)
    kinds = [("prior", "diffusion"), ("ar", "autoregressive"), ("deep", "diffusion")]
    assert headers == kinds * 2  # for both splits
    assert section.count("<td>cosine over mean</td>") == 1
    assert section.count("<b>") >= section.count("<tr>") - 2  # the best of each metric
    assert "Ar: cosine" in Page(html).text
    assert "Priors" not in page.text.split("Verdict")[1].split("Metrics")[0]
    assert 'id="priors"' not in read_html(make(Store(str(tmp_path)), report_stage()))


def test_the_summary_shows_the_first_prior_by_any_name(tmp_path: Path):
    stage = given.evaluate_stage(given.evaluate_config())
    stage = replace(stage, priors=given.given_models(main=given.small_ar_prior()))
    html = read_html(make(Store(str(tmp_path)), report_of(stage)))
    assert "Main: cosine" in html[html.index('id="summary"') : html.index('id="samples"')]
