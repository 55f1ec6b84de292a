"""The curves of training on the page of a run, in a real browser."""

import math
import re

import pytest
from pages import cells, needs_chromium
from results import write_metrics

from pipeline.page import write_page
from pipeline.run import Run
from submission.report import describe_training, write_report

pytest_plugins = ["page_fixtures"]
pytestmark = needs_chromium


def test_training_is_drawn_run_beside_run(tmp_path, opened):
    run, other = Run(tmp_path / "a"), Run(tmp_path / "b")
    write_metrics(run.metrics_of("pretrain"), 300)
    write_metrics(other.metrics_of("pretrain"), 150, start=3.0)
    write_page(run, [other])
    page = opened(run)
    charts = page.locator("#charts svg")
    assert charts.count() == 5
    label = "loss along steps; a, pretrain: from 2 to 0.006667; b, pretrain: from 3 to 0.02"
    assert charts.first.get_attribute("aria-label") == label
    assert charts.nth(0).locator("path[stroke^='var(--run']").count() == 2
    curve = charts.nth(1).locator("path[stroke='var(--run1)']").get_attribute("d")
    assert curve.count("M") == 22  # it begins anew after each gap
    charts.first.hover()
    readout = page.locator("#charts figure p").first.inner_text()
    assert re.match(r"at \d+: a, pretrain [\d.]+; b, pretrain [\d.]+$", readout)
    page.locator("#along").select_option("flop")
    assert "along FLOP" in charts.first.get_attribute("aria-label")
    page.locator("#runs button").nth(0).click()
    assert charts.nth(0).locator("path[stroke^='var(--run']").count() == 1
    assert cells(page.locator("#last table"))[2][:3] == ["b, pretrain", "1500", "0.02"]


def test_a_run_that_only_trained_has_no_tasks(tmp_path, opened):
    run = Run(tmp_path / "a")
    write_metrics(run.metrics_of("adapt"), 1)
    write_page(run)
    page = opened(run)
    assert not page.locator("#tasks").is_visible()
    assert not page.locator("#score").is_visible()
    assert page.locator("#charts svg").count() == 4  # of a single line without an accuracy
    assert "nothing measured" in page.locator("#charts").inner_text()


ODD = [
    {"step": 1, "loss": "high", "lr": None, "exact_accuracy": [1], "supervision_steps": {}},
    {"step": True, "loss": True, "lr": False, "flop": True},
    {"step": 10**18, "loss": 1e308, "lr": -1e308, "flop": 1e308, "eval_loss": 5e-324},
    {"step": -5, "loss": 10**18, "lr": 1e17, "flop": -1, "eval_loss": math.nan},
    {"loss": 1.0},
    {"step": "7", "loss": 1.0},
    {"step": 0, "flop": None, "new": 3, "eval_loss": 1e17, "supervision_steps": -1e17},
]


@pytest.mark.parametrize("lines", [[], ODD, ODD[:1], ODD[2:3], ODD[6:], ODD[4:5]])
def test_odd_metrics_are_drawn_as_not_measured(tmp_path, opened, lines):
    run = Run(tmp_path)
    write_report(run.report, "a", {}, None, [describe_training("a", "pretrain", lines)])
    page = opened(run)
    assert page.locator("#charts figure").count() == 8
    drawn = page.locator("#charts").inner_html() + page.locator("#last").inner_html()
    assert not re.search("NaN|Infinity|undefined|null|true", drawn)
    page.locator("#along").select_option("flop")


def test_metrics_that_are_none_cost_no_page(tmp_path, opened, capsys):
    run = Run(tmp_path / "a")
    for damage in (
        "3",
        '{"step": 1, "loss": NaN}',
        '{"loss": 1}',
        '{"step": 1',
        "",
        '{"step": "1"}',
    ):
        write_metrics(run.metrics_of("pretrain"), 3)
        write_metrics(run.metrics_of("adapt"), 3)
        with run.metrics_of("adapt").open("a") as file:
            file.write(damage + "\n")
        write_page(run)
        assert opened(run).locator("#runs button").inner_text().strip() == "a, pretrain"
        assert "not drawn" in capsys.readouterr().out
    write_metrics(run.metrics_of("adapt"), 3)
    with run.metrics_of("adapt").open("a") as file:
        file.write('{"step": 4')  # as where the disk was full
    write_page(run)
    assert opened(run).locator("#runs button").count() == 2
