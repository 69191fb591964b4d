"""Long computations in parts: the same for any number of processes, and none is made twice."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch
from test_evaluate_command import make_run, unet
from test_proximal import written

from sparring.commands.evaluate.figures import evaluate_command
from sparring.diffusion.denoiser import Denoiser
from sparring.diffusion.schedules import schedule_from_config
from sparring.evaluation.store.tensor_tables import Parts, Processes, prune
from sparring.models.pretrained import Model, load
from sparring.sampling.sample import sample
from sparring.support.cache import cache_folder
from sparring.support.errors import UserError


def squares(rows):
    x = torch.arange(rows.start, rows.stop, dtype=torch.float64)
    return {"x": x, "square": (x**2)[:, None]}


@pytest.mark.parametrize("kept", [True, False])
def test_parts_one_after_the_other_are_the_whole(tmp_path, kept):
    parts = Parts(10, 4, tmp_path / "a" if kept else None)
    seen = []
    parts.compute(lambda rows: seen.append(rows) or squares(rows))
    assert seen == [range(4), range(4, 8), range(8, 10)]
    assert torch.equal(parts.read("square"), squares(range(10))["square"])
    assert "x" in parts.names()
    assert "y" not in parts.names()
    parts.compute(lambda rows: pytest.fail("computed again"))


def test_what_was_stopped_goes_on_and_a_broken_file_is_made_anew(tmp_path):
    def stop(rows):
        if rows.start == 8:
            raise KeyboardInterrupt
        return squares(rows)

    with pytest.raises(KeyboardInterrupt):
        Parts(10, 4, tmp_path).compute(stop)
    (tmp_path / "00000000-00000004.safetensors").write_bytes(b"half")
    seen = []
    parts = Parts(10, 4, tmp_path)
    parts.compute(lambda rows: seen.append(rows.start) or squares(rows))
    assert seen == [0, 8]
    assert torch.equal(parts.read("x"), squares(range(10))["x"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    longer = Parts(14, 4, tmp_path)
    longer.compute(lambda rows: seen.append((rows.start, rows.stop)) or squares(rows))
    assert seen[2:] == [(8, 12), (12, 14)]


def test_processes_share_the_parts_and_wait_for_each_other(tmp_path):
    first, second = (Parts(10, 2, tmp_path, Processes(i, 2)) for i in (0, 1))
    seen = []
    first.compute(lambda rows: seen.append(rows.start) or squares(rows))
    assert seen == [0, 4, 8]
    found = []
    reader = threading.Thread(target=lambda: found.append(first.read("x")))
    reader.start()
    reader.join(0.3)
    assert reader.is_alive()
    second.compute(lambda rows: seen.append(rows.start) or squares(rows))
    reader.join()
    assert seen[3:] == [2, 6]
    assert torch.equal(found[0], second.read("x"))


def test_a_folder_that_cannot_be_written_holds_one_process_only(tmp_path, caplog):
    (tmp_path / "file").touch()
    alone = Parts(4, 2, tmp_path / "file" / "a")
    alone.compute(squares)
    assert torch.equal(alone.read("x"), squares(range(4))["x"])
    assert "features are not kept" in caplog.text
    with pytest.raises(UserError, match="several processes meet there, set SPARRING_CACHE"):
        Parts(4, 2, tmp_path / "file" / "a", Processes(1, 2)).compute(squares)


def test_the_folders_used_longest_ago_go_first(tmp_path):
    for name, age in (("old", 300), ("middle", 200), ("new", 100)):
        Parts(4, 4, tmp_path / name).compute(squares)
        time = os.stat(tmp_path).st_mtime - age
        os.utime(tmp_path / name, (time, time))
    (file,) = (tmp_path / "new").iterdir()
    size = file.stat().st_size
    prune(tmp_path, 3 * size)
    assert len(list(tmp_path.iterdir())) == 3
    prune(tmp_path, 2 * size)
    assert {path.name for path in tmp_path.iterdir()} == {"middle", "new"}


@pytest.fixture
def digits_run(tmp_path):
    evaluation = {"n_samples": 50, "n_resamples": 2, "extractor": "pixels", "reference": "held_out"}
    data, sampling = {"name": "digits"}, {"num_inference_steps": 2, "batch_size": 8}
    sections = {"evaluation": evaluation, "sampling": sampling}
    return make_run(tmp_path / "digits", unet, (1, 8, 8), data, **sections)


def test_samples_from_a_number_on_are_those_of_the_whole(digits_run):
    model = load(digits_run)
    whole = sample(model, 7, num_inference_steps=2, scheduler="ddpm", batch_size=7)
    part = sample(model, range(4, 7), num_inference_steps=2, scheduler="ddpm")
    torch.testing.assert_close(part, whole[4:], atol=1e-4, rtol=0)


def test_classes_of_samples_from_a_number_on_go_on_in_turn():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, t, class_labels):
            seen.append(class_labels.tolist())
            return x

    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    denoiser = Denoiser(Spy(), schedule, "eps")
    model = Model(denoiser, {"_class_name": "DDPMScheduler"}, (2,), 3, "spy")
    sample(model, range(5, 9), num_inference_steps=1)
    assert seen == [[2, 0, 1, 2]]


def numbers(result):
    changing = ("command", "sampling_seconds", "evaluation_seconds")
    return {key: value for key, value in result.items() if key not in changing}


def test_two_processes_give_the_figures_of_one(digits_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "one"))
    told = ["evaluation.sweep.num_inference_steps=[1, 2]"]
    told += [f"evaluation.proximal={written(tmp_path / 'dirt.csv', 0.5)}"]
    one = evaluate_command([digits_run], told, tmp_path / "out")
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "CUDA_VISIBLE_DEVICES": "",
        "SPARRING_CACHE": str(tmp_path / "two"),
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "sparring", "evaluate", digits_run, *told, "-o", str(tmp_path / "out2")]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    two = json.loads(done.stdout)  # one process prints
    assert numbers(two) == numbers(one)
    for folder in (tmp_path / "one", tmp_path / "two"):
        lengths = sorted(len(list(path.iterdir())) for path in (folder / "features").iterdir())
        # reference, held-out features and pixels, training and dirty images (these also with the
        # reference's extractor), samples twice
        assert lengths == [2, 2, 2, 6, 6, 6, 7, 7]


def test_the_second_process_does_its_share_and_measures_nothing(digits_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    evaluate_command([digits_run])  # the reference is there
    samples = max(
        (cache_folder() / "features").iterdir(), key=lambda path: len(list(path.iterdir()))
    )
    for path in samples.iterdir():
        path.unlink()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate_command([digits_run], [], tmp_path / "out") == {}
    starts = sorted(int(path.name[:8]) for path in samples.iterdir())
    assert starts == [8, 24, 40]
    assert list((tmp_path / "out").iterdir()) == []


def test_samples_are_looked_at_in_parts_and_features_are_kept(digits_run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    first = evaluate_command([digits_run])
    files = set(cache_folder().rglob("*.safetensors"))
    again = evaluate_command([digits_run])
    assert numbers(again) == numbers(first)
    assert set(cache_folder().rglob("*.safetensors")) == files
    assert again["sampling_seconds"] == first["sampling_seconds"]  # what it took
    more = evaluate_command([digits_run], ["evaluation.n_samples=64"])
    assert more["protocol"]["n_fake"] == 64
    new = {path.name for path in cache_folder().rglob("*.safetensors")} - {p.name for p in files}
    assert new == {"00000048-00000056.safetensors", "00000056-00000064.safetensors"}
