"""Data of one's own for tests that run the real commands on them: a folder, tables of the hub's library, a suite."""

import io
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

NAMES = ("zero", "one", "two")


def picture(c, j, s):
    """40 x 40 pixels of a colour for each class, another noise for each image and set."""
    values = np.random.default_rng([c, j, s]).integers(0, 60, (40, 40, 3))
    values[..., c % 3] += 150
    return Image.fromarray(values.astype("uint8"))


def png(image):
    """Its bytes as a file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def folder(path, classes, save=None, classes_txt=None):
    """A `folder:` dataset; returns its name.

    Args:
        classes: class folder -> class name.
        save: function of (image, path without suffix, set, class, number) that writes it; default a PNG.
        classes_txt: the bytes of classes.txt where they are to be others.
    """
    path = Path(path)
    path.mkdir()
    text = "".join(f"{key}\t{name}\n" for key, name in classes.items()).encode()
    (path / "classes.txt").write_bytes(text if classes_txt is None else classes_txt)
    for s, (name, count) in enumerate([("train", 8), ("validation", 4), ("id_test", 4), ("shift1", 4)]):
        for c, key in enumerate(classes):
            (path / name / key).mkdir(parents=True)
            for j in range(count):
                image, place = picture(c, j, s), path / name / key / f"{j:03d}"
                if save is None:
                    image.save(place.with_suffix(".png"))
                else:
                    save(image, place, name, c, j)
    return f"folder:{path}"


def table(path, split, labels, *, label=None, image="image", names=None, stored=None):
    """One split of a dataset of Parquet files, as pandas or the hub's library writes it.

    Args:
        labels: one a row; integers, or what the column holds.
        label: the library's feature of the label column; None: pandas writes the file.
        names: of a ClassLabel, in its order; `labels` are then positions in it.
        stored: function of an image to what its column holds; default {bytes, path}.
    """
    import datasets
    import pandas

    stored = stored or (lambda image: {"bytes": png(image), "path": None})
    seed = sum(map(ord, split))
    rows = {image: [stored(picture(k % 3, k, seed)) for k in range(len(labels))], "label": labels}
    place = Path(path) / "data" / f"{split}-00000-of-00001.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    if names is not None:
        label = datasets.ClassLabel(names=list(names))
    if label is None:
        pandas.DataFrame(rows).to_parquet(place)
    else:
        features = datasets.Features({image: datasets.Image(), "label": label})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(place))


def suite(path, dataset, **changes):
    """A suite file of runs of a second on the data; returns its path."""
    path = Path(path)
    content = {
        "name": path.stem,
        "dataset": dataset,
        "version": "own",
        "backbones": ["tiny-vit-p8"],
        "methods": ["zero_shot", "ft", "flyp"],
        "seeds": [0],
        "recipes": {"common": {"steps": 3, "batch_size": 4, "lr": 1e-4, "weight_decay": 0.1, "precision": "fp32"}},
    }
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


def described(path, text):
    """A YAML file that describes data of the hub's library; returns the name of the dataset."""
    path = Path(path)
    path.write_text(text, encoding="utf-8")
    return f"huggingface:{path}"
