"""The page on what the study costs: counted in plans, computed by the formulas that it shows."""

from pathlib import Path

import cost_page
import pytest

from robustft.benchmarks.planning import tuning
from robustft.benchmarks.planning.benchmark import Benchmark, method_of
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.planning.resolver import expand

METHODS = ("zero_shot", "ft", "lp_ft", "wise_ft", "flyp", "tracer")


@pytest.fixture(scope="module")
def few():
    """Some runs of the study by method and backbone."""
    benchmark = Benchmark("imagenet")
    plan = expand(Request(METHODS, cost_page.BACKBONES, (0,)), benchmark.suite, benchmark.tuned, benchmark.facts)
    return {(each.spec.method, each.spec.backbone): each.spec for each in plan}


SHOWN = 26_000 + 50_000 + 10_000 + 30_000 + 7_500 + 50_889 + 18_574
"""Images of imagenet's validation, ID and shifts."""


@pytest.mark.parametrize(
    "method, steps, beside",
    [
        ("flyp", 24_510 * 512 * 3 * (35_126_906_880 + 5_959_540_736), SHOWN * 35_126_906_880 + 80_000 * 5_959_540_736),
        (
            "tracer",
            24_510 * 512 * 4 * (35_126_906_880 + 5_959_540_736),
            SHOWN * 35_126_906_880 + 80_000 * 5_959_540_736,
        ),
        ("ft", 24_510 * 512 * 3 * 35_126_906_880, SHOWN * 35_126_906_880),
        ("lp_ft", 24_510 * 512 * 3 * 35_126_906_880, (SHOWN + 1_255_167 + 19 * 26_000) * 35_126_906_880),
        ("wise_ft", 0, 12 * SHOWN * 35_126_906_880),
    ],
)
def test_a_run_is_what_its_formula_says(few, method, steps, beside):
    """1,255,167 // 512 = 2,451 steps an epoch, ten epochs; 80 templates of 1,000 classes."""
    found = cost_page.work(few[method, "ViT-B-16"])
    assert (found.trained, found.shown) == (steps, beside)
    assert found.hours(cost_page.DEVICES["A100"]) == pytest.approx((steps / 312e12 + beside / 19.5e12) / 0.35 / 3600)
    assert found.hours(cost_page.DEVICES["H200"]) == pytest.approx((steps / 989.5e12 + beside / 67e12) / 0.35 / 3600)
    assert found.printed == (12_549_120 * 0.00089 if steps else 0)


def test_the_disk_of_a_run_is_what_its_formula_says(few):
    """ViT-B/16: 86,192,640 parameters in the image tower of 149,620,737, D = 512, and a head of 1,000 classes."""
    head, predictions = 1000 * 513, SHOWN * 32 + 26_000 * 1000 * 2
    assert cost_page.work(few["ft", "ViT-B-16"]).kept == 4 * (86_192_640 + head) + predictions + 116_000
    assert cost_page.work(few["tracer", "ViT-B-16"]).kept == 4 * (149_620_737 + head) + predictions + 116_000
    wise = cost_page.work(few["wise_ft", "ViT-B-16"])
    assert wise.kept == 4 * (86_192_640 + head) + predictions + 116_000 + 11 * 16 * SHOWN
    spec = few["tracer", "ViT-B-16"]
    found = cost_page.size.of_run(spec, method_of(spec), cost_page.step_cost("ViT-B-16"), cost_page.data_of(spec).card)
    assert found.passing == 4 * 149_620_737 * 4 * 3


def test_trials_are_those_that_tune_makes(monkeypatch):
    benchmark = Benchmark("imagenet")
    monkeypatch.setattr(cost_page, "BACKBONES", ("RN50",))
    found = {spec.run_id: spec for spec in cost_page.trials(benchmark)}
    trained = [name for name in benchmark.suite.methods if benchmark.facts.methods[name].trained]
    planned = {run.spec.run_id for run in tuning.Search(benchmark, trained, ["RN50"]).plan}
    assert planned == {run_id for run_id, spec in found.items() if spec.method in trained}
    assert {spec.method for run_id, spec in found.items() if run_id not in planned} == {"wise_ft", "flyp_wise"}


def test_the_page_names_what_is_assumed_and_has_no_number_of_its_own(few, monkeypatch):
    monkeypatch.setattr(cost_page, "study", lambda: {"imagenet": list(few.values())})
    written = (Path(cost_page.__file__).parent / "cost.md").read_text(encoding="utf-8")
    assert all(written.count(f"<!-- cost: {name} -->") == 1 for name in cost_page.BLOCKS)
    page = cost_page.fill(written)
    assert "<!--" not in page
    for device, known in cost_page.DEVICES.items():
        assert (
            f"| {device} | {known.bf16 / 1e12:g} | {known.fp32 / 1e12:g} | NVIDIA's data sheet of the {device}" in page
        )
    for said in (
        "**Assumption: a utilisation of 35%**",
        "TRACER's Table 4 (ViT-B/16, one H100), is worth",
        "backward pass taken for two forward",
        "A caption counts with all of its tokens",
        "never lets TF32",
        "logistic regression of `lp_ft`'s probe",
        "`validation` of camelyon17, `id` of camelyon17",
        "**Assumption: a straight line through both**",
    ):
        assert said in " ".join(page.split()), said
    # 0.57 s + 2,500 x (1.38 s - 0.57 s) / 1,500, and so on
    line = next(
        line for line in page.splitlines() if line.startswith("| a method of their own on imagenet | 3 | 3,000 |")
    )
    assert line.endswith("| 2 s | 19 s | 552 MB |")
    assert f"| **all** | {len(few)} |" in page
