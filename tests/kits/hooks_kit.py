"""Methods that are not in the package, one for each thing that a method may do beside its loss, and predictors."""

import contextlib
import copy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss

from robustft.methods import registry
from robustft.methods.classifier import Classifier
from robustft.methods.ft import FT, ImageStudent
from robustft.methods.optimizers import adamw
from robustft.methods.predictor import Predictor


class LayerWise(FT):
    """AdamW with a rate for each block that falls by 0.65 a layer from the head down, and no decay on norms and biases
    (as in BEiT and LP-FT's follow-ups)."""

    def groups(self, student, settings):
        found = {}
        for name, p in student.named_parameters():
            depth = 2 if name in ("classifier.weight", "classifier.bias") else 1 if "resblocks.1" in name else 0
            decays = p.ndim > 1
            found.setdefault((depth, decays), []).append(p)
        for (depth, decays), parameters in sorted(found.items()):
            decay = settings.weight_decay if decays else 0.0
            yield {"params": parameters, "lr": settings.lr * 0.65 ** (2 - depth), "weight_decay": decay}

    def optimizer(self, student, settings):
        return adamw(list(self.groups(student, settings)), settings.lr, settings.weight_decay)


class Momentum(FT):
    """Nesterov's momentum instead of AdamW, at ten times the rate."""

    def optimizer(self, student, settings):
        return torch.optim.SGD(student.parameters(), lr=10 * settings.lr, momentum=0.9, nesterov=True)


class Averaging(torch.optim.Optimizer):
    """Descent whose steps shrink, with every kind of state: numbers, float64 and integer tensors, and a number and a
    tensor of its group."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "taken": 0, "size": 0.0, "seen": None})
        self.param_groups[0]["seen"] = torch.zeros(1)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["taken"] += 1
            group["size"] += 1 / 3
            group["seen"] += 0.1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(count=0, share=1.0, flag=True, total=p.double(), signs=p.sign().long())
                state["count"] += 1
                state["share"] *= 0.9
                state["total"] += p.double() / 3
                state["signs"] += p.grad.sign().long()
                pull = 1e-3 * (p.double() - state["total"] / state["count"]).float() + 1e-4 * state["signs"]
                p.sub_(group["lr"] * state["share"] * (p.grad + pull) / (1 + group["size"] + group["seen"]))


class OwnOptimizer(FT):
    """An optimizer that torch does not have."""

    def optimizer(self, student, settings):
        return Averaging(student.parameters(), settings.lr)


class Projected(FT):
    """No step goes further from the start along the way that was come (a projection of gradients, as SPD and FTP look
    at its sign), and none beyond a ball around it whose radius grows (as in TPGM)."""

    anchored = True
    radius = 2e-4

    def before_step(self, student, start, step):
        for p, origin in zip(start.parameters, start.values, strict=True):
            way = p - origin
            length = way.square().sum()
            if length > 0 and (p.grad * way).sum() < 0:  # descent would go on the same way
                p.grad -= (p.grad * way).sum() / length * way

    def after_step(self, student, start, step):
        for p, origin in zip(start.parameters, start.values, strict=True):
            way = p - origin
            limit = self.radius * (step + 1) * p.numel() ** 0.5
            p.copy_(origin + way * (limit / way.norm().clamp(min=limit)))


class Remembering(FT):
    """Cross-entropy whose logits are shifted by their running mean (as in logit adjustment): what is remembered is in
    no weight."""

    momentum = 0.9

    def prepare(self, student, context):
        self.mean, self.count, self.scale = student.classifier.bias.detach() + 0.5, 0, 1.0
        return {}

    def loss(self, student, teacher, batch):
        self.mean = self.momentum * self.mean + (1 - self.momentum) * student.detach().mean(dim=0)
        self.count += 1
        self.scale *= 0.97
        return {"cross_entropy": self.scale * cross_entropy(student - self.mean / self.count, batch.labels)}

    def state(self):
        return {"mean": self.mean, "count": self.count, "scale": self.scale}

    def load_state(self, state):
        assert type(state["count"]) is int and type(state["scale"]) is float
        self.mean, self.count, self.scale = state["mean"], state["count"], state["scale"]


class Twice(NamedTuple):
    first: Tensor
    second: Tensor


class TwoImages(ImageStudent):
    """Logits of both pictures of a sample."""

    def forward(self, batch):
        (second,) = batch.other_views
        return Twice(self.classifier(batch.images), self.classifier(second))


class TwoViews(FT):
    """Both views of a sample are to get the same logits."""

    views = 2

    def student(self, context):
        return TwoImages(super().student(context).classifier)

    def loss(self, student, teacher, batch):
        consistency = mse_loss(student.first, student.second)
        return {"cross_entropy": cross_entropy(student.first, batch.labels), "consistency": 0.1 * consistency}


class Pair(Predictor, kind="test_pair"):
    """The mean probability of the finetuned and the pretrained classifier: two towers (an output ensemble)."""

    def __init__(self, encoder, first, second):
        super().__init__(encoder)
        self.first, self.second = first, second

    def forward(self, images):
        both = torch.stack([model(images).log_softmax(dim=1) for model in (self.first, self.second)])
        return both.logsumexp(dim=0)

    @classmethod
    def restore(cls, encoder, tensors, meta):
        head = tensors["first.weight"].to(encoder.logit_scale.device)
        first, second = (Classifier(copy.deepcopy(encoder), head) for _ in range(2))
        return cls(encoder, first, second).filled(tensors)


class Ensemble(FT):
    """Ends in a `Pair`."""

    def student(self, context):
        student = super().student(context)
        self.start = copy.deepcopy(student.classifier).requires_grad_(False)
        return student

    def finish(self, student, context):
        return Pair(context.encoder, student.classifier, self.start)


class HiddenLayer(Predictor, kind="test_hidden_layer"):
    """An image tower under a head that is not linear."""

    def __init__(self, encoder, classes, width=5):
        super().__init__(encoder)
        self.visual = encoder.visual
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Sequential(nn.Linear(encoder.embed_dim, width), nn.GELU(), nn.Linear(width, classes))
        self.head.to(encoder.logit_scale.device)

    def features(self, images):
        return self.visual(self._pixels(images)).float()

    def logits(self, features):
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)

    def meta(self):
        return super().meta() | {"classes": str(self.head[2].out_features)}

    @classmethod
    def restore(cls, encoder, tensors, meta):
        return cls(encoder, int(meta["classes"])).filled(tensors)


class Deep(FT):
    """Trains a `HiddenLayer`."""

    def student(self, context):
        return ImageStudent(HiddenLayer(context.encoder, len(context.task.class_names)))


class Centred(Classifier, kind="test_centred"):
    """Subtracts the mean feature of the whole set before the head, and adds noise of no consequence: an adaptation."""

    def adapt(self, features):
        noise = 1e-3 * torch.randn(features.shape[1], device=features.device)
        return linear(features - features.mean(dim=0) + noise, self.weight, self.bias)


class Adapting(FT):
    """Ends in a `Centred`."""

    def finish(self, student, context):
        own = student.classifier
        return Centred(context.encoder, own.weight, own.bias)


METHODS = {
    "layer_wise": LayerWise,
    "momentum": Momentum,
    "own_optimizer": OwnOptimizer,
    "projected": Projected,
    "remembering": Remembering,
    "two_views": TwoViews,
    "ensemble": Ensemble,
    "deep": Deep,
    "adapting": Adapting,
}


def register():
    """Makes them known, as a file of one's own does."""
    for name, method in METHODS.items():
        registry.register(name)(method)


def work_on(folder):
    """Makes a run with a checkpoint after every step, in a process that has imported this file."""
    from runs_kit import never

    from robustft.benchmarks.execution.run import Options
    from robustft.benchmarks.execution.worker import work

    register()
    print(work(Path(folder), Options(checkpoint_seconds=0), never))


@contextlib.contextmanager
def known():
    """They are known inside, and to no other test."""
    before = dict(registry._methods)
    register()
    try:
        yield
    finally:
        registry._methods.clear()
        registry._methods.update(before)
