"""Three animals as data of one's own: a folder of images, and a split of Parquet files."""

from PIL import Image


def picture(path, value, width=10):
    """A grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 12), (value, value, value)).save(path)


def make(root, sets=None):
    """A folder of images; `sets` says how many of each class are in each."""
    sets = sets or {"train": (20, 11, 1), "id_test": (2, 2, 1), "night": (1, 0, 1), "fog": (1, 1, 1)}
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("zebra\ta zebra\nant\tan ant\nbee\tant\n", encoding="utf-8")
    for s, (name, counts) in enumerate(sets.items()):
        (root / name).mkdir()
        for c, count in enumerate(counts):
            for k in range(count):
                picture(root / name / ("zebra", "ant", "bee")[c] / f"{k}.png", 40 * s + 3 * c + k, 10 + s)
    return root


def parquet(folder, split, labels, names=("cat", "dog", "emu"), image="image", label="label", base=0):
    """One split; row k is a grey picture of value base + k."""
    import datasets as library

    pictures = [Image.new("RGB", (10, 12), (base + k,) * 3) for k in range(len(labels))]
    kind = library.ClassLabel(names=list(names)) if names else library.Value("int64")
    kind = library.Value("string") if labels and isinstance(labels[0], str) else kind
    rows = library.Dataset.from_dict(
        {image: pictures, label: labels}, features=library.Features({image: library.Image(), label: kind})
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)  # where the library finds splits of any name
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
