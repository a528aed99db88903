"""Connections one by one: read strictly, waited for as long as is said, and as many as there is room for."""

import json
import logging
import os
import resource
import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from oodline.errors import DataError, SettingError
from oodline.serve import ServeSettings, connections, create_app
from oodline.serve.accepting import room_for_connections
from oodline.serve.logs import ACCESS, Bounded, logging_kept
from oodline.serve.running import Server, listen

PNG = {"content-type": "image/png"}
PREDICT = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
NEXT = HEALTH + b"\r\n"


def connected(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)


def said(client, content):
    """All that the service answers to these bytes until it closes the connection."""
    with connected(client) as raw:
        raw.sendall(content)
        return until_closed(raw)


def until_closed(raw):
    answer = b""
    try:
        while part := raw.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def is_closed(raw):
    poll = select.poll()
    poll.register(raw, select.POLLRDHUP)
    return bool(poll.poll(0))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (PREDICT + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + NEXT, 400),
        (PREDICT + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Content-Length: 4\r\ncontent-length: 5\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Content-Length: 4, 5\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Content-Length: +4\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Content-Length: -4\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Content-Length : 4\r\n\r\nabcd" + NEXT, 400),
        (PREDICT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
        (PREDICT + b"Transfer-Encoding: identity\r\n\r\n" + NEXT, 400),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + NEXT, 400),
        (PREDICT.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
        (HEALTH + b"X: a\r\n b\r\n\r\n" + NEXT, 400),
        (HEALTH + b"X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n" + NEXT, 400),
        (HEALTH.replace(b"\r\n", b"\n") + b"\n" + NEXT, 400),
        (HEALTH + b"X: a\nY: b\r\n\r\n" + NEXT, 400),
        (HEALTH + b"X: a\rY: b\r\n\r\n" + NEXT, 400),
        (HEALTH + b"X: a\0b\r\n\r\n" + NEXT, 400),
        (HEALTH + b"Host: 127.0.0.1\r\n\r\n" + NEXT, 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n" + NEXT, 400),
        (b"GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + NEXT, 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + NEXT, 400),
        (b"GET /healthz HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n" + NEXT, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (b"\r\n\r\n\r\n" + NEXT, 400),
        (HEALTH + b"X: " + b"y" * 20_000 + b"\r\n\r\n" + NEXT, 431),
        (HEALTH + b"X: y\r\n" * 4000 + b"\r\n" + NEXT, 431),
        (b"GET /" + b"y" * 20_000, 431),
    ],
)
def test_what_two_readers_may_understand_differently_is_refused_and_nothing_after_it_is_heard(client, request_, status):
    answer = said(client, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"application/problem+json" in head
    if b"/v1/predict" not in request_ or b"zz" not in request_:
        assert json.loads(body)["type"] in (
            "urn:oodline:problem:malformed-request",
            "urn:oodline:problem:header-too-large",
        )
    assert client.get("/healthz").status_code == 200


def test_what_is_well_framed_is_heard(client, picture):
    content = picture("blue")
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    answer = said(client, PREDICT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["verdicts"][0]["class_name"] == "blue"
    large = HEALTH + b"X: " + b"y" * 15_000 + b"\r\nConnection: close\r\n\r\n"
    assert said(client, large).startswith(b"HTTP/1.1 200")
    old = b"GET /healthz HTTP/1.0\r\n\r\n"  # has no Host
    assert said(client, old).startswith(b"HTTP/1.1 200")


def test_a_request_that_is_sent_before_the_last_is_answered_is_for_another_connection(client):
    answer = said(client, NEXT * 50)
    assert answer.count(b"HTTP/1.1 200") == 1


def answer_of(raw):
    """Read one answer of `/healthz` to its end, however many pieces it comes in."""
    answer = b""
    while not answer.endswith(b'{"status":"alive"}'):
        answer += (piece := raw.recv(4000))
        assert piece, answer
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_header_is_not_waited_for_for_ever_however_slowly_it_comes(serving):
    client = serving(header_timeout=1.0)
    with connected(client) as silent, connected(client) as slow, connected(client) as idle:
        idle.sendall(NEXT)
        answer_of(idle)
        begun = time.monotonic()
        while not is_closed(slow):
            assert time.monotonic() - begun < 60
            try:
                slow.sendall(b"G")
            except OSError:
                break
            time.sleep(0.05)
        until(lambda: is_closed(silent))
        idle.sendall(NEXT)  # between requests it may wait longer
        answer_of(idle)


def test_a_body_that_nobody_asked_for_does_not_keep_a_connection_open(serving, monkeypatch):
    monkeypatch.setattr(connections, "GRACE", 0.5)
    client = serving(timeout=1.0)
    for head in (b"POST /nowhere HTTP/1.1\r\n", b"POST /v1/predict HTTP/1.1\r\nContent-Type: image/png\r\n"):
        with connected(client) as raw:
            raw.sendall(head + b"Host: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
            end = time.monotonic() + 60
            while not is_closed(raw):
                assert time.monotonic() < end
                try:
                    raw.sendall(b"x")
                except OSError:
                    break
                time.sleep(0.05)


def test_an_answer_that_is_not_taken_does_not_keep_a_connection_open(serving, monkeypatch, metric):
    monkeypatch.setattr(connections, "GRACE", 0.5)
    client = serving(timeout=1.0)
    with connected(client) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        until(lambda: is_closed(raw) or metric(client, "oodline_requests_in_flight") == 1)
    assert client.get("/healthz").status_code == 200


def test_those_that_only_wait_make_room_for_new_ones_the_longest_silent_first(serving):
    client = serving(max_connections=8)
    with ExitStack() as stack:
        raws = [stack.enter_context(connected(client)) for _ in range(40)]
        for _ in range(5):
            assert httpx.get(f"{client.base_url}/healthz", timeout=60).status_code == 200
        until(lambda: sum(not is_closed(raw) for raw in raws) <= 8)
        open_ = [i for i, raw in enumerate(raws) if not is_closed(raw)]
        assert min(open_, default=40) >= 32  # the first that came were the first to go


def test_where_all_wait_for_the_service_a_new_one_is_told_so(held, serving, picture, metric):
    client, content = serving(held, max_connections=8), picture()
    held.gate.clear()
    body = PREDICT + b"Content-Length: %d\r\n\r\n" % len(content) + content
    with ExitStack() as stack:
        raws = [stack.enter_context(connected(client)) for _ in range(8)]
        for raw in raws:
            raw.sendall(body)
        until(lambda: client_judge(client).present == 8)
        answer = said(client, NEXT)
        assert answer.startswith(b"HTTP/1.1 503")
        document = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert document["type"] == "urn:oodline:problem:full"
        assert "8 connections (max_connections)" in document["detail"]
        held.gate.set()
        for raw in raws:
            assert raw.recv(4000).startswith(b"HTTP/1.1 200")
    assert client.get("/healthz").status_code == 200


def client_judge(client):
    return client.app.state.service._batcher


def test_files_that_are_used_up_are_said_once_and_connections_are_accepted_again(serving, caplog):
    client = serving()
    client.get("/healthz")
    before, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    waiting = [socket.socket() for _ in range(3)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, before[1]))  # noqa: PTH208
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for raw in waiting:
            raw.settimeout(60)
            raw.connect((client.base_url.host, client.base_url.port))
            raw.sendall(NEXT)
        until(lambda: "no connection can be accepted" in caplog.text)
        time.sleep(0.5)
        for one in held:
            os.close(one)
        held.clear()
        for raw in waiting:
            assert raw.recv(4000).startswith(b"HTTP/1.1 200")
        assert 1 <= caplog.text.count("no connection can be accepted") < 50
    finally:
        for one in held:
            os.close(one)
        for raw in waiting:
            raw.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_there_is_room_for_as_many_connections_as_files_allow():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))  # noqa: PTH208
    assert room_for_connections(5) == 5
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 100, before[1]))
        assert 50 <= room_for_connections(1000) <= 70
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, before[1]))
        with pytest.raises(SettingError, match="leaves room for 0 connections; a service needs 8"):
            room_for_connections(1000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_log_that_strangers_fill_is_bounded_and_says_what_it_left_out():
    log, bounded = logging.getLogger("a busy one"), Bounded(most=2, seconds=0.2)

    def passes():
        record = log.makeRecord("", logging.ERROR, "", 0, "%s failed", ("it",), None)
        return bounded.filter(record), record.getMessage()

    assert [passes()[0] for _ in range(5)] == [True, True, False, False, False]
    time.sleep(0.25)
    assert passes() == (True, "it failed (3 messages were left out before this one)")
    assert passes() == (True, "it failed")


def test_requests_are_logged_by_choice_in_one_line_each(client, capsys):
    with logging_kept(access=False):
        client.get("/healthz")
    assert capsys.readouterr().err == ""
    with logging_kept(access=True):
        client.get("/healthz", headers={"x-request-id": "mine"})
        client.get("/no%0Awhere?secret=1", headers={"x-request-id": "mine"})
        written: list[str] = []

        def both_are_written():  # the line comes after the answer
            written.extend(line for line in capsys.readouterr().err.splitlines() if line.endswith(" mine"))
            return len(written) >= 2

        until(both_are_written)
    first, second = sorted(written)
    assert " 127.0.0.1 GET /healthz 200 " in first
    assert first.endswith(" ms mine")
    assert " 127.0.0.1 GET /no%0Awhere 404 " in second
    assert ACCESS.handlers == []


@pytest.fixture(scope="module")
def certificate():
    from pathlib import Path

    return Path(__file__).with_name("localhost.pem")


def test_over_tls_it_answers_and_who_does_not_finish_the_handshake_is_closed(guard, certificate):
    settings = ServeSettings(tls_cert=certificate, tls_key=certificate, max_connections=8, header_timeout=2.0)
    listening = threading.Event()
    server = Server(create_app(guard, None, settings), listen("127.0.0.1", 0), settings, listening.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(60)
        url = server.url("127.0.0.1")
        assert url.startswith("https://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        trusted = ssl.create_default_context(cafile=str(certificate))
        with ExitStack() as stack:
            raws = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(20)]
            raws[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert httpx.get(f"{url}/healthz", verify=trusted, timeout=60).status_code == 200
            until(lambda: all(is_closed(raw) for raw in raws))
        assert httpx.get(f"{url}/healthz", verify=trusted, timeout=60).headers["cache-control"] == "no-store"
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def test_a_certificate_that_cannot_be_used_is_refused(guard, certificate, tmp_path):
    def refused(cert, key):
        settings = ServeSettings(tls_cert=cert, tls_key=key)
        with pytest.raises(DataError) as error, listen("127.0.0.1", 0) as listener:
            Server(None, listener, settings, print)
        return str(error.value)

    assert "cannot be used" in refused(tmp_path / "nowhere", certificate)
    (tmp_path / "text").write_text("hello")
    assert "Give two PEM files that belong together" in refused(certificate, tmp_path / "text")
    with pytest.raises(SettingError, match="`tls_key` must be given with tls_cert"):
        ServeSettings(tls_cert=certificate)
