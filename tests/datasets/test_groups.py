"""Groups of one's own data: `groups.txt` of a folder, a column of the hub's library, and the worst group's accuracy."""

import json

import pytest
from own_data_kit import NAMES, folder, table
from own_data_kit import suite as suite_file
from runs_kit import call

from robustft.datasets import catalogue
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder
from robustft.datasets.hub import Hub

pytestmark = pytest.mark.usefixtures("no_reference")

PLACES = ("land", "water")


def written(path, folders):
    """groups.txt for these folders: the images of each class by turns on land and water."""
    lines = []
    for name in folders:
        for image in sorted((path / name).glob("*/*")):
            lines.append(f"{image.relative_to(path)}\t{PLACES[int(image.stem) % 2]}\n")
    (path / "groups.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    path = tmp_path_factory.mktemp("birds") / "birds"
    folder(path, {"a": "landbird", "b": "waterbird"})
    written(path, ["id_test", "shift1"])
    return path


def test_each_image_has_its_group_and_a_shift_is_judged_by_the_worst(birds):
    data = Folder(birds, size=8)
    assert data.eval_data("shift1").groups == list(PLACES) * 4 == data.eval_data("id").groups
    assert data.eval_data("validation").groups is None
    metrics = {entry.name: entry.metric for entry in data.card.sets}
    assert metrics == {"validation": "accuracy", "id": "accuracy", "shift1": "worst_group_accuracy"}


def test_groups_are_in_the_fingerprint_and_without_them_it_is_as_before(tmp_path, birds):
    folder(tmp_path / "birds", {"a": "landbird", "b": "waterbird"})
    plain = Folder(tmp_path / "birds", size=8)
    before = plain.card.fingerprint
    assert plain.card.fingerprint != Folder(birds, size=8).card.fingerprint
    written(tmp_path / "birds", ["id_test", "shift1"])
    assert Folder(tmp_path / "birds", size=8).card.fingerprint == Folder(birds, size=8).card.fingerprint != before


def test_a_withheld_tenth_keeps_its_groups(tmp_path):
    path = tmp_path / "few"
    folder(path, {"a": "landbird", "b": "waterbird"})
    (path / "validation").rename(tmp_path / "away")
    written(path, ["train", "shift1"])
    data = Folder(path, size=8).eval_data("validation")
    assert data.groups == [PLACES[int(name.partition("/")[2][:3]) % 2] for name in data.sample_ids]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: text.partition("\n")[2],
            "groups.txt names 7 of 8 images of id_test, and not 'id_test/a/000.png'",
        ),
        (lambda text: text + "shift1/a/9.png\tland\n", "groups.txt names 'shift1/a/9.png', which is no image of a set"),
        (lambda text: text + text.partition("\n")[0] + "\n", "each image once; found 'id_test/a/000.png"),
        (lambda text: text.replace("\tland", " land"), "needs lines of folder/class/file, tab, group"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, birds, change, said):
    folder(tmp_path / "birds", {"a": "landbird", "b": "waterbird"})
    (tmp_path / "birds" / "groups.txt").write_text(change((birds / "groups.txt").read_text()))
    with pytest.raises(DataError, match=said):
        Folder(tmp_path / "birds", size=8).card  # noqa: B018


def test_a_column_of_the_hubs_library_is_groups(tmp_path):
    import pandas

    for split, count in (("train", 12), ("validation", 6), ("test", 6), ("far", 6)):
        table(tmp_path / "set", split, [k % 3 for k in range(count)])
        place = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        if split != "validation":
            frame = pandas.read_parquet(place)
            frame["place"] = [None, "land", "water"][:3] * (count // 3)
            frame.to_parquet(place)
    text = f"dataset: set\ngroups: place\nclass_names: [{', '.join(NAMES)}]\n"
    text += "validation: validation\nshifts: {far: far}\n"
    (tmp_path / "own.yaml").write_text(text)
    data = Hub(str(tmp_path / "own.yaml"), size=8)
    assert data.eval_data("far").groups == ["", "land", "water"] * 2 and data.eval_data("validation").groups is None
    assert {entry.metric for entry in data.card.sets if entry.name == "far"} == {"worst_group_accuracy"}
    (tmp_path / "wrong.yaml").write_text(text.replace("place", "plaice"))
    with pytest.raises(DataError, match="groups must be a column of a test set, got 'plaice', which none has"):
        Hub(str(tmp_path / "wrong.yaml"), size=8).card  # noqa: B018
    (tmp_path / "none.yaml").write_text(text.replace("groups: place\n", ""))
    prints = [Hub(str(tmp_path / name), size=8).card.fingerprint for name in ("own.yaml", "none.yaml")]
    assert prints[0] != prints[1]


def test_a_board_has_the_worst_group(tmp_path, birds, monkeypatch, capsys, runs_here):
    monkeypatch.chdir(tmp_path)
    path = suite_file(tmp_path / "birds.yaml", f"folder:{birds}", methods=["zero_shot"])
    assert call("sweep", str(path), "--method", "zero_shot", "--runs", "runs", "--jobs", "1") == 0
    (record,) = [json.loads(file.read_text()) for file in tmp_path.glob("runs/birds/*/*/*/record.json")]
    shift = record["sets"]["shift1"]
    assert shift["worst_group_accuracy"] == min(shift["group_accuracy"].values()) and len(shift["group_accuracy"]) == 2
    assert "worst_group_accuracy" in record["sets"]["id"]
    capsys.readouterr()
    assert call("leaderboard", str(path), "--runs", "runs") == 0
    (found,) = tmp_path.rglob("leaderboard.md")
    assert "shift1 worst group" in found.read_text()


def beside(source):
    """Animals of two classes with a further shift."""
    return catalogue.get(catalogue.with_shifts(source, {"far": source.replace("own", "far")}), size=8)


@pytest.fixture
def far(tmp_path):
    """A dataset `own` without groups, and a folder `far` of images of its classes."""
    folder(tmp_path / "own", {"a": "landbird", "b": "waterbird"})
    folder(tmp_path / "other", {"a": "landbird", "b": "waterbird"})
    for file in sorted((tmp_path / "other" / "shift1").glob("*/*")):
        file.write_bytes(file.read_bytes() + b" ")  # other bytes than those of own
    (tmp_path / "other" / "shift1").rename(tmp_path / "far")
    return tmp_path


def listed(root, before=""):
    images = sorted((root / "far").glob("*/*"))
    return "".join(f"{before}{i.relative_to(root / 'far')}\t{PLACES[int(i.stem) % 2]}\n" for i in images)


def test_a_further_shift_has_the_groups_of_its_own_list_or_of_the_one_beside_it(far):
    plain = beside(f"folder:{far / 'own'}").card
    assert plain.sets[-1].metric == "accuracy"
    prints = {plain.fingerprint}
    for place, text in (
        (far / "far" / "groups.txt", listed(far)),
        (far / "groups.txt", listed(far, "far/") + "own/id_test/a/000.png\tland\n"),  # of other folders, too
    ):
        place.write_text(text)
        data = beside(f"folder:{far / 'own'}")
        assert data.eval_data("far").groups == list(PLACES) * 4 and data.passed_over == {}
        assert data.card.sets[-1].metric == "worst_group_accuracy" and data.card.sets[-1].measures.endswith("by group")
        prints.add(data.card.fingerprint)
        place.unlink()
    assert len(prints) == 2  # where the list stands says nothing of the data
    (far / "groups.txt").write_text(listed(far, "far/").replace("\tland", "\tsea"))
    assert beside(f"folder:{far / 'own'}").card.fingerprint not in prints


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.partition("\n")[2], "groups.txt names 7 of 8 images of far, and not 'a/000.png'"),
        (lambda text: text + "a/9.png\tland\n", "groups.txt names 'a/9.png', which is no image of a set"),
    ],
)
def test_groups_of_a_further_shift_that_do_not_fit_are_said(far, change, said):
    (far / "far" / "groups.txt").write_text(change(listed(far)))
    with pytest.raises(DataError, match=f"folder:.*far: {said}"):
        beside(f"folder:{far / 'own'}")


def test_a_further_shift_of_the_hubs_library_has_the_groups_of_its_column(tmp_path):
    import pandas

    folder(tmp_path / "own", dict(zip("abc", NAMES, strict=True)))
    table(tmp_path / "set", "test", [k % 3 for k in range(6)])
    (file,) = (tmp_path / "set" / "data").iterdir()
    pandas.read_parquet(file).assign(place=["land", "water", None] * 2).to_parquet(file)
    text = f"dataset: set\ngroups: place\nclass_names: [{', '.join(NAMES)}]\n"
    (tmp_path / "far.yaml").write_text(text)
    data = catalogue.get(
        catalogue.with_shifts(f"folder:{tmp_path / 'own'}", {"far": f"huggingface:{tmp_path / 'far.yaml'}"}), size=8
    )
    assert data.eval_data("far").groups == ["land", "water", ""] * 2
    assert data.card.sets[-1].metric == "worst_group_accuracy"
    (tmp_path / "far.yaml").write_text(text.replace("place", "plaice"))
    with pytest.raises(DataError, match="far: groups must be a column of the split test, got 'plaice'; correct"):
        catalogue.get(
            catalogue.with_shifts(f"folder:{tmp_path / 'own'}", {"far": f"huggingface:{tmp_path / 'far.yaml'}"}), size=8
        )


def test_a_run_has_the_worst_group_of_a_further_shift(far, monkeypatch, runs_here):
    monkeypatch.chdir(far)
    (far / "far" / "groups.txt").write_text(listed(far))
    path = suite_file(far / "birds.yaml", "folder:own", methods=["zero_shot"], shifts={"far": "folder:far"})
    assert call("sweep", str(path), "--method", "zero_shot", "--runs", "runs", "--jobs", "1") == 0
    (record,) = [json.loads(file.read_text()) for file in far.glob("runs/birds/*/*/*/record.json")]
    shift = record["sets"]["far"]
    assert (
        set(shift["group_accuracy"]) == set(PLACES) and record["info"]["own_metrics"]["far"] == "worst_group_accuracy"
    )
    assert shift["worst_group_accuracy"] == min(shift["group_accuracy"].values())
