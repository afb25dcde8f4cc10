"""The summary over pretrained models, by the real command, of runs whose differences are known to the sample."""

import csv
import io
import re
import shutil

import numpy as np
import pytest
from make_records import make_record
from rich.console import Console
from runs_kit import call
from scipy import stats

from robustft.results.board.per_sample import Outcomes
from robustft.results.metrics import set_metrics
from robustft.results.records import predictions
from robustft.results.records.records import publish_record, read_record, record_paths, summarise
from robustft.results.tables.leaderboard import build, save

pytestmark = pytest.mark.computes

MODELS = [f"tower-{i}" for i in range(1, 7)]
SETS = {"id": "id", "near": "shift", "far": "shift"}
UNITS, SHOWN = 40, 5
AHEAD = {
    "up": (0.08, 0.09, 0.10, 0.11, 0.12, 0.10),
    "split": (0.10, 0.10, 0.10, 0.10, 0.10, -0.01),  # an interval above 0, and one model against it
    "same": (0.02, -0.02, 0.01, -0.01, 0.02, -0.03),
    "twin": (0.0,) * 6,  # ft, image by image, as WiSE-FT at alpha 1
    "lost": (0.05,) * 6,  # without a file of one run
    "short": (0.20,) * 5,  # on five models
}
"""Method -> what it is ahead of ft by, on every set of each model."""


def right_of(model, seed, name, ahead):
    """(N,) whether each sample is right: ft's, and as many samples more, or fewer, spread evenly over the units."""
    rng = np.random.default_rng([model, seed, len(name)])
    right = rng.permutation(UNITS * SHOWN) < (0.5 + 0.02 * model) * UNITS * SHOWN
    count = round(ahead * UNITS * SHOWN)
    free = rng.permutation(np.flatnonzero(right == (count < 0)))[: abs(count)]
    right[free] = count > 0
    return right


def write_run(runs, method, model, seed, ahead):
    """A run folder; its record follows from its samples."""
    rules = () if method == "zero_shot" else ("one_se", "best_id")
    record = make_record(method, MODELS[model], seed, rules=rules, benchmark="six", version="six-v1")
    folder = runs / "six" / method / MODELS[model] / f"seed{seed}-{record['run_id']}"
    sets = {}
    for name, role in SETS.items():
        right = right_of(model, seed, name, ahead)
        ids = [f"{name}-{i:03d}" for i in range(len(right))]
        units = [f"{'id' if role == 'id' else 'shift'}-{i // SHOWN:02d}" for i in range(len(right))]
        chosen = np.random.default_rng(len(right)).uniform(0.5, 0.9, len(right))
        wrong = ((1 - chosen) / 9)[:, None] * np.ones(10)
        prediction = np.where(right, 3, 4)
        wrong[np.arange(len(right)), prediction] = chosen
        columns = predictions.columns(wrong, np.full(len(right), 3), ids, units)
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        predictions.write(folder / "predictions" / f"{name}.parquet", columns)
        about = {"role": role, "n_expected": len(right)}
        sets[name] = about | set_metrics.score(columns, name, 64, more=False)
    publish_record(folder, {**record, "sets": sets, "summary": summarise(sets)})
    return folder


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Runs of six models, two seeds each, and what `robustft leaderboard` writes of them."""
    root = tmp_path_factory.mktemp("six")
    for model in range(len(MODELS)):
        write_run(root / "runs", "zero_shot", model, 0, -0.1)
        for method, ahead in {"ft": (0.0,) * 6, **AHEAD}.items():
            for seed in (0, 1):
                if model < len(ahead):
                    folder = write_run(root / "runs", method, model, seed, ahead[model])
    (folder,) = root.glob("runs/six/lost/tower-3/seed1-*")
    (folder / "predictions" / "far.parquet").unlink()
    assert call("leaderboard", "six", "--runs", root / "runs", "--results", root / "results") == 0
    return root


def table(six):
    """(method, metric) -> line of leaderboard_models.csv."""
    with (six / "results" / "leaderboard_models.csv").open(encoding="utf-8", newline="") as lines:
        return {(line["method"], line["metric"]): line for line in csv.DictReader(lines)}


def page_of(six, name="leaderboard.md"):
    """What a file says of these runs, behind the committed reference."""
    text = (six / "results" / name).read_text(encoding="utf-8")
    return text[text.index("six (six-v1), recipe common") :]


def board_of(six, models=MODELS, methods=("zero_shot", "ft", *AHEAD)):
    records = [read_record(path) for path in record_paths(six / "runs")]
    kept = [record for record in records if record["backbone"] in models and record["method"] in methods]
    return build(kept, outcomes=Outcomes(six / "runs"))


def test_an_order_is_claimed_where_all_models_have_one_sign_and_the_interval_excludes_0(six):
    lines = table(six)
    for metric in ("acc_id_percent", "acc_ood_mean_percent"):
        found = {method: lines[method, metric] for method in ("up", "split", "same", "lost")}
        for method, line in found.items():
            assert float(line["difference"]) == pytest.approx(100 * np.mean(AHEAD[method]), abs=1e-4)
        verdicts = {method: line["verdict"] for method, line in found.items()}
        claims = {"up": "higher", "split": "no order claimed", "same": "no order claimed"}
        # The file that is missing is of a shift.
        assert verdicts == claims | {"lost": "higher" if metric == "acc_id_percent" else "not tested"}
        assert [found[method]["models_same_sign"] for method in ("up", "split", "lost")] == ["6", "5", "6"]
        assert float(found["split"]["difference_low"]) > 0 and float(found["split"]["p_holm"]) < 0.05
        assert float(found["same"]["difference_low"]) < 0 < float(found["same"]["difference_high"])
        assert float(found["up"]["difference_low"]) > 0 and float(found["up"]["resolved_difference"]) > 0
    assert lines["lost", "acc_ood_mean_percent"]["difference_low"] == ""
    twin = lines["twin", "acc_id_percent"]
    fields = ("difference", "p_holm", "models_same_sign", "verdict", "resolved_difference")
    assert [twin[field] for field in fields] == ["0.0000", "1", "0", "no order claimed", ""]
    assert lines["ft", "acc_id_percent"]["verdict"] == "the baseline"


def test_means_weigh_every_model_the_same_and_their_intervals_are_of_both_components(six):
    line = table(six)["up", "acc_ood_mean_percent"]
    right = np.array([
        [[right_of(g, seed, name, ahead) for name in ("near", "far")] for seed in (0, 1)]
        for g, ahead in enumerate(AHEAD["up"])
    ])  # fmt: skip
    assert float(line["mean"]) == pytest.approx(100 * right.mean(), abs=1e-4)
    of_models = right.mean(axis=(1, 2, 3))
    of_units = right.mean(axis=(0, 1, 2)).reshape(UNITS, SHOWN).mean(axis=1)  # both shifts show the same
    error = 100 * np.sqrt(of_models.var(ddof=1) / len(MODELS) + of_units.var(ddof=1) / UNITS)
    half = (float(line["mean_high_95"]) - float(line["mean_low_95"])) / 2
    assert stats.t.ppf(0.975, UNITS - 1) * error <= half <= stats.t.ppf(0.975, len(MODELS) - 1) * error


def test_a_row_that_lacks_a_model_is_named_and_neither_averaged_nor_tested(six):
    line = table(six)["short", ""]
    assert (line["n_models"], line["mean"], line["verdict"]) == ("5", "", "not on every model")
    page = page_of(six)
    block = page[page.index("### Over 6 models") : page.index("### Selection rule")]
    assert "because they do not compete on every model: short (local) on 5 of 6." in block
    assert block.count("short") == 1
    # And it has no part in the others' tests: up, split, same and twin are four rows on the shifts.
    assert "two-sided 5 % / 4, the level at which Holm" in block


def test_the_summary_stands_first_in_every_form(six):
    page = page_of(six)
    assert page.index("### Over 6 models, rule one_se") < page.index("#### tower-1")
    against = [line for line in page.splitlines() if "/6" in line]
    up, split = (next(line for line in against if line.startswith(f"| {name} |")) for name in ("up", "split"))
    assert re.search(r"\| \*\*\+10\.00 \\\[\+\d+\.\d\d, \+\d+\.\d\d\\\] 6/6\*\* \|", up)
    assert re.search(r"\| \+8\.17 \\\[\+\d+\.\d\d, \+\d+\.\d\d\\\] 5/6 ≈ \|", split)
    assert "5/6 ?" not in page and "6/6 ?" in page  # lost, on the shifts
    for name in ("leaderboard.html", "leaderboard.tex"):
        text = page_of(six, name)
        assert text.index("Over 6 models") < text.index("Selection rule") and "+10.00" in text
    for width in (80, 200):
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(board_of(six).to_console())
        shown = console.file.getvalue()
        assert shown.index("Over 6 models") < shown.index("tower-1, rule one_se") and "…" not in shown
        assert "+8.17 [" in shown and max(map(len, shown.splitlines())) <= width


def test_without_samples_there_are_means_and_no_claims(six):
    records = [read_record(path) for path in record_paths(six / "runs")]
    board = build(records)
    up = next(line for line in board.to_markdown().splitlines() if line.startswith("| up | local | +"))
    assert "| +10.00 6/6 ? |" in up and "**" not in up
    lines = list(csv.DictReader(io.StringIO(board.to_models_csv())))
    assert {line["verdict"] for line in lines} == {"", "the baseline", "not tested", "not on every model"}


@pytest.mark.parametrize("models", [1, 3])
def test_few_models_have_no_summary_nor_an_earlier_boards(six, models, tmp_path):
    four, board = board_of(six, MODELS[:4]), board_of(six, MODELS[:models])
    save(four, tmp_path)
    assert "### Over 4 models" in four.to_markdown() and "Neither averaged" not in four.to_markdown()
    assert (tmp_path / "leaderboard_models.csv").exists()
    save(board, tmp_path)
    assert "Over" not in board.to_markdown() and not (tmp_path / "leaderboard_models.csv").exists()


def test_without_plain_finetuning_there_is_nothing_to_compare_with(six):
    page = board_of(six, methods=("zero_shot", "up", "same")).to_markdown()
    assert "No ft competes on every model: there is nothing to compare rows with." in page and "minus ft" not in page


def test_a_bundle_holds_the_summary_and_a_changed_claim_is_found(six, tmp_path, capsys):
    shutil.copytree(six / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("lost", "short"))
    assert call("bundle", tmp_path / "out", "--benchmark", "six", "--runs", tmp_path / "runs") == 0
    path = tmp_path / "out" / "leaderboard_models.csv"
    assert call("verify", tmp_path / "out") == 0
    assert "leaderboard_models.csv" in capsys.readouterr().out
    path.write_text(path.read_text().replace("no order claimed", "higher", 1))
    assert call("verify", tmp_path / "out") == 1
    assert "leaderboard_models.csv" in capsys.readouterr().out
