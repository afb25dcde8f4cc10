"""What a method is, and what it is given. A method file fills in `Method`; the trainer runs it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import pydantic
from torch import Tensor, nn
from torch.optim import Optimizer

from ..backbones import DualEncoder
from ..backbones.traits import Traits
from ..backbones.zero_shot import build_head
from .optimizers import adamw
from .predictor import Predictor
from .teachers import StaticTeacher

if TYPE_CHECKING:
    from ..datasets.card import Dataset
    from ..datasets.loaders import Batch

LossTerms = dict[str, Tensor]
"""Named scalar terms; the trainer differentiates their sum and logs each."""

T = TypeVar("T")
Student = TypeVar("Student")
"""The module that a method trains; None for one that trains nothing."""
Outputs = TypeVar("Outputs")
"""What the student returns for a batch: `Embeddings` for two towers, (B, C) logits for a classifier; None as above."""


class HyperError(ValueError):
    """A hyperparameter that does not exist or whose value is out of range; one sentence."""


def hyperparameters(cls: type[T]) -> type[T]:
    """Class decorator for a method's `Hyper`: a frozen, keyword-only, validated dataclass.

    Ranges are `Annotated[float, Field(ge=0)]`; the docstring under each field says unit, range and source,
    and is kept as the field's description. Unknown names, NaN and infinity are refused.
    """
    config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    for base in made.__mro__[1:]:  # pydantic forgets the docstrings of inherited fields
        for name, inherited in getattr(base, "__pydantic_fields__", {}).items():
            made.__pydantic_fields__[name].description = (
                made.__pydantic_fields__[name].description or inherited.description
            )
    return made


@hyperparameters
class NoHyper:
    """No hyperparameters of its own."""


@dataclass(frozen=True)
class Task:
    """What is learned."""

    class_names: Sequence[str]
    """C names."""
    prompts: Sequence[str]
    """P templates with one "{}": captions of the training images and of every head."""
    caption_tokens: Tensor
    """(C, P, L) int64: token ids of each class in each template."""
    dataset: "Dataset"
    trainable: Literal["all", "image"] = "all"
    """"image": two-tower methods keep the text tower and logit_scale as pretrained."""
    cuts_text: bool = True
    """Whether captions may be cut after their end token (`DualEncoder.cuts_text`)."""


@dataclass(frozen=True)
class Settings:
    """How it is trained; the same fields for every method."""

    total_steps: int
    """Optimizer updates, >= 1."""
    batch_size: int
    """Images a step, >= 2."""
    lr: float
    """Peak learning rate of AdamW."""
    weight_decay: float
    """AdamW's, on every trained tensor: biases, norms, embeddings and logit_scale too (as released)."""
    warmup_steps: int
    """Steps of linear warm-up, below total_steps."""
    min_lr: float = 0.0
    """Rate at the end, added to the cosine."""
    clip_norm: float = 0.0
    """Limit of the global gradient norm, after unscaling; 0 is none."""
    clip_norm_end: float | None = None
    """If given, the limit rises to this along half a cosine (only TRACER's FLYP script does that)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward passes under autocast; weights, losses and optimizer stay float32."""
    bn: Literal["frozen", "released"] = "frozen"
    """BatchNorm in training. frozen: pretrained statistics in student and teacher. released: statistics of the
    batch, and a teacher that keeps its own, as in the code of CaRot and TRACER."""
    micro_batch: int | None = None
    """Images a forward pass, at most; None is the whole batch. Loss and gradients stay those of the whole batch
    up to the order of float sums."""
    checkpoint_activations: bool = False
    """Keeps of each block its input alone and computes it again on the way back: less memory, the same bits."""
    unique_captions: bool = False
    """A caption that stands several times in a batch goes through the text tower once. Embeddings and gradients stay
    those of the whole batch up to the order of float sums."""
    seed: int = 0
    device: str = "cpu"
    log_every: int = 25
    """Steps between rows of the curves; the host waits for the device only then."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            last = self.total_steps - 1
            raise ValueError(f"warmup_steps: must be in 0..{last}, below the steps, got {self.warmup_steps}.")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: must be >= 2 for a contrastive loss, got {self.batch_size}.")


HeadBuilder = Callable[[DualEncoder, Sequence[str], Sequence[str], Callable[[], None], bool], Tensor]
"""`build_head` of encoder, names and prompts. Last come what is called between text passes, as `Context.check_stop`,
and whether the text tower is this run's own, trained one, whose head no other run can ask for."""


def build_anew(
    encoder: DualEncoder,
    class_names: Sequence[str],
    prompts: Sequence[str],
    check_stop: Callable[[], None],
    trained: bool,
) -> Tensor:
    """The `HeadBuilder` that keeps nothing."""
    return build_head(encoder, class_names, prompts, between=lambda *_: check_stop())


@dataclass(frozen=True)
class Validation:
    """`Context.validate` that reads the images once where several predictors are asked about."""

    each: Callable[[Sequence[Callable[[], Predictor]]], list[float]]
    """The loss of what each of them gives, which the next one may overwrite."""

    def __call__(self, predictor: Predictor) -> float:
        """The loss of one."""
        return self.each([lambda: predictor])[0]


@dataclass(frozen=True)
class Context:
    """What a method may use to make its student, to prepare it and to finish."""

    encoder: DualEncoder
    """The pretrained backbone. The run owns it: a student trains its towers in place."""
    task: Task
    settings: Settings
    validate: Callable[[Predictor], float]
    """ID-validation negative log-likelihood of a predictor, in nats; smaller is better. Of a method that `chooses`."""
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Finished runs by method: {"ft": {"tensors": ..., "meta": ...}}; of a method that reads several seeds by
    method and seed: {"ft:0": ..., "ft:1": ...}."""
    check_stop: Callable[[], None] = lambda: None
    """To be called now and then by long preparations; raises Interrupted when the process should stop."""
    head_builder: HeadBuilder = build_anew

    def validate_each(self, makers: Sequence[Callable[[], Predictor]]) -> list[float]:
        """`validate` of several predictors, each given by a call and free to be overwritten by the next one.

        They take turns at a few batches, so that a picture is read once and not once for each of them.
        """
        if isinstance(self.validate, Validation):
            return self.validate.each(makers)
        return [self.validate(make()) for make in makers]

    def head(
        self, encoder: DualEncoder, class_names: Sequence[str], prompts: Sequence[str], trained: bool = False
    ) -> Tensor:
        """(C, D) zero-shot head that the encoder's current text tower makes of names and prompts (`build_head`).

        Args:
            trained: the text tower is no longer the pretrained one; its head is not kept for other runs.
        """
        return self.head_builder(encoder, class_names, prompts, self.check_stop, trained)


class Start(NamedTuple):
    """The trained parameters and their values before the first step, in the same order."""

    parameters: list[nn.Parameter]
    values: list[Tensor]


class Method(Generic[Student, Outputs]):
    """One way to finetune. Subclasses set `Hyper`, `student` and `loss`; the other hooks have defaults.

    `Method[ImageStudent, Tensor]` trains an `ImageStudent` that returns a tensor; `Method[None, None]` trains nothing.

    Args:
        hyper: an instance of the class's `Hyper`; defaults if None.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised by every commit that changes the method's numbers."""
    Hyper: ClassVar[type] = NoHyper
    trained: ClassVar[bool] = True
    """False: `fit` takes no optimizer step and goes straight to `finish`."""
    seeded: ClassVar[bool] = False
    """Whether a run depends on its seed although nothing is trained: `finish` draws, or sees augmented images."""
    needs_text: ClassVar[bool] = True
    """Whether the backbone must have a text tower."""
    anchored: ClassVar[bool] = False
    """Whether `penalty`, `before_step` or `after_step` read the starting values, so that the trainer keeps a copy."""
    views: ClassVar[int] = 1
    """Pictures of each sample in a batch: `Batch.images`, and further draws in `Batch.other_views`."""
    strength: ClassVar[str | None] = None
    """The one hyperparameter beside the learning rate that tuning may move."""
    distils_by: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of hyperparameters. Where all of a group are 0, nothing is distilled and plain FLYP is left, which a plan
    refuses unless a person gave one of them."""
    introduced: ClassVar[Mapping[str, Any]] = {}
    """Hyperparameters that came after the first runs, with the value that means "as before": left out of the
    run id while they have it, so that they rename no finished run."""
    path: ClassVar[str | None] = None
    """The hyperparameter along which `line` runs, where a method has a path (WiSE-FT: alpha)."""
    evaluates: ClassVar[Literal["student", "teacher"]] = "student"
    """Whose weights `finish` is given at the end."""
    conservative: ClassVar[Literal["larger", "smaller"]] = "larger"
    """Which direction of `strength` stays closer to the pretrained model."""
    instead: ClassVar[str] = ""
    """What to set where there is no ID validation, for a method that can choose by it."""

    def __init__(self, hyper: Any = None):
        self.hyper = self.Hyper() if hyper is None else hyper

    @classmethod
    def configure(cls, values: Mapping[str, Any]) -> Any:
        """`Hyper` from names and values.

        Raises:
            HyperError: one sentence with method, key, value and remedy.
        """
        known = [field.name for field in dataclasses.fields(cls.Hyper)]
        for key in values:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise HyperError(f"{cls.name}: no hyperparameter {key!r}{hint} Known: {', '.join(known) or 'none'}.")
        try:
            return cls.Hyper(**values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            if not key:  # a rule about two fields names them itself
                raise HyperError(f"{cls.name}.{message}") from None
            message = message[:1].lower() + message[1:]
            raise HyperError(f"{cls.name}.{key}: {message}, got {first['input']!r}.") from None

    @classmethod
    def inputs(cls, hyper: Any) -> tuple[str, ...]:
        """Methods whose finished runs (same backbone and shared settings) this one reads."""
        return ()

    @classmethod
    def input_seeds(cls, hyper: Any, seed: int) -> tuple[int, ...]:
        """Seeds of the runs that it reads of each input: its own; a soup reads several.

        A method that reads more than one seed runs once for each backbone, under the first seed asked for; so does
        one in which nothing is random.
        """
        return (seed,)

    @classmethod
    def chooses(cls, hyper: Any) -> bool:
        """Whether it calls `Context.validate` or `validate_each`, and so needs data with an ID validation set."""
        return False

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """Why it cannot be meant on a backbone, one sentence without its full stop; "" where it can.

        Args:
            hyper: its hyperparameters.
            traits: of the backbone.
        """
        return ""

    @classmethod
    def pools(cls) -> bool:
        """Whether it reads runs of several seeds."""
        return len(cls.input_seeds(cls.Hyper(), 0)) > 1

    def at_step(self, step: int, settings: Settings) -> None:
        """Called before each step, from 0: what changes with the step alone (Lipsum-FT's texts)."""

    def student(self, context: Context) -> Student:
        """The module to train: `forward(batch)` gives what `loss` reads. Parameters without requires_grad
        stay."""
        raise NotImplementedError

    def prepare(self, student: Student, context: Context) -> dict[str, Any]:
        """A stage before the first step (LP-FT's probe), in place; returns small values for the record.

        Must be a function of its arguments alone. A run that resumes from a checkpoint skips it.
        """
        return {}

    def teacher(self, student: Student, settings: Settings) -> StaticTeacher | None:
        """The teacher at the start, made after `prepare`."""
        return None

    def teaches(self, step: int) -> bool:
        """Whether the teacher's outputs are needed at this step, from 0; `loss` gets None where not."""
        return True

    def loss(self, student: Outputs, teacher: Outputs | None, batch: "Batch") -> LossTerms:
        """Weighted terms from the outputs of student and teacher on one batch; never from parameters."""
        raise NotImplementedError

    def penalty(self, student: Student, start: Start) -> LossTerms:
        """Weighted terms from parameters, added once a step whatever the number of micro-batches or devices.

        `start.values` is empty unless `anchored`.
        """
        return {}

    def optimizer(self, student: Student, settings: Settings) -> Optimizer:
        """What moves the weights: every trained parameter of the student in one of its groups.

        Each group's rate is its rate at the peak: the schedule of `settings` multiplies it. Steps are taken without a
        closure. Its state, tensors and numbers, is in the checkpoints.
        """
        assert isinstance(student, nn.Module)
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        return adamw(trained, settings.lr, settings.weight_decay)

    def before_step(self, student: Student, start: Start, step: int) -> None:
        """Called without autograd between the gradients of step `step` (from 0) and the optimizer: changes `grad` in
        place.

        The gradients are the loss's own, of the whole batch. Clipping comes after it: what a method asks of a gradient
        (its sign or its angle to the way from the start) is asked of the loss, and whatever it makes of it, the
        optimizer is given no more than `clip_norm`. `start.values` is empty unless `anchored`.
        """

    def after_step(self, student: Student, start: Start, step: int) -> None:
        """Called without autograd after optimizer step `step` (from 0), before the teacher moves: a constraint on the
        weights, in place. `start.values` is empty unless `anchored`."""

    def state(self) -> Mapping[str, Tensor | float]:
        """What the method itself must remember from one step to the next, `prepare` included: tensors and numbers by
        name, kept in the checkpoints."""
        return {}

    def load_state(self, state: Mapping[str, Tensor | float]) -> None:
        """Takes back what `state` gave, before the next step; tensors come on the run's device."""

    def finish(self, student: Student, context: Context) -> Predictor:
        """What is evaluated: a `Classifier`, or another kind of predictor."""
        raise NotImplementedError

    def line(self, context: Context) -> "Line":
        """Where `path` is set: the classifiers along it, both ends included."""
        raise NotImplementedError


class Line(NamedTuple):
    """The classifiers along a method's path, one at a time: a line of eleven holds three models, not eleven."""

    values: tuple[float, ...]
    """Of the hyperparameter, rising."""
    at: Callable[[float], Predictor]
    """The predictor at a value. All values share one, which the next call overwrites."""
