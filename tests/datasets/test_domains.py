"""`domains:<path>` and `pool:`: what is trained on, held out and left out, and leave-one-out as ranked recipes."""

import json

import numpy as np
import pytest
import torch
from own_data_kit import picture
from own_data_kit import suite as suite_file
from runs_kit import call

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite import suite
from robustft.datasets import catalogue, domains
from robustft.datasets.card import DataError
from robustft.datasets.decoding import eval_view
from robustft.datasets.domains import Domains
from robustft.datasets.image_sets import lowest_by_hash
from robustft.results.audit import tuned_evidence

pytestmark = pytest.mark.usefixtures("no_reference")

NAMES = ("art", "photo", "sketch")
CLASSES = ("dog", "red_house")


def write(path, each=20):
    for d, domain in enumerate(NAMES):
        for c, name in enumerate(CLASSES):
            (path / domain / name).mkdir(parents=True)
            for k in range(each):
                picture(c, k, d).save(path / domain / name / f"{k:02d}.png")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write(tmp_path_factory.mktemp("domains") / "PACS")


def test_the_pool_is_trained_on_and_what_is_left_out_is_a_shift(place):
    data = Domains(place, ["photo", "art"], size=8)
    assert data.card.names("shift") == ("sketch",) and data.card.class_names == ("dog", "red house")
    assert {name.partition("/")[0] for name in data.train_names()} == {"photo", "art"}
    parts = {name: set(data.eval_data(name).sample_ids) for name in ("validation", "id", "sketch")}
    assert [len(part) for part in parts.values()] == [8, 8, 40] and data.train_size == 64
    assert parts["validation"].isdisjoint(parts["id"]) and not set(data.train_names()) & (
        parts["id"] | parts["validation"]
    )
    assert Domains(place, size=8).pool == ("art", "photo")


def test_held_out_are_two_tenths_of_each_class_of_each_domain_by_hash(place):
    data = Domains(place, ["art", "sketch"], size=8)
    for domain in ("art", "sketch"):
        for name in CLASSES:
            every = [f"{domain}/{name}/{k:02d}.png" for k in range(20)]
            zero = np.zeros(20, dtype=int)
            first, both = (lowest_by_hash(every, zero, lambda size, n=n: n) for n in (2, 4))
            for role, mask in (("validation", first), ("id", both & ~first)):
                found = {s for s in data.eval_data(role).sample_ids if s.startswith(f"{domain}/{name}/")}
                assert found == {every[i] for i in np.flatnonzero(mask)}
    assert data.eval_data("id").groups == ["art"] * 4 + ["sketch"] * 4


def test_pictures_are_those_of_their_files(place):
    data = Domains(place, ["photo", "sketch"], size=8)
    found = data.eval_data("id")
    from robustft.datasets.decoding import read

    for i in (0, len(found) - 1):
        path = place / found.sample_ids[i]
        assert torch.equal(
            found.images(i, i + 1)[0], torch.from_numpy(eval_view(read(path, ""), 8, "", "exact").copy())
        )
    assert data.train_images([(0, 0)], 0).shape == (1, 3, 8, 8)


def test_the_version_is_of_the_images_and_the_fingerprint_also_of_the_pool(place, tmp_path):
    one, two = (Domains(place, pool, size=8).card for pool in (["art"], ["art", "photo"]))
    assert one.version == two.version and one.fingerprint != two.fingerprint
    again = Domains(write(tmp_path / "PACS"), ["art"], size=8).card
    assert again.fingerprint == one.fingerprint
    picture(0, 99, 9).save(tmp_path / "PACS" / "sketch" / "dog" / "00.png")
    assert Domains(tmp_path / "PACS", ["art"], size=8).card.version != one.version


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (["art", "phoot"], "which are art, photo, sketch, got 'phoot'"),
        (list(NAMES), "leave one out to test on"),
        (["art", "art"], "each once"),
    ],
)
def test_a_pool_that_is_none_is_refused(place, pool, said):
    with pytest.raises(DataError, match=f"pool: .*{said}"):
        catalogue.get(catalogue.with_shifts(f"domains:{place}", {}, (), pool), size=8)


def test_what_does_not_fit_is_said(place, tmp_path):
    with pytest.raises(DataError, match="pool: needs data in domains, as domains:<path>, got digits"):
        catalogue.get(catalogue.with_shifts("digits", {}, (), ["art"]))
    with pytest.raises(DataError, match="there is no such folder"):
        Domains(tmp_path / "nothing")
    write(tmp_path / "less")
    for file in (tmp_path / "less" / "art" / "dog").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="'dog' has no image in the pool"):
        Domains(tmp_path / "less", ["art"], size=8).train_labels()
    assert Domains(tmp_path / "less", ["art", "photo"], size=8).train_size


def leave_one_out(path, place, **changes):
    recipe = {"steps": 3, "batch_size": 4, "lr": 1e-4, "weight_decay": 0.1, "precision": "fp32"}
    recipes = {name: {**recipe, "pool": [other for other in NAMES if other != name]} for name in ("sketch", "art")}
    recipes["longer"] = {**recipe, "steps": 6}
    tuning = {"trials": 1, "seeds": [100], "space": {"flyp": {"lr": [1e-4]}}}
    content = {"methods": ["flyp"], "recipes": recipes, "tuning": tuning, **changes}
    return str(suite_file(path, f"domains:{place}", **content))


def test_each_recipe_with_a_pool_is_ranked_by_values_of_its_own(tmp_path, place, monkeypatch, capsys, runs_here):
    monkeypatch.chdir(tmp_path)
    path = leave_one_out(tmp_path / "pacs.yaml", place)
    for recipe in ("sketch", "art"):
        how = ("--recipe", recipe, "--runs", "runs", "--jobs", "1")
        assert call("tune", path, "--method", "flyp", *how) == 0
        assert call("sweep", path, "--method", "flyp", *how) == 0
    benchmark = Benchmark(path)
    assert list(benchmark.tuned.entries["flyp"]) == ["tiny-vit-p8", "tiny-vit-p8, recipe art"]
    assert benchmark.tuned.entry("flyp", "tiny-vit-p8", "longer") is None
    found = [json.loads(file.read_text()) for file in tmp_path.glob("runs/pacs/flyp/*/*/record.json")]
    of = {record["recipe"]: record for record in found if record["kind"] == "run"}
    assert {recipe: record["selection"]["rules"] for recipe, record in of.items()} == {
        "sketch": ["one_se", "best_id"],
        "art": ["one_se", "best_id"],
    }
    assert {
        recipe: [s for s, m in record["sets"].items() if m["role"] == "shift"] for recipe, record in of.items()
    } == {
        "sketch": ["sketch"],
        "art": ["art"],
    }
    assert of["art"]["sets"]["id"]["group_accuracy"].keys() == {"photo", "sketch"}
    used = tuned_evidence.used(benchmark.tuned.plain(), of.values())
    assert list(used["flyp"]) == ["tiny-vit-p8", "tiny-vit-p8, recipe art"]
    assert list(tuned_evidence.findings(used, of.values())) == []
    assert call("leaderboard", path, "--runs", "runs") == 0
    (page,) = tmp_path.rglob("leaderboard.md")
    assert "recipe sketch" in page.read_text() and "recipe art" in page.read_text()
    capsys.readouterr()


def test_a_suite_refuses_a_pool_where_there_are_no_domains(tmp_path, place):
    path = suite_file(tmp_path / "x.yaml", "digits", version="digits-v1", pool=["art"])
    with pytest.raises(UserError, match="pool must be left out where dataset is not domains:<path>"):
        suite.load(suite.find(str(path)))
    path = leave_one_out(tmp_path / "y.yaml", place, pool=["art", "photo"])
    loaded = suite.load(suite.find(path))
    assert catalogue.get(loaded.dataset_of("longer"), size=8).pool == ("art", "photo")
    assert loaded.ranked_recipes == ["sketch", "art"]


def test_doctor_counts_the_images_of_domainbeds_data(tmp_path, monkeypatch, capsys):
    for name in ("art_painting", "cartoon", "photo", "sketch"):
        for c, kind in enumerate(("dog", "elephant")):
            (tmp_path / "PACS" / name / kind).mkdir(parents=True)
            for k in range(4):
                picture(c, k, sum(map(ord, name))).save(tmp_path / "PACS" / name / kind / f"{k}.png")
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))
    suite_file(tmp_path / "pacs.yaml", "domains:PACS")
    assert call("doctor", str(tmp_path / "pacs.yaml"), "--fast") == 1
    said = capsys.readouterr().out
    assert "! domains:PACS: DomainBed's PACS has 9,991 images, here are 8 of art_painting and not 2,048, 8 of" in said
    monkeypatch.setitem(domains.PUBLISHED, "PACS", dict.fromkeys(domains.PUBLISHED["PACS"], 8))
    assert call("doctor", str(tmp_path / "pacs.yaml"), "--fast") == 0
    assert "domains:PACS: 32 images of PACS, of each domain as many as DomainBed's." in capsys.readouterr().out
    monkeypatch.setitem(domains.PUBLISHED["PACS"], "photo", 10)
    monkeypatch.setitem(domains.LATER, "PACS", 32)
    right, sentence = Domains(tmp_path / "PACS", size=8).counted
    assert right and "as many as DomainBed's script gives now; its table has 34, which are other images" in sentence


def test_the_counts_of_domains_are_those_of_domainbeds_table():
    """Gulrajani and Lopez-Paz, arXiv:2007.01434: the table of datasets."""
    sums = [sum(counts.values()) for counts in domains.PUBLISHED.values()]
    assert sums == [9_991, 10_729, 15_588, 24_788]


def test_other_domains_are_no_published_data(place):
    assert Domains(place, size=8).counted == (True, "")
