"""What a sweep ends with: the real command on the shipped suites, its lines and columns counted."""


import pytest
from runs_kit import call

from robustft.benchmarks import sweep
from robustft.benchmarks.state import RunFolder
from robustft.results import predictions
from robustft.results.publish import read_reference_predictions
from robustft.results.records import gather_reference, publish_record
from robustft.results.screen import LINES

BACKBONES = ("tiny-vit-p8", "tiny-vit-p16", "tiny-rn")


def make_runs(root, *methods, keep=lambda record: True):
    """Run folders of the three seeds of `make sweep METHOD=...` on digits, as the committed reference has them."""
    records = {record["run_id"]: record for record in gather_reference("digits")}
    benchmark = sweep.load("digits")
    made = 0
    for planned in sweep.expand(benchmark, methods, (), (), (), "one_se", None, companions=True):
        record = records[planned.spec.run_id]
        if not keep(record):
            continue
        folder = RunFolder.of(root, planned.spec).path
        columns = read_reference_predictions("digits", planned.spec.run_id)
        of = columns.pop("set")
        for name in dict.fromkeys(of):
            predictions.write(
                folder / "predictions" / f"{name}.parquet", {key: values[of == name] for key, values in columns.items()}
            )
        publish_record(folder, record)
        made += 1
    return made


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """The folder of the nine runs of the first command of the README."""
    root = tmp_path_factory.mktemp("nine")
    assert make_runs(root / "runs", "tracer") == 9
    return root


def last_screen(capsys, monkeypatch, root, *arguments, columns=100, code=0):
    """What `robustft sweep` prints after its runs, as lines."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(root)
    assert call("sweep", *arguments) == code
    out = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(out) if ", recipe " in line)
    return out[start:]


def test_nine_runs_stand_beside_what_they_can_be_compared_with_on_one_screen(nine, capsys, monkeypatch):
    screen = last_screen(capsys, monkeypatch, nine, "digits", "--method", "tracer")
    print("\n".join(screen))
    assert len(screen) <= LINES and max(map(len, screen)) <= 100
