"""A batch in parts: loss and gradients are those of the whole, for micro-batches, for processes, and for both."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hooks_kit
import pytest
import torch
from methods_kit import Data, encoder, fit, run, settings, task, validation_nll
from repository import KITS, TESTS
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from robustft.datasets.loaders import train_batches
from robustft.methods.base import Context
from robustft.methods.ema import EMA
from robustft.methods.flyp import FLYP
from robustft.methods.ft import FT
from robustft.methods.lipsum_ft import LipsumFT
from robustft.methods.lp_ft import LPFT
from robustft.methods.tracer import TRACER
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.parallel import UnsupportedSettings, World, backward_in_parts, check_settings, cut, join
from robustft.methods.training.trainer import Interrupted, Training
from robustft.methods.two_tower import TwoTower

pytestmark = pytest.mark.computes


class Lipsum(LipsumFT):
    """In float64: two outputs per sample, and neither is `Embeddings`."""

    def at_step(self, step, settings):
        super().at_step(step, settings)
        self._texts = self._texts.double()


class Centralised(FT):
    """The gradient of each row of weights has mean zero (gradient centralisation)."""

    def before_step(self, student, start, step):
        for p in start.parameters:
            if p.ndim > 1:
                p.grad -= p.grad.flatten(1).mean(dim=1).view(-1, *[1] * (p.ndim - 1))


METHODS = {
    "flyp": FLYP,
    "penalties": lambda: FLYP(FLYP.Hyper(cross_frobenius_weight=0.05, orthogonality_weight=0.2)),
    "ema": lambda: EMA(EMA.Hyper(update_every=1)),
    "tracer": TRACER,
    "ft": FT,
    "lipsum_ft": Lipsum,
    "layer_wise": hooks_kit.LayerWise,
    "centralised": Centralised,
    "remembering": hooks_kit.Remembering,
    "two_views": hooks_kit.TwoViews,
}
BARE = {
    "flyp": FLYP,
    "tracer": lambda: TRACER(TRACER.Hyper(cross_frobenius_weight=0.0)),
}
"""Of a SigLIP, whose towers have no projections to be held together; its loss reads a bias too."""
KINDS = ("vit", "rn")
VARIANTS = {  # batches that neither micro-batches nor processes divide, and what comes after the gradients
    "micro": {"micro_batch": 3},
    "uneven": {"batch_size": 7, "micro_batch": 3},
    "clipped": {"clip_norm": 0.05},
    "image_tower": {"trainable": "image"},
}
HOOKED = list(METHODS)[6:]
SHARED = [(method, kind, "plain") for method in METHODS for kind in KINDS if kind == "vit" or method not in HOOKED]
SHARED += [("tracer", "vit", variant) for variant in VARIANTS] + [
    ("ema", "rn", "micro"),
    ("ft", "vit", "uneven"),
]
SHARED += [(method, "siglip", variant) for method in BARE for variant in ("plain", "uneven")]


@cache
def trained(method, kind, trainable="all", steps=3, **changes):
    """Terms and gradients of three steps and the final weights, in float64; the teacher matters from step 1 on."""
    model = encoder(kind).double()
    data, given = task(model, trainable), settings(**changes)
    method = (BARE if kind == "siglip" else METHODS)[method]()
    context = Context(model, data, given, validate=lambda classifier: 0.0)
    student = method.student(context).eval().double()
    method.prepare(student, context)
    training, found = Training(method, student, given), {}
    for step, batch in enumerate(loaded(data, given.batch_size, steps, method.views)):
        others = tuple(model.pixels(images).double() for images in batch.other_views)
        batch = replace(batch, images=model.pixels(batch.images).double(), other_views=others)
        for name, term in training.step(step, batch).items():
            found[f"{step}.term.{name}"] = term.double()
        for name, p in student.named_parameters():
            if p.grad is not None:
                found[f"{step}.grad.{name}"] = p.grad.clone()
    found |= {f"end.{name}": p.detach().clone() for name, p in student.named_parameters()}
    if training.teacher is not None:
        found |= {f"end.teacher.{n}": p.clone() for n, p in training.teacher.model.named_parameters()}
    return found


def loaded(data, size, count, views=1):
    options = {
        "batch_size": size,
        "seed": 0,
        "start_step": 0,
        "total_steps": count,
        "views": views,
        "cut": data.cuts_text,
    }
    return list(train_batches(data.dataset, data.caption_tokens, **options))


def agree(whole, parts, relative=1e-9):
    """Terms and gradients differ by `relative` of a tensor's largest entry (of 1e-4 where all are smaller).

    Final weights differ by that, absolutely: Adam turns the rounding noise of gradients that are 0 into steps.
    """
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        scale = 1.0 if name.startswith("end.") else max(tensor.abs().max().item(), 1e-4)
        assert (tensor - parts[name]).abs().max().item() <= relative * scale, name


# Micro-batches


@pytest.mark.parametrize("method, kind", [(method, kind) for method, kind, variant in SHARED if variant == "plain"])
def test_micro_batches_change_neither_loss_nor_gradients(method, kind):
    agree(trained(method, kind), trained(method, kind, micro_batch=3))


@pytest.mark.parametrize("changes", [{"clip_norm": 0.05}, {"trainable": "image"}], ids=["clipped", "image_tower"])
def test_micro_batches_of_one_with_clipping_or_one_tower(changes):
    whole = trained("tracer", "vit", **changes)
    agree(whole, trained("tracer", "vit", micro_batch=1, **changes))
    assert ("0.grad.encoder.clip.logit_scale" in whole) == ("trainable" not in changes)


def test_a_micro_batch_as_large_as_the_batch_is_the_plain_path(tmp_path):
    whole, same = (run(TRACER(), tmp_path / str(n), micro_batch=n).classifier.tensors() for n in (None, 8))
    assert all(torch.equal(whole[name], same[name]) for name in whole)


def test_models_run_as_often_as_they_must():
    """Eight images by three: three parts; the teacher sees each once, the student twice."""
    model, seen = encoder(), {"student": 0, "teacher": 0}
    data, given = task(model), settings(micro_batch=3)
    training = Training(TRACER(), TwoTower(model), given)

    def count(who):
        return lambda module, inputs: seen.__setitem__(who, seen[who] + 1)

    training.student.register_forward_pre_hook(count("student"))
    training.teacher.model.register_forward_pre_hook(count("teacher"))
    for step, batch in enumerate(loaded(data, 8, 2)):
        training.step(step, batch)
    assert seen == {"student": 12, "teacher": 3}  # no teacher at step 0


def with_dropout(kind="vit"):
    """A two-tower student that drops half of the image features; float64."""
    student = TwoTower(encoder(kind).double()).train()
    dropout = lambda module, inputs, output: nn.functional.dropout(output, 0.5, module.training)  # noqa: E731
    student.encoder.clip.visual.register_forward_hook(dropout)
    return student


def whole_gradients(student, parts, loss):
    """Of one graph over all parts, without any second pass."""
    torch.stack(list(loss(join([student(part) for part in parts])).values())).sum().backward()
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def cached_gradients(student, parts, loss, count=8):
    options = {
        "world": World(),
        "seed": 0,
        "step": 0,
        "autocast": lambda: torch.autocast("cpu", enabled=False),
    }
    backward_in_parts(student, parts, loss, count, **options)
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


def test_the_second_pass_drops_what_the_first_one_dropped():
    batch = loaded(task(encoder()), 8, 1)[0]
    batch = replace(batch, images=encoder().pixels(batch.images).double())
    results = []
    for gradients in (whole_gradients, cached_gradients):
        torch.manual_seed(7)
        found = gradients(with_dropout(), cut(batch, 3), lambda outputs: FLYP().loss(outputs, None, batch))
        results.append((found, torch.get_rng_state()))
    (whole, state), (cached, state_after) = results
    agree(whole, cached)
    assert torch.equal(state, state_after)


def error(whole, other):
    """Relative distance of two gradients, all tensors together."""
    flat = [torch.cat([tensor.reshape(-1) for tensor in found.values()]) for found in (whole, other)]
    return ((flat[1] - flat[0]).norm() / flat[0].norm()).item()


@pytest.mark.parametrize("released", [False, True], ids=["frozen", "released"])
def test_two_passes_are_wrong_with_batch_statistics_and_exact_with_frozen_ones(released):
    """Why `released` with micro-batches is refused."""
    batch = loaded(task(encoder("rn")), 8, 1)[0]
    batch = replace(batch, images=encoder("rn").pixels(batch.images).double())
    found = []
    for size, gradients in ((None, whole_gradients), (4, cached_gradients)):
        student = TwoTower(encoder("rn").double()).train()
        for module in student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(released)
        found.append(gradients(student, cut(batch, size), lambda outputs: FLYP().loss(outputs, None, batch)))
    assert error(*found) > 0.5 if released else error(*found) < 1e-9


class ImagesAlone(FLYP):
    """Reads one modality and no scale."""

    def loss(self, student, teacher, batch):
        return {"size": student.image.square().sum(dim=1).mean() + student.image[0] @ student.image[-1]}


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_what_the_loss_does_not_read_gets_no_gradient(micro_batch):
    """None, not zeros: AdamW shrinks a parameter whose gradient is zero."""
    model = encoder()
    training = Training(ImagesAlone(), TwoTower(model), settings(micro_batch=micro_batch))
    training.step(0, loaded(task(model), 8, 1)[0])
    assert all(p.grad is None for p in model.text_parameters()) and model.clip.logit_scale.grad is None
    assert all(p.grad is not None for p in model.image_parameters())


class Three(NamedTuple):
    rows: Tensor
    scale: Tensor
    more: Tensor


def tensors_of(batch):
    """Every tensor of a batch, in order."""
    found = []
    batch.map(found.append)
    return found


def test_parts_are_cut_and_joined_by_rows():
    batch = loaded(task(encoder()), 8, 1)[0]
    parts = cut(batch, 3)
    assert [len(part.labels) for part in parts] == [3, 3, 2] and cut(batch, None) == [batch] == cut(batch, 9)
    batch = replace(batch, other_views=(batch.images + 1, batch.images + 2))
    for whole, *cuts in zip(*map(tensors_of, [batch, *cut(batch, 3)]), strict=True):
        assert torch.equal(torch.cat(cuts), whole)
    outputs = [Three(torch.full((n, 2), float(n)), torch.tensor(5.0), torch.full((n,), n)) for n in (2, 1)]
    whole = join(outputs)
    assert whole.rows.tolist() == [[2, 2], [2, 2], [1, 1]] and whole.scale == 5 and whole.more.tolist() == [2, 2, 1]
    assert join([torch.zeros(2, 3), torch.ones(1, 3)]).shape == (3, 3)


@pytest.mark.parametrize("count, size", [(8, 2), (7, 3), (5, 5), (9, 4)])
def test_shares_are_contiguous_and_even(count, size):
    world, found = World(), []
    world.size = size
    for rank in range(size):
        found.append(list(range(count))[world.rows(count, rank)])
    assert sum(found, []) == list(range(count)) and {len(f) for f in found} <= {
        count // size,
        -(-count // size),
    }


@pytest.mark.parametrize(
    "changes, size, words",
    [
        ({"bn": "released", "micro_batch": 4}, 1, "bn: 'released' takes statistics of the whole batch"),
        ({"bn": "released"}, 2, "bn: 'released' on 2 processes needs synchronised BatchNorm"),
        ({"micro_batch": 0}, 1, "micro_batch: must be >= 1, got 0"),
        ({}, 9, "batch_size: must be at least 9, the number of processes, got 8"),
    ],
)
def test_what_cannot_be_exact_is_refused(changes, size, words):
    world = World()
    world.size = size
    with pytest.raises(UnsupportedSettings, match=words) as caught:
        check_settings(settings(**changes), world)
    assert str(caught.value).count("\n") == 0


def test_it_is_refused_before_anything_is_trained(tmp_path):
    class Untouched(LPFT):
        def prepare(self, student, context):
            raise AssertionError("prepared")

    with pytest.raises(UnsupportedSettings, match="set bn to 'frozen' or leave micro_batch out"):
        run(Untouched(), tmp_path, "rn", bn="released", micro_batch=4)
    run(FT(), tmp_path, bn="released", micro_batch=8)  # the whole batch at once


# Several processes


class Counted(Data):
    """Notes how many images it made."""

    made = 0

    def train_images(self, items, seed):
        Counted.made += len(items)
        return super().train_images(items, seed)


def fit_here(method, folder, should_stop=lambda: False, guard=lambda: None, **changes):
    model = encoder()
    return fit(
        method,
        model,
        replace(task(model), dataset=Counted()),
        settings(**changes),
        checkpoints=Checkpoints(folder, 1e9, guard=guard, every_steps=4),
        validate=validation_nll,
        should_stop=should_stop,
    )


def prepared_apart(rank):
    """What a method remembers in a process whose preparation came to something of its own."""
    method, model = hooks_kit.Remembering(), encoder()
    context = Context(model, task(model), settings(), validate=lambda classifier: 0.0)
    student = method.student(context)
    method.prepare(student, context)
    method.mean, method.count = method.mean + rank, 7 + rank
    Training(method, student, settings())
    return {"mean": method.mean, "count": torch.tensor(method.count)}


def worker(rank, folder):
    """What each of two processes does; the tests read what it leaves."""
    torch.set_num_threads(1)
    folder = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for method, kind, variant in SHARED:
        save_file(trained(method, kind, **VARIANTS.get(variant, {})), folder / f"{method}-{kind}-{variant}-{rank}")
    whole = fit_here(TRACER(), folder / "whole")
    save_file(whole.classifier.tensors(), folder / f"whole-{rank}")
    questions = iter([False, False, rank == 1])  # the second process alone is asked to stop, after two steps
    try:
        fit_here(TRACER(), folder / "stopped", should_stop=lambda: next(questions))
    except Interrupted as stopped:
        (folder / f"stopped-{rank}.txt").write_text(str(stopped))
    distributed.barrier()  # as the processes' end and start would
    (folder / f"checkpoints-{rank}.txt").write_text(" ".join(p.name for p in (folder / "stopped").glob("*.json")))
    resumed = fit_here(TRACER(), folder / "stopped")
    save_file(resumed.classifier.tensors(), folder / f"resumed-{rank}")
    save_file(prepared_apart(rank), folder / f"prepared-{rank}")
    facts = [len(whole.curves), whole.images_seen, Counted.made, whole.curves == resumed.curves]
    (folder / f"facts-{rank}.txt").write_text(" ".join(map(str, facts)))

    def full():
        raise OSError("no space left")

    try:
        fit_here(TRACER(), folder / "full", guard=full)
    except (OSError, RuntimeError) as failed:
        (folder / f"failed-{rank}.txt").write_text(f"{type(failed).__name__}: {failed}")
    mixed = {"a": torch.full((2, 3), rank + 0.5).T, "n": torch.tensor(rank + 7), "b": torch.ones(3) * rank}
    World().broadcast(list(mixed.values()))
    save_file({name: tensor.contiguous() for name, tensor in mixed.items()}, folder / f"mixed-{rank}")
    outside = torch.get_rng_state()
    with World().randomness(torch.device("cpu"), 0, 3):
        save_file({"inside": torch.rand(4)}, folder / f"inside-{rank}")
    assert torch.equal(torch.get_rng_state(), outside)
    try:
        fit_here(FLYP(), folder / "refused", bn="released")
    except UnsupportedSettings as refused:
        (folder / f"refused-{rank}.txt").write_text(str(refused))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes have filled."""
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(TESTS), str(KITS), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = "import conftest, runpy, sys; conftest.prepare_torch()\n"
    code += "runpy.run_path(sys.argv[3])['worker'](int(sys.argv[1]), sys.argv[2])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder), __file__],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            said = process.communicate(timeout=600)[1]
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()
    return folder


@pytest.mark.programs
@pytest.mark.parametrize("method, kind, variant", SHARED, ids=["-".join(names) for names in SHARED])
def test_two_processes_have_the_loss_and_gradients_of_one(two, method, kind, variant):
    options = {key: value for key, value in VARIANTS.get(variant, {}).items() if key != "micro_batch"}
    first, second = (load_file(two / f"{method}-{kind}-{variant}-{rank}") for rank in (0, 1))
    agree(trained(method, kind, **options), first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if kind == "siglip":
        assert first["0.grad.encoder.clip.logit_bias"].abs() > 1e-3


@pytest.mark.programs
def test_a_shared_run_ends_where_a_single_one_does_and_each_process_makes_its_images(two, tmp_path):
    alone = run(TRACER(), tmp_path)
    first, second = (load_file(two / f"whole-{rank}") for rank in (0, 1))
    for name, tensor in alone.classifier.tensors().items():
        if not name.endswith("in_proj_bias"):  # key biases have no gradient: Adam amplifies rounding noise
            torch.testing.assert_close(first[name], tensor, atol=2e-5, rtol=0)
        assert torch.equal(first[name], second[name])
    for rank, rows in ((0, len(alone.curves)), (1, 0)):
        # Half of six batches of eight, once in one go and once in two, the batch at the stop drawn twice.
        assert (two / f"facts-{rank}.txt").read_text() == f"{rows} 48 {24 + 24 + 4} True"


@pytest.mark.programs
def test_processes_stop_together_and_go_on_bit_for_bit(two):
    for rank in (0, 1):
        assert (two / f"stopped-{rank}.txt").read_text() == "stopped after 2 of 6 steps."
        assert (two / f"checkpoints-{rank}.txt").read_text() == "step-00000002.json"
        whole, resumed = load_file(two / f"whole-{rank}"), load_file(two / f"resumed-{rank}")
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.programs
def test_a_process_that_fails_to_save_takes_the_others_down(two):
    assert (two / "failed-0.txt").read_text() == "OSError: no space left"
    assert (two / "failed-1.txt").read_text().startswith("RuntimeError: fit: another process of this run failed")


@pytest.mark.programs
def test_the_first_process_gives_the_others_its_tensors(two):
    for rank in (0, 1):
        mixed = load_file(two / f"mixed-{rank}")
        assert (mixed["a"] == 0.5).all() and mixed["n"] == 7 and (mixed["b"] == 0).all()


@pytest.mark.programs
def test_what_the_first_process_prepared_is_what_all_remember(two):
    for rank in (0, 1):
        found = load_file(two / f"prepared-{rank}")
        assert (found["mean"] == 0.5).all() and found["count"] == 7


def test_batch_statistics_are_synchronised_on_devices_that_can(monkeypatch):
    """What two CUDA processes would be given; the layers keep their parameters, and the teacher gets the same."""
    world, model = World(), encoder("rn")
    monkeypatch.setattr(world, "size", 2)
    parameters = list(map(id, model.parameters()))
    training = Training(TRACER(), TwoTower(model), settings(bn="released", device="cuda"), world)
    for student in (training.student, training.teacher.model):
        layers = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert layers and all(isinstance(m, nn.SyncBatchNorm) and m.training for m in layers)
    assert list(map(id, model.parameters())) == parameters
    assert "synchronised over 2 processes, buffers broadcast before each teacher" in training.about()["batch_norm"]
    broadcast = []
    monkeypatch.setattr(world, "broadcast", broadcast.extend)
    training._update_teacher(training.teacher, 0)
    assert len(broadcast) == 2 * 3 * len(layers)  # mean, variance and count, of both models


@pytest.mark.programs
def test_processes_draw_unlike_random_numbers(two):
    first, second = (load_file(two / f"inside-{rank}")["inside"] for rank in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.programs
def test_batch_statistics_on_two_cpu_processes_are_refused(two):
    for rank in (0, 1):
        assert "needs synchronised BatchNorm, which is for CUDA devices" in (two / f"refused-{rank}.txt").read_text()
