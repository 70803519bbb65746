"""Fetching over real HTTP on the loopback, from good and bad mirrors."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages.lib.core.errors import UserError
from stages.lib.fetching import mirrors
from stages.lib.fetching.mirrors import RemoteFile, fetch

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server on the loopback, and a list to which it adds the `Range` of each request."""
    ranges: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ranges.append(self.headers.get("Range", ""))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # the client closed the connection to a bad mirror, as it should

    running = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", ranges
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, length: int | None = None) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def good(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT)


def good_with_ranges(handler: BaseHTTPRequestHandler) -> None:
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if start >= len(CONTENT):
        send(handler, b"", status=416)
    else:
        send(handler, CONTENT[start:], status=206 if start else 200)


def html(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"<!DOCTYPE html><title>Log in</title>")


def missing(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", status=404)


def broken_off(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:200_000], length=len(CONTENT))


def truncated(handler: BaseHTTPRequestHandler) -> None:
    send(handler, CONTENT[:200_000])


def without_a_length(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "many")
    handler.end_headers()
    handler.wfile.write(b"x")


def silent(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the client gives up


def trickle(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"\0")
        time.sleep(0.05)


def file_at(*folders: str, size: int | None = None) -> RemoteFile:
    addresses = tuple(f"{folder}/digits.gz" for folder in folders)
    return RemoteFile("digits.gz", hashlib.md5(CONTENT).hexdigest(), size, addresses)


@pytest.mark.parametrize("answer", [good, good_with_ranges])
def test_fetches(tmp_path: Path, answer: Answer) -> None:
    with server(answer) as (address, _):
        assert fetch(file_at(address), tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["digits.gz"]


BAD: list[tuple[Answer, str]] = [
    (html, "an HTML page of 36 bytes"),
    (missing, "HTTP 404"),
    (broken_off, "broke off after 200,000 of 512,000 bytes"),
    (without_a_length, "a file of 1 bytes with md5"),
    (truncated, "a file of 200,000 bytes with md5"),
    (silent, "no answer in time"),
    (trickle, "too slow"),
]


@pytest.mark.parametrize(("answer", "words"), BAD)
def test_after_a_bad_mirror_the_next_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: Answer, words: str
) -> None:
    with server(answer) as (bad, _), server(good_with_ranges) as (next_mirror, _):
        assert fetch(file_at(bad, next_mirror), tmp_path, patience=0.5).read_bytes() == CONTENT
    printed = capsys.readouterr().err
    assert f"{bad}/digits.gz: {words}" in printed
    assert "trying the next mirror" in printed


def test_an_endless_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "LARGEST", 400_000)
    with server(good) as (address, _), pytest.raises(UserError, match="more than 400,000 bytes"):
        fetch(file_at(address), tmp_path)
    assert (tmp_path / "digits.gz.part").stat().st_size <= 400_000


def test_no_byte_beyond_the_expected_size_is_kept(tmp_path: Path) -> None:
    with server(good) as (address, _):
        with pytest.raises(UserError, match="more than 511,999 bytes"):
            fetch(file_at(address, size=len(CONTENT) - 1), tmp_path)
        assert (tmp_path / "digits.gz.part").stat().st_size < len(CONTENT)
        assert fetch(file_at(address, size=len(CONTENT)), tmp_path).read_bytes() == CONTENT


def test_the_error_names_every_mirror(tmp_path: Path) -> None:
    with server(html) as (first, _), server(missing) as (second, _), pytest.raises(UserError) as refusal:
        fetch(file_at(first, second, "http://127.0.0.1:9", str(tmp_path), "localhost:80"), tmp_path / "to")
    text = str(refusal.value)
    for part in (f"{first}/digits.gz: an HTML page", f"{second}/digits.gz: HTTP 404", "Connection refused"):
        assert part in text
    assert f"{tmp_path}/digits.gz: No such file" in text
    assert "localhost:80/digits.gz: no such folder; an address begins with http://" in text
    assert "DATASET_MIRROR" in text
    assert not (tmp_path / "to/digits.gz").exists()


def test_resumes_after_an_interruption(tmp_path: Path) -> None:
    (tmp_path / "digits.gz.part").write_bytes(CONTENT[:300_000])
    with server(good_with_ranges) as (address, ranges):
        assert fetch(file_at(address), tmp_path).read_bytes() == CONTENT
    assert ranges == ["bytes=300000-"]


@pytest.mark.parametrize("part", [b"of another file", CONTENT + b"and more", CONTENT])
def test_a_part_of_other_bytes_is_replaced(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "digits.gz.part").write_bytes(part)
    with server(good_with_ranges) as (address, _):
        assert fetch(file_at(address), tmp_path).read_bytes() == CONTENT


def test_starts_again_if_the_mirror_does_not_support_ranges(tmp_path: Path) -> None:
    (tmp_path / "digits.gz.part").write_bytes(CONTENT[:300_000])
    with server(good) as (address, _):
        assert fetch(file_at(address), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_starts_again_if_the_mirror_ignores_where_the_range_begins(tmp_path: Path, size: int | None) -> None:
    """It answers 206, as if it did, and sends the whole file."""
    (tmp_path / "digits.gz.part").write_bytes(CONTENT[:1000])
    with server(lambda handler: send(handler, CONTENT, status=206)) as (address, ranges):
        assert fetch(file_at(address, size=size), tmp_path).read_bytes() == CONTENT
    assert ranges == ["bytes=1000-", ""]


def test_a_file_with_the_right_checksum_is_not_fetched_again(tmp_path: Path) -> None:
    with server(good) as (address, ranges):
        fetch(file_at(address), tmp_path)
        fetch(file_at(address), tmp_path)
        assert len(ranges) == 1
        (tmp_path / "digits.gz").write_bytes(b"damaged")
        assert fetch(file_at(address), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_is_a_mirror(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "digits.gz").write_bytes(CONTENT)
    assert fetch(file_at(f"{prefix}{tmp_path}"), tmp_path / "to").read_bytes() == CONTENT
