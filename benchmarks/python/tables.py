"""Records and boards as data frames."""

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..planning.current_selection import Suites
from .mistakes import one_error
from .places import StrPath, root_of

if TYPE_CHECKING:
    import pandas as pd

    from ...results.board.grouping import Record

FIELDS = ("benchmark", "benchmark_version", "recipe", "method", "method_version", "backbone", "seed", "run_id", "kind")
COST = ("train_seconds", "images_per_second", "peak_memory_bytes")
TEXT = ("benchmark", "benchmark_version", "recipe", "rule", "ranked", "backbone", "method", "setting", "selection",
        "provenance", "seeds", "tuning", "marks", "pareto_front")  # fmt: skip
"""Columns of leaderboard.csv that hold text; in all others an empty cell is a number that is not known."""


@one_error
def records(
    folder: StrPath | None = None, *, benchmark: str | None = None, reference: bool = False, trials: bool = False
) -> "pd.DataFrame":
    """Every finished run as rows: one a run and evaluation set.

    Args:
        folder: of runs, or of one run; by default that of ROBUSTFT_RUNS, or the folder runs.
        benchmark: the name of one; all by default.
        reference: the committed runs in place of those of a folder.
        trials: the runs of tuning, too, which saw the validation set alone.

    Returns:
        Columns, in this order: what the run is (benchmark, benchmark_version, recipe, method, method_version, backbone,
        seed, run_id, kind) and rules, those that chose it when it was made, with spaces; shots, the training images of
        each class, of few shots; limit and train_limit, of a rehearsal, which no mean should hold beside whole runs;
        plugins (kind:sha256, with spaces: each version of a plug-in is another method) and given, the sha256 of a
        checkpoint that was evaluated; set, role (id, shift,
        validation, diagnostic), n, n_expected; metrics, unrounded (accuracy, ece, brier, macro_f1 and others as
        fractions, nll in nats, inf where a label got probability 0); steps, batch_size, lr, weight_decay and
        hyper.<name> of the methods; train_seconds, images_per_second, peak_memory_bytes; commit, dirty, finished (UTC)
        and folder, "" for the reference. NaN: the run has no such number.

    Raises:
        UserError: there is no such folder. Of a record that cannot be read a warning tells, and the others are there.
    """
    import pandas as pd

    from ...results.records.records import gather_reference, read_record, record_paths

    found: list[tuple[Mapping[str, Any], str]] = []
    if reference:
        if folder is not None:
            raise UserError(f"reference: has a folder of its own, got '{folder}' beside it; leave one of them out.")
        found += [(record, "") for record in gather_reference(benchmark)]
    else:
        root = root_of(folder)
        if not root.is_dir():
            raise UserError(f"folder: must be one of runs, got '{root}', which is none; give that of --runs.")
        for path in record_paths(root):
            try:
                found.append((read_record(path), str(path.parent)))
            except ValueError as error:
                warnings.warn(f"left out: {error}", stacklevel=3)
    kept = [
        (record, place)
        for record, place in found
        if (trials or record["kind"] == "run") and benchmark in (None, record["benchmark"])
    ]
    frame = pd.DataFrame(row for record, place in kept for row in _rows(record, place))
    return frame[_in_order(list(frame))] if len(frame) else pd.DataFrame(columns=[*FIELDS, "rules", "set", "role"])


def _rows(record: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    spec, environment = record["spec"], record["environment"]
    about = {key: record[key] for key in FIELDS} | {"rules": " ".join(record["selection"]["rules"])}
    about |= {key: spec.get(key) for key in ("shots", "limit", "train_limit")}
    about |= {"plugins": " ".join(spec.get("plugins", ())), "given": (spec.get("given") or {}).get("sha256", "")}
    after = {key: spec.get(key) for key in ("steps", "batch_size", "lr", "weight_decay")}
    after |= {f"hyper.{key}": value for key, value in spec.get("hyper", {}).items()}
    after |= {key: record["cost"].get(key) for key in COST}
    after |= {key: environment.get(key) for key in ("commit", "dirty")}
    after |= {"finished": record["finished"], "folder": place}
    for name, result in record["sets"].items():
        numbers = {key: value for key, value in result.items() if not isinstance(value, dict)}
        numbers["nll"] = math.inf if result["nll"] is None else result["nll"]
        yield {**about, "set": name, **numbers, **after}


def _in_order(names: list[str]) -> list[str]:
    """Columns that only some rows have stand beside their like."""
    last = [*COST, "commit", "dirty", "finished", "folder"]
    hyper = sorted(name for name in names if name.startswith("hyper."))
    settings = ["steps", "batch_size", "lr", "weight_decay"]
    first = [name for name in names if name not in (*last, *hyper, *settings)]
    return [*first, *settings, *hyper, *last]


@one_error
def board(benchmark: str | None = None, runs: StrPath | None = None, *, reference: bool = True) -> "pd.DataFrame":
    """The leaderboard with numbers: the rows and columns of leaderboard.csv.

    Args:
        benchmark: the name of one or a suite file; all by default.
        runs: root of all run folders; by default that of ROBUSTFT_RUNS, or the folder runs.
        reference: whether the committed runs have rows, too; never averaged with those of `runs`.

    Returns:
        A row for each rule and setting of a method on a backbone: accuracies in percent, calibration errors in
        [0, 1], NLL in nats, each with mean, sd and n over seeds; how far behind the best of its column it is, and
        Holm's p value of that, where the runs' per-sample files are there. Text columns have "" where nothing is, of
        numbers NaN.

    Raises:
        UserError: neither a suite nor a run has that name, there is no such folder of runs, or records contradict each
            other.
    """
    import pandas as pd

    from ...results.board.per_sample import Outcomes
    from ...results.tables import leaderboard

    root, known = root_of(runs), Suites(warnings.warn)
    if runs is not None and not root.is_dir():
        raise UserError(f"runs: must be a folder of runs, got '{root}', which is none; give that of --runs.")
    only = known.of(benchmark, root) if benchmark else None
    local, committed = entries(known, root, warnings.warn)
    made = leaderboard.build(local, committed if reference else (), Outcomes(root))
    text = (made if only is None else made.of(only)).to_csv()
    names = text.partition("\n")[0].split(",")
    numbers = [name for name in names if name not in TEXT]
    return pd.read_csv(
        io.StringIO(text), dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=dict.fromkeys(numbers, [""])
    )


def entries(known: Suites, runs: Path, report: Callable[[str], None]) -> "tuple[Iterable[Record], Iterable[Record]]":
    """What a board is made of: the runs below a folder, with the selection of today, and the committed ones."""
    from ...results.records import records as stored
    from ...results.records.compact_record import Packed

    shared: dict[Any, Any] = {}
    local = [Packed(record, shared) for record in known.for_board(stored.gather(runs, report))]
    return local, stored.gather_reference(report=report)
