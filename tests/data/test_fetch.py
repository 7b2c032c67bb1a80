from __future__ import annotations

import gzip
import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from gmn_opt.data import DatasetError, cache_folder, encode_idx, fetch, load_full
from gmn_opt.data.sources import SOURCES, Source, SourceFile

TENSORS = {
    "train_images": torch.arange(40 * 16, dtype=torch.int32).reshape(40, 4, 4).to(torch.uint8),
    "train_labels": (torch.arange(40) % 10).to(torch.uint8),
    "test_images": torch.arange(10 * 16, dtype=torch.int32).reshape(10, 4, 4).to(torch.uint8),
    "test_labels": torch.arange(10).to(torch.uint8),
}
CONTENTS = {part: encode_idx(tensor) for part, tensor in TENSORS.items()}


class Server:
    """An HTTP server on a free local port, whose files a test may replace, cut or break."""

    def __init__(self) -> None:
        self.bodies = {f"/data/{part}.gz": gzip.compress(CONTENTS[part]) for part in CONTENTS}
        self.announce: dict[str, int] = {}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                body = server.bodies.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                length = server.announce.get(self.path, len(body))
                if length >= 0:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/data"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def source(tmp_path: Path) -> Source:
    files = {
        part: SourceFile(part, len(data), hashlib.sha256(data).hexdigest())
        for part, data in CONTENTS.items()
    }
    return Source(
        name="tiny",
        title="Tiny",
        url_variable="GMN_OPT_TINY_URL",
        files=files,
        debian_package="dataset-tiny",
        debian_folder=str(tmp_path / "debian"),
    )


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "GMN_OPT_TINY_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GMN_OPT_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "SOURCES", {"tiny": source})


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "tiny"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def place(folder: Path, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    for part, data in CONTENTS.items():
        path = folder / (f"{part}.gz" if packed else part)
        path.write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("packed", [False, True])
def test_from_the_cache_folder(tmp_path: Path, packed: bool) -> None:
    place(tmp_path / "cache" / "tiny", packed)
    data = load_full("tiny")
    assert data.name == "tiny"
    assert torch.equal(data.train_images, TENSORS["train_images"])
    assert torch.equal(data.test_labels, torch.arange(10))


def test_from_a_folder_that_the_caller_names(tmp_path: Path) -> None:
    place(tmp_path / "elsewhere" / "tiny")
    assert load_full("tiny", folder=tmp_path / "elsewhere").num_classes == 10


def test_from_the_debian_package(tmp_path: Path, server: Server) -> None:
    place(tmp_path / "debian", packed=True)
    assert load_full("tiny", url=server.url).num_classes == 10
    assert server.requests == []


def test_download_is_checked_kept_and_not_repeated(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_full("tiny", url=server.url + "/")
    assert cached(tmp_path) == sorted(f"{part}.gz" for part in CONTENTS)
    assert len(server.requests) == 4
    assert torch.equal(first.train_images, TENSORS["train_images"])
    out, err = capsys.readouterr()
    assert out == ""
    assert "train_images" in err
    second = load_full("tiny")
    assert len(server.requests) == 4
    assert torch.equal(second.test_images, first.test_images)


def test_address_from_the_environment_and_no_bar(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GMN_OPT_TINY_URL", server.url)
    assert load_full("tiny", progress=False).num_classes == 10
    assert capsys.readouterr() == ("", "")


def test_only_what_is_missing_is_downloaded(tmp_path: Path, server: Server) -> None:
    place(tmp_path / "cache" / "tiny")
    (tmp_path / "cache" / "tiny" / "test_labels").unlink()
    load_full("tiny", url=server.url)
    assert server.requests == ["/data/test_labels.gz"]


def test_server_without_content_length(server: Server) -> None:
    server.announce = dict.fromkeys(server.bodies, -1)
    assert load_full("tiny", url=server.url).num_classes == 10


def test_404(tmp_path: Path, server: Server) -> None:
    del server.bodies["/data/train_images.gz"]
    with pytest.raises(DatasetError, match=r"train_images\.gz failed: the server answered 404"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_wrong_contents_are_deleted(tmp_path: Path, server: Server) -> None:
    other = encode_idx(TENSORS["train_images"].flip(0))
    server.bodies["/data/train_images.gz"] = gzip.compress(other)
    with pytest.raises(DatasetError, match=r"not the official file and was deleted.*sha256"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_connection_closed_early(tmp_path: Path, server: Server) -> None:
    path = "/data/train_images.gz"
    server.announce[path] = len(server.bodies[path])
    server.bodies[path] = server.bodies[path][:-20]
    with pytest.raises(DatasetError, match=r"failed: .*\d+ bytes read, \d+ more expected"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_truncated_on_the_server(tmp_path: Path, server: Server) -> None:
    path = "/data/train_images.gz"
    server.bodies[path] = server.bodies[path][:-20]
    with pytest.raises(DatasetError, match="damaged or truncated gzip"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_an_endless_body_is_cut_off(tmp_path: Path, server: Server) -> None:
    server.bodies["/data/train_images.gz"] = bytes(1_000_000)
    with pytest.raises(DatasetError, match="longer than the 656 bytes expected"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_decompression_bomb(tmp_path: Path, server: Server) -> None:
    server.bodies["/data/train_images.gz"] = gzip.compress(bytes(400_000))
    with pytest.raises(DatasetError, match="holds more than the 656 bytes"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == []


def test_a_failed_file_leaves_the_finished_ones(tmp_path: Path, server: Server) -> None:
    body = server.bodies.pop("/data/test_images.gz")
    with pytest.raises(DatasetError, match="404"):
        load_full("tiny", url=server.url)
    assert cached(tmp_path) == ["train_images.gz", "train_labels.gz"]
    server.bodies["/data/test_images.gz"] = body
    server.requests.clear()
    load_full("tiny", url=server.url)
    assert server.requests == ["/data/test_images.gz", "/data/test_labels.gz"]


def test_nobody_listens(server: Server) -> None:
    server.close()
    with pytest.raises(DatasetError, match=r"downloading http://127\.0\.0\.1.* failed: .*refused"):
        load_full("tiny", url=server.url)


def test_a_damaged_cached_file_is_named_and_kept(tmp_path: Path, server: Server) -> None:
    place(tmp_path / "cache" / "tiny")
    path = tmp_path / "cache" / "tiny" / "train_labels"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"train_labels is not the official file.*Delete it"):
        load_full("tiny", url=server.url)
    assert path.exists()


def test_nowhere_names_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_full("tiny")
    message = str(caught.value)
    assert "apt install dataset-tiny" in message
    assert str(tmp_path / "cache" / "tiny") in message
    assert "GMN_OPT_DATA" in message
    assert "GMN_OPT_TINY_URL" in message


def test_unknown_name_and_unusable_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'huge'; there are tiny"):
        load_full("huge")
    with pytest.raises(ValueError, match="must be http or https, got 'file:"):
        load_full("tiny", url=f"file://{tmp_path}")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GMN_OPT_DATA")
    assert cache_folder().name == "gmn_opt" or cache_folder().parent.name == "gmn_opt"
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "gmn_opt"


def test_official_files_are_listed_completely() -> None:
    for source in SOURCES.values():
        assert set(source.files) == set(TENSORS)
        for file in source.files.values():
            assert len(file.sha256) == 64
            assert file.size > 10_000
