"""`robustft evaluate CHECKPOINT...`: what somebody else trained, as runs under a free name."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from ... import backbones
from ...methods.given import Given as GivenMethod
from ...results.board.row_marks import KNOWN
from ...results.records import records
from ...results.records.run_id import folder_name
from ..errors import UserError, fold
from ..planning import resolver
from ..planning.benchmark import Benchmark, dataset_for
from ..planning.request import Planned, Request
from ..run_folder.folder import read_json
from ..run_folder.spec import GIVEN, Given

if TYPE_CHECKING:
    from ...backbones.checkpoint import Checkpoint

LONGEST = 80
"""Characters of a name: a line of a board."""
SHOWN = 3
"""Names that a sentence tells."""


def plan(
    benchmark: Benchmark,
    checkpoints: Sequence[Path],
    name: str,
    backbone: str,
    console: Console,
    *,
    runs: Path,
    resample: bool,
    raw: bool,
    recipe: str | None,
    part: dict[str, Any],
) -> list[Planned]:
    """One run for each checkpoint, under seeds 0, 1, ...; says what was found in each.

    From here on the benchmark knows the name, which no other command does.

    Args:
        runs: root of all run folders, for what the name and the checkpoints are there already.
        resample: take position embeddings of another resolution.
        raw: a head that was given reads features as they are, not of unit length.

    Raises:
        UserError, BackboneError: the name is taken, or a checkpoint does not fit.
    """
    name = _checked(name, benchmark)
    method = type("Given", (GivenMethod,), {"name": name})
    benchmark.facts = dataclasses.replace(
        benchmark.facts, methods={**benchmark.facts.methods, name: method}, weights=lambda backbone: GIVEN
    )
    request = Request((name,), (backbone,), tuple(range(len(checkpoints))), recipe=recipe, part=part)
    planned = resolver.expand(request, benchmark.suite, benchmark.tuned, benchmark.facts)
    known = _final_weights(runs)
    made: list[tuple[Given, Planned]] = []
    for run, path in zip(planned, checkpoints, strict=True):
        file = backbones.file_of(path, run.spec.backbone)
        found = backbones.read_checkpoint(file, run.spec.backbone, resample)
        data = dataset_for(benchmark.suite.dataset_of(run.spec.recipe), run.spec.backbone, run.spec.allow_partial)
        sha256 = backbones.file_hash(file).removeprefix("sha256:")
        whose = known.get(sha256)
        classes = _check_head(found, data.card.class_names, file)
        if classes and whose and whose.fingerprint == run.spec.fingerprint:
            classes = "its classes are those of that run"
        normalise = _normalise(found, raw, file)
        given = Given(sha256=sha256, kind=found.kind, normalise=normalise, resampled=found.resampled)
        _check_one_kind(given, [other for other, _ in made], name)
        source = f"{KNOWN} {whose.text}" if whose else "robustft evaluate"
        spec = run.spec.model_copy(update={"given": given})
        _check_seed(runs, benchmark, name, spec.backbone, spec.seed, sha256)
        sources = {**run.sources, "given": "; ".join(filter(None, (source, classes)))}
        made.append((given, dataclasses.replace(run, spec=spec, sources=sources, checkpoint=file)))
        _tell(console, file, spec.seed, found, given, classes, source if whose else "")
    return [run for _, run in made]


def _checked(name: str, benchmark: Benchmark) -> str:
    """The name as it is kept: text of one line, and of no method."""
    plain = " ".join(unicodedata.normalize("NFC", name).split())
    if not plain or not plain.isprintable() or len(plain) > LONGEST:
        raise UserError(f"--name: must be 1 to {LONGEST} printable characters, got {name[:100]!r}; choose another.")
    taken = {fold(method) for method in benchmark.facts.methods} | {"all"}
    if fold(plain).replace(" ", "_") in taken:
        raise UserError(f"--name: must not be that of a method, got '{plain}', which rows of its own have; say whose.")
    return plain


def _check_head(found: "Checkpoint", names: Sequence[str], file: Path) -> str:
    """What is known of the order of a head's classes; "" of a head that is built of the benchmark's own names."""
    if found.head is None:
        return ""
    if len(found.head) != len(names):
        raise UserError(
            f"checkpoint {file}: its head has {len(found.head)} classes, and the benchmark {len(names)}; evaluate it "
            "on the data that it was trained for."
        )
    if found.class_names is None:
        return "the order of its classes cannot be known and is taken for the benchmark's"
    if len(found.class_names) != len(names):
        raise UserError(
            f"checkpoint {file}: names {len(found.class_names)} classes for a head of {len(names)}; correct the names."
        )
    other = [(i, a, b) for i, (a, b) in enumerate(zip(found.class_names, names, strict=True)) if a != b]
    if other:
        told = ", ".join(f"class {i} is {a!r} there and {b!r} here" for i, a, b in other[:SHOWN])
        raise UserError(
            f"checkpoint {file}: {len(other)} classes have other names: {told}; put its head in this order."
        )
    return "its class names are the benchmark's, in their order"


def _normalise(found: "Checkpoint", raw: bool, file: Path) -> bool:
    """Whether the head reads features of unit length: what the checkpoint says, else what was asked for."""
    if raw and found.head is None:
        raise UserError(f"--raw-features: is for a checkpoint with a head, got {file}, a whole CLIP; leave it out.")
    if raw and found.normalise:
        raise UserError(f"--raw-features: {file} says that its head reads features of unit length; leave it out.")
    return not raw if found.normalise is None else found.normalise


def _check_one_kind(given: Given, others: Sequence[Given], name: str) -> None:
    """Checkpoints of one name are seeds of one row."""
    for other in others:
        if other.sha256 == given.sha256:
            raise UserError(f"evaluate: the same checkpoint is given twice (sha256 {given.sha256[:12]}); give it once.")
        if other.model_copy(update={"sha256": given.sha256}) != given:
            raise UserError(
                f"--name: the checkpoints of '{name}' must be of one kind, which are the seeds of one row, got a "
                f"{other.kind} and a {given.kind}; give each kind a name of its own."
            )


def _check_seed(runs: Path, benchmark: Benchmark, name: str, backbone: str, seed: int, sha256: str) -> None:
    """UserError where another checkpoint has the name and the place already."""
    place = runs / benchmark.suite.name / folder_name(name, {"given": True}) / backbone
    for path in sorted(place.glob(f"seed{seed}-*/spec.json")):
        earlier = ((read_json(path) or {}).get("spec", {}).get("given") or {}).get("sha256", sha256)
        if earlier != sha256:
            raise UserError(
                f"--name: '{name}' has another checkpoint as seed {seed} already (sha256 {earlier[:12]}, now "
                f"{sha256[:12]}); give that one first, choose another name, or delete {path.parent}."
            )


class _Known(NamedTuple):
    """A finished run, by its final weights."""

    text: str
    fingerprint: str
    """Of its data."""


def _final_weights(runs: Path) -> dict[str, _Known]:
    """sha256 of the final weights of each finished run here, and whose they are."""
    found = {}
    for record in records.gather(runs, report=lambda sentence: None):
        if not record["spec"].get("given") and "weights_sha256" in record["info"]:
            whose = f"{record['method']} {record['backbone']} seed {record['seed']}, run {record['run_id']}"
            fingerprint = str(record["spec"].get("fingerprint", ""))
            found[record["info"]["weights_sha256"]] = _Known(f"{whose} of {record['benchmark']}", fingerprint)
    return found


def _tell(console: Console, file: Path, seed: int, found: "Checkpoint", given: Given, classes: str, known: str) -> None:
    kinds = {"clip": "a whole CLIP, under the head of its own text tower", "tower": "an image tower with its head"}
    lines = [f"{file}: {kinds[found.kind]}; seed {seed}, sha256 {given.sha256[:12]}"]
    lines += found.renamed
    if found.kind == "tower":
        unit = "of unit length" if given.normalise else "as they are, not of unit length"
        says = "" if found.normalise is not None else " (it does not say; --raw-features is the other way)"
        lines += [f"its head reads features {unit}{says if given.normalise else ''}", classes]
    lines += [f"position embeddings resampled, {given.resampled}"] if given.resampled else []
    lines += [known] if known else []
    for i, line in enumerate(lines):
        console.print(line if i == 0 else f"  {line}", markup=False, soft_wrap=True)
