"""What sparring has written among the images is no data: left out, and said."""

from pathlib import Path

import pytest
from PIL import Image

from sparring.commands.sample.draw import make_room
from sparring.commands.shared.files import check_outside
from sparring.data.datasets import build_dataset
from sparring.support.errors import UserError
from sparring.training import open_run


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(map(ord, path.name)) % 256
    Image.new("RGB", (8, 8), (shade, 0, 255 - shade)).save(path)


def write_run(folder: Path) -> None:
    for name in ("samples/step-2.png", "data/training_samples.png", "evaluation/grid.png"):
        picture(folder / name)
    (folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (folder / "run.json").write_text("{}")


def write_samples(folder: Path) -> None:
    for name in ("00000.png", "00001.png", "grid.png"):
        picture(folder / name)
    (folder / "sampling.json").write_text("{}")


def names(root: Path, **words) -> list[str]:
    found = build_dataset("image_folder", train_data_dir=str(root), **words)
    return [Path(found.where(i)).relative_to(root).as_posix() for i in range(len(found))]


@pytest.fixture
def photos(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.mark.parametrize("place", ["run", "runs/plain", "deep/er/runs/plain", "runs/seeds/3"])
def test_a_run_among_the_images_is_left_out_and_said(photos, place):
    before = build_dataset("image_folder", train_data_dir=str(photos))
    write_run(photos / place)
    after = build_dataset("image_folder", train_data_dir=str(photos))
    assert names(photos) == ["a.png", "b.png", "c.png"]
    assert after.fingerprint() == before.fingerprint()
    (said,) = after.remarks
    assert f"{photos / place} (a run)" in said
    assert before.remarks == []


def test_a_run_that_has_just_begun_is_one(photos):
    with open_run(photos / "runs" / "new") as run:
        picture(run.path / "data" / "training_samples.png")
        assert names(photos) == ["a.png", "b.png", "c.png"]
    assert names(photos) == ["a.png", "b.png", "c.png"]


def test_a_run_is_one_through_a_link_and_as_a_copy(photos, tmp_path):
    """The link may lead out of the data: nothing is read through it."""
    write_run(tmp_path / "elsewhere")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    write_run(photos / "copied")
    (photos / "copied" / "checkpoints" / "checkpoint-2").rmdir()
    (photos / "copied" / "checkpoints").rmdir()
    (photos / "copied" / "config.yaml").write_text("{}")
    assert names(photos) == ["a.png", "b.png", "c.png"]


def test_runs_are_no_class_and_no_split(tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        picture(tmp_path / "classes" / name)
        picture(tmp_path / "splits" / "train" / name)
        picture(tmp_path / "splits" / "test" / name)
    write_run(tmp_path / "classes" / "runs" / "one")
    write_run(tmp_path / "splits" / "runs" / "one")
    write_samples(tmp_path / "splits" / "samples")
    classes = build_dataset("image_folder", train_data_dir=str(tmp_path / "classes"))
    assert classes.class_names == ["cat", "dog"]
    assert names(tmp_path / "splits", split="train") == ["train/cat/a.png", "train/dog/b.png"]
    assert names(tmp_path / "splits", split="held_out") == ["test/cat/a.png", "test/dog/b.png"]


def test_samples_among_the_images_are_left_out_and_said(photos):
    write_samples(photos / "samples" / "robust")
    dataset = build_dataset("image_folder", train_data_dir=str(photos))
    assert names(photos) == ["a.png", "b.png", "c.png"]
    assert f"{photos / 'samples' / 'robust'} (a set of samples)" in dataset.remarks[0]


def test_what_is_asked_for_by_name_is_read(photos):
    """A run's samples, a folder of samples; of that not the sheet that shows them all."""
    write_run(photos / "run")
    write_samples(photos / "samples")
    assert names(photos / "run" / "samples") == ["step-2.png"]
    assert names(photos / "samples") == ["00000.png", "00001.png"]
    dataset = build_dataset("image_folder", train_data_dir=str(photos / "samples"))
    assert "grid.png (a sheet of samples)" in dataset.remarks[0]


def test_folders_that_look_a_little_like_runs_are_data(photos):
    picture(photos / "runs" / "sprint.png")
    (photos / "runs" / "run.json").write_text("{}")
    picture(photos / "checkpoints" / "border.png")
    picture(photos / "numbered" / "00000.png")
    (photos / "numbered" / ".lock").mkdir()
    found = names(photos)
    for name in ("runs/sprint.png", "checkpoints/border.png", "numbered/00000.png"):
        assert name in found


def test_nothing_but_runs_is_one_line_that_says_so(tmp_path):
    write_run(tmp_path / "photos" / "run")
    with pytest.raises(UserError, match=r"no image in folder .*; what sparring itself has written"):
        build_dataset("image_folder", train_data_dir=str(tmp_path / "photos"))


def test_samples_are_not_mixed_into_a_folder_of_images(photos):
    with pytest.raises(UserError, match=r"holds images of another origin, [abc].png for one"):
        make_room(photos, "key", False)
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.png", "c.png"]
    make_room(photos / "samples", "key", True)
    write_samples(photos / "samples")
    make_room(photos / "samples", "key", True)
    assert not (photos / "samples" / "00001.png").exists()


def test_results_are_refused_among_the_images_but_not_in_a_run_there(photos):
    write_run(photos / "runs" / "one")
    for out in (photos, photos / "results", photos / "runs" / "results"):
        with pytest.raises(UserError, match="lies inside the data"):
            check_outside(out, str(photos))
    check_outside(photos / "runs" / "one" / "evaluation", str(photos))
    check_outside(photos.parent / "results", str(photos))
    check_outside(photos, None)
    # the run's own samples are the data here
    with pytest.raises(UserError, match="lies inside the data"):
        check_outside(photos / "runs" / "one" / "samples" / "x", str(photos / "runs/one/samples"))
