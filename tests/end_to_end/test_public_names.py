"""The names that a notebook or another lab's code may call: they are there and take what the design says."""

import pytest
import torch

from robustft import backbones
from robustft.backbones.zero_shot import build_head
from robustft.methods import distillation, linear_theory, objectives, registry, teachers
from robustft.results.metrics import metrics

N, D = 4, 8


def unit(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64), dim=1)


def test_registry():
    assert "tracer" in registry.names() and registry.get("tracer").name == "tracer"
    assert callable(registry.register("never_used"))


def test_objectives_and_distillation_are_scalars_in_the_inputs_precision():
    student = distillation.Embeddings(image=unit(0), text=unit(1), logit_scale=torch.tensor(10.0, dtype=torch.float64))
    teacher = distillation.Embeddings(unit(2), unit(3), torch.tensor(20.0, dtype=torch.float64))
    values = [
        objectives.info_nce(image=unit(0), text=unit(1), logit_scale=student.logit_scale),
        objectives.cross_frobenius(image_projection=unit(0), text_projection=unit(1)),
        objectives.orthogonality(projection=unit(0)),
        distillation.feature_distillation(student, teacher),
        distillation.contrastive_relational_distillation(student, teacher),
        distillation.interactive_contrastive(student, teacher),
        distillation.cross_knowledge_distillation(student, teacher),
    ]
    assert all(value.ndim == 0 and value.dtype == torch.float64 and value.isfinite() for value in values)
    for term in ("feature_distillation", "contrastive_relational_distillation", "interactive_contrastive"):
        assert "Eq." in getattr(distillation, term).__doc__


def test_teachers_and_kernels():
    module = torch.nn.Linear(2, 2)
    for teacher in (
        teachers.StaticTeacher(module),
        teachers.EMATeacher(module, 10),
        teachers.WMATeacher(module, 10, teachers.beta_kernel(0.5)),
    ):
        teacher.update(0)
        assert teacher.embed(torch.zeros(1, 2)).shape == (1, 2)
        teacher.load_state_dict(teacher.state_dict())
    alphas = teachers.kernel_weights(teachers.beta_kernel(0.5, 0.5), 4)
    expected = [1, 0.395644, 0.266116, 0.225020, 0.255800]  # spec of Definition 3.3 at T = 4
    assert teachers.online_weights(alphas).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["direct_finetuning", "l2_sp", "static_self_distillation", "wma_step"])
def test_closed_forms_are_there(name):
    assert getattr(linear_theory, name).__doc__


def test_metrics():
    probabilities, labels = [[0.9, 0.1], [0.2, 0.8]], [0, 0]
    assert metrics.accuracy(probabilities, labels) == 0.5
    assert metrics.expected_calibration_error(probabilities, labels, bins=15) == pytest.approx((0.1 + 0.8) / 2)
    assert metrics.Meter(2)


def test_backbones_and_head():
    assert {"RN50", "ViT-B-16", "ViT-L-14", "tiny-vit-p8"} <= set(backbones.names())
    encoder = backbones.load("tiny-vit-p8", pretrained=None, device="cpu")
    assert build_head(encoder, ["a", "b"], ["{}", "the {}"]).shape == (2, encoder.embed_dim)
