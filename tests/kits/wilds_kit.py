"""Tiny copies of iWildCam, FMoW and Camelyon17 that the real `wilds` package accepts."""

import pandas as pd
from PIL import Image

SPLITS = ("train", "id_val", "id_test", "val", "test")


def picture(path, value, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, value, value)).convert(mode).save(path)


def released(root, name, version):
    folder = root / f"{name}_v{version}"
    folder.mkdir(parents=True)
    (folder / f"RELEASE_v{version}.txt").write_text("tiny")
    return folder


def iwildcam(root):
    """iWildCam."""
    folder = released(root, "iwildcam", "2.0")
    rows = []
    for i in range(20):
        rows.append({
            "split": SPLITS[i % 5], "filename": f"{i:03d}.jpg", "y": i % 4, "location_remapped": i % 3,
            "sequence_remapped": i // 2, "datetime": "2013-05-01 10:00:00.000", "image_id": f"id{i}",
        })  # fmt: skip
        picture(folder / "train" / f"{i:03d}.jpg", 10 * i, mode="L" if i % 2 else "CMYK")
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")


def fmow(root):
    """FMoW."""
    folder = released(root, "fmow", "1.1")
    years = {"train": (2010, "train"), "id_val": (2010, "val"), "id_test": (2011, "test"), "val": (2014, "val"),
             "test": (2016, "test"), "seq": (2016, "seq"), "none": (2016, "val")}  # fmt: skip
    countries = ["FRA", "JPN", "ATA", "KEN"]
    rows = []
    for i in range(42):
        year, split = years[list(years)[i % 7]]
        rows.append({
            "split": split, "timestamp": f"{year}-06-01T00:00:00Z", "country_code": countries[i // 7 % 4],
            "category": ["zoo", "airport"][i // 7 % 2],
        })  # fmt: skip
        if split != "seq":
            picture(folder / "images" / f"rgb_img_{i}.png", 5 * i, mode="RGBA")
    pd.DataFrame(rows).to_csv(folder / "rgb_metadata.csv", index=False)
    regions = {"alpha-3": ["FRA", "JPN", "KEN"], "region": ["Europe", "Asia", "Africa"]}
    pd.DataFrame(regions).to_csv(folder / "country_code_mapping.csv", index=False)


def camelyon(root):
    """Camelyon17, in a folder `wilds` of the root."""
    root = root / "wilds"
    folder = released(root, "camelyon17", "1.0")
    rows = []
    for slide in range(20):  # four slides a hospital, six patches a slide, of which two are in id_val
        for k in range(6):
            patient, node, x, y = f"{slide:03d}", slide % 3, 96 * k, 32
            rows.append({
                "patient": patient, "node": node, "x_coord": x, "y_coord": y, "tumor": k % 2, "slide": slide,
                "center": slide // 4, "split": int(k >= 4),
            })  # fmt: skip
            name = f"patient_{patient}_node_{node}"
            picture(folder / "patches" / name / f"patch_{name}_x_{x}_y_{y}.png", 12 * slide, mode="RGBA")
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
