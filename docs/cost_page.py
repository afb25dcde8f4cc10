"""What the whole study costs: counts from its plans, operations from the architectures, hours by stated assumptions.

Nothing is written by hand but the assumptions, which are constants here and stand on the page. Plans need no data.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from robustft import backbones
from robustft.backbones.cost import Cost
from robustft.benchmarks.commands import sweep
from robustft.benchmarks.planning import tuning
from robustft.benchmarks.planning.benchmark import Benchmark, dataset, method_of
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder import size
from robustft.benchmarks.run_folder.spec import RunSpec
from robustft.datasets.card import Dataset
from robustft.datasets.contents import readable
from robustft.results.records import records

BACKBONES = ("RN50", "ViT-B-16", "ViT-L-14")
BENCHMARKS = ("imagenet", "iwildcam", "fmow", "camelyon17")
ABLATIONS = ("ablation-components", "ablation-lambda", "ablation-interval", "ablation-beta")
SEEDS = (0, 1, 2)
UTILISATION = 0.35
USERS = 1000


class Device(NamedTuple):
    """Peak operations a second by its vendor's data sheet, dense."""

    bf16: float
    fp32: float
    source: str


HOPPER = "NVIDIA's data sheet of the {}, SXM: bfloat16 1,979 TFLOPS with sparsity, so half of it; float32 67 TFLOPS"
DEVICES = {
    "A100": Device(312e12, 19.5e12, "NVIDIA's data sheet of the A100 80GB, SXM: bfloat16 312, float32 19.5 TFLOPS"),
    "H100": Device(1979e12 / 2, 67e12, HOPPER.format("H100")),
    "H200": Device(1979e12 / 2, 67e12, HOPPER.format("H200") + "; that its memory is faster is not counted"),
}  # fmt: skip
MEASURED = {500: (0.57, 11.1, 517), 2000: (1.38, 15.7, 538)}
"""Records -> CPU seconds of gather and of a whole board, MB of the board; robustft.benchmarks.speed.scale's way,
means of two, one core of an AMD EPYC, 2026-11-30."""


@dataclass(frozen=True)
class Work:
    """Operations and disk of some runs."""

    runs: int = 0
    steps: int = 0
    trained: int = 0
    """Operations of training steps, in bfloat16."""
    shown: int = 0
    """Operations of forward passes beside the steps, in float32."""
    printed: float = 0.0
    """Seconds of one H100 by the suite's own cost, training alone."""
    kept: int = 0
    inodes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def hours(self, device: Device) -> float:
        """GPU-hours."""
        return (self.trained / device.bf16 + self.shown / device.fp32) / UTILISATION / 3600


@cache
def step_cost(backbone: str) -> Cost:
    """Of a model of open_clip."""
    found = backbones.step_cost(backbone)
    assert found is not None
    return found


def data_of(spec: RunSpec) -> Dataset:
    """What a run sees; an ablation sees imagenet."""
    return dataset(spec.benchmark if spec.benchmark in BENCHMARKS else BENCHMARKS[0])


def image_passes(spec: RunSpec) -> int:
    """Images that are shown in float32: evaluation by each predictor, the probe's features, and its choice of C."""
    method, data = method_of(spec), data_of(spec)
    sets = size.seen(data.card, spec)
    passes = size.predictors(method, spec) * sum(sets.values())
    if method.name == "lp_ft":
        chosen = spec.hyper["c_points"] if method.chooses(method.Hyper(**spec.hyper)) else 0
        validation = sum(sets[name] for name in data.card.names("validation"))
        passes += spec.hyper["renderings"] * data.train_size + chosen * validation
    return passes


def passes_a_step(spec: RunSpec) -> int:
    """Forward passes that a step is worth: forward, backward for two, and the teacher's where it has outputs."""
    method = method_of(spec)
    made = method(method.Hyper(**{**method.introduced, **spec.hyper}))
    return 3 + (size.has_teacher(method) and made.teaches(1))


def work(spec: RunSpec) -> Work:
    """What one run takes."""
    method, card, cost = method_of(spec), data_of(spec).card, step_cost(spec.backbone)
    towers = size.towers(method, spec)
    steps = (spec.steps or 0) if towers else 0
    images = steps * (spec.batch_size or 0) * method.views
    pair = cost.image_flops + (cost.text_flops if towers == 2 else 0)
    head = len(card.class_names) * len(card.prompts) * cost.text_flops if towers == 2 else 0
    trained, beside = images * passes_a_step(spec) * pair, image_passes(spec) * cost.image_flops + head
    found = size.of_run(spec, method, cost, card)
    return Work(1, steps, trained, beside, images * printed_rates()[spec.backbone], found.kept, found.inodes)


@cache
def printed_rates() -> dict[str, float]:
    """Backbone -> seconds of one H100 an image, by the imagenet suite."""
    cost = Benchmark(BENCHMARKS[0]).suite.cost
    assert cost is not None
    return cost.image_seconds


def runs(benchmark: Benchmark) -> list[RunSpec]:
    """As `robustft sweep BENCHMARK --method all` with three backbones and seeds plans them: each once."""
    plan = sweep.expand(benchmark, Request(("all",), BACKBONES, SEEDS, companions=True), lambda _: None)
    return [planned.spec for planned in plan]


def trials(benchmark: Benchmark) -> list[RunSpec]:
    """As `robustft tune` plans them for the suite's methods; what a post-hoc one reads is a trial counted already."""
    space, found = tuning.tuning_of(benchmark), {}
    resolver = benchmark.resolver(kind="trial")
    for name, backbone in itertools.product(tuning.tunable(benchmark, benchmark.suite.methods, False), BACKBONES):
        keys, lists = space.space[name].keys(), space.space[name].values()
        for seed, values in itertools.product(space.seeds, itertools.product(*lists)):
            given = {key: (value, "tuning space") for key, value in zip(keys, values, strict=True)}
            spec = resolver.resolve(name, backbone, seed, given)[-1].spec
            found[spec.run_id] = spec
    return list(found.values())


@cache
def study() -> dict[str, list[RunSpec]]:
    """Part of the study -> its runs. Ablations are those that ship, based on imagenet."""
    parts = {}
    for name in BENCHMARKS:
        benchmark = Benchmark(name)
        parts[name] = runs(benchmark)
        parts[f"{name}, tuning"] = trials(benchmark)
    for name in ABLATIONS:
        text = (
            Benchmark(name).path.read_text(encoding="utf-8").replace("based_on: digits", f"based_on: {BENCHMARKS[0]}")
        )
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
            parts[name] = runs(Benchmark(str(path)))
    return parts


def total(specs: Iterable[RunSpec]) -> Work:
    """Of some runs."""
    return sum(map(work, specs), Work())


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


HEADS = ("runs", "steps", "EFLOP of steps", "beside", *(f"{name}, h" for name in DEVICES), "H100 by Table 4, h", "disk",
         "inodes")  # fmt: skip


def cells(found: Work) -> list[str]:
    """Counts, operations, hours and disk, as HEADS."""
    hours = [f"{found.hours(device):,.1f}" for device in DEVICES.values()]
    floats = [f"{found.trained / 1e18:,.2f}", f"{found.shown / 1e18:,.3f}"]
    printed, inodes = f"{found.printed / 3600:,.1f}", f"{found.inodes:,}"
    return [f"{found.runs:,}", f"{found.steps:,}", *floats, *hours, printed, readable(found.kept), inodes]


def assumptions() -> str:
    """Peaks, and how far the one measured rate is from the utilisation."""
    rows = [(name, f"{d.bf16 / 1e12:g}", f"{d.fp32 / 1e12:g}", d.source) for name, d in DEVICES.items()]
    whole = total(of_backbone("ViT-B-16"))
    met = whole.trained / whole.printed / DEVICES["H100"].bf16
    return table(("GPU", "bfloat16, TFLOP/s", "float32, TFLOP/s", "source"), rows) + (
        f"\n\n**Assumption: a utilisation of {UTILISATION:.0%}** of these peaks, the same for every GPU, backbone and "
        "part; nobody has measured it here. The only rate that was measured on a GPU, TRACER's Table 4 (ViT-B/16, one "
        f"H100), is worth {met:.0%} on the steps of ViT-B/16: by it the same steps take {UTILISATION / met:.1f} times "
        "as long. Plan with the larger number until your own record says better."
    )


def backbone_costs() -> str:
    """Of one image and one caption, and one checkpoint more."""
    rows = []
    for name in BACKBONES:
        cost = step_cost(name)
        passing = max(size.of_run(s, method_of(s), cost, data_of(s).card).passing for s in of_backbone(name))
        counts = [f"{cost.parameters / 1e6:.1f}", f"{cost.image_parameters / 1e6:.1f}"]
        flops = [f"{cost.image_flops / 1e9:.2f}", f"{cost.text_flops / 1e9:.2f}"]
        rows.append((name, *counts, *flops, readable(passing)))
    return table(("backbone", "M parameters", "of the image tower", "GFLOP an image", "a caption", "checkpoints"), rows)


def of_backbone(name: str) -> Iterator[RunSpec]:
    """All runs of the study on a backbone."""
    return (spec for specs in study().values() for spec in specs if spec.backbone == name)


def single_runs() -> str:
    """One run of each method of the imagenet suite on ViT-B/16."""
    rows = [(s.method, *cells(work(s))[1:]) for s in study()["imagenet"] if (s.backbone, s.seed) == ("ViT-B-16", 0)]
    return table(("method", *HEADS[1:]), rows)


def whole_study() -> str:
    """The parts, the backbones, and the sum."""
    parts = study()
    rows = [(name, *cells(total(specs))) for name, specs in parts.items()]
    rows += [(f"all, {name}", *cells(total(of_backbone(name)))) for name in BACKBONES]
    every = [spec for specs in parts.values() for spec in specs]
    assert len({spec.run_id for spec in every}) == len(every)  # nothing that two parts share is counted twice
    return table(("part", *HEADS), [*rows, ("**all**", *cells(total(every)))])


def unknown_sets() -> str:
    """Sets whose size only the data say."""
    return ", ".join(f"`{set_.name}` of {name}" for name in BENCHMARKS for set_ in dataset(name).card.sets
                     if set_.expected is None)  # fmt: skip


def of_users() -> str:
    """What the records of many users mean for gather and board."""
    lengths = [len(json.dumps(record)) for record in records.gather_reference(report=lambda _: None)]
    (few, at_few), (many, at_many) = MEASURED.items()
    one = sum(spec.method == "tracer" for spec in study()["imagenet"])
    each = {"a method of their own on imagenet": one, "every run of the study": sum(map(len, study().values()))}
    rows = []
    for what, count in each.items():
        n = USERS * count
        gather, board, memory = (y + (z - y) / (many - few) * (n - few) for y, z in zip(at_few, at_many, strict=True))
        size_ = readable(int(n * mean(lengths)))
        rows.append(
            (what, f"{count:,}", f"{n:,}", size_, f"{gather:,.0f} s", f"{board:,.0f} s", readable(int(memory * 1e6)))
        )
    heads = (
        "each user brings",
        "records",
        f"of {USERS:,} users",
        "bytes",
        "gather, CPU",
        "board, CPU",
        "board, memory",
    )
    return table(heads, rows) + (
        f"\n\nA record of the committed reference has {mean(lengths) / 1000:.1f} kB in the mean. Measured were {few:,} "
        f"and {many:,} records of 15 kB each: {at_few[0]} and {at_many[0]} s of CPU to gather, {at_few[1]} and "
        f"{at_many[1]} s and {at_few[2]} and {at_many[2]} MB for a whole board. **Assumption: a straight line through "
        "both**, far beyond them; `python -m robustft.benchmarks.speed.scale --records N` measures any number."
    )


BLOCKS = {
    "assumptions": assumptions,
    "backbones": backbone_costs,
    "runs": single_runs,
    "study": whole_study,
    "unknown": unknown_sets,
    "users": of_users,
}


def fill(page: str) -> str:
    """The page with every block `<!-- cost: NAME -->` filled in."""
    for name, made in BLOCKS.items():
        page = page.replace(f"<!-- cost: {name} -->", made())
    return page
