"""What a server does with requests, and attacks on it."""

import re
import socket
import time
from urllib.parse import quote

import pytest

from helpers.serving import Client, serving
from vod2.errors import UserError
from vod2.serve import RESULTS, ServerLimits


@pytest.fixture
def client(tmp_path) -> Client:
    with serving(tmp_path) as (_, client):
        yield client


@pytest.fixture
def protected(tmp_path):
    """A server that asks for its token, as one that other machines reach."""
    with serving(tmp_path, needs_token=True, host="0.0.0.0") as (running, client):
        yield running, client


def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_video_is_uploaded_detected_and_its_results_are_there(client, tmp_path):
    answer = client.upload("cat%20%C3%A4.mp4", b"x" * 300_000)
    assert answer.status == 201
    record = client.wait(answer.json()["id"], "done")
    assert (record["name"], record["frames"], record["total"]) == ("cat ä.mp4", 3, 3)
    for kind, result in RESULTS.items():
        found = client.ask("GET", f"/jobs/{record['id']}/{kind}")
        assert (found.status, found.body, found.headers["content-type"]) == (200, kind.encode(), result.type)
    # The upload is not kept
    assert files_in(tmp_path) == sorted(result.file for result in RESULTS.values())


def test_the_upload_arrives_byte_by_byte_as_it_was_sent(tmp_path):
    body = bytes(range(256)) * 2000
    seen = []
    with serving(tmp_path, lambda job, watch: seen.append(job.video.read_bytes()) or "") as (_, client):
        client.wait(client.upload(body=body).json()["id"], "done")
    assert seen == [body]


def test_what_the_detection_says_of_a_video_reaches_its_owner(tmp_path):
    def fail(job, watch):
        raise UserError("'cat.mp4' has no frame that can be decoded")

    with serving(tmp_path, fail) as (_, client):
        record = client.wait(client.upload().json()["id"], "failed", "done")
        assert record["message"] == "'cat.mp4' has no frame that can be decoded"
        assert files_in(tmp_path) == []
        assert client.ask("GET", f"/jobs/{record['id']}/report").status == 404


def test_an_error_of_the_server_is_logged_and_not_shown_and_the_next_video_runs(tmp_path, caplog):
    calls = []

    def fail_once(job, watch):
        calls.append(job)
        if len(calls) == 1:
            raise RuntimeError(f"secret {job.folder}")
        return ""

    with serving(tmp_path, fail_once) as (_, client):
        first, second = (client.upload().json()["id"] for _ in range(2))
        message = client.wait(first, "failed")["message"]
        assert "secret" not in message and str(tmp_path) not in message and "secret" in caplog.text
        client.wait(second, "done")


def test_a_running_job_stops_when_it_is_cancelled_and_one_that_waits_never_runs(tmp_path):
    started = []

    def forever(job, watch):
        started.append(job.id)
        for _ in watch.frames(iter(lambda: time.sleep(0.01), 1), None):
            pass

    with serving(tmp_path, forever) as (_, client):
        first, second = (client.upload().json()["id"] for _ in range(2))
        client.wait(first, "running")
        assert client.ask("POST", f"/api/jobs/{second}/cancel").json()["state"] == "cancelled"
        client.ask("POST", f"/api/jobs/{first}/cancel")
        client.wait(first, "cancelled")
        assert started == [first]
        for job in (first, second):
            assert client.ask("DELETE", f"/api/jobs/{job}").status == 200
        assert client.jobs() == [] and list(tmp_path.iterdir()) == []


def test_a_job_that_is_deleted_while_it_runs_leaves_nothing(tmp_path):
    def forever(job, watch):
        (job.results / "partial").write_text("")
        for _ in watch.frames(iter(lambda: time.sleep(0.01), 1), None):
            pass

    with serving(tmp_path, forever) as (_, client):
        job = client.upload().json()["id"]
        client.wait(job, "running")
        client.ask("DELETE", f"/api/jobs/{job}")
        assert client.jobs() == []
        end = time.monotonic() + 10
        while list(tmp_path.iterdir()) and time.monotonic() < end:
            time.sleep(0.02)
        assert list(tmp_path.iterdir()) == []


def test_results_are_deleted_after_their_time(tmp_path):
    now = [0.0]
    with serving(tmp_path, limits=ServerLimits(keep_seconds=60), clock=lambda: now[0]) as (_, client):
        job = client.upload().json()["id"]
        client.wait(job, "done")
        now[0] = 59
        time.sleep(0.1)
        assert client.ask("GET", f"/jobs/{job}/json").status == 200
        now[0] = 60
        end = time.monotonic() + 10
        while client.jobs() and time.monotonic() < end:
            time.sleep(0.02)
        assert client.jobs() == [] and list(tmp_path.iterdir()) == []


# Who may ask


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/api/jobs"), ("PUT", "/api/jobs?name=a"), ("DELETE", "/api/jobs/" + "0" * 32)],
)
@pytest.mark.parametrize("token", [None, "", "wrong", "é", "T" * 43])
def test_without_the_token_nothing_is_answered(protected, tmp_path, method, path, token):
    _, client = protected
    asked = path + ("&" if "?" in path else "?") + f"token={'' if token is None else token.encode().hex()}"
    body = b"video" if method == "PUT" else None
    answer = client.ask(method, asked, body, authorization=None if token is None else f"Bearer {token}")
    assert answer.status == 401 and b"token" in answer.body and "set-cookie" not in answer.headers
    assert list(tmp_path.iterdir()) == []


def test_the_token_is_long_new_for_each_server_and_in_no_log(tmp_path, caplog):
    caplog.set_level(0)
    tokens = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with serving(tmp_path / name, needs_token=True) as (running, client):
            tokens.append(running.access.token)
            client.ask("GET", f"/?token={tokens[-1]}", authorization=None)
    assert len(set(tokens)) == 2 and all(len(token) >= 43 for token in tokens)
    assert not any(token in caplog.text for token in tokens) and "GET" in caplog.text


def test_a_browser_gets_a_cookie_for_the_token_that_scripts_cannot_read_and_other_sites_do_not_send(protected):
    running, client = protected
    first = client.ask("GET", f"/?token={running.access.token}", authorization=None)
    cookie = first.headers["set-cookie"]
    assert first.status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert running.access.token not in cookie and running.access.token.encode() not in first.body
    value = cookie.split(";")[0]
    again = client.ask("GET", "/", authorization=None, cookie=f"other={{}}; {value}")
    assert again.status == 200 and "set-cookie" not in again.headers
    name, _, session = value.partition("=")
    forged = "0" * 32 + session[32:]
    for wrong in (f"{name}={forged}", f"{name}={session[:-1]}", f"{name}=", f"{name}=.", f"x{value}", "\x80"):
        assert client.ask("GET", "/api/jobs", authorization=None, cookie=wrong).status == 401


def test_a_link_of_another_site_replaces_no_session_and_needs_the_token(protected):
    running, client = protected
    answer = client.ask("GET", f"/?token={running.access.token}", authorization=None, sec_fetch_site="cross-site")
    assert answer.status == 200 and "set-cookie" not in answer.headers and b"refresh" in answer.body
    refused = client.ask("GET", "/?token=wrong", authorization=None, sec_fetch_site="cross-site")
    assert refused.status == 401 and running.access.token.encode() not in refused.body


def test_on_this_machine_alone_no_token_is_needed(client):
    assert client.ask("GET", "/").status == 200 and client.ask("GET", "/api/jobs").status == 200


def test_nobody_sees_the_jobs_of_another_session(client):
    sessions = [client.ask("GET", "/").headers["set-cookie"].split(";")[0] for _ in range(2)]
    job = client.ask("PUT", "/api/jobs?name=mine", b"video", cookie=sessions[0]).json()["id"]
    end = time.monotonic() + 10
    while client.ask("GET", f"/jobs/{job}/json", cookie=sessions[0]).status != 200 and time.monotonic() < end:
        time.sleep(0.02)
    for cookie in (sessions[1], None):
        assert client.ask("GET", "/api/jobs", cookie=cookie).json()["jobs"] == []
        for method, path in (
            ("GET", f"/jobs/{job}/json"),
            ("DELETE", f"/api/jobs/{job}"),
            ("POST", f"/api/jobs/{job}/cancel"),
        ):
            assert client.ask(method, path, cookie=cookie).status == 404
    assert client.ask("GET", f"/jobs/{job}/json", cookie=sessions[0]).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9000", 200),  # through a tunnel
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("localhost.evil.example", 421),
        ("192.168.1.5:8000", 421),
        ("evil.example@127.0.0.1", 400),
        ("", 400),
        (None, 400),
    ],
)
def test_a_name_that_points_here_by_somebody_elses_dns_is_refused(client, host, status):
    assert client.ask("GET", "/", host=host).status == status


def test_a_server_for_other_machines_goes_by_addresses_and_the_names_that_it_was_given(tmp_path):
    with serving(tmp_path, needs_token=True, host="0.0.0.0", names=("Lab.example",)) as (_, client):
        for host in ("10.1.2.3:80", "lab.example", socket.gethostname()):
            assert client.ask("GET", "/api/jobs", host=host).status == 200
        assert client.ask("GET", "/api/jobs", host="evil.example").status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},  # another server of this machine
        {"origin": "http://127.0.0.1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_the_page_of_another_site_changes_nothing(client, headers):
    job = client.upload().json()["id"]
    for method, path in (
        ("PUT", "/api/jobs?name=x"),
        ("DELETE", f"/api/jobs/{job}"),
        ("POST", f"/api/jobs/{job}/cancel"),
    ):
        assert client.ask(method, path, b"text", **headers).status == 403
    assert [found["id"] for found in client.jobs()] == [job]


def test_the_own_page_may_change_things_and_no_other_origin_is_ever_allowed_to_read(client):
    origin = f"http://127.0.0.1:{client.port}"
    answer = client.ask("PUT", "/api/jobs?name=x", b"video", origin=origin, sec_fetch_site="same-origin")
    assert answer.status == 201
    for method in ("OPTIONS", "GET", "HEAD", "TRACE"):
        found = client.ask(method, "/api/jobs", origin="http://evil.example")
        assert not any(name.startswith("access-control") for name in found.headers)


def test_a_page_behind_a_proxy_with_tls_may_change_things_and_others_may_not(tmp_path):
    """The proxy sends the address that it asks as Host, as nginx does unless it is told otherwise."""
    with serving(tmp_path, names=("Vod.example",)) as (_, client):
        for origin in ("https://vod.example", "http://vod.example", "https://VOD.example:8443"):
            answer = client.ask("PUT", "/api/jobs?name=x", b"video", origin=origin, sec_fetch_site="same-origin")
            assert answer.status == 201, origin
        for origin in (
            "https://evil.example",
            "https://vod.example.evil.example",
            "https://evil.example/vod.example",
            "https://vod.example@evil.example",
            "https://evilvod.example",
            "ftp://vod.example",
            "vod.example",
            "https://localhost",  # a name of the server, but nobody has said that a page comes from there
            "null",
        ):
            assert client.ask("PUT", "/api/jobs?name=x", b"video", origin=origin).status == 403, origin
        # A page on another port of that host is none of the server's, as the browser says.
        other = {"origin": "https://vod.example:9000", "sec_fetch_site": "same-site"}
        assert client.ask("PUT", "/api/jobs?name=x", b"video", **other).status == 403


# Names


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/jobs/../../etc/passwd",
        "/jobs/{id}/../../../etc/passwd",
        "/jobs/{id}/report.html",
        "/jobs/{id}/report/",
        "/jobs/{id}/report%00",
        "/jobs/{id}/__class__",
        "/jobs/{id}/video",
        "/jobs/" + "0" * 32 + "/report",
        "/jobs/../report",
        "file:///etc/passwd",
        "http://localhost/api/jobs",
        "/api/jobs/",
        "/page.html",
        "/\\..\\..\\etc\\passwd",
        "*",
    ],
)
def test_there_is_nothing_at_any_other_path(client, path):
    job = client.upload().json()["id"]
    client.wait(job, "done")
    answer = client.ask("GET", path.replace("{id}", job))
    assert answer.status in (400, 404) and b"root:" not in answer.body


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/cron.d/x",
        "/etc/passwd",
        "..",
        "a/b",
        "C:\\x",
        "%00",
        "con",
        "x" * 3000,
        "<img src=x onerror=alert(1)>",
    ],
)
def test_the_name_of_an_upload_reaches_no_path(client, tmp_path, name):
    answer = client.upload(quote(name, safe="%"))
    assert answer.status == 201
    record = client.wait(answer.json()["id"], "done")
    assert len(record["name"]) <= 120
    (folder,) = tmp_path.iterdir()
    assert re.fullmatch("[0-9a-f]{32}", folder.name) and folder.name == record["id"]
    assert files_in(tmp_path) == sorted(result.file for result in RESULTS.values())
    download = client.ask("GET", f"/jobs/{record['id']}/json")
    assert download.headers["content-disposition"] == 'attachment; filename="detections.json"'


def test_every_answer_forbids_guessing_framing_and_caching(client):
    job = client.upload().json()["id"]
    client.wait(job, "done")
    for path in ("/", "/api/jobs", f"/jobs/{job}/report", f"/jobs/{job}/mot", "/nothing"):
        headers = client.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
    # A report has no origin, so that a script in it could not ask the server for anything.
    policy = client.ask("GET", f"/jobs/{job}/report").headers["content-security-policy"]
    assert "sandbox" in policy and "allow-same-origin" not in policy


def test_the_page_runs_its_own_script_only_and_loads_nothing(client):
    answer = client.ask("GET", "/")
    policy, html = answer.headers["content-security-policy"], answer.body.decode()
    assert "unsafe" not in policy and policy.count("sha256-") == 2
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html) and " style=" not in html
    assert "innerHTML" not in html and "insertAdjacentHTML" not in html and "document.write" not in html
