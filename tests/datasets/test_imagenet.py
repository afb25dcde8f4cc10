"""ImageNet and its shifts on small valid copies: labels, projections, views, counts and what is withheld."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from imagenet_kit import SIZE, WNIDS, A, R, folders, picture, write_objectnet
from PIL import Image

from robustft.datasets import catalogue, decoding, image_folders, loaders, objectnet
from robustft.datasets.card import DataError
from robustft.datasets.imagenet import SOURCES, ImageNet, ImageNetFullTrain
from robustft.datasets.projection import Projection


@pytest.fixture
def data(imagenet_tree):
    return ImageNet(imagenet_tree, allow_partial=True, size=SIZE)


# cards


@pytest.mark.parametrize("name", ["imagenet", "imagenet_full_train", "iwildcam", "fmow", "camelyon17"])
def test_a_card_needs_no_image(name, monkeypatch, tmp_path):
    monkeypatch.setenv(image_folders.ROOT_VARIABLE, str(tmp_path))
    data = catalogue.get(name)
    card = data.card
    assert card.name == name and card.names("id") and card.names("shift") and len(card.fingerprint) == 64
    assert all(prompt.count("{}") == 1 for prompt in card.prompts)
    assert data.train_size > 70_000
    with pytest.raises(DataError, match=str(tmp_path)):
        data.train_labels()


def test_imagenet_names_and_prompts_are_open_clips_by_position():
    import open_clip

    card = catalogue.get("imagenet").card
    assert card.class_names == tuple(open_clip.IMAGENET_CLASSNAMES) and len(card.prompts) == 80
    written = [template("crane bird") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [prompt.format("crane bird") for prompt in card.prompts] == written
    assert card.class_names[657] == card.class_names[744] and card.class_names[134] == "crane bird"


def test_training_withholds_26_images_a_class_and_the_full_variant_none():
    assert catalogue.get("imagenet").train_size == 1_281_167 - 26_000
    full = catalogue.get("imagenet_full_train")
    assert full.train_size == 1_281_167 and full.card.names("validation") == ()
    assert full.card.fingerprint != catalogue.get("imagenet").card.fingerprint


def test_index_lists_are_timms():
    from timm.data import ImageNetInfo

    assert list(WNIDS) == ImageNetInfo("imagenet-1k").label_names() == sorted(WNIDS)
    assert len(A) == len(R) == 200 and len(set(A) & set(R)) == 86 and list(A) == sorted(A) and list(R) == sorted(R)


# labels and logits


def test_imagenet_v2_folders_are_numbers(data):
    v2 = data.eval_data("imagenet_v2")
    assert dict(zip(v2.sample_ids, v2.labels.tolist(), strict=True)) == {
        "2/a.jpeg": 2,
        "10/a.jpeg": 10,
        "100/a.jpeg": 100,
    }
    assert v2.project(torch.ones(1, 1000)).shape == (1, 1000)


def test_labels_are_positions_of_sorted_wnids(data):
    val, sketch = data.eval_data("imagenet"), data.eval_data("imagenet_sketch")
    assert val.labels.tolist() == [2, 5] and sketch.labels.tolist() == [999]
    assert val.sample_ids[0] == f"{WNIDS[2]}/ILSVRC2012_val_00000002.JPEG"
    assert (val.found, val.expected, len(val)) == (2, 50_000, 2)


@pytest.mark.parametrize("name, indices, label", [("imagenet_r", R, 3), ("imagenet_a", A, 199)])
def test_200_columns_are_taken_before_softmax(data, name, indices, label):
    shift = data.eval_data(name)
    assert shift.labels.tolist() == [label]
    logits = torch.zeros(1, 1000)
    outside = next(c for c in range(1000) if c not in indices)
    logits[0, outside], logits[0, indices[label]] = 50.0, 3.0
    projected = shift.project(logits)
    assert projected.shape == (1, 200) and projected.argmax().item() == label
    # the outside class takes no probability: exp(3) against 199 zeros
    expected = np.exp(3) / (np.exp(3) + 199)
    assert projected.softmax(1)[0, label].item() == pytest.approx(expected, rel=1e-6)


def test_objectnet_takes_the_best_of_several_columns_and_cuts_the_border(data, tmp_path):
    names, meant, columns = write_objectnet(tmp_path)
    maps = objectnet.read_maps(tmp_path / "objectnet-1.0" / "mappings")
    assert maps.folders == tuple(sorted(meant)) and len(maps.all_folders) == 313
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([logits[:, columns[name]].max(dim=1).values for name in sorted(meant)], dim=1)
    assert torch.equal(maps.projection(logits), expected)

    shift = data.eval_data("objectnet")
    assert shift.sample_ids == [f"{meant[4]}/x.png"] and shift.labels.tolist() == [4]
    assert torch.equal(shift.project(logits), expected)
    (kept,) = shift.images(0, 1)  # of the set's own size, so that nothing is resized
    inner = kept[:, 1:-1, 1:-1]
    assert inner.unique().tolist() == [90] and int((kept == 40).sum()) == kept.numel() - inner.numel()


def test_a_picture_that_is_all_border_is_named(tmp_path):
    small = tmp_path / "objectnet-1.0" / "images" / write_objectnet(tmp_path)[1][0] / "small.png"
    for size, whole in (((5, 5), True), ((4, 9), False), ((9, 4), False)):
        picture(small, (7, 7, 7), size)
        shift = ImageNet(tmp_path, allow_partial=True, size=SIZE).eval_data("objectnet")
        if whole:
            assert shift.images(0, 1).unique().tolist() == [7]
        else:
            with pytest.raises(DataError, match=r"small.png: \d x \d pixels leave nothing inside a border of 2"):
                shift.images(0, 1)


def test_objectnet_maps_that_are_not_the_real_ones_are_refused(tmp_path):
    write_objectnet(tmp_path)
    mappings = tmp_path / "objectnet-1.0" / "mappings"
    meanings = json.loads((mappings / "objectnet_to_imagenet_1k.json").read_text())
    some = next(iter(meanings))
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(meanings | {some: "crane"}))
    with pytest.raises(DataError, match="2 lines 'crane'"):
        objectnet.read_maps(mappings)
    meanings.pop(some)
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(meanings))
    with pytest.raises(DataError, match="112 classes over 122 ImageNet classes, expected 113 over 125"):
        objectnet.read_maps(mappings)
    twice = list(meanings.values())[-1]
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(meanings | {some: twice}))
    with pytest.raises(DataError, match="113 classes over 122 ImageNet classes, expected 113 over 125"):
        objectnet.read_maps(mappings)
    (mappings / "imagenet_to_label_2012_v2").unlink()
    with pytest.raises(DataError, match="imagenet_to_label_2012_v2; unpack"):
        objectnet.read_maps(mappings)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1, 2]", b"\xff\xfe{", b"{}"])
@pytest.mark.parametrize(
    "name",
    [
        "folder_to_objectnet_label",
        "objectnet_to_imagenet_1k",
        "pytorch_to_imagenet_2012_id",
        "imagenet_to_label_2012_v2",
    ],
)
def test_damaged_objectnet_maps_are_one_sentence(name, content, tmp_path):
    write_objectnet(tmp_path)
    mappings = tmp_path / "objectnet-1.0" / "mappings"
    next(mappings.glob(f"{name}*")).write_bytes(content)
    with pytest.raises(DataError, match=r"^objectnet: .*unpack the mappings again\.$"):
        objectnet.read_maps(mappings)


def test_a_projection_keeps_gradients_and_refuses_a_class_without_columns():
    logits = torch.tensor([[1.0, 4.0, 2.0, 9.0]], requires_grad=True)
    projected = Projection(((0, 1), (2,)))(logits)
    assert projected.tolist() == [[4.0, 2.0]]
    projected.sum().backward()
    assert logits.grad.tolist() == [[0, 1, 1, 0]]
    with pytest.raises(DataError, match="at least one column"):
        Projection(((0,), ()))


# ID validation


def test_validation_is_the_smallest_hashes_and_is_not_trained_on(data, imagenet_tree):
    train, validation = data.train_labels(), data.eval_data("validation")
    files = [f"{WNIDS[0]}/{WNIDS[0]}_{k}.JPEG" for k in range(60)]
    smallest = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())[:26]
    assert [s for s in validation.sample_ids if s.startswith(WNIDS[0])] == sorted(smallest)
    assert validation.sample_ids == sorted(validation.sample_ids) and validation.labels.tolist() == [0] * 26 + [1] * 2
    assert train.tolist() == [0] * 34 + [1] * 2 + [657] and data.train_size == 37
    trained = {data._trained[0].name(i) for i in range(37)}
    assert not trained & set(validation.sample_ids) and len(trained) == 37
    assert (data.found, data.expected, validation.expected) == (65, 1_281_167, 26_000)
    assert ImageNetFullTrain(imagenet_tree, allow_partial=True).train_size == 65


def test_withheld_images_stay_withheld_when_another_class_is_missing(data, imagenet_tree, tmp_path):
    (tmp_path / "ILSVRC2012").mkdir()
    (tmp_path / "ILSVRC2012" / "train").mkdir()
    (tmp_path / "ILSVRC2012" / "train" / WNIDS[0]).symlink_to(imagenet_tree / "ILSVRC2012" / "train" / WNIDS[0])
    alone = ImageNet(tmp_path, allow_partial=True).eval_data("validation").sample_ids
    assert alone == [name for name in data.eval_data("validation").sample_ids if name.startswith(WNIDS[0])]


def test_the_full_variant_has_no_validation_set(imagenet_tree):
    with pytest.raises(DataError, match="imagenet_full_train has no set 'validation'"):
        ImageNetFullTrain(imagenet_tree, allow_partial=True).eval_data("validation")


# pictures


def test_the_evaluation_view_is_open_clips(tmp_path):
    from open_clip.transform import image_transform
    from torchvision.transforms import Compose

    theirs = Compose(image_transform(224, is_train=False).transforms[:-2])  # without tensor and normalisation
    noise = np.random.default_rng(0)
    for width, height in ((500, 375), (333, 500), (224, 224), (225, 301), (40, 31)):
        image = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = decoding.eval_view(image, 224, "noise")
        assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(theirs(Image.fromarray(image))))


def crop_draws(count):
    return decoding.crop_draws(np.arange(count, dtype=np.uint64))


@pytest.mark.parametrize("width, height", [(500, 375), (300, 300), (200, 600)])
def test_training_crops_are_drawn_as_torchvision_draws_them(width, height):
    from torchvision.transforms import RandomResizedCrop

    ours = np.array([decoding.random_box(width, height, draws) for draws in crop_draws(1500)])
    blank = Image.new("L", (width, height))
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(blank, (0.9, 1.0), (3 / 4, 4 / 3)) for _ in range(1500)])
    theirs = theirs[:, [1, 0, 3, 2]]  # from (top, left, height, width)
    assert (ours.min(0) >= 0).all() and (ours[:, 0] + ours[:, 2]).max() <= width
    # means over 1500 draws; their standard error is below 0.3 % of a side
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 0.012 * max(width, height)
    assert np.abs(ours.std(0) - theirs.std(0)).max() < 0.012 * max(width, height)


def test_training_views_are_never_flipped():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3))
    for draws in crop_draws(50):
        view = decoding.random_view(ramp, 16, draws)
        assert view[0, 8, 0] < view[0, 8, 15]


def test_extreme_shapes_still_give_a_crop():
    for width, height in ((1, 1), (1, 300), (300, 1), (2, 3)):
        for draws in crop_draws(20):
            left, top, w, h = decoding.random_box(width, height, draws)
            assert 0 <= left and 0 <= top and 1 <= w and 1 <= h and left + w <= width and top + h <= height
    dot = np.array([[[5, 6, 7]]], dtype=np.uint8)
    assert decoding.eval_view(dot, 8, "x")[:, 3, 3].tolist() == [5, 6, 7]
    with pytest.raises(DataError, match="thin.png: 1 x 30000 pixels are too long and thin"):
        decoding.eval_view(np.zeros((30_000, 1, 3), dtype=np.uint8), 224, "thin.png")


@pytest.mark.parametrize(
    "mode, suffix",
    [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("P", "gif")],
)
def test_every_colour_mode_becomes_rgb(mode, suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    picture(path, (255, 255, 255), mode=mode)
    with Image.open(path) as stored:
        assert stored.mode != "RGB"
    view = decoding.eval_view(decoding.read(path, str(path)), 8, "x")
    assert view.shape == (3, 8, 8)
    assert np.abs(view.astype(int) - 255).max() <= 3


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_an_unreadable_image_is_named(damage, imagenet_tree, tmp_path):
    good = (imagenet_tree / "ILSVRC2012" / "train" / WNIDS[0] / f"{WNIDS[0]}_3.JPEG").read_bytes()
    folder = tmp_path / "sketch"
    folders(folder, WNIDS[:2])
    bad = folder / WNIDS[1] / "bad.JPEG"
    bad.write_bytes({"cut": good[: len(good) - 60], "text": b"<html>not found</html>", "empty": b""}[damage])
    sketch = ImageNet(tmp_path, allow_partial=True, size=8).eval_data("imagenet_sketch")
    with pytest.raises(DataError, match="bad.JPEG: cannot be read as an image"):
        sketch.images(0, 1)


def test_training_pictures_depend_on_seed_epoch_and_index_alone(data):
    one = data.train_images([(3, 7)], seed=1)
    assert one.shape == (1, 3, SIZE, SIZE) and one.dtype == torch.uint8
    many = data.train_images([(0, 1), (3, 7), (3, 8)], seed=1)
    assert torch.equal(many[1], one[0])
    fresh = ImageNet(data.root, allow_partial=True, size=SIZE)
    assert torch.equal(fresh.train_images([(3, 7)], seed=1), one)


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_pictures_are_made_in_the_way_asked_for(decode, imagenet_tree, ways):
    data = ImageNet(imagenet_tree, allow_partial=True, size=SIZE, decode=decode)
    data.train_images([(0, 0)], 0)
    for entry in data.card.sets:
        data.eval_data(entry.name).images(0, 1)
    assert ways == [decode] * 8


def test_seed_and_epoch_change_the_crop(tmp_path):
    gradient = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for k in range(4):
        path = tmp_path / "imagenet" / "train" / WNIDS[0] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient).save(path)
    data = ImageNet(tmp_path, allow_partial=True, size=32)
    view = data.train_images([(0, 0)], 0)
    assert not torch.equal(view, data.train_images([(1, 0)], 0))
    assert not torch.equal(view, data.train_images([(0, 0)], 1))
    assert not torch.equal(view, data.train_images([(0, 1)], 0))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_gives_the_same_batches(data, workers):
    tokens = torch.arange(1000 * 2 * 3).view(1000, 2, 3)
    arguments = dict(batch_size=8, seed=2, start_step=1, total_steps=6)
    here = list(loaders.train_batches(data, tokens, **arguments))
    there = list(loaders.train_batches(data, tokens, **arguments, workers=workers))
    assert len(here) == len(there) == 5
    for a, b in zip(here, there, strict=True):
        for field in ("images", "labels", "tokens", "sample_ids", "epoch"):
            assert torch.equal(getattr(a, field), getattr(b, field)), field
    validation = data.eval_data("validation")
    alone = list(loaders.eval_batches(validation, 5))
    shared = list(loaders.eval_batches(validation, 5, workers=workers))
    assert [start for start, *_ in shared] == [0, 5, 10, 15, 20, 25]
    assert all(
        s == t and torch.equal(i, j) and torch.equal(k, m) for (s, i, k), (t, j, m) in zip(alone, shared, strict=True)
    )
    assert torch.cat([labels for *_, labels in shared]).tolist() == validation.labels.tolist()


def test_it_crosses_to_a_process_that_does_not_share_memory(data):
    before = data.train_images([(0, 3)], 0)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.train_images([(0, 3)], 0), before)
    validation = data.eval_data("validation")
    assert torch.equal(pickle.loads(pickle.dumps(validation)).images(0, 2), validation.images(0, 2))


def test_a_damaged_training_image_is_named_from_a_worker(tmp_path):
    folder = tmp_path / "imagenet" / "train" / WNIDS[0]
    for k in range(4):
        picture(folder / f"{k}.jpg", (1, 1, 1))
        (folder / f"{k}.jpg").write_bytes(b"no image")
    data = ImageNet(tmp_path, allow_partial=True, withhold=False, size=8)
    batches = loaders.train_batches(
        data, torch.ones(1000, 1, 3, dtype=torch.int64), batch_size=2, seed=0, start_step=0, total_steps=2, workers=1
    )
    with pytest.raises(DataError, match=r"^[^\n]*jpg: cannot be read[^\n]*$"):  # one sentence, no traceback
        next(batches)


# counts


def test_an_incomplete_set_is_refused_unless_told(imagenet_tree):
    strict = ImageNet(imagenet_tree)
    with pytest.raises(DataError, match=f"expected 50000 images in 1000 classes.* found 2 in 2, none in {WNIDS[0]}"):
        strict.eval_data("imagenet")
    with pytest.raises(DataError, match="expected 18574 images in 113 classes.* found 1 in 1.*--allow-partial"):
        strict.eval_data("objectnet")
    with pytest.raises(DataError, match="expected 1281167 images"):
        strict.train_labels()


def test_a_folder_of_another_dataset_is_refused_even_when_partial(tmp_path):
    folders(tmp_path / "imagenet-a", [WNIDS[c] for c in R])
    with pytest.raises(DataError, match="imagenet_a: .* folders that are none of its classes, first"):
        ImageNet(tmp_path, allow_partial=True).eval_data("imagenet_a")


def test_missing_data_says_where_what_and_from_whom(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=rf"imagenet_r: no folder {tmp_path}/imagenet-r; get ImageNet-R from .*ROBUSTFT_DATA"
    ):
        ImageNet(tmp_path).eval_data("imagenet_r")
    (tmp_path / "sketch").mkdir()
    with pytest.raises(DataError, match="no images in class folders under"):
        ImageNet(tmp_path, allow_partial=True).eval_data("imagenet_sketch")
    monkeypatch.delenv(image_folders.ROOT_VARIABLE, raising=False)
    with pytest.raises(DataError, match="no data root; set ROBUSTFT_DATA"):
        ImageNet().eval_data("imagenet")


def test_a_complete_small_source_passes_the_count(tmp_path):
    for name in "ab":
        picture(tmp_path / "set" / name / "1.png", (1, 1, 1))
    source = image_folders.Source("set", ("set",), 2, 2, "it")
    listed = image_folders.scan(source.find(tmp_path))
    source.check(listed, image_folders.relabel(listed, "set", "ab"), "ab", allow_partial=False)
    with pytest.raises(DataError, match="expected 2 images in 2 classes .* found 1 in 1, none in b"):
        source.check(listed, np.array([0]), "ab", allow_partial=False)
    with pytest.raises(DataError, match="expected 2 images in 2 classes .* found 2 in 1, none in b"):
        source.check(listed, np.array([0, 0]), "ab", allow_partial=False)


def test_expected_counts_are_those_of_the_protocol():
    assert {name: source.images for name, source in SOURCES.items()} == {
        "train": 1_281_167, "imagenet": 50_000, "imagenet_v2": 10_000, "imagenet_r": 30_000, "imagenet_a": 7_500,
        "imagenet_sketch": 50_889, "objectnet": 18_574,
    }  # fmt: skip


def test_layouts_of_earlier_code_are_found(tmp_path):
    picture(tmp_path / "imagenet" / "val_in_folder" / WNIDS[7] / "v.JPEG", (3, 3, 3))
    val = ImageNet(tmp_path, allow_partial=True).eval_data("imagenet")
    assert val.labels.tolist() == [7] and Path(val.sample_ids[0]).name == "v.JPEG"
    picture(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "train" / WNIDS[3] / "t.JPEG", (3, 3, 3))
    assert ImageNet(tmp_path, allow_partial=True).train_labels().tolist() == [3]


def test_an_archive_in_a_folder_of_its_own_name_is_found(tmp_path):
    name = "imagenetv2-matched-frequency-format-val"
    picture(tmp_path / name / name / "10" / "a.jpeg", (3, 3, 3))
    v2 = ImageNet(tmp_path, allow_partial=True).eval_data("imagenet_v2")
    assert v2.labels.tolist() == [10] and v2.sample_ids == ["10/a.jpeg"]


def test_an_archive_that_nobody_has_unpacked_and_flat_images_are_told(tmp_path):
    (tmp_path / "ILSVRC2012").mkdir()
    (tmp_path / "ILSVRC2012" / "ILSVRC2012_img_train.tar").write_bytes(b"")
    (tmp_path / "imagenet-r.tar").write_bytes(b"")
    data = ImageNet(tmp_path, allow_partial=True)
    with pytest.raises(DataError, match=rf"unpack {tmp_path}/ILSVRC2012/ILSVRC2012_img_train.tar, which is there"):
        data.train_labels()
    with pytest.raises(DataError, match=rf"unpack {tmp_path}/imagenet-r.tar, which is there, or set ROBUSTFT_DATA"):
        data.eval_data("imagenet_r")
    with pytest.raises(DataError, match="imagenet-a; get ImageNet-A"):  # another archive is not this one
        data.eval_data("imagenet_a")
    for k in (1, 2):
        picture(tmp_path / "ILSVRC2012" / "val" / f"ILSVRC2012_val_0000000{k}.JPEG", (3, 3, 3))
    with pytest.raises(DataError, match=r"2 entries lie elsewhere in it, first 'ILSVRC2012_val_00000001.JPEG'\); get"):
        data.eval_data("imagenet")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    picture(tmp_path / "sketch" / WNIDS[0] / "a.jpg", (3, 3, 3))

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_folders.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"sketch: cannot be listed \(Permission denied\); make it readable"):
        ImageNet(tmp_path, allow_partial=True).eval_data("imagenet_sketch")
    with pytest.raises(DataError, match=rf"^{tmp_path}: cannot be listed"):  # in search of an archive
        ImageNet(tmp_path, allow_partial=True).eval_data("imagenet_r")
