"""Every figure by name: what it shows, and how it is drawn from records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import board_figures, robustness_line, run_figures, sample_figures
from .figure_data import Material, Missing
from .style import draw_id_ood, drawing, encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Entry:
    """A figure: its title, what a reader must know of it, and its drawing, which raises Missing."""

    title: str
    caption: str
    draw: Callable[[Material], Figure]


def _id_ood(material: Material) -> Figure:
    try:
        return draw_id_ood(material.board)
    except ValueError as error:
        raise Missing(f"figure id_ood: {str(error).removeprefix('figure: ')}") from error


BENEATH = "Where α came to 1, WiSE-FT is the run that it reads (FT, FLYP), and lies beneath it as a larger marker."
ENTRIES = {
    "id_ood": Entry(
        "Accuracy in distribution and under shift",
        "Means over seeds with standard deviations, of the default selection rule; where a set's protocol names a "
        "score other than accuracy, the axes show that one. The grey lines cross at zero-shot: right of one a method "
        "has gained in distribution, below the other it has lost robustness. Zero-shot stands at the edge, its ID "
        "value beside it, where it is far below all others. Small markers: points of a path that were fixed "
        "beforehand. Hollow: the committed reference beside local runs. " + BENEATH,
        _id_ood,
    ),
    "robustness": Entry(
        "Effective robustness",
        "The crosses are models without pretraining: runs from random weights on the same training images, on digits "
        "with the same red and blue shortcut, with more or less data, steps and width (or a list that was given). The "
        "line is their least-squares fit in logits, drawn over its range alone, and only where all of them are above "
        "chance on every shift. How far a method lies above it at its "
        "own ID accuracy is what pretraining gave and finetuning kept. Axes are logits, labelled in percent.",
        robustness_line.draw_robustness,
    ),
    "paths": Entry(
        "Between zero-shot and finetuned weights",
        "Each line is one method's whole path, from zero-shot (α = 0) to the finetuned weights (α = 1), means over "
        "seeds; other methods are points. A method beside the line does better or worse than interpolation at the same "
        "ID accuracy.",
        board_figures.draw_paths,
    ),
    "calibration": Entry(
        "Accuracy and calibration",
        "ECE with 15 equal-width bins over the whole set; lower is better, so the best place is right and below. "
        "Means over seeds with standard deviations; OOD values are means over the shifts. Zero-shot stands at the "
        "edge, its accuracy beside it, where it is far below all others. " + BENEATH,
        board_figures.draw_calibration,
    ),
    "reliability": Entry(
        "Reliability diagrams",
        "Accuracy against mean confidence in 15 equal-width bins, all seeds (below: all shifts) pooled; on the "
        "diagonal a model is as often right as it says. Bins with less than 0.5 % of the samples are left out. Of many "
        "methods, those of local runs and those highest in the tables are drawn. "
        "Pooling weighs a shift by its images, the board's OOD ECE weighs all shifts the same. "
        "Where α came to 1, WiSE-FT is the run that it reads (FT, FLYP), and lies beneath it as a broader line.",
        sample_figures.draw_reliability,
    ),
    "flips": Entry(
        "What finetuning turned",
        "Of the shifted images, how many zero-shot had right and the finetuned model gets wrong (filled), and the "
        "reverse (hatched); means over seeds and shifts. The difference of the two is the change in OOD accuracy.",
        sample_figures.draw_flips,
    ),
    "dynamics": Entry(
        "An averaged teacher and its student",
        "The same loss with a WMA and with an EMA teacher, each at its own chosen setting, measured on fixed "
        "validation images after each quarter of the run; means over seeds with standard deviations. Gap: "
        "KL(teacher ‖ student) as a share of KL(pretrained ‖ student): 1 for a teacher that never moves, 0 for one "
        "that is the student.",
        run_figures.draw_dynamics,
    ),
    "layers": Entry(
        "How far each layer has moved",
        "Similarity of each layer's activations to those of the pretrained model, on the validation images, averaged "
        "over positions; means over seeds. SVCCA keeps 99 % of the variance. 1: the layer is as it was.",
        run_figures.draw_layers,
    ),
    "ablation": Entry(
        "Ablations",
        "Every value of a study's grid, means over seeds with standard deviations; nothing is chosen from it. Where "
        "the paper has the same study on ImageNet (Tables 8 to 11), its printed values stand below; its ECE is "
        "probably by another estimator. A combination of terms is named by those that are on.",
        board_figures.draw_ablation,
    ),
    "forgetting": Entry(
        "Forgetting",
        "Pretrained on grey characters, finetuned on coloured ones. The number is the change of accuracy on the old "
        "task. Beside it the paper's Figure 3, whose ft is flyp here and whose dynamic self-distillation is tracer; "
        "changes are those of its accuracies (of static self-distillation it prints a forgetting of 1.8).",
        run_figures.draw_forgetting,
    ),
    "cost": Entry(
        "Cost and robustness",
        "Training time of an image relative to FT's, from the runs' own records on one kind of machine, against OOD "
        "accuracy. Machines may have been shared while they were timed. Methods that train nothing "
        "are not drawn, and none that was timed on another kind of machine.",
        board_figures.draw_cost,
    ),
}


class Broken(Missing):
    """A figure whose drawing failed: a fault of ours, which costs this figure and no other."""


def make(name: str, material: Material, png: bool = True) -> dict[str, bytes]:
    """Suffix -> file content (".svg", ".png") of a figure for the material of one benchmark; same records, same bytes.

    Args:
        png: False leaves out the PNG, which takes as long again.

    Raises:
        Missing: what it shows is not there; the sentence says how to make it.
        Broken: it could not be drawn, whatever went wrong.
    """
    try:
        with drawing():
            return encode(ENTRIES[name].draw(material), png)
    except Missing:
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise Broken(f"figure {name}: could not be drawn ({what}); the others are; please report this.") from error
