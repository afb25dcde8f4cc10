"""Small valid copies of ImageNet and its shifts."""

import json

import numpy as np
from PIL import Image

from robustft.datasets import imagenet_metadata

WNIDS = imagenet_metadata.imagenet_synsets()
SIZE = 16
A, R = imagenet_metadata.imagenet_subset("a"), imagenet_metadata.imagenet_subset("r")


def picture(path, colour, size=(20, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, quality=95)


def folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)


def write_objectnet(root):
    """313 folders, 113 of them meaning 125 ImageNet classes, in the four files of the real archive."""
    names = sorted(f"object_{k:03d}" for k in range(313))
    meant = names[:226:2]
    sizes = [3, 3, 3, *[2] * 6, *[1] * 104]
    order = np.random.default_rng(0).permutation(1000)
    lines = [f"label {line}, other words" for line in range(1000)]
    lines[998] = lines[999] = "crane"
    columns, next_line = {}, 0
    meanings = {}
    for name, size in zip(meant, sizes, strict=True):
        columns[name] = [int(np.flatnonzero(order == line)[0]) for line in range(next_line, next_line + size)]
        meanings[name.replace("_", " ").title()] = "; ".join(lines[next_line : next_line + size])
        next_line += size
    mappings = root / "objectnet-1.0" / "mappings"
    mappings.mkdir(parents=True)
    (mappings / "folder_to_objectnet_label.json").write_text(
        json.dumps({name: name.replace("_", " ").title() for name in names})
    )
    (mappings / "objectnet_to_imagenet_1k.json").write_text(json.dumps(meanings))
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(i): int(order[i]) for i in range(1000)}))
    (mappings / "imagenet_to_label_2012_v2").write_text("\n".join(lines) + "\n")
    folders(root / "objectnet-1.0" / "images", names)
    return names, meant, columns


def write_tree(root):
    """All class folders of all sets, and a few images."""
    train, val = root / "ILSVRC2012" / "train", root / "ILSVRC2012" / "val_dirs"
    for folder, names in (
        (train, WNIDS), (val, WNIDS), (root / "sketch", WNIDS),
        (root / "imagenetv2-matched-frequency-format-val", [str(c) for c in range(1000)]),
        (root / "imagenet-r", [WNIDS[c] for c in R]), (root / "imagenet-a", [WNIDS[c] for c in A]),
    ):  # fmt: skip
        folders(folder, names)
        (folder / "README.txt").write_text("not a class")
    for c, count in ((0, 60), (1, 4), (657, 1)):
        for k in range(count):
            picture(train / WNIDS[c] / f"{WNIDS[c]}_{k}.JPEG", (c % 200, 4 * k, 100))
    (train / WNIDS[0] / "notes.txt").write_text("not an image")
    picture(val / WNIDS[5] / "ILSVRC2012_val_00000001.JPEG", (1, 2, 3))
    picture(val / WNIDS[2] / "ILSVRC2012_val_00000002.JPEG", (1, 2, 3))
    for c in (2, 10, 100):
        picture(root / "imagenetv2-matched-frequency-format-val" / str(c) / "a.jpeg", (c, c, c))
    picture(root / "imagenet-r" / WNIDS[R[3]] / "art_0.jpg", (9, 9, 9))
    picture(root / "imagenet-a" / WNIDS[A[199]] / "0.1.jpg", (9, 9, 9))
    picture(root / "sketch" / WNIDS[999] / "sketch_0.JPEG", 128, mode="L")
    names, meant, _ = write_objectnet(root)
    bordered = Image.new("RGB", (SIZE + 4, SIZE + 4), (255, 0, 0))
    bordered.paste((40, 40, 40), (2, 2, SIZE + 2, SIZE + 2))  # the first ring that is not border
    bordered.paste((90, 90, 90), (3, 3, SIZE + 1, SIZE + 1))
    bordered.save(root / "objectnet-1.0" / "images" / meant[4] / "x.png")
    picture(root / "objectnet-1.0" / "images" / names[1] / "no_counterpart.png", (0, 0, 0))
