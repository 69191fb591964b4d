"""Data in shards: nothing lost, nothing repeated, nothing read twice, wherever a run resumes."""

import io
import itertools
import json
import os
import shutil
import tarfile

import datasets
import fsspec
import pytest
import torch

from shards import SIZES, N, add, numbers_of, png, write_parquet, write_tar, write_tars
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.dirt.contaminated import Contaminated, training_data
from sparring.data.files import source
from sparring.data.files.source import Columns
from sparring.data.streams import addresses, tar_shards
from sparring.data.streams.addresses import expand_braces
from sparring.support.errors import UserError

B = 16
N_BATCHES = 22  # two epochs


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARRING_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        yield


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """The config of each kind of shards; all hold the numbers 0 to 175."""
    folder = tmp_path_factory.mktemp("shards")
    tars = write_tars(folder, lambda i: {"cls": str(i % 3).encode()})
    return {
        "webdataset": {"name": "webdataset", "data_files": tars},
        "parquet": {
            "name": "parquet", "data_files": write_parquet(folder), "streaming": True,
        },
    }  # fmt: skip


def read(dataset, world_size=1, first=0, n_batches=N_BATCHES, n_micro=1, n_workers=0):
    """The samples of all processes' rows, batch by batch, checked against their index."""
    batches = [[[] for _ in range(n_micro * world_size)] for _ in range(n_batches)]
    for rank in range(world_size):
        loader = make_loader(
            dataset, 5, B, n_micro=n_micro, rank=rank, world_size=world_size, first_batch=first,
            n_batches=n_batches, n_workers=n_workers,
        )  # fmt: skip
        for number, batch in enumerate(loader):
            seen = numbers_of(batch["x0"])
            assert seen == batch["index"].tolist()
            assert batch["label"].tolist() == [i % 3 for i in seen]
            batches[number // n_micro][number % n_micro * world_size + rank] = seen
    return [[one for part in batch for one in part] for batch in batches]


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_the_stream_of_all_epochs_and_all_ways_to_resume_it(fields, name):
    """Two epochs hold every sample twice; cut in the middle of a shard, the rest is the same."""
    dataset = build_dataset(**fields[name])
    whole = read(dataset)
    flat = [i for batch in whole for i in batch]
    assert sorted(flat[:N]) == sorted(flat[N:]) == list(range(N))
    for world_size, n_micro in ((2, 1), (4, 1), (2, 2)) if name == "webdataset" else ((2, 1),):
        assert read(dataset, world_size, n_micro=n_micro) == whole
    first = 5
    cut = flat[: first * B]
    begun = {
        i for i, shard in enumerate(_shards(dataset)) if 0 < len(shard & set(cut)) < len(shard)
    }
    assert len(begun) > len(dataset.sharding.sizes) / 2  # in the middle of most shards
    for world_size, n_workers in ((1, 0), (1, 2), (2, 2)):
        rest = read(build_dataset(**fields[name]), world_size, first, 6, n_workers=n_workers)
        assert rest == whole[first : first + 6]


def _shards(dataset):
    starts = dataset.files.starts
    return [set(range(a, z)) for a, z in itertools.pairwise(starts)]


def test_no_byte_is_read_twice(fields, tmp_path, monkeypatch):
    """In an epoch each process reads the windows of its own lanes, each worker its own part."""
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = tar_shards.read_range

    def logged(url, start, end):
        os.write(log, f"{json.dumps([url, start, end])}\n".encode())
        return real(url, start, end)

    monkeypatch.setattr(tar_shards, "read_range", logged)
    dataset = build_dataset(**fields["webdataset"], shuffle_lanes=B)
    n_images = sum(dataset.files.lengths)
    for world_size, n_workers, n_micro in ((1, 2, 1), (2, 0, 1), (2, 2, 2)):
        (tmp_path / "log").write_text("")
        read(dataset, world_size, 0, N // B, n_micro, n_workers)
        spans = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        for number, shard in enumerate(dataset.files.shards):
            mine = sorted(span[1:] for span in spans if span[0] == shard)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(mine)), number
        assert sum(end - start for _, start, end in spans) >= n_images
        assert len(spans) < N  # neighbours come together


def test_a_window_is_one_request(fields, monkeypatch):
    requests = []
    real = tar_shards.read_range
    monkeypatch.setattr(
        tar_shards, "read_range", lambda *span: requests.append(span) or real(*span)
    )
    dataset = build_dataset(**fields["webdataset"], shuffle_lanes=B, shuffle_buffer=4 * B)
    requests.clear()
    read(dataset, n_batches=N // B)
    assert len(set(requests)) == len(requests)
    assert N / 4 <= len(requests) <= N / 4 + 2 * B + 2 * len(SIZES)


def test_what_lies_between_samples_is_not_read_if_it_is_long(tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", png(0))
        add(tar, "0.bin", b"x" * 1000)
        add(tar, "1.png", png(1))
        add(tar, "1.bin", b"x" * 10**6)
        add(tar, "2.png", png(2))
    asked = []
    real = tar_shards.read_range
    monkeypatch.setattr(tar_shards, "read_range", lambda *span: asked.append(span) or real(*span))
    files = build_dataset("webdataset", data_files=str(tmp_path / "a.tar")).files
    asked.clear()
    assert files.read(0, 0, 3) == {i: png(i) for i in range(3)}
    assert len(asked) == 2
    assert sum(end - start for _, start, end in asked) < 5000


def test_processes_of_a_loader_share_no_open_stream(fields):
    """Workers are forked: files opened before must not be read on by two of them."""
    dataset = build_dataset(**fields["parquet"])
    dataset.__getitems__([23])
    assert list(dataset.files.cursors) == [(2, 24)]
    copy = dataset.following(None)
    assert not copy.files.cursors
    assert copy.files.windows == {}
    child = os.fork()
    if child == 0:
        right = numbers_of(dataset.__getitems__([25])["x0"]) == [25]
        os._exit(0 if right and list(dataset.files.cursors) == [(2, 26)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_any_sample_can_be_asked_for(fields, name):
    dataset = build_dataset(**fields[name])
    assert len(dataset) == N
    assert numbers_of(dataset.__getitems__([170, 3, 3, 99])["x0"]) == [170, 3, 3, 99]
    assert numbers_of(dataset.read_all()["x0"]) == list(range(N))
    assert dataset.where(0) != dataset.where(1)
    assert all(dataset.files.open(i) == png(i) for i in (0, 1, 2, 50, 175, 3))


@pytest.mark.parametrize("name", ["webdataset", "parquet"])
def test_parts_of_the_data(fields, name):
    parts = {
        split: build_dataset(**fields[name], split=split, held_out_share=0.25)
        for split in ("train", "held_out", "all")
    }
    held = {split: numbers_of(part.read_all()["x0"]) for split, part in parts.items()}
    assert len(held["held_out"]) == N // 4
    assert sorted(held["train"] + held["held_out"]) == held["all"] == list(range(N))
    few = build_dataset(**fields[name], max_train_samples=40)
    seen = [
        number for batch in make_loader(few, 0, 8, n_batches=5, n_workers=2)
        for number in numbers_of(batch["x0"])
    ]  # fmt: skip
    assert sorted(seen) == numbers_of(few.read_all()["x0"])
    assert len(set(seen)) == 40
    with pytest.raises(UserError, match=r"held-out part: set data.held_out_share"):
        build_dataset(**fields["webdataset"], split="held_out")


def test_contamination_follows_the_index_whoever_reads(fields):
    dirty = Contaminated(build_dataset(**fields["webdataset"]), "gaussian", 0.5, 0, sigma=0.2)
    all_of_it = dirty.read_all()["x0"]
    for batch in make_loader(dirty, 1, B, n_batches=4, n_workers=2, rank=1, world_size=2):
        assert torch.equal(batch["x0"], all_of_it[batch["index"]])
    assert training_data(fields["webdataset"]).sharding is not None


def test_the_fingerprint_is_of_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "N_HASHED_FILES", 1)  # of the others the index knows
    where = write_tars(tmp_path / "a", sizes=[3, 4])
    mark = build_dataset("webdataset", data_files=where).fingerprint()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = build_dataset("webdataset", data_files=where.replace("/a/", "/b/"))
    assert copied.fingerprint() == mark
    write_tar(tmp_path / "b/train-001.tar", [3, 4, 5, 7])
    changed = build_dataset("webdataset", data_files=where.replace("/a/", "/b/"))
    assert changed.fingerprint() != mark
    cut = build_dataset("webdataset", data_files=where, max_train_samples=5)
    assert cut.fingerprint() != mark
    lanes = build_dataset("webdataset", data_files=where, shuffle_lanes=2)
    assert lanes.fingerprint() != mark  # the order is another, so a run must not resume with it


def test_the_index_is_made_once_and_again_for_a_changed_shard(tmp_path, monkeypatch):
    where = write_tars(tmp_path, sizes=[3, 4])
    made = []
    real = tar_shards.make_index
    monkeypatch.setattr(
        tar_shards, "make_index", lambda shard, *rest: made.append(shard) or real(shard, *rest)
    )
    build_dataset("webdataset", data_files=where)
    assert len(made) == 2
    build_dataset("webdataset", data_files=where)
    assert len(made) == 2
    write_tar(tmp_path / "train-001.tar", range(20, 25))
    dataset = build_dataset("webdataset", data_files=where)
    assert len(made) == 3
    assert numbers_of(dataset.read_all()["x0"]) == [0, 1, 2, 20, 21, 22, 23, 24]


def test_labels_and_captions(tmp_path):
    def more(i):
        said = {"text": f"in json {i}", "kind": i % 2}
        return {"cls": b" 1\n", "txt": f"number {i}".encode(), "json": json.dumps(said).encode()}

    where = write_tars(tmp_path, more, [3, 2])
    plain = build_dataset("webdataset", data_files=where)
    assert plain.captions == [f"number {i}" for i in range(5)]
    assert plain.read_all()["label"].tolist() == [0] * 5
    assert plain.class_names == ["1"]
    named = build_dataset(
        "webdataset", data_files=where, caption_column="text", label_column="kind"
    )
    assert named.read_all()["caption"] == [f"in json {i}" for i in range(5)]
    assert named.read_all()["label"].tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match=r"data.caption_column: no sample of .* has 'title'"):
        build_dataset("webdataset", data_files=where, caption_column="title")
    some = write_tars(tmp_path / "some", lambda i: {"cls": b"0"} if i else {}, [3, 2])
    with pytest.raises(UserError, match=r"train-000.tar: photos/0000.png has no label"):
        build_dataset("webdataset", data_files=some)
    bad = write_tars(tmp_path / "bad", lambda i: {"cls": b"cat"}, [3])
    with pytest.raises(UserError, match=r"label of photos/0000.png must be an integer .* 'cat'"):
        build_dataset("webdataset", data_files=bad)


def test_captions_of_a_stream(fields):
    dataset = build_dataset(**fields["parquet"], caption_column="text")
    assert dataset.captions == [f"number {i}" for i in range(N)]
    assert dataset.class_names == ["0", "1", "2"]
    whole = build_dataset("parquet", data_files=fields["parquet"]["data_files"])
    assert whole.sharding is None
    assert torch.equal(whole.read_all()["x0"], dataset.read_all()["x0"])


def test_a_table_names_no_file_of_this_machine(tmp_path):
    """A path in a parquet file is not followed: the image is unreadable."""
    (tmp_path / "secret.png").write_bytes(png(9))
    rows = {"image": [
        {"bytes": png(1), "path": None}, {"bytes": None, "path": str(tmp_path / "secret.png")},
    ]}  # fmt: skip
    features = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "a.parquet")
    dataset = build_dataset("parquet", data_files=str(tmp_path / "a.parquet"), streaming=True)
    batch = dataset.__getitems__([0, 1])
    assert numbers_of(batch["x0"]) == [1, 1]
    assert batch["unreadable"] == [dataset.where(1)]


def test_a_hub_data_set_streams_with_its_splits(tmp_path):
    write_parquet(tmp_path, sizes=(12,))
    (tmp_path / "part-0.parquet").rename(tmp_path / "train-0.parquet")
    shutil.copy(tmp_path / "train-0.parquet", tmp_path / "test-0.parquet")
    dataset = build_dataset("huggingface", dataset_name=str(tmp_path), streaming=True)
    assert numbers_of(dataset.read_all()["x0"]) == list(range(12))
    held_out = build_dataset("huggingface", "held_out", dataset_name=str(tmp_path), streaming=True)
    assert len(held_out) == 12
    with pytest.raises(UserError, match="has no split 'val'"):
        build_dataset("huggingface", "val", dataset_name=str(tmp_path), streaming=True)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("s-{8..10}.tar", ["s-8.tar", "s-9.tar", "s-10.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
        ("s-{3..1}.tar", ["s-3.tar", "s-2.tar", "s-1.tar"]),
        ("s-{x}.tar", ["s-{x}.tar"]),
    ],
)
def test_braces(pattern, names):
    assert list(expand_braces(pattern)) == names


def test_names_of_shards(tmp_path):
    assert addresses.found("https://a.org/b.tar?key=[1]") == ["https://a.org/b.tar?key=[1]"]
    write_tars(tmp_path, sizes=[2, 3, 4])
    for files, n in (
        (f"{tmp_path}/train-*.tar", 9),
        ([f"{tmp_path}/train-000.tar", f"{tmp_path}/train-{{001..002}}.tar"], 9),
        (f"file://{tmp_path}/train-001.tar", 3),
    ):
        assert len(build_dataset("webdataset", data_files=files)) == n
    with pytest.raises(UserError, match="no file fits"):
        build_dataset("webdataset", data_files=f"{tmp_path}/valid-*.tar")
    with pytest.raises(UserError, match=r"no file '.*train-003.tar'"):
        build_dataset("webdataset", data_files=f"{tmp_path}/train-{{000..003}}.tar")
    with pytest.raises(UserError, match="data_files is missing"):
        build_dataset("webdataset")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "parquet", "data_files": "x", "shuffle_lanes": 4}, "set data.streaming=true"),
        ({"name": "webdataset", "streaming": True}, "data.streaming does not apply to webdataset"),
        ({"name": "digits", "shuffle_buffer": 4}, "data.shuffle_buffer does not apply to digits"),
    ],
)
def test_settings_that_do_not_apply_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        build_dataset(**fields)


def test_shards_in_memory_of_fsspec(tmp_path):
    memory = fsspec.filesystem("memory")
    write_tars(tmp_path, sizes=[5, 6])
    for path in tmp_path.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    try:
        for name in ("train-{000..001}.tar", "train-*.tar"):
            dataset = build_dataset("webdataset", data_files=f"memory://bucket/{name}")
            seen = [numbers_of(batch["x0"]) for batch in make_loader(dataset, 0, 11, n_batches=2)]
            assert all(sorted(batch) == list(range(11)) for batch in seen)
        memory.pipe("/bucket/train-001.tar", b"")
        dataset.files.windows.clear()
        with pytest.raises(UserError, match=r"train-001.tar has changed"):
            dataset.__getitems__([10])
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_missing_package_is_named(monkeypatch):
    def url_to_fs(url):
        raise ImportError("Install s3fs to access S3", name="s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    with pytest.raises(UserError, match=r"s3fs is missing: pip install 'sparring\[streaming\]'"):
        build_dataset("webdataset", data_files="s3://bucket/a.tar")


def test_a_network_gets_three_chances(monkeypatch):
    waits, tries = [], []

    def work(fs, path):
        tries.append(path)
        if len(tries) < 3:
            raise TimeoutError("slow")
        return b"ok"

    monkeypatch.setattr(addresses.time, "sleep", waits.append)
    assert addresses.attempt("memory://a", work) == b"ok"
    assert waits == [0.5, 2.0]
    with pytest.raises(UserError, match="cannot read memory://a: slow"):
        addresses.attempt("memory://a", lambda fs, path: (_ for _ in ()).throw(OSError("slow")))


def test_what_webdataset_writes(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=7, verbose=0) as out:
        for i in range(20):
            out.write({"__key__": f"k/{i:03d}", "png": png(i), "cls": i % 3, "txt": f"n {i}",
                       "json": {"text": f"j {i}"}})  # fmt: skip
    dataset = build_dataset("webdataset", data_files=str(tmp_path / "s-{000..002}.tar"))
    batch = dataset.read_all()
    assert numbers_of(batch["x0"]) == list(range(20))
    assert batch["label"].tolist() == [i % 3 for i in range(20)]
    assert batch["caption"] == [f"n {i}" for i in range(20)]
    theirs = webdataset.WebDataset(
        str(tmp_path / "s-{000..002}.tar"), shardshuffle=False, empty_check=False
    )
    assert [int(sample["cls"]) for sample in theirs] == batch["label"].tolist()


def test_the_index_says_where_an_image_lies():
    """Offset and length cut its file out of the bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add(tar, "README", b"no sample")
        add(tar, "a/1.txt", b"text first")
        add(tar, "a/1.JPG", png(4))
        add(tar, "a/1.mask.png", png(5))
        add(tar, "b/1.txt", b"no image")
        add(tar, "c/x.svg", b"another kind")
    index = tar_shards.make_index("s", io.BytesIO(out.getvalue()), Columns())
    assert index["names"] == ["a/1.JPG"]
    (offset,), (length,) = index["offsets"], index["lengths"]
    assert out.getvalue()[offset : offset + length] == png(4)
    assert index["captions"] == ["text first"]
    index = tar_shards.make_index("s", io.BytesIO(out.getvalue()), Columns("mask.png"))
    assert index["names"] == ["a/1.mask.png"]
