"""One run, from its spec to its record. Killed anywhere, the next attempt goes on and ends in the same bits.

The order on disk is what makes that so: curves and the trainer's numbers, then the final weights, then
predictions, then the record, which alone means done. Evaluation always reads the weights back from their
file, so that a run that was cut between training and evaluation does exactly what an undisturbed one does.
"""

import datetime
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from ... import backbones
from ...backbones import DualEncoder
from ...backbones.zero_shot import tokens_of
from ...datasets import catalogue
from ...datasets.contents import readable
from ...datasets.staging import Stage, StageError
from ...methods.base import Context, Method, Validation
from ...methods.given import CHECKPOINT
from ...methods.predictor import restore
from ...methods.training.checkpoints import Checkpoints
from ...methods.training.parallel import World
from ...methods.training.trainer import Fitted, Settings, Task, fit
from ...methods.two_tower import TwoTowerMethod
from ...methods.zero_shot import ZeroShot
from ...results.board.chance import CLASSES
from ...results.records.records import SCHEMA, publish_record, summarise, write_atomic, write_json_atomic
from ..errors import UserError
from ..host import environment, plugins
from ..host.plugin_files import Named
from ..host.printed import counted
from ..planning import captions, data_check
from ..planning.benchmark import code_of, method_of
from ..run_folder.folder import RunFolder
from ..run_folder.lease import Lease
from ..run_folder.plan import Plan
from ..run_folder.spec import GIVEN, RunSpec
from . import kept_heads, whereabouts
from .evaluate_retention import measure_retention
from .evaluate_run import measure
from .final_weights import load_input, load_text, load_weights, save_weights, stored_tensors
from .predict import Maker, Stopped, validation_nlls
from .process_group import Team, batch_text
from .wandb_tracking import Tracker, following


@dataclass(frozen=True)
class Options:
    """What changes how a run is carried out, never what it is."""

    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    micro_batch: int | None = None
    """Images a forward pass of the training, at most; None is the whole batch. Only the order of float sums changes."""
    team: Team | None = None
    """The processes that share the training of each run; None is this one alone."""
    workers: int | None = None
    """Processes that load images ahead, in training and evaluation; 0 loads in this one. None: `data_check.loaders`."""
    checkpoint_activations: bool = False
    """The training keeps of each block its input alone and computes it again on the way back: less memory, the same
    bits."""
    stage: Stage | None = None
    """Where images are copied to and read from, on this machine's own disk; None reads them where they are."""


class Attempt:
    """One process's work on one run, under a lease; without one, its part in a training that another process leads."""

    def __init__(
        self, folder: RunFolder, lease: Lease | None, plan: Plan, options: Options, should_stop: Callable[[], bool]
    ) -> None:
        self.folder, self.lease, self.plan, self.spec = folder, lease, plan, plan.spec
        self.options, self.should_stop = options, should_stop
        self.started = time.monotonic()
        state, now = folder.read_state(), environment.describe()
        self.spent = float(state.get("wall_seconds", 0.0))
        code = now["commit"] or now["code_hash"]  # a wheel has no commit
        self.code = sorted({*state.get("code", []), f"{code}{'+' if now['dirty'] else ''}"})
        """Every commit that worked on this run, "+" after one with uncommitted changes."""
        self.processors = state.get("processors", [])
        """Every kind of processor that worked on this run: on one kind alone it has the bits of an undisturbed run."""
        self.last_written = 0.0
        self.step = self.start_step = self._start_step()
        self.restarts = 0 if self.start_step > state.get("start_step", -1) else state.get("restarts", 0) + 1
        """Consecutive restarts that made no new checkpoint."""
        where = {"job": environment.job(), "snapshot": environment.snapshot()}
        self.where = {key: value for key, value in where.items() if value is not None}
        self.guard: Callable[[], None] = lease.check if lease is not None else lambda: None
        self.train_images: dict[str, int] = {}
        self.tracker = Tracker()
        self.workers = data_check.loaders(plan) if options.workers is None else options.workers

    def carry_out(self) -> None:
        """Train unless the final weights are there, evaluate, publish the record.

        Raises:
            UserError: the plan does not fit the installed code or data, or an input is missing.
            trainer.Interrupted, evaluate.Stopped: asked to stop; all that is needed to go on is on disk.
            LeaseLost: another process has taken over.
        """
        with following(self.folder.path, self.spec) as self.tracker:
            self._carry_out()

    def _carry_out(self) -> None:
        dataset = self._data()
        self.tell("running", force=True)
        if self.options.team is not None and self.options.stage is not None:
            self.options.team.call("stage", self.folder.path)
        self._stage(dataset)
        encoder = self._encoder()
        about = self._finished_training()
        if about is None:
            self._train(dataset, encoder)
            encoder = self._encoder()
            about = self._finished_training()
        if about is None:
            raise UserError(f"{self.folder.weights}: could not be read back after writing; check the disk, run again.")
        if self.options.team is not None:
            self.options.team.call("measure", self.folder.path)
        found = self._measure(dataset, encoder, about)
        self._check_data_still([self.folder.predictions])
        record = self._record(found, about)
        publish_record(self.folder.path, record, guard=self.guard)
        self.tracker.record(record)

    def follow(self, part: str) -> None:
        """This process's share of the training ("train") or the evaluation; the leading process writes the results.

        Before them ("stage") it sees to it that its node has copies of the images.
        """
        dataset = self._data()
        if part == "stage":
            self._stage(dataset)
            return
        encoder = self._encoder()
        if part == "train":
            self._fit(dataset, encoder)
        else:
            self._measure(dataset, encoder, load_weights(self.folder)[1])

    def _encoder(self) -> DualEncoder:
        """The pretrained backbone; of a checkpoint that was given, its architecture alone."""
        make = backbones.empty if self.spec.given else backbones.load
        return make(self.spec.backbone, device=self.options.device)

    def _measure(self, dataset: Any, encoder: Any, about: dict[str, Any]) -> dict[str, Any]:
        how: dict[str, Any] = {
            "device": self.options.device,
            "should_stop": self.should_stop,
            "guard": self.guard,
            "after_set": lambda: self.tell("running"),
            "workers": self.workers,
        }
        predictors = self._predictors(dataset, encoder, about["classifier"])
        found = measure(self.plan, self.folder, dataset, *predictors, **how)
        text = load_text(self.folder, about)
        if dataset.retention and self.spec.kind == "run" and builds_head(make_method(self.spec), bool(text)):
            if text:  # the image tower of the encoder is the classifier's already
                encoder.load_text_state(text)
            found["retention"] = measure_retention(self.plan, self.folder, dataset, encoder, bool(text), **how)
        return found

    def _data(self) -> Any:
        """What the run sees, checked against the plan."""
        torch.set_num_threads(self.spec.threads)
        self.processors = sorted({*self.processors, environment.processor(self.options.device)})
        environment.start_peak_memory(self.options.device)
        whole = self._whole()
        trains = make_method(self.spec).trained
        self.left_out = data_check.check(whole, self.spec, trains)
        self.train_images = data_check.training_images(whole) if trains else {}
        self._check_fit(whole)
        self.same_captions = captions.check(whole, self.plan.dataset, self.spec.backbone)
        if self.same_captions and self.lease is not None:
            print(f"{self.same_captions}.", flush=True)
        self.about_data = data_check.about(whole, self.folder.path.parents[2]) if self.lease is not None else {}
        return data_check.part(whole, self.spec)

    def _stage(self, dataset: Any) -> None:
        """Has the run's images read from this machine's own disk, if it was asked for and can be."""
        stage, team = self.options.stage, self.options.team
        if stage is None or catalogue.comes_with_package(self.plan.dataset):
            return

        def check_stop() -> None:
            self.tell("running")
            if self.should_stop():
                raise Stopped

        def say(text: str) -> None:
            print(f"stage: {text}", flush=True)

        try:
            trains = make_method(self.spec).trained and not self.folder.weights.exists()
            files = data_check.files_read(dataset, self.spec, trains)
            found = stage.bring(files, check_stop, say)
            if not found.files:
                say(f"{self.plan.dataset} is not read from image files; it is read where it is")
            else:
                copied = f"{counted(found.copied, 'file')} copied, {readable(found.copied_bytes)}"
                say(f"{counted(found.files, 'file')} read from {stage.place}; {copied}")
        except StageError as error:
            say(f"{error} The images are read where they are: that takes longer and changes no number.")
        finally:
            if team is not None:
                team.meet()

    def _whole(self) -> Any:
        return whereabouts.find(self.plan, self.folder)

    def _check_data_still(self, made: list[Path]) -> None:
        """UserError where one's own data are no longer those that the run began with; what was made of them goes."""
        if not catalogue.has_own(self.plan.dataset):
            return
        now = data_check.fingerprint(self._whole(), self.spec.allow_partial)
        if now == self.spec.fingerprint:
            return
        self.guard()
        for path in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise UserError(
            f"fingerprint: the data changed while the run was made, from {self.spec.fingerprint} to {now}; start the "
            "command again to plan anew."
        )

    def tell(self, state: str, force: bool = False, **more: Any) -> None:
        """Write the state, at most once a second unless forced."""
        now = time.monotonic()
        if self.lease is None:
            return
        if not force and now - self.last_written < 1.0:
            return
        self.last_written = now
        holder = self.lease.holder
        self.folder.write_state(
            guard=self.lease.check,
            state=state,
            step=self.step,
            total=self.spec.steps or 0,
            start_step=self.start_step,
            restarts=self.restarts,
            host=holder.process.host,
            pid=holder.process.pid,
            fence=holder.fence,
            wall_seconds=self.wall_seconds(),
            code=self.code,
            processors=self.processors,
            **self.where,
            **more,
        )

    def wall_seconds(self) -> float:
        """Time that all attempts at this run have taken."""
        return self.spent + time.monotonic() - self.started

    def _start_step(self) -> int:
        """The step that this attempt goes on from."""
        if self.folder.weights.exists():
            return self.spec.steps or 0
        return max(Checkpoints(self.folder.checkpoints, every_seconds=0).steps(), default=0)

    def _check_fit(self, whole: Any) -> None:
        """The plan was made from the code and data that are installed now."""
        spec = self.spec
        found = {
            "method_version": (spec.method_version, method_of(spec).version),
            "plugins": (spec.plugins, plugins.versions(spec.method, self.plan.dataset, spec.backbone)),
            "method_code": (spec.method_code, code_of(method_of(spec))),
            "weights": (spec.weights, GIVEN if spec.given else backbones.weights_id(spec.backbone)),
            "fingerprint": (spec.fingerprint, data_check.fingerprint(whole, spec.allow_partial)),
        }
        for key, (planned, now) in found.items():
            if planned != now:
                changed = {
                    "fingerprint": "the data",
                    "weights": f"the backbone {spec.backbone}",
                    "method_code": f"the definition of {spec.method}",
                }
                why = f"; {changed[key]} changed since" if key in changed else ""
                raise UserError(
                    f"{key}: must be {planned} as planned, got {now}{why}; start the command again to plan anew."
                )

    def _counted(self) -> list[Named]:
        """The plug-ins of the plan that its id counts."""
        counted = {entry.partition(":")[2] for entry in self.spec.plugins}
        return [named for named in self.plan.plugins if named.sha256 in counted]

    def _fit(self, dataset: Any, encoder: Any) -> Fitted:
        validation = data_check.validation(dataset)
        context = self._context(dataset, encoder, validation)
        checkpoints = Checkpoints(
            self.folder.checkpoints, every_seconds=self.options.checkpoint_seconds, guard=self.guard
        )

        def on_step(step: int, total: int) -> None:
            self.step = step
            self.tell("running", save_seconds=checkpoints.took)

        return fit(
            make_method(self.spec),
            encoder,
            context.task,
            context.settings,
            checkpoints=checkpoints,
            validate=context.validate,
            inputs=context.inputs,
            on_step=on_step,
            on_row=self.tracker.row,
            should_stop=self.should_stop,
            probe=validation if self.spec.kind == "run" else None,
            workers=self.workers,
            head_builder=kept_heads.head,
        )

    def _train(self, dataset: Any, encoder: Any) -> None:
        team = self.options.team
        if team is not None:
            if self.spec.batch_size is not None:
                print(batch_text(self.spec.batch_size, team.size, self.options.micro_batch), flush=True)
            team.call("train", self.folder.path)
        fitted = self._fit(dataset, encoder)
        self._check_data_still([self.folder.checkpoints])
        weights = save_weights(fitted.classifier.tensors(), fitted.classifier.meta())
        # Of a trial nobody asks for it.
        text = save_weights(fitted.text, {"backbone": encoder.name}) if fitted.text and self.spec.kind == "run" else b""
        about = {
            "sha256": hashlib.sha256(weights).hexdigest(),
            **({"text_sha256": hashlib.sha256(text).hexdigest()} if text else {}),
            "classifier": fitted.classifier.meta(),
            "images_seen": fitted.images_seen,
            "train_seconds": fitted.train_seconds,
            "info": {**fitted.info, **({"weights_doubt": encoder.doubt} if encoder.doubt else {})},
            **({"dynamics": fitted.dynamics} if fitted.dynamics else {}),
        }
        guard = self.guard
        curves = pd.DataFrame(fitted.curves).to_parquet(index=False, compression="zstd")
        write_atomic(self.folder.curves, curves, guard)
        if text:
            write_atomic(self.folder.text_weights, text, guard)
        write_json_atomic(self.folder.fitted, about, guard=guard)
        write_atomic(self.folder.weights, weights, guard)

    def _finished_training(self) -> dict[str, Any] | None:
        """What the trainer said of the final weights; None where they are missing or damaged."""
        try:
            return load_weights(self.folder)[1]
        except UserError:
            return None

    def _context(self, dataset: Any, encoder: Any, validation: Any) -> Context:
        """What the trainer gives to the method, here also for the points of its path."""
        spec, device, world = self.spec, self.options.device, World()

        def check_stop() -> None:
            if world.largest(int(self.should_stop())):  # or one process would wait for another that has stopped
                raise Stopped

        return Context(
            encoder,
            make_task(dataset, encoder, spec.trainable),
            make_settings(spec, device, self.options.micro_batch, self.options.checkpoint_activations),
            Validation(partial(validation_nlls, data=validation, device=device, workers=self.workers)),
            {CHECKPOINT: self._given()} if spec.given else {n: load_input(self.folder, spec, n) for n in spec.inputs},
            check_stop,
            kept_heads.head,
        )

    def _given(self) -> dict[str, Any]:
        """What `methods.given` reads of the checkpoint of this run."""
        given = self.spec.given
        assert given is not None  # asked for by runs of a checkpoint alone
        path = whereabouts.given_file(self.spec, self.folder)
        found = backbones.read_checkpoint(path, self.spec.backbone, resample=given.resampled is not None)
        return {"tensors": found.tensors, "head": found.head, "bias": found.bias, "normalise": given.normalise}

    def _predictors(self, dataset: Any, encoder: Any, meta: dict[str, str]) -> tuple[Maker, dict[float, Maker]]:
        """The run's own predictor, and those along its method's path; all of a path in `encoder`, one at a time.

        Other methods have no path, and trials are not asked for it.
        """
        method, path = make_method(self.spec), self.folder.weights
        if method.path is None or self.spec.kind == "trial":
            predictor = restore(encoder, dict(stored_tensors(path)), meta).to(self.options.device)
            return lambda: predictor, {}
        torch.manual_seed(self.spec.seed)  # as `fit` does
        line = method.line(self._context(dataset, encoder, data_check.validation(dataset)))
        shared = line.at(line.values[0])
        return lambda: shared.overwrite(stored_tensors(path)), {value: partial(line.at, value) for value in line.values}

    def _record(self, found: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
        spec, device, classes = self.spec, self.options.device, found.pop("classes")
        seconds = about["train_seconds"]
        return {
            "schema": SCHEMA,
            "run_id": spec.run_id,
            "kind": spec.kind,
            "benchmark": spec.benchmark,
            "benchmark_version": spec.benchmark_version,
            "method": spec.method,
            "method_version": spec.method_version,
            "backbone": spec.backbone,
            "backbone_weights": spec.weights,
            "seed": spec.seed,
            "recipe": spec.recipe,
            "spec": spec.model_dump(mode="json"),
            "sources": self.plan.sources,
            "selection": self.plan.selection,
            "environment": {
                **environment.describe(),
                # A run that more than one state of the code worked on is nobody's clean commit.
                **({"dirty": True} if len(self.code) > 1 or self.code[0].endswith("+") else {}),
                "device": environment.device_name(device),
                "vectors": environment.vectors(),
                **({"processors": self.processors} if len(self.processors) > 1 else {}),
                "threads": torch.get_num_threads(),
                **({"processes": self.options.team.size} if self.options.team is not None else {}),
                **({"micro_batch": self.options.micro_batch} if self.options.micro_batch is not None else {}),
                **({"checkpoint_activations": True} if self.options.checkpoint_activations else {}),
            },
            "cost": {
                "wall_seconds": self.wall_seconds(),
                "train_seconds": seconds,
                "images_per_second": about["images_seen"] / seconds if seconds > 0 else 0.0,
                "peak_memory_bytes": environment.peak_memory_bytes(device),
                "images_seen": about["images_seen"],
                **self.train_images,
            },
            **found,
            "summary": summarise(found["sets"]),
            "info": {
                **about["info"],
                **({"dynamics": about["dynamics"]} if "dynamics" in about else {}),
                **({"same_captions": self.same_captions} if self.same_captions else {}),
                **({"sets_left_out": self.left_out} if self.left_out else {}),
                **({"preprocessing": made} if (made := backbones.unusual_preprocess(spec.backbone)) else {}),
                **self.about_data,
                **({"plugins": [named.name for named in self._counted()]} if spec.plugins else {}),
                CLASSES: classes,
                "weights_sha256": about["sha256"],
                "code": self.code,
            },
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }


def make_task(dataset: Any, encoder: Any, trainable: Literal["all", "image"]) -> Task:
    """What every method learns: the classes, their captions, and the images."""
    card = dataset.card
    tokens = tokens_of(encoder, card.class_names, card.prompts)
    return Task(card.class_names, card.prompts, tokens, dataset, trainable, encoder.cuts_text)


def make_method(spec: RunSpec) -> Method:
    """The method with the hyperparameters of a spec; those that the spec leaves out mean what they meant before."""
    method = method_of(spec)
    return method(method.Hyper(**{**method.introduced, **spec.hyper}))


def builds_head(method: Method, trained_text: bool) -> bool:
    """Whether a run's head is what its text tower builds of class names, so that it can be asked for other classes.

    Args:
        trained_text: whether it kept a text tower that it trained.
    """
    return trained_text or isinstance(method, (TwoTowerMethod, ZeroShot))


def make_settings(
    spec: RunSpec, device: str, micro_batch: int | None = None, checkpoint_activations: bool = False
) -> Settings:
    """The trainer's settings of a spec; a method without training gets neutral ones."""
    return Settings(
        total_steps=spec.steps or 1,
        batch_size=spec.batch_size or 2,
        lr=spec.lr or 0.0,
        weight_decay=spec.weight_decay or 0.0,
        warmup_steps=spec.warmup_steps or 0,
        min_lr=spec.min_lr or 0.0,
        clip_norm=spec.clip_norm or 0.0,
        precision=spec.precision or "fp32",
        bn=spec.bn,
        micro_batch=micro_batch,
        checkpoint_activations=checkpoint_activations,
        unique_captions=spec.unique_captions,
        seed=spec.seed,
        device=device,
    )
