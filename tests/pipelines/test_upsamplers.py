"""Cascades with any number of upsamplers."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.config.load import ConfigFileError, load_config
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.stages.evaluate import read_metrics
from tests.pipelines import given
from tests.pipelines.local import make
from tests.pipelines.test_report import read_html, report_of

ONE = "upsamplers.upsampler_2=null"


def test_an_upsampler_can_be_left_out() -> None:
    base, one = (unclip_graph(load_config("demo", settings)) for settings in ([], [ONE]))
    assert set(base.stages) - set(one.stages) == {"upsampler_2"}
    different = {name for name in one.stages if base[name].key != one[name].key}
    assert different == {"evaluate", "report"}


def test_the_one_upsampler_must_take_what_the_decoder_makes() -> None:
    with pytest.raises(ConfigFileError, match=r"upsampler_1.low_res_size=8, .* decoder .*=16"):
        load_config("demo", [ONE, "upsamplers.upsampler_1.model.low_res_size=8"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_images_of_any_number_of_upsamplers_are_evaluated_and_reported(
    tmp_path: Path, count: int
) -> None:
    store = Store(str(tmp_path))
    upsamplers = given.given_models(**given.small_upsamplers(count))
    config = given.evaluate_config(
        held_out_samples=3,
        training_samples=2,
        probe_samples=2,
        sampling=given.sampling(upsamplers),
    )
    stage = replace(given.evaluate_stage(config), upsamplers=upsamplers)
    evaluation = make(store, stage)
    for row in given.sample_table(evaluation).to_pylist():
        images = (row["generated_small"], *row["generated_middle"], row["generated"])
        sizes = [Image.open(io.BytesIO(image)).width for image in images]
        assert sizes == {0: [8, 8], 1: [8, 16], 3: [8, 16, 32, 64]}[count]
    assert read_metrics(evaluation)
    html = read_html(make(store, report_of(stage)))
    cascade = html[html.index('<h2 id="cascade">') : html.index('<h2 id="training">')]
    first = cascade[: cascade.index("</figure>")]
    names = [name.replace("_", " ") for name in upsamplers]
    assert re.findall('alt="(.*?)"', first) == ["decoder", *names]
