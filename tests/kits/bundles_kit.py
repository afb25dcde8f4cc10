"""Run folders made from runs of the committed reference, told anew: other groups' results, without their hours."""

from robustft.results.records import predictions
from robustft.results.records.records import gather_reference, publish_record, summarise
from robustft.results.records.reference import read_reference_predictions
from robustft.results.records.rounding import GIVEN
from robustft.results.records.run_id import folder_name, run_id

BACKBONE = "tiny-vit-p8"
KEPT = {"role", "n_expected", "brier", *GIVEN}  # no record is without a Brier score


def committed(method, seed=0, rule="one_se"):
    """A run of the reference, without its validation set and the numbers whose samples are not committed."""
    (record,) = [
        record
        for record in gather_reference("digits")
        if (record["method"], record["seed"], record["backbone"]) == (method, seed, BACKBONE)
        and rule in record["selection"]["rules"]
    ]
    sets = {
        name: {key: value for key, value in metrics.items() if key in KEPT}
        for name, metrics in record["sets"].items()
        if metrics["role"] != "validation"
    }
    return {key: record[key] for key in record if key not in ("path", "temperature")} | {
        "sets": sets,
        "summary": summarise(sets),
    }


def told_anew(record, **spec):
    """The record as if its spec said something else."""
    spec = record["spec"] | spec
    names = ("method", "method_version", "backbone", "seed", "benchmark_version")
    told = record | {name: spec[name] for name in names} | {"backbone_weights": spec["weights"]}
    return told | {"spec": spec, "run_id": run_id(spec)}


def write_run(root, record, samples_of=None):
    """The run folder of a record, with the samples of a run of the reference: its own, or those of another.

    Where they are another's, its numbers are, too: the record follows from its samples.
    """
    numbers = samples_of or record
    record = record | {key: numbers[key] for key in ("sets", "summary")}
    place = folder_name(record["method"], record["spec"])
    folder = root / record["benchmark"] / place / record["backbone"] / f"seed{record['seed']}-{record['run_id']}"
    (folder / "predictions").mkdir(parents=True)
    publish_record(folder, record)
    joined = read_reference_predictions("digits", numbers["run_id"])
    names = joined.pop("set")
    for name in dict.fromkeys(names.tolist()):
        columns = {key: values[names == name] for key, values in joined.items()}
        predictions.write(folder / "predictions" / f"{name}.parquet", columns)
    return folder
