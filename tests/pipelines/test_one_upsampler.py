"""A cascade whose first upsampler makes the pictures."""

import io
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
from tests.pipelines.test_evaluate import sample_table
from tests.pipelines.test_report import report_stage

ONE = "upsampler_2=null"


def test_a_second_upsampler_can_be_left_out() -> None:
    base, one = (unclip_graph(load_config("demo", settings)) for settings in ([], [ONE]))
    assert set(base.stages) - set(one.stages) == {"upsampler_2"}
    different = {name for name in one.stages if base[name].key != one[name].key}
    assert different == {"evaluate", "report"}


def test_the_one_upsampler_must_take_what_the_decoder_makes() -> None:
    with pytest.raises(ConfigFileError, match=r"upsampler_1.low_res_size=8, .* decoder .*=16"):
        load_config("demo", [ONE, "upsampler_1.model.low_res_size=8"])


def test_pictures_of_one_upsampler_are_evaluated_and_reported(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    config = given.evaluate_config(held_out_samples=3, training_samples=2, probe_samples=2)
    evaluate = replace(given.evaluate_stage(config), upsampler_2=None)
    evaluation = make(store, evaluate)
    table = sample_table(evaluation)
    sizes = {Image.open(io.BytesIO(picture)).size for picture in table["generated"].to_pylist()}
    assert sizes == {(16, 16)}
    assert table["generated_middle"].null_count == table.num_rows
    assert read_metrics(evaluation)
    report = make(store, replace(report_stage(), evaluation=evaluate, upsampler_2=None))
    with report.folder.open("report.html") as file:
        page = file.read().decode()
    assert 'alt="last upsampler"' in page
    assert 'alt="first upsampler"' not in page
    assert "upsampler 2" not in page
