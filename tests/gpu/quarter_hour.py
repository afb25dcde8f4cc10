"""What nobody can know without a GPU, in at most 8 minutes: `python tests/gpu/quarter_hour.py --out gpu.json`.

Each check is a function, and its docstring is what it proves. It needs this checkout, the project's own packages and a
GPU, and no network: tiny backbones and digits come with the package, all other weights are random and all other images
are drawn here. A check that fails, or hangs, does not stop those after it; one that would not fit into the time that is
left is not run, and is never counted as passed. The file is written anew after each check, so that a machine that goes
down leaves what was found before. Exit code 0; 1 where a check failed; 2 where there is no GPU.

`--device cpu --small` goes through every check in seconds, with few steps and tiny towers, for the tests: what only
speed or the committed records could decide is then told and not judged.
"""

import contextlib
import datetime
import gc
import io
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kits"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
from gpu_page import shown
from runs_kit import call, folders

import robustft
from robustft import backbones
from robustft.backbones import DualEncoder, clip
from robustft.benchmarks.execution.predict import predict
from robustft.benchmarks.execution.run import make_method, make_settings, make_task
from robustft.benchmarks.host import environment
from robustft.benchmarks.planning.benchmark import dataset_for
from robustft.benchmarks.speed import decode, head, path, runner, step, teacher_update
from robustft.datasets.image_folders import scan
from robustft.datasets.image_sets import ImageSet, Picked, TreePictures
from robustft.datasets.loaders import train_batches
from robustft.methods.base import Context
from robustft.methods.training.parallel import World
from robustft.methods.training.step import Training
from robustft.methods.two_tower import TwoTower
from robustft.results.records import records

BACKBONE = "tiny-vit-p16"
METHODS = ("tracer", "ft", "lora")
SPEED = (("ViT-B-16", 512), ("ViT-L-14", 224))
"""Backbone and images a step of the speed table."""
SCHEMA = 1
LOSSES, EXACT, RESUMED, WAIT = 1e-4, 1e-9, 1e-3, 0.05
DEVIATIONS = 4
HANGS = 3


class Failed(Exception):
    """A check found what must not be; one sentence, and the numbers that show it."""

    def __init__(self, reason: str, numbers: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.numbers = dict(numbers or {})


class NotRun(Exception):
    """What a check would look at is not there."""


class Over(BaseException):
    """A check took too long; what handles every Exception on its way lets it through."""


@dataclass
class Place:
    """Where the checks are made, and what earlier ones found.

    Args:
        device: "cuda", or "cpu" for a rehearsal.
        small: tiny towers and few steps.
        folder: empty, for runs and pictures; it goes afterwards.
    """

    device: str
    small: bool
    folder: Path
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def gpu(self) -> bool:
        """Whether speed and memory say anything."""
        return self.device != "cpu"

    def settings(self, backbone: str, batch: int) -> runner.Settings:
        """Those of the speed scripts: bfloat16, as such backbones are trained."""
        kind = Tiny if self.small else runner.Settings
        return kind(
            device=self.device,
            precision="bf16",
            batch=4 if self.small else batch,
            repeats=1 if self.small else 3,
            threads=torch.get_num_threads(),
            backbone=backbone,
        )


@dataclass(frozen=True)
class Tiny(runner.Settings):
    """With towers of one layer."""

    def encoder(self) -> DualEncoder:
        """Random weights, of a shape that costs nothing."""
        vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
        text = {"layers": 1, "width": 32, "heads": 2}
        return clip.untrained(backbones.resolve(self.backbone), vision=vision, text=text).to(self.device)


Check = Callable[[Place], dict[str, Any]]


# correct


def sweep(place: Place) -> dict[str, Any]:
    """Runs of TRACER, FT and LoRA on this device end within 4 standard deviations of their committed row's seeds.

    LoRA is not tuned yet and has no row: its accuracies are told, and its losses are what is compared with the CPU.
    """
    runs = place.folder / "sweep"
    few = ("--set", "steps=2", "--set", "limit=8") if place.small else ()
    words = ["sweep", "digits", "--method", ",".join(METHODS), "--backbone", BACKBONE, "--seeds", "0"]
    words += ["--device", place.device, "--jobs", "2", "--runs", str(runs), *few]
    gpus = environment.visible_gpus(place.device)[:1]  # one, so that two jobs must share it
    one_gpu = mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else {})
    with one_gpu, contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = call(*words)
    if code:
        raise Failed(f"robustft {' '.join(words)} ended with {code}: {' '.join(said.getvalue().split())[-400:]}")
    made = list(records.gather(runs))
    if sorted(record["method"] for record in made) != sorted(METHODS):
        raise Failed(f"records of {sorted(record['method'] for record in made)}, wanted {sorted(METHODS)}")
    numbers = against_committed(made, records.gather_reference("digits"))
    if not place.small and all("committed" in told for told in numbers.values()):
        raise Failed("no committed row has the settings of these runs", numbers)
    return numbers


def against_committed(made: Iterable[Mapping[str, Any]], committed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies in percent beside mean and deviation of the committed row, where there is one of the same settings.

    The id of a run says what its settings are: its spec may be written with fields that did not exist before.

    Raises:
        Failed: one is further from the mean than DEVIATIONS times the standard deviation of the row's seeds.
    """

    def settings(record: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in record["spec"].items() if key != "seed"}

    committed, numbers, far = list(committed), {}, []
    for record in made:
        numbers[record["method"]] = told = {}
        own = [settings(other) for other in committed if other["run_id"] == record["run_id"]]
        row = [other for other in committed if settings(other) in own]
        for key in ("acc_id", "acc_ood_mean"):
            told[key] = round(100 * record["summary"][key], 2)
            if len(row) < 2:
                told["committed"] = "no row of these settings"
                continue
            seeds = [100 * other["summary"][key] for other in row]
            mean, deviation = statistics.mean(seeds), statistics.stdev(seeds)
            told |= {f"{key}_committed": round(mean, 2), f"{key}_deviation": round(deviation, 2), "seeds": len(row)}
            if not abs(100 * record["summary"][key] - mean) <= DEVIATIONS * deviation:
                far.append(f"{record['method']} {key} {told[key]} against {mean:.2f} +- {deviation:.2f}")
    if far:
        raise Failed("; ".join(far), numbers)
    return numbers


def shared(place: Place) -> dict[str, Any]:
    """`--jobs 2` on one GPU is not refused: as documented, the runs share it, two at a time, and all end."""
    if "sweep" not in place.found:
        raise NotRun("the sweep that it looks at did not end well")
    spans = {}
    for folder in folders(place.folder / "sweep"):
        log = (folder / "log").read_text()
        (began,) = re.findall(r"^(\S+ \S+) start ", log, re.M)
        (ended,) = re.findall(r"^(\S+ \S+) done in ", log, re.M)
        spans[folder.parents[1].name] = [datetime.datetime.fromisoformat(each).timestamp() for each in (began, ended)]
    overlap = max(min(a[1], b[1]) - max(a[0], b[0]) for a, b in itertools.combinations(spans.values(), 2))
    numbers = {
        "side_by_side_seconds": max(overlap, 0.0),
        "seconds": {name: end - begin for name, (begin, end) in spans.items()},
    }
    if place.gpu and overlap <= 0:
        raise Failed("no two runs were made at the same time", numbers)
    return numbers


def trained(
    method: str,
    device: str,
    steps: int,
    batch: int | None = None,
    double: bool = False,
    **changes: Any,
) -> dict[str, torch.Tensor]:
    """Loss terms of the first steps of the suite's own run, and the last step's gradients, on the CPU in float64.

    Args:
        batch: images a step; None is the suite's.
        double: compute in float64.
        changes: of the trainer's settings: `precision`, `micro_batch`.
    """
    (planned,) = robustft.plan("digits", method, backbones=BACKBONE, seeds=0)
    spec = planned.spec
    made, settings = make_method(spec), replace(make_settings(spec, device), **changes)
    settings = replace(settings, batch_size=batch or settings.batch_size)
    encoder, data = backbones.load(BACKBONE, device=device), dataset_for("digits", BACKBONE)
    encoder = encoder.double() if double else encoder
    task = make_task(data, encoder, spec.trainable)
    torch.manual_seed(settings.seed)
    context = Context(encoder, task, settings, lambda predictor: 0.0)
    student = made.student(context).eval().to(torch.float64 if double else torch.float32)
    made.prepare(student, context)
    training, found = Training(made, student, settings, World()), {}
    batches = train_batches(
        data, task.caption_tokens, batch_size=settings.batch_size, seed=settings.seed, start_step=0, total_steps=steps,
        views=made.views, cut=task.cuts_text,
    )  # fmt: skip
    for number, loaded in enumerate(batches):
        on_device = loaded.to(device)
        if double:
            on_device = replace(on_device, images=encoder.pixels(on_device.images).double())
        terms = training.step(number, on_device)
        found |= {f"{number}.{name}": term for name, term in terms.items()}
    training.checked_state(steps)  # NonFinite names what is not finite
    found |= {f"gradient.{name}": p.grad for name, p in student.named_parameters() if p.grad is not None}
    return {name: tensor.double().cpu() for name, tensor in found.items()}


def furthest(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> tuple[float, str]:
    """The largest difference relative to a tensor's largest entry (to 1e-4 where all are smaller), and its name."""
    if one.keys() != other.keys():
        return float("inf"), f"only one side has {min(one.keys() ^ other.keys())}"
    return max(
        ((one[name] - other[name]).abs().max().item() / max(one[name].abs().max().item(), 1e-4), name) for name in one
    )


def losses(place: Place) -> dict[str, Any]:
    """The losses of the first ten steps of TRACER, FT and LoRA are those of this machine's CPU to 1e-4."""
    (steps, batch), numbers = ((2, 8) if place.small else (10, None)), {}
    for method in METHODS:
        cpu, here = (trained(method, device, steps, batch) for device in ("cpu", place.device))
        totals = [name for name in cpu if name.endswith(".total")]
        numbers[method] = max(abs(cpu[name].item() - here[name].item()) for name in totals)
    if not max(numbers.values()) <= LOSSES:
        raise Failed(f"a loss differs by {max(numbers.values()):.1e}, more than {LOSSES:g}", numbers)
    return numbers


def bfloat16(place: Place) -> dict[str, Any]:
    """Under bf16 every loss term, gradient and weight of TRACER stays finite, and the loss is near that of float32."""
    steps, batch = (2, 8) if place.small else (20, None)
    half, whole = (trained("tracer", place.device, steps, batch, precision=precision) for precision in ("bf16", "fp32"))
    broken = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    last = f"{steps - 1}.total"
    numbers = {"steps": steps, "loss_bf16": half[last].item(), "loss_fp32": whole[last].item()}
    if broken:
        raise Failed(f"{broken[0]} is not finite", numbers)
    if not abs(half[last] - whole[last]) <= 0.05 * abs(whole[last]):
        raise Failed("the losses differ by more than 5 %", numbers)
    return numbers


def micro_batches(place: Place) -> dict[str, Any]:
    """Losses and gradients of a batch in parts of 5 are those of the whole batch of 16, in float64 to 1e-9."""
    whole, parts = (trained("tracer", place.device, 2, 16, True, micro_batch=size) for size in (None, 5))
    difference, where = furthest(whole, parts)
    numbers = {"largest_difference": difference, "of": where}
    if not difference <= EXACT:
        raise Failed(f"{where} differs by {difference:.1e}", numbers)
    return numbers


def processes(place: Place, devices: tuple[str, ...] = ()) -> dict[str, Any]:
    """Two processes that share each batch over NCCL train as one does; on one GPU, NCCL begins and sums with one."""
    gpus = min(2, torch.cuda.device_count()) if place.gpu else 0
    devices = devices or tuple(f"cuda:{number}" for number in range(gpus)) or ("cpu",)
    meet, out = place.folder / "meeting", place.folder / "shared.pt"
    alone = trained("tracer", devices[0], 2, 16, True)
    if len(devices) == 1:
        member(0, devices, meet, out)
    else:
        torch.multiprocessing.spawn(member, (devices, meet, out), nprocs=len(devices), daemon=True)
    together = torch.load(out, weights_only=True)
    difference, where = furthest(alone, together)
    numbers = {"processes": len(devices), "largest_difference": difference, "of": where}
    if not difference <= EXACT:
        raise Failed(f"{where} differs by {difference:.1e}", numbers)
    return numbers


def member(rank: int, devices: tuple[str, ...], meet: Path, out: Path) -> None:
    """One of the processes that share a run: it sums a number with the others, and trains."""
    from torch import distributed

    device, count = devices[rank], len(devices)
    if device != "cpu":
        torch.cuda.set_device(device)
    kind = "gloo" if device == "cpu" else "nccl"
    distributed.init_process_group(kind, init_method=f"file://{meet}", rank=rank, world_size=count)
    try:
        one = torch.ones(1, device=device)
        distributed.all_reduce(one)
        if one.item() != count:
            raise Failed(f"{kind}: the sum of {count} ones is {one.item()}")
        found = trained("tracer", device, 2, 16, True)
        if rank == 0:
            torch.save(found, out)
    finally:
        distributed.destroy_process_group()


KILLED = """
import os, signal, robustft
from robustft.methods.training.checkpoints import Checkpoints
save = Checkpoints.save
def saved(self, step, *rest):
    save(self, step, *rest)
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = saved
plan = robustft.plan("digits", {method!r}, backbones={backbone!r}, seeds=0, settings={settings!r}, limit={limit})
robustft.run(plan, {runs!r}, device={device!r}, checkpoint_minutes=0, progress=False)
"""


def resume(place: Place) -> dict[str, Any]:
    """A run that is killed goes on from its checkpoint and ends as an undisturbed one does (on a CPU bit for bit)."""
    import pandas as pd
    from safetensors.torch import load_file

    method, steps, limit = ("ft", 4, 16) if place.small else ("tracer", 60, 256)
    settings, runs = {"steps": steps, "batch_size": 16}, [place.folder / name for name in ("killed", "twin")]
    about = {"method": method, "settings": settings, "limit": limit, "backbone": BACKBONE, "device": place.device}
    code = KILLED.format(step=steps // 2, runs=str(runs[0]), **about)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if ended.returncode != -signal.SIGKILL:
        raise Failed(f"it was to be killed, and ended with {ended.returncode}: {ended.stderr[-300:]}")
    plan = robustft.plan("digits", method, backbones=BACKBONE, seeds=0, settings=settings, limit=limit)
    for root in runs:
        robustft.run(plan, root, device=place.device, progress=False)
    (killed,), (twin,) = (folders(root) for root in runs)
    curves = [pd.read_parquet(folder / "curves.parquet").set_index("step")["total"] for folder in (killed, twin)]
    weights = [load_file(folder / "weights" / "final.safetensors") for folder in (killed, twin)]
    went_on = json.loads((killed / "state.json").read_text())["start_step"]
    numbers = {
        "steps": steps,
        "went_on_from": went_on,
        "largest_difference_of_losses": float((curves[0] - curves[1]).abs().max(skipna=False)),
        "same_bits": all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items()),
    }
    if went_on != steps // 2:
        raise Failed(f"it went on from step {went_on}, and its checkpoint was of step {steps // 2}", numbers)
    if not numbers["largest_difference_of_losses"] <= RESUMED or not (place.gpu or numbers["same_bits"]):
        raise Failed("the resumed run ended elsewhere", numbers)
    return numbers


def loader(place: Place) -> dict[str, Any]:
    """JPEGs are decoded and pinned so fast that no warm step of TRACER on ViT-B/16 waits more than 5 % for them."""
    settings = place.settings("ViT-B-16", 128)
    encoder = settings.encoder()
    warm, steps = (1, 3) if place.small else (10, 40)
    pictures = Jpegs(place.folder / "pictures", settings.batch * (steps + 1), encoder.image_size)
    tokens = runner.captions(encoder, 1).view(1, 1, -1)
    training = step.begun("tracer", TwoTower(encoder), settings)
    batches = train_batches(
        pictures, tokens, batch_size=settings.batch, seed=0, start_step=0, total_steps=steps,
        workers=1 if place.small else environment.cores(), pin=place.gpu,
    )  # fmt: skip
    shares, seconds, pinned = [], [], []
    for number in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        pinned.append(batch.images.is_pinned())
        training.step(number, batch.to(place.device))
        runner.wait(place.device)
        whole = time.perf_counter() - began
        if number >= warm:
            shares.append(waited / whole)
            seconds.append(whole)
    numbers = {
        "batch": settings.batch,
        "workers": 1 if place.small else environment.cores(),
        "largest_wait_percent": 100 * max(shares),
        "median_wait_percent": 100 * statistics.median(shares),
        "images_per_second": settings.batch / statistics.median(seconds),
        "pinned": all(pinned),
    }
    if place.gpu and not all(pinned):
        raise Failed("a batch was not in page-locked memory", numbers)
    if place.gpu and max(shares) > WAIT:
        raise Failed(f"a step waited {100 * max(shares):.0f} % of its time", numbers)
    return numbers


class Jpegs(decode.Pictures):
    """So many training images of one class, of the few that the speed scripts write."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self.size = size
        super().__init__(jpegs(folder, count), "exact")


def jpegs(folder: Path, count: int) -> Picked:
    """The written pictures over and over; they are written once a folder."""
    if not folder.exists():
        folder.mkdir()
        decode.write(folder / "class")
    files = TreePictures(scan(folder))
    return Picked(files, np.arange(count) % len(files))


# fast


def steps(place: Place, backbone: str, batch: int) -> dict[str, Any]:
    """A step of FLYP and of TRACER against a plain open_clip training step: images a second and peak memory of each."""
    settings = place.settings(backbone, batch)
    numbers: dict[str, Any] = {"batch": settings.batch, "precision": settings.precision}
    for name in ("open_clip", "flyp", "tracer"):
        encoder = settings.encoder()
        once = plain(encoder, settings) if name == "open_clip" else step.stepper(name, TwoTower(encoder), settings)
        once()  # the optimizer's state comes with the first step
        environment.start_peak_memory(place.device)
        seconds = runner.take_turns({name: once}, settings).median(name)
        numbers[name] = {
            "milliseconds": 1000 * seconds,
            "images_per_second": settings.batch / seconds,
            "peak_gigabytes": environment.peak_memory_bytes(place.device) / 1e9,
        }
        numbers[name]["over_open_clip"] = 1000 * seconds / numbers["open_clip"]["milliseconds"]
        del encoder, once  # the memory is the next one's
        _empty(place)
    return numbers


def plain(encoder: DualEncoder, settings: runner.Settings) -> Callable[[], None]:
    """A step as open_clip's training script makes it, on open_clip's own model: all 77 tokens, ClipLoss, AdamW.

    Images are normalised floats on the device already, which ours are not.
    """
    from open_clip import ClipLoss

    model, loss = encoder.clip.train(), ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.1)
    size = encoder.image_size
    images = torch.randn(settings.batch, 3, size, size, device=settings.device)
    texts = runner.full_context(encoder, runner.captions(encoder, settings.batch)).to(settings.device)

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        with settings.autocast():
            image, text, scale, *_ = model(images, texts)
            total = loss(image, text, scale)
        total.backward()
        optimizer.step()

    return once


def parts(place: Place, backbone: str, batch: int) -> dict[str, Any]:
    """The teacher's update and the zero-shot head against the authors' ways, as the speed scripts measure them."""
    settings = place.settings(backbone, batch)
    first = len(runner.TOLD)
    with contextlib.redirect_stdout(io.StringIO()):
        teacher_update.measure(settings)
        _empty(place)
        head.measure(replace(settings, repeats=1))
    numbers: dict[str, Any] = {}
    for title, ratio, goal, details in runner.TOLD[first:]:
        numbers[title] = {"ratio": ratio, **({"goal": goal.removeprefix("goal ")} if goal else {}), "details": details}
    return numbers


def evaluation(place: Place, backbone: str, batch: int) -> dict[str, Any]:
    """Evaluating JPEGs from the disk, loaders' start included, against classifying images on the device, in float32."""
    settings = replace(place.settings(backbone, batch), precision="fp32", repeats=1)
    encoder = settings.encoder()
    classifier, makers = path.line(encoder)
    count, side = 8 * settings.batch, encoder.image_size
    data = ImageSet("pictures", jpegs(place.folder / "pictures", count), np.zeros(count), side)
    images = torch.zeros(settings.batch, 3, side, side, dtype=torch.uint8, device=place.device)
    workers = 0 if place.small else environment.cores()
    alternatives = {
        "disk": lambda: predict(makers[:1], data, device=place.device, workers=workers),
        "device": lambda: path.classify(classifier, images, count // settings.batch),
    }
    timings = runner.take_turns(alternatives, settings)
    rates = {f"images_per_second_{name}": count / timings.median(name) for name in alternatives}
    return rates | {"disk_over_device": timings.ratio("disk", "device")}


def compiled(place: Place, backbone: str, batch: int) -> dict[str, Any]:
    """What torch.compile of both towers would give FLYP's step, and how long the first step waits for it."""
    known = place.found.get(f"step of {backbone}")
    if known is None:
        raise NotRun("the step that it is compared with was not measured")
    settings = place.settings(backbone, batch)
    student = TwoTower(settings.encoder())
    student.compile(backend="eager" if place.small else "inductor")
    once = step.stepper("flyp", student, settings)
    began = time.perf_counter()
    once()
    runner.wait(place.device)
    first = time.perf_counter() - began
    seconds = runner.take_turns({"step": once}, settings).median("step")
    return {
        "first_step_seconds": first,
        "milliseconds": 1000 * seconds,
        "images_per_second": settings.batch / seconds,
        "eager_over_compiled": known["flyp"]["milliseconds"] / (1000 * seconds),
    }


def _empty(place: Place) -> None:
    gc.collect()
    if place.gpu:
        torch.cuda.empty_cache()


# one after the other


@dataclass(frozen=True)
class Entry:
    """A check and the seconds that must be left for it to be begun."""

    name: str
    check: Check
    budget: float

    @property
    def proves(self) -> str:
        """The first sentence of its function's docstring."""
        function = self.check.func if isinstance(self.check, partial) else self.check
        return (function.__doc__ or "").partition("\n")[0]


CHECKS = (
    Entry("losses", losses, 20),
    Entry("micro-batches", micro_batches, 10),
    Entry("bfloat16", bfloat16, 10),
    Entry("processes", processes, 25),
    Entry("resume", resume, 25),
    Entry("sweep", sweep, 90),
    Entry("jobs", shared, 1),
    Entry("loader", loader, 30),
    *(
        Entry(f"{what} of {backbone}", partial(check, backbone=backbone, batch=batch), budget)
        for (backbone, batch), budgets in zip(SPEED, ((30, 30, 15, 35), (35, 35, 30, 55)), strict=True)
        for (what, check), budget in zip(
            (("step", steps), ("parts", parts), ("evaluation", evaluation), ("compile", compiled)), budgets, strict=True
        )
    ),
)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Over inside after so many seconds; a call that never comes back to Python is not ended."""

    def over(*_: Any) -> None:
        raise Over(f"it had not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(entry: Entry, place: Place, left: float) -> dict[str, Any]:
    """The result of one check: name, proves, state, numbers, seconds, and a reason where it did not pass.

    One that takes HANGS times its budget has failed. One that the end of all time cuts off before is not run.
    """
    result: dict[str, Any] = {"name": entry.name, "proves": entry.proves, "state": "passed", "numbers": {}}
    began, limit = time.monotonic(), left if place.small else min(left, HANGS * entry.budget)
    if entry.budget > left:
        reason = f"it may take {entry.budget:.0f} s, and {max(left, 0):.0f} s were left"
        return result | {"state": "not run", "seconds": 0.0, "reason": reason}
    try:
        with at_most(limit):
            result["numbers"] = place.found[entry.name] = entry.check(place)
    except NotRun as error:
        result |= {"state": "not run", "reason": str(error)}
    except Over as error:
        result |= {"state": "failed" if limit < left else "not run", "reason": str(error)}
    except Failed as error:
        result |= {"state": "failed", "reason": str(error), "numbers": error.numbers}
    except Exception as error:  # whatever it is, the others are made
        result |= {"state": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    return result | {"seconds": time.monotonic() - began}


def carry_out(
    entries: Iterable[Entry], place: Place, seconds: float, keep: Callable[[list[dict[str, Any]]], None]
) -> list[dict[str, Any]]:
    """The results of all checks; `keep` is called with those so far after each."""
    began, results = time.monotonic(), []
    for entry in entries:
        results.append(attempt(entry, place, seconds - (time.monotonic() - began)))
        print(line(results[-1]), flush=True)
        _empty(place)
        keep(results)
    return results


def machine(device: str) -> dict[str, Any]:
    """GPUs, driver, packages and commit: what the numbers belong to."""
    about = {**environment.describe(), "cores": environment.cores(), "cuda": torch.version.cuda, "gpus": []}
    if device != "cpu":
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        about["gpus"] = [{"name": each.name, "gigabytes": round(each.total_memory / 1e9, 1)} for each in found]
        about["driver"] = _driver()
    return about


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def line(result: Mapping[str, Any]) -> str:
    """A result for a person: its state, what it proves, why it did not pass, and its numbers."""
    lines = [f"{result['state']:<8} {result['name']} ({result['seconds']:.0f} s): {result['proves']}"]
    lines += [f"         {result['reason']}"] if "reason" in result else []
    lines += [f"         {key}: {shown(value)}" for key, value in result["numbers"].items()]
    return "\n".join(lines)


def counted(results: Iterable[Mapping[str, Any]]) -> str:
    """How many passed, failed and were not run."""
    states = [result["state"] for result in results]
    return ", ".join(f"{states.count(state)} {state}" for state in ("passed", "failed", "not run"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path), default=Path("gpu.json"), show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0), default=8, show_default=True, help="At most.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="Few steps and tiny towers: a rehearsal of the script itself.")
def main(out: Path, minutes: float, device: str, small: bool) -> None:
    """Prove on a GPU what is claimed of GPUs, and measure how fast it is there; docs/speed.md shows the file."""
    if device == "cuda" and not torch.cuda.is_available():
        click.echo("no GPU: torch sees none here; run this on a machine that has one.", err=True)
        raise SystemExit(2)
    began = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    about = {"schema": SCHEMA, "began": began, "device": device, "small": small, "machine": machine(device)}

    def keep(results: list[dict[str, Any]]) -> None:
        out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        results = carry_out(CHECKS, Place(device, small, Path(folder)), 60 * minutes, keep)
    print(f"{counted(results)}; wrote {out}")
    raise SystemExit(any(result["state"] == "failed" for result in results))


if __name__ == "__main__":
    main()
