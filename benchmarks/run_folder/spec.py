"""What one run is: every resolved value that its numbers depend on, and the id made from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ...results.records.run_id import canonical, folder_name, run_id

KERNELS = ("unique_captions",)
"""How a step is computed where that changes the order of float sums; false, and not written, unless somebody asks."""
# How a model is trained, the same names for every method; a method without any training has None in each.
TRAINING_FIELDS = (
    "steps",
    "batch_size",
    "lr",
    "weight_decay",
    "warmup_steps",
    "min_lr",
    "clip_norm",
    "precision",
    "bn",
    *KERNELS,
)
# Fields that `--set` can reach although they are no training field.
OTHER_FIELDS = ("threads", "trainable", "limit", "train_limit", "allow_partial", "decode", "shots")

LATER = ("given", "plugins", "method_code", "shots", *KERNELS)
"""Fields that few runs have, and that are written only there."""

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


GIVEN = "given"
"""What stands for the pretrained weights of a run that evaluates a checkpoint, and so reads none."""


class Given(BaseModel):
    """A checkpoint that somebody else trained, and how it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str
    """Of the file, 64 hexadecimal digits."""
    kind: Literal["clip", "tower"]
    """A whole CLIP under the head of its own text tower, or an image tower with its head."""
    normalise: bool = True
    """Whether a head that was given reads unit-length features."""
    resampled: str | None = None
    """The grids between which position embeddings were resampled: 14x14 to 7x7."""


class RunSpec(BaseModel):
    """One run, resolved: no paths, no device, no number of workers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    benchmark: str
    benchmark_version: str
    fingerprint: str
    """Content hash of the dataset's splits, renderings and prompts."""
    method: str
    method_version: int
    backbone: str
    weights: str
    """Identity of the pretrained weights: sha256 of the file, or a released tag."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    recipe: str
    steps: Positive | None = None
    """Optimiser updates."""
    batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images a step; a contrastive loss needs two."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: NonNegative | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    min_lr: NonNegative | None = None
    clip_norm: NonNegative | None = None
    """Largest gradient norm; 0 is no clipping."""
    precision: Literal["fp32", "bf16"] | None = None
    bn: Literal["frozen", "released"] = "frozen"
    """BatchNorm in training: pretrained statistics, or those of the batch as in the released code; also where
    nothing is trained or there is no such layer, so that it renames no run."""
    threads: Positive = 1
    """CPU threads; their number changes the last bits of the result."""
    trainable: Literal["all", "image"] = "all"
    hyper: dict[str, Any] = {}
    """The method's own hyperparameters, complete."""
    inputs: dict[str, str] = {}
    """Method -> run id of each finished run that this run reads (WiSE-FT: ft); of a method that reads several
    seeds "method:seed" (soups: ft:0, ft:1, ...)."""
    limit: Positive | None = None
    """At most this many examples of each evaluation set; None is all. A run with a limit is not ranked."""
    train_limit: Positive | None = None
    """At most this many images to train and to choose on, spread over the set; None is all. `--limit` sets both."""
    allow_partial: bool = False
    """Run although images or whole sets are missing on the disk. Such a run is not ranked."""
    decode: Literal["exact", "fast"] = "exact"
    """How pictures are made from image files (`datasets/decoding.py`): the pixels of Pillow and open_clip's transform,
    or faster ones that differ by a level here and there; also where nothing is read from files."""
    shots: Positive | None = None
    """So many training images of each class, drawn by the run's seed (`datasets/subset.py`), and no more of each class
    to choose on; None is all."""
    unique_captions: bool = False
    """A caption that stands several times in a batch goes through the text tower once."""
    given: Given | None = None
    """Of `robustft evaluate`: what is evaluated in place of a trained method. `method` is then its free name, and
    `seed` counts the checkpoints of that name."""
    kind: Literal["run", "trial"] = "run"
    """A trial is a run of the tuning: it sees the validation set only and never counts as a finished run."""
    plugins: list[str] = []
    """kind:sha256 of each plug-in that method, dataset or backbone come from, sorted; left out where there are none."""
    method_code: str | None = None
    """sha256 of a method that a notebook or script defines (`host/definition.py`); written only where there is one."""

    @model_serializer(mode="wrap")
    def _without_what_few_have(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without fields that came later where they say nothing, so that plans and records are as they were before."""
        fields: dict[str, Any] = write(self)
        return {key: value for key, value in fields.items() if key not in LATER or value}

    def canonical(self) -> str:
        """JSON with sorted keys and no spaces: the text that the run id hashes."""
        return canonical(self.model_dump(mode="json"))

    @property
    def run_id(self) -> str:
        """12 hexadecimal digits; equal exactly when every field that the science depends on is equal."""
        return run_id(self.model_dump(mode="json"))

    @property
    def folder_name(self) -> str:
        """What stands for the method in the path of the run folder."""
        return folder_name(self.method, {"given": self.given})

    @property
    def title(self) -> str:
        """What messages and logs call this run."""
        return f"{self.method} {self.backbone} seed {self.seed}" + (" (trial)" if self.kind == "trial" else "")
