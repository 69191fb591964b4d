"""Pieces that any number of processes wrote are read as one, by rows."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from sparring.support.sharded_tensors import StoredTensors, load_weights, weights_of, write_shards


def dealt(folder, tensors, n_processes):
    """What `write_shards` leaves of n processes."""
    for process in range(n_processes):
        index, pieces = {}, {}
        for key, value in tensors.items():
            n_each = -(-len(value) // n_processes)
            rows = value[process * n_each : (process + 1) * n_each]
            if len(rows):
                pieces[key] = rows.contiguous()
                index[key] = {"shape": list(value.shape), "start": process * n_each}
        if pieces:
            save_file(pieces, folder / f"model.shard-{process}.safetensors")
        (folder / f"shards-{process}.json").write_text(json.dumps({"model": index}))


@pytest.mark.parametrize("n_written", [1, 2, 3, 4, 12])  # of 12 the last ones hold nothing
@pytest.mark.parametrize("n_read", [1, 2, 3, 4])
def test_rows_written_by_n_are_read_by_m(tmp_path, n_written, n_read):
    whole = {"w": torch.randn(7, 3, dtype=torch.float64), "b": torch.randn(5).bfloat16()}
    dealt(tmp_path, whole, n_written)
    stored = StoredTensors(tmp_path, "model")
    assert stored.keys() == whole.keys()
    for key, value in whole.items():
        assert stored.shape(key) == tuple(value.shape)
        assert stored[key].dtype == value.dtype
        assert torch.equal(stored[key], value)
        n_each = -(-len(value) // n_read)
        parts = [
            stored.rows(key, min(i * n_each, len(value)), min((i + 1) * n_each, len(value)))
            for i in range(n_read)
        ]
        assert torch.equal(torch.cat(parts), value)


def test_a_missing_piece_is_an_error_and_not_zeros(tmp_path):
    dealt(tmp_path, {"w": torch.randn(8, 3)}, 4)
    (tmp_path / "shards-2.json").unlink()
    stored = StoredTensors(tmp_path, "model")
    with pytest.raises(RuntimeError, match="row 4 of w is in none of its pieces"):
        stored["w"]
    assert len(stored.rows("w", 0, 4)) == 4
    assert len(stored.rows("w", 6, 8)) == 2


def test_what_is_not_distributed_is_written_by_the_first_process(tmp_path):
    tensors = {"moments": {"step": torch.tensor(7.0), "w": torch.arange(6.0)}}
    for process in (0, 1):
        write_shards(tmp_path, process, tensors)
    assert load_file(tmp_path / "moments.shard-0.safetensors").keys() == {"step", "w"}
    assert not (tmp_path / "moments.shard-1.safetensors").exists()
    stored = StoredTensors(tmp_path, "moments")
    assert float(stored["step"]) == 7
    assert torch.equal(stored["w"], torch.arange(6.0))
    assert not StoredTensors(tmp_path, "nothing")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.last.weight = self.first.weight
        self.register_buffer("count", torch.tensor(4))
        self.register_buffer("table", torch.randn(2), persistent=False)


@pytest.mark.parametrize("in_pieces", [True, False])
def test_tied_weights_are_kept_once_and_load(tmp_path, in_pieces):
    one, other = Tied(), Tied()
    assert weights_of(one).keys() == {"first.weight", "first.bias", "last.bias", "count"}
    if in_pieces:
        write_shards(tmp_path, 0, {"model": weights_of(one)})
    else:
        save_model(one, str(tmp_path / "model.safetensors"))
    load_weights(other, StoredTensors(tmp_path, "model"))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert other.last.weight is other.first.weight


def test_weights_of_another_network_are_refused(tmp_path):
    write_shards(tmp_path, 0, {"model": weights_of(nn.Linear(3, 4))})
    stored = StoredTensors(tmp_path, "model")
    with pytest.raises(RuntimeError, match=r"weight has shape \(4, 3\), not \(5, 3\)"):
        load_weights(nn.Linear(3, 5), stored)
    with pytest.raises(RuntimeError, match=r"missing: first\.weight"):
        load_weights(Tied(), stored)
    with pytest.raises(RuntimeError, match="unexpected: bias"):
        load_weights(nn.Linear(3, 4, bias=False), stored)
