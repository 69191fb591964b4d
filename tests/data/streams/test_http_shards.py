"""Shards behind http, from a server on this machine. Needs aiohttp (the extra `streaming`)."""

import http.server
import itertools
import re
import threading

import pytest

from shards import N, numbers_of, write_tars
from sparring.data.batches import make_loader
from sparring.data.datasets import build_dataset
from sparring.data.streams import addresses
from sparring.support.errors import UserError

pytest.importorskip("aiohttp")


class Server:
    """A folder over http, with ranges or without; it knows which bytes it sent."""

    def __init__(self, folder, ranges=True):
        self.sent, self.fail = [], 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def answer(self, has_body):
                file = folder / self.path.strip("/")
                if server.fail > 0:
                    server.fail -= 1
                    return self.send_error(503)
                if not file.is_file():
                    return self.send_error(404)
                content = file.read_bytes()
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                start, end = 0, len(content)
                if ranges and asked:
                    start, end = int(asked[1]), min(int(asked[2]) + 1, end)
                self.send_response(206 if ranges and asked else 200)
                if ranges:
                    self.send_header("Accept-Ranges", "bytes")
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
                self.send_header("Content-Length", str(end - start))
                self.end_headers()
                if has_body:
                    server.sent.append((file.name, start, end))
                    self.wfile.write(content[start:end])
                return None

            def log_message(self, *words):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_each_byte_comes_once_over_http(tmp_path, n_workers):
    write_tars(tmp_path)
    with Server(tmp_path) as server:
        dataset = build_dataset("webdataset", data_files=f"{server.url}/train-{{000..019}}.tar")
        assert numbers_of(dataset.read_all()["x0"]) == list(range(N))
        server.sent.clear()
        seen = []
        for rank in (0, 1):
            loader = make_loader(
                dataset, 0, 16, rank=rank, world_size=2, n_batches=N // 16, n_workers=n_workers
            )
            seen += [i for batch in loader for i in numbers_of(batch["x0"])]
        assert sorted(seen) == list(range(N))
        spans = sorted(server.sent)
        assert all(a[0] != b[0] or a[2] <= b[1] for a, b in itertools.pairwise(spans))


def test_a_server_without_ranges_is_named(tmp_path):
    write_tars(tmp_path, sizes=[2])
    with (
        Server(tmp_path, ranges=False) as server,
        pytest.raises(UserError, match=r"HTTP Range|cannot read http"),
    ):
        build_dataset("webdataset", data_files=f"{server.url}/train-000.tar")


def test_a_server_that_stops_sending_ranges_is_named(tmp_path):
    write_tars(tmp_path, sizes=[3])
    with Server(tmp_path, ranges=False) as server, pytest.raises(UserError, match="HTTP Range"):
        addresses.read_range(f"{server.url}/train-000.tar", 10, 20)


def test_a_server_that_fails_for_a_moment_is_asked_again(tmp_path):
    write_tars(tmp_path, sizes=[3])
    with Server(tmp_path) as server:
        dataset = build_dataset("webdataset", data_files=f"{server.url}/train-000.tar")
        dataset.files.windows.clear()
        server.fail = 2
        assert numbers_of(dataset.__getitems__([1])["x0"]) == [1]
        dataset.files.windows.clear()
        server.fail = 3
        with pytest.raises(UserError, match="cannot read http"):
            dataset.__getitems__([2])
        server.fail = 0
        with pytest.raises(UserError, match=r"no file 'http.*none.tar'"):
            build_dataset("webdataset", data_files=f"{server.url}/none.tar")
