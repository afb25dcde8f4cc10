"""TRACER: InfoNCE plus four distillation terms towards a kernel-weighted mean of the student's own
trajectory.

Source: arXiv:2605.29380; HesamAsad/TRACER:src/models/tracer_loss.py. Defaults are those of the released
ViT-B/16 scripts (tracer_beta.sh); each field says where the paper's equations differ and what the other
form means. Its averaging is CLIPood's Beta moving average (Shu et al., ICML 2023, arXiv:2302.00864): the same kernel
Beta(0.5, 0.5) on the same clock (t + 0.5)/(T + 1), thuml/CLIPood:main.py; what is new is that the average teaches.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor

from . import distillation, wma
from .base import LossTerms, Settings, hyperparameters
from .distillation import Pairs, contrastive
from .registry import register
from .teachers import StaticTeacher
from .two_tower import DistillingHyper, DistillingMethod, TwoTower, TwoTowerMethod

if TYPE_CHECKING:
    from ..datasets.loaders import Batch

Weight = Annotated[float, Field(ge=0)]


@hyperparameters
class TermsHyper(DistillingHyper):
    """Weights have no unit and are >= 0; `lambda_sd` multiplies the weighted sum of the four terms."""

    lambda_sd: Weight = 0.9
    """Weight of the distillation. Paper: section 5.2.1; code: tracer_beta.sh."""
    fd_weight: Weight = 3.906
    """Of feature distillation. With `fd_reduction` sum it is a weight per sample; code: 2000 x mean over 512
    dimensions, which is 3.906 x sum; paper: 1."""
    fd_reduction: Literal["sum", "mean"] = "sum"
    """Over the D dimensions. "sum" is Eq. 20, the same strength for every width. "mean" is the code: D times
    smaller, so that its weights (2000, RN50: 200, iWildCam: 5000) mean another strength on another backbone."""
    crd_weight: Weight = 1.0
    """Of contrastive relational distillation (Eq. 23). Paper and code: 1."""
    crd_half: bool = True
    """Averages CRD's two directions, as the code does; Eq. 23 adds them, which doubles the term."""
    icl_weight: Weight = 1.0
    """Of interactive contrastive learning (Eq. 24). Paper and code: 1."""
    cross_kd_weight: Weight = 1.0
    """Of cross-knowledge distillation (Eq. 27). Paper and code: 1."""
    cross_frobenius_weight: Weight = 0.05
    """Weight of the cross-Frobenius term, part of the paper's L_MMCL. Paper: E.2; code: tracer_beta.sh."""


class Terms(DistillingMethod):
    """InfoNCE, FD, CRD, ICL and CrossKD against any teacher."""

    Hyper = TermsHyper
    strength = "lambda_sd"
    distils_by = (("lambda_sd",), ("fd_weight", "crd_weight", "icl_weight", "cross_kd_weight"))
    introduced = TwoTowerMethod.introduced | {"fd_reduction": "sum"}
    sigmoid = (
        "the sigmoid loss for the pairs and for ICL, with the student's scale and bias; CRD and CrossKD stay softmax "
        "distributions over the batch with each model's own scale, out of which the bias drops; FD reads neither"
    )

    def loss(self, student: Pairs, teacher: Pairs | None, batch: "Batch") -> LossTerms:
        """Nats, but for FD (squared distance); a term of weight 0 is left out."""
        hyper, terms = self.hyper, {"contrastive": contrastive(student)}
        if teacher is None:
            return terms
        relational = partial(distillation.contrastive_relational_distillation, half=hyper.crd_half)
        parts: dict[str, tuple[float, Callable[[Pairs, Pairs], Tensor]]] = {
            "fd": (hyper.fd_weight, partial(distillation.feature_distillation, reduction=hyper.fd_reduction)),
            "crd": (hyper.crd_weight, relational),
            "icl": (hyper.icl_weight, distillation.interactive_contrastive),
            "cross_kd": (hyper.cross_kd_weight, distillation.cross_knowledge_distillation),
        }
        for name, (weight, term) in parts.items():
            if weight * hyper.lambda_sd:
                terms[name] = hyper.lambda_sd * weight * term(student, teacher)
        return terms


@hyperparameters
class Hyper(wma.WMAHyper, TermsHyper):
    """Terms and teacher."""


@register("tracer")
class TRACER(Terms):
    """InfoNCE, FD, CRD, ICL and CrossKD against a WMA teacher."""

    Hyper = Hyper
    introduced = Terms.introduced | wma.INTRODUCED

    def teacher(self, student: TwoTower, settings: Settings) -> StaticTeacher:
        """Kernel-weighted mean of the trajectory."""
        return wma.wma_teacher(self.hyper, student, settings.total_steps)
