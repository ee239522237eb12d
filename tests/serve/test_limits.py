"""How much a server takes, how fast, and from how many."""

import socket
import threading
import time

import pytest

from helpers.serving import Client, read_answer, serving
from vod2.serve import ServerLimits, connection, server


@pytest.fixture
def client(tmp_path) -> Client:
    with serving(tmp_path) as (_, client):
        yield client


def test_an_upload_that_is_too_long_is_refused_by_its_header(tmp_path):
    with serving(tmp_path, limits=ServerLimits(upload_bytes=1000)) as (_, client):
        assert client.upload(body=b"x" * 1000).status == 201
        refused = client.upload(body=b"x" * 1001)
        assert refused.status == 413 and b"MiB" in refused.body
        huge = client.ask("PUT", "/api/jobs?name=x", b"", content_length="9" * 15)
        assert huge.status == 413


@pytest.mark.parametrize("length", [None, "-1", "+5", "5, 5", "0x5", "9" * 40, "٥"])
def test_a_length_that_is_none_is_refused(client, tmp_path, length):
    assert client.ask("PUT", "/api/jobs?name=x", b"video", content_length=length).status in (400, 411)
    assert list(tmp_path.iterdir()) == []


def test_chunks_and_doubled_headers_are_refused(client, tmp_path):
    chunked = client.ask("PUT", "/api/jobs?name=x", None, transfer_encoding="chunked")
    both = client.ask("PUT", "/api/jobs?name=x", b"5\r\nvideo\r\n0\r\n\r\n", transfer_encoding="chunked")
    assert chunked.status == both.status == 411
    host = f"Host: 127.0.0.1:{client.port}\r\n".encode()
    for doubled in (b"Content-Length: 5\r\nContent-Length: 50\r\n" + host, b"Content-Length: 5\r\n" + host + host):
        assert client.raw(b"PUT /api/jobs?name=x HTTP/1.1\r\n" + doubled + b"\r\nvideo").status == 400
    assert list(tmp_path.iterdir()) == []


def test_bytes_beyond_the_length_are_neither_stored_nor_taken_for_a_request(tmp_path):
    seen = []
    with serving(tmp_path, lambda job, watch: seen.append(job.video.read_bytes()) or "") as (_, client):
        smuggled = f"DELETE /api/jobs/{'0' * 32} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        answer = client.ask("PUT", "/api/jobs?name=x", b"video" + smuggled, content_length="5")
        assert answer.status == 201 and b"HTTP/1.1" not in answer.body
        client.wait(answer.json()["id"], "done")
    assert seen == [b"video"]


def test_an_upload_that_breaks_off_leaves_nothing(client, tmp_path):
    with client.connect() as half:
        half.sendall(b"PUT /api/jobs?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        half.shutdown(socket.SHUT_WR)
        answer = read_answer(half)
    assert answer.status == 400 and client.jobs() == [] and list(tmp_path.iterdir()) == []


def test_a_full_queue_refuses_and_takes_again_when_there_is_a_place(tmp_path):
    go = threading.Event()

    def wait_for_go(job, watch):
        while not go.wait(0.01):
            watch.check()
        return ""

    with serving(tmp_path, wait_for_go, ServerLimits(queue=2)) as (_, client):
        jobs = [client.upload().json()["id"] for _ in range(2)]
        refused = client.upload()
        assert refused.status == 503 and b"queue" in refused.body
        assert [job["ahead"] for job in client.jobs()][1] == 1
        go.set()
        for job in jobs:
            client.wait(job, "done")
        assert client.upload().status == 201


def test_finished_jobs_do_not_pile_up_without_limit(tmp_path):
    with serving(tmp_path, limits=ServerLimits(queue=1)) as (_, client):
        answers = []
        for _ in range(12):
            answers.append(client.upload())
            if answers[-1].status == 201:
                client.wait(answers[-1].json()["id"], "done")
        assert {answer.status for answer in answers[9:]} == {503} and b"results" in answers[-1].body


def test_a_full_disk_refuses_an_upload(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 2**27})())
    with serving(tmp_path) as (_, client):
        assert client.upload().status == 507


def test_a_client_that_sends_its_header_slowly_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.5)
    with serving(tmp_path) as (_, client), client.connect() as slow:
        begin = time.monotonic()
        slow.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for letter in b"X-Slow: " + b"x" * 400:  # never silent for long
                slow.sendall(bytes([letter]))
                time.sleep(0.05)
        assert time.monotonic() - begin < 10
        assert client.ask("GET", "/").status == 200


def test_an_upload_below_the_least_rate_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "IDLE", 0.3)
    monkeypatch.setattr(connection, "_LEAST_RATE", 1000)
    with serving(tmp_path) as (_, client), client.connect() as slow:
        slow.sendall(b"PUT /api/jobs?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(200):  # 20 bytes a second
                slow.sendall(b"x")
                time.sleep(0.05)
        assert client.jobs() == [] and list(tmp_path.iterdir()) == []


def test_too_many_connections_are_turned_away_and_their_places_come_back(tmp_path):
    with serving(tmp_path, limits=ServerLimits(connections=3)) as (_, client):
        held = [client.connect() for _ in range(3)]
        time.sleep(0.3)
        assert client.raw(b"").status == 503
        for one in held:
            one.close()
        end = time.monotonic() + 10
        while client.ask("GET", "/").status != 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert client.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",  # HTTP/0.9
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"<script> / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\xff\x00\xff\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_as_plain_text_and_the_server_goes_on(client, data, caplog):
    answer = client.raw(data + b"\r\n\r\n")
    assert not 200 <= answer.status < 300 and b"<html" not in answer.body.lower()
    assert answer.headers["content-type"].startswith("text/plain") and b"script" not in answer.body
    assert client.ask("GET", "/").status == 200 and "Traceback" not in caplog.text
