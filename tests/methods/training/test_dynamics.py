"""Teacher dynamics: the gap is the one that is defined, and measuring it changes nothing of the run."""

import json
import math

import numpy as np
import pytest
import torch
from methods_kit import CLASSES, PROMPTS, batches, encoder, fit, images, run, settings, task, validation_nll
from repository import golden

from robustft.datasets.loaders import Batch
from robustft.methods import registry
from robustft.methods.distillation import Embeddings, contrastive_relational_distillation
from robustft.methods.ema import EMA
from robustft.methods.flyp import FLYP
from robustft.methods.flyp_wma import FLYPWMA
from robustft.methods.ft import FT
from robustft.methods.teachers import StaticTeacher
from robustft.methods.tracer import TRACER
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.dynamics import (
    NAMES,
    ROUNDING,
    Dynamics,
    compare,
    matching,
    measured_steps,
    probe_batches,
)
from robustft.methods.training.trainer import Interrupted, NonFinite
from robustft.methods.two_tower import DistillingMethod, TwoTower

pytestmark = pytest.mark.computes

NUMBERS = {"gap", "kl_teacher_student", "kl_start_student"} | {
    f"{who}_{what}" for who in ("teacher", "student") for what in ("entropy", "confidence")
}


class Probe:
    """21 images of three classes; no two classes in a fixed pattern with the templates."""

    def __init__(self, count=21):
        self.labels = (np.arange(count) * 2 + 1) % len(CLASSES)
        self._images = images(count)

    def __len__(self):
        return len(self.labels)

    def images(self, start, stop):
        torch.rand(3)  # data that uses the global generator must not move the run either
        return self._images[start:stop]


def watched(method, folder, kind="vit", probe=True, should_stop=lambda: False, every_steps=None, **changes):
    """`run` of the kit, with a probe."""
    model = encoder(kind)
    return fit(
        method,
        model,
        task(model),
        settings(**changes),
        checkpoints=Checkpoints(folder, 1e9, every_steps=every_steps),
        validate=validation_nll,
        should_stop=should_stop,
        probe=Probe() if probe else None,
    )


def rows_kl(p, q):
    """KL of each row by its definition, in NumPy."""
    return (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("case", golden("distillation_terms.json")["cases"], ids=lambda case: case["id"])
def test_the_statistics_of_the_released_code_are_these(case):
    """On features as given there; its logarithms of probabilities but the KL's first have 1e-8 in them, as here."""
    expected = case.get("reference_code_teacher_statistics")
    if expected is None:  # its statistics need five pairs
        assert case["N"] < 5
        return
    given = golden("distillation_terms.json")["inputs"][case["inputs"]]
    student, teacher = (
        Embeddings(
            *(torch.tensor(given[f"{who}_{what}"], dtype=torch.float64) for what in ("image", "text")),
            torch.tensor(case[f"{who}_logit_scale"], dtype=torch.float64),
        )
        for who in ("student", "teacher")
    )
    got = dict(zip(NAMES, compare([student], [teacher], [student]).tolist(), strict=True))
    p, log_p, q = matching(teacher).exp(), matching(teacher), matching(student).exp()
    released = {
        "teacher_student_kl_combined": (p * (log_p - (q + 1e-8).log())).sum(dim=-1).mean().item(),
        "teacher_avg_entropy_combined": -(p * (p + 1e-8).log()).sum(dim=-1).mean().item(),
    }
    for name, value in released.items():
        assert value == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
    assert got["teacher_entropy"] == pytest.approx(expected["teacher_avg_entropy_combined"], abs=1e-6)
    assert got["teacher_confidence"] == pytest.approx(expected["teacher_avg_confidence_combined"], rel=1e-9)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def embeddings(seed, count=5, scale=7.0):
    g = torch.Generator().manual_seed(seed)
    unit = lambda: torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1)  # noqa: E731
    return Embeddings(unit(), unit(), torch.tensor(scale))


def test_the_six_numbers_are_those_of_the_definition():
    """Two batches of unlike size, three models of unlike scale, against NumPy."""
    models = [[embeddings(s, 5, scale), embeddings(s + 10, 3, scale)] for s, scale in ((0, 7.0), (1, 9.0), (2, 4.0))]
    rows = []
    for student, teacher, start in zip(*models, strict=True):
        logits = [(e.logit_scale * e.image @ e.text.T).double().numpy() for e in (student, teacher, start)]
        for direction in (lambda x: x, lambda x: x.T):
            s, t, zero = (softmax(direction(x)) for x in logits)
            entropies = [-(p * np.log(p)).sum(axis=1) for p in (t, s)]
            rows.append(np.stack([rows_kl(t, s), rows_kl(zero, s), *entropies, t.max(axis=1), s.max(axis=1)], axis=1))
    assert compare(*models).tolist() == pytest.approx(np.concatenate(rows).mean(axis=0).tolist(), rel=1e-6)


def test_the_divergence_is_that_of_relational_distillation():
    student, teacher = embeddings(3), embeddings(4)
    expected = contrastive_relational_distillation(student, teacher, half=True).item()
    assert compare([student], [teacher], [student])[0].item() == pytest.approx(expected, rel=1e-6)


def test_uniform_and_certain_matching_by_hand():
    """Equal similarities: entropy log 4, confidence 1/4; orthonormal pairs at a large scale: 0 and 1."""
    flat = Embeddings(torch.ones(4, 1), torch.ones(4, 1), torch.tensor(3.0))
    sharp = Embeddings(torch.eye(4), torch.eye(4), torch.tensor(1000.0))
    values = compare([flat], [sharp], [flat]).tolist()
    assert values == pytest.approx([math.log(4), 0, 0, math.log(4), 1, 0.25], abs=1e-12)


@pytest.mark.parametrize(
    "total, steps", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (6, [2, 3, 5, 6]), (100, [25, 50, 75, 100])]
)
def test_steps_of_a_short_run_are_not_repeated(total, steps):
    assert list(measured_steps(total)) == steps and measured_steps(total)[total] == 1.0


def test_probe_images_come_in_order_with_the_caption_of_their_place():
    data = task(encoder())
    found = list(probe_batches(Probe(), data.caption_tokens, 10))
    assert [len(batch.labels) for batch in found] == [10, 10]  # the last batch would hold one image
    assert torch.equal(torch.cat([batch.images for batch in found]), images(21)[:20])
    for batch in found:
        for label, tokens, i in zip(batch.labels, batch.tokens, batch.sample_ids.tolist(), strict=True):
            assert label == Probe().labels[i]
            expected = data.caption_tokens[label, i % len(PROMPTS)]
            assert torch.equal(tokens, expected[: len(tokens)]) and not expected[len(tokens) :].any()


def test_at_most_256_images_are_measured():
    found = list(probe_batches(Probe(300), task(encoder()).caption_tokens, 100))
    assert [len(batch.labels) for batch in found] == [100, 100, 56]


DISTILLING = [name for name in registry.names() if issubclass(registry.get(name), DistillingMethod)]


def test_these_are_the_distilling_methods():
    assert set(DISTILLING) >= {"ema", "carot", "static_sd", "tracer", "tracer_ema_teacher", "tracer_static_teacher"}


@pytest.mark.parametrize("name", DISTILLING)
def test_every_distilling_run_has_its_four_rows(name, tmp_path):
    rows = watched(registry.get(name)(), tmp_path).dynamics
    assert [row["fraction"] for row in rows] == [0.25, 0.5, 0.75, 1.0]
    assert all(set(row) == NUMBERS | {"step", "fraction"} for row in rows)
    if "static" in name:
        assert [row["gap"] for row in rows] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("kind", ["vit", "rn"])
@pytest.mark.parametrize("method", [EMA, TRACER, FLYPWMA], ids=lambda m: m.__name__)
def test_measuring_changes_no_bit_of_the_run(method, kind, tmp_path):
    plain = run(method(), tmp_path / "plain", kind)
    measured = watched(method(), tmp_path / "measured", kind)
    tensors, others = plain.classifier.tensors(), measured.classifier.tensors()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert plain.curves == measured.curves and plain.dynamics == []
    assert [row["step"] for row in measured.dynamics] == [2, 3, 5, 6]
    assert [row["fraction"] for row in measured.dynamics] == [0.25, 0.5, 0.75, 1.0]
    for row in measured.dynamics:
        assert set(row) == NUMBERS | {"step", "fraction"}
        assert row["gap"] == row["kl_teacher_student"] / row["kl_start_student"] > 0
    json.dumps(measured.dynamics, allow_nan=False)


class Noted(TRACER):
    """Keeps what it trains."""

    def teacher(self, student, settings):
        self.followed, self.kept = student, super().teacher(student, settings)
        return self.kept


def test_the_last_row_compares_the_final_student_and_teacher(tmp_path):
    method, data = Noted(), task(encoder())
    row = watched(method, tmp_path).dynamics[-1]
    first = {"student": TwoTower(encoder()), "teacher": method.kept.model.eval()}
    with torch.no_grad():
        groups = [
            [model.eval()(batch) for batch in probe_batches(Probe(), data.caption_tokens, 8)]
            for model in (method.followed, first["teacher"], first["student"])
        ]
    values = compare(*groups).tolist()
    assert [row["kl_teacher_student"], row["kl_start_student"]] == values[:2]


def test_a_teacher_that_never_moves_has_gap_one(tmp_path):
    class Static(TRACER):
        def teacher(self, student, settings):
            return StaticTeacher(student)

    for row in watched(Static(), tmp_path).dynamics:
        assert row["gap"] == pytest.approx(1, rel=1e-6) and row["kl_start_student"] > 0


def test_a_student_that_has_not_moved_has_no_gap(tmp_path):
    for row in watched(TRACER(), tmp_path, lr=0.0).dynamics:
        assert row["gap"] is None
        assert row["kl_start_student"] == pytest.approx(0, abs=ROUNDING)
        assert row["kl_teacher_student"] == pytest.approx(0, abs=ROUNDING)  # an average of one point, rounded


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_rows_survive_an_interruption_at_every_step(kind, tmp_path):
    whole = watched(TRACER(), tmp_path / "whole", kind).dynamics
    for _ in range(5):
        with pytest.raises(Interrupted):
            asked = iter((False, True))
            watched(TRACER(), tmp_path / "often", kind, should_stop=lambda: next(asked))  # noqa: B023
    assert watched(TRACER(), tmp_path / "often", kind).dynamics == whole


def test_no_rows_without_a_teacher_without_a_probe_or_for_logits(tmp_path):
    class Logits(FT):
        def teacher(self, student, settings):
            return StaticTeacher(student)

    for i, method in enumerate((FT(), FLYP(), Logits())):
        assert watched(method, tmp_path / str(i)).dynamics == []
    assert watched(TRACER(), tmp_path / "no probe", probe=False).dynamics == []


def test_modes_and_random_state_are_put_back():
    student = TwoTower(encoder("rn")).train()
    frozen = next(m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)).eval()
    modes, buffers = [m.training for m in student.modules()], [b.clone() for b in student.buffers()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    dynamics = Dynamics(Probe(), task(encoder()).caption_tokens, student, settings(total_steps=1, warmup_steps=0))
    dynamics.measure(1, student, StaticTeacher(student).model)
    assert [m.training for m in student.modules()] == modes and not frozen.training and student.training
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in student.parameters())
    assert all(torch.equal(b, old) for b, old in zip(student.buffers(), buffers, strict=True))


def test_a_measurement_that_is_not_finite_stops_the_run_and_is_named(tmp_path):
    class Broken(TRACER):
        def teacher(self, student, settings):
            teacher = StaticTeacher(student)
            teacher.model.encoder.clip.logit_scale.data.fill_(float("nan"))
            return teacher

        def teaches(self, step):
            return False

    with pytest.raises(NonFinite, match="kl_teacher_student: nan at step 2"):
        watched(Broken(), tmp_path)


def test_a_probe_is_measured_on_batches_like_those_of_training():
    """The matching task of the probe is as hard as the run's: rows of batch_size."""
    data = task(encoder())
    dynamics = Dynamics(Probe(), data.caption_tokens, TwoTower(encoder()), settings())
    assert [len(e.image) for e in dynamics.start] == [len(batches(data)[0].labels)] * 2 + [5]
    assert isinstance(dynamics.batches[0], Batch)
