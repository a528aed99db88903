"""Each limit has its refusal: one format, the right status, and the service goes on."""

import json
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

import oodline as ol

PNG = {"content-type": "image/png"}


def refused(answer, status, kind):
    """Check that an answer is a refusal of this kind, in the one format; gives its detail and remedy."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "remedy", "request_id"}
    assert problem["type"] == f"urn:oodline:problem:{kind}"
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert all(problem[part].strip() for part in ("title", "detail", "remedy"))
    assert "Traceback" not in answer.text
    return problem["detail"], problem["remedy"]


def png(width, height, data=b"", compressed=None):
    """A PNG file whose header says this size, whatever data follows."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(data) if compressed is None else compressed
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def until(condition):
    """Wait, but not for ever."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to be")


@pytest.mark.parametrize(
    ("content", "status", "kind", "words"),
    [
        (b"", 422, "unreadable-image", "empty: 0 bytes"),
        (b"hello, this is text", 415, "unsupported-type", "no PNG, JPEG, WebP or BMP"),
        (b"GIF89a" + bytes(50), 415, "unsupported-type", "GIF89a"),
        (b"\x80\x04\x95cos\nsystem\n", 415, "unsupported-type", "begins with"),
        (b"\x89PNG\r\n\x1a\n", 422, "unreadable-image", ""),
        (b"\xff\xd8\xff" + bytes(300), 422, "unreadable-image", ""),
        (b"BM" + bytes(60), 422, "unreadable-image", ""),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(40), 422, "unreadable-image", ""),
        (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(40), 422, "unreadable-image", ""),
        (png(60_000, 60_000), 422, "too-many-pixels", ""),
        (png(2**31 - 1, 2**31 - 1), 422, "too-many-pixels", ""),
        (png(6000, 6000), 422, "too-many-pixels", "6000 x 6000"),
        (png(1, 8_000_000, bytes(100)), 422, "too-many-pixels", "8 x 64000000"),
        (png(0, 10), 422, "unreadable-image", ""),
        (png(100, 100, bytes(500)), 422, "unreadable-image", "truncated"),
        (png(100, 100, compressed=b"not zlib"), 422, "unreadable-image", ""),
        (b"RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00" + b"\xfe\x3f\x00" * 2 + bytes(20), 422,
         "too-many-pixels", "16383 x 16383"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_bad_image_is_refused_with_its_sentence(client, picture, content, status, kind, words):
    detail, remedy = refused(client.post("/v1/predict", content=content, headers=PNG), status, kind)
    assert words in detail
    assert remedy.startswith(("Send ", "Save "))
    assert client.post("/v1/explain", content=content, headers=PNG).status_code == status


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_truncated_image_is_refused_wherever_it_ends(client, picture, kind):
    content = picture("noise", (40, 30), kind)
    for end in (12, 40, len(content) // 2, len(content) - 200):
        refused(client.post("/v1/predict", content=content[:end], headers=PNG), 422, "unreadable-image")


def test_a_jpeg_of_very_many_scans_is_refused(client, picture):
    content = picture("noise", (40, 30), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + content[last:-2] * 200 + content[-2:]
    detail, _ = refused(client.post("/v1/predict", content=many, headers=PNG), 422, "unreadable-image")
    assert "more than 100 scans" in detail
    assert client.post("/v1/predict", content=content, headers=PNG).status_code == 200


def test_a_highly_compressible_image_within_the_limit_is_judged(client):
    content = png(5000, 6000, bytes(6000 * 15001))
    assert len(content) < 100_000
    assert client.post("/v1/predict", content=content, headers=PNG).status_code == 200


def test_an_animation_is_judged_by_its_first_frame(client, picture):
    from io import BytesIO

    from PIL import Image

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red", "lime")]
    for kind in ("WEBP", "PNG"):
        file = BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100)
        answer = client.post("/v1/predict", content=file.getvalue(), headers=PNG)
        assert answer.json()["verdicts"][0]["class_name"] == "blue"


def test_a_body_that_is_too_large_is_refused_by_its_header_or_as_it_arrives(serving, picture):
    client = serving(max_body=1000)
    detail, _ = refused(client.post("/v1/predict", content=bytes(1001), headers=PNG), 413, "body-too-large")
    assert "1001 bytes; 1000 are allowed" in detail

    def chunks():
        for _ in range(50):
            yield bytes(100)

    detail, _ = refused(client.post("/v1/predict", content=chunks(), headers=PNG), 413, "body-too-large")
    assert "more than 1000 bytes" in detail
    files = {"images": bytes(990)}  # with the lines around it, too much
    refused(client.post("/v1/predict", files=files), 413, "body-too-large")
    assert client.post("/v1/predict", content=picture(), headers=PNG).status_code == 200


def test_a_huge_declared_length_is_refused_before_a_byte_is_sent(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_too_many_images_are_refused(serving, picture):
    client = serving(max_images=3)
    files = [("images", picture())] * 4
    detail, remedy = refused(client.post("/v1/predict", files=files), 413, "too-many-images")
    assert detail == "More than 3 were sent."
    assert remedy == "Send at most 3 at a time (max_images)."
    assert client.post("/v1/predict", files=files[:3]).status_code == 200
    refused(client.post("/v1/explain", files=files[:2]), 413, "too-many-images")


BOUNDARY = {"content-type": "multipart/form-data; boundary=xx"}
PART = b'--xx\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "multipart/form-data"}, b""),
        (BOUNDARY, b""),
        (BOUNDARY, b"\x00\x01\x02" * 50),
        (BOUNDARY, PART + b"abc"),
        (BOUNDARY, b"--yy\r\n\r\nabc\r\n--yy--\r\n"),
        (BOUNDARY, b"--xx\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--xx--\r\n"),
        (BOUNDARY, b"--xx\r\nX" + b"y" * 100_000 + b": z\r\n\r\nabc\r\n--xx--\r\n"),
        (BOUNDARY, b'--xx\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nabc\r\n--xx--\r\n'),
        (BOUNDARY, b'--xx\r\nContent-Disposition: form-data; name="a"\r\n\r\nabc\r\n' * 30 + b"--xx--\r\n"),
        ({"content-type": 'multipart/form-data; boundary="' + "x" * 5000 + '"'}, PART),
    ],
)
def test_a_malformed_form_is_refused(client, headers, content):
    refused(client.post("/v1/predict", content=content, headers=headers), 400, "malformed-form")


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/plain"}, {"content-type": ";;"}, {**PNG, "content-encoding": "gzip"}]
)
def test_another_type_or_encoding_is_refused(client, picture, headers):
    refused(client.post("/v1/predict", content=picture(), headers=headers), 415, "unsupported-type")


def test_a_place_that_is_not_there_a_wrong_method_and_a_wrong_parameter_are_refused(client, picture):
    refused(client.get("/v2"), 404, "not-found")
    wrong = client.get("/v1/predict")
    refused(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "POST"
    for top in ("0", "101", "many", "1.5"):
        detail, _ = refused(
            client.post(f"/v1/explain?top={top}", content=picture(), headers=PNG), 422, "invalid-parameter"
        )
        assert "`top`" in detail
    refused(client.get("/v1/histogram"), 422, "invalid-parameter")
    refused(client.get("/v1/histogram?label=3"), 422, "invalid-parameter")


def test_an_id_of_the_client_is_kept_where_it_is_one(client):
    assert client.get("/healthz", headers={"x-request-id": "a-1_b.C"}).headers["x-request-id"] == "a-1_b.C"
    for bad in ("a b", "x" * 65, "<script>", ""):
        assert len(client.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"]) == 32


def test_a_token_is_asked_for_where_there_is_one(serving, picture):
    client = serving(token="s3cret ü")
    for path in ("/v1/predict", "/v1/explain"):
        refused(client.post(path, content=picture(), headers=PNG), 401, "unauthorised")
    for path in ("/v1/info", "/v1/histogram?label=0", "/metrics"):
        answer = client.get(path)
        refused(answer, 401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in ("Bearer wrong", "Bearer", "Basic s3cret", "s3cret", b"Bearer \xff\xfe"):
        refused(client.get("/v1/info", headers={"authorization": wrong}), 401, "unauthorised")
    for path in ("/", "/page.js", "/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200
    right = {"authorization": "Bearer s3cret ü".encode()}
    assert client.get("/v1/info", headers=right).status_code == 200
    assert client.post("/v1/predict", content=picture(), headers={**PNG, **right}).status_code == 200


def test_a_full_service_says_when_to_come_back(held, serving, picture, metric):
    client = serving(held, capacity=4, max_images=3)
    held.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(client.post, "/v1/predict", content=picture(), headers=PNG) for _ in range(3)]
        while metric(client, "oodline_present_images") < 3:
            time.sleep(0.01)
        answer = client.post("/v1/predict", files=[("images", picture())] * 2)  # one place is left
        detail, _ = refused(answer, 503, "full")
        assert "of 4 at most (capacity)" in detail
        assert int(answer.headers["retry-after"]) >= 1
        waiting.append(pool.submit(client.post, "/v1/predict", content=picture(), headers=PNG))
        while metric(client, "oodline_present_images") < 4:
            time.sleep(0.01)
        refused(client.post("/v1/predict", content=picture(), headers=PNG), 503, "full")
        assert client.get("/readyz").status_code == 200
        held.gate.set()
        assert [job.result().status_code for job in waiting] == [200] * 4
    assert metric(client, "oodline_present_images") == 0
    assert metric(client, 'oodline_rejections_total{reason="full"}') == 2
    assert client.post("/v1/predict", files=[("images", picture())] * 3).status_code == 200


def test_bodies_of_many_requests_together_stay_within_the_memory_they_may_take(held, serving, picture, metric):
    client = serving(held, max_body=50_000, max_memory=60_000)
    content = picture("noise", (110, 110))
    assert 35_000 < len(content) < 50_000
    held.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/predict", content=content, headers=PNG)
        while metric(client, "oodline_present_images") < 1 or metric(client, "oodline_batch_images_count") < 0:
            time.sleep(0.01)
        time.sleep(0.1)
        answer = client.post("/v1/predict", content=content, headers=PNG)
        detail, _ = refused(answer, 503, "full")
        assert "60000 at most (max_memory)" in detail
        held.gate.set()
        assert first.result().status_code == 200
    assert client.post("/v1/predict", content=content, headers=PNG).status_code == 200


def test_an_answer_that_takes_too_long_is_not_waited_for(held, serving, picture, metric):
    client = serving(held, timeout=0.3)
    held.gate.clear()
    detail, _ = refused(client.post("/v1/predict", content=picture(), headers=PNG), 504, "too-slow")
    assert "after 0.3 s" in detail
    refused(client.post("/v1/predict", content=picture(), headers=PNG), 504, "too-slow")
    end = time.monotonic() + 30
    while client.app.state.service._batcher.queued:  # on a busy machine the answer may be here first
        assert time.monotonic() < end
        time.sleep(0.01)
    held.gate.set()
    assert client.post("/v1/predict", content=picture(), headers=PNG).status_code == 200
    assert metric(client, "oodline_present_images") == 0
    assert held.batches == [1, 1, 1]  # the warm-up, the first and the last: the second was never judged


def test_a_body_that_does_not_come_is_not_waited_for(serving):
    client = serving(timeout=0.3)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nabc"
        )
        answer = b""
        while b"remedy" not in answer and (part := raw.recv(4000)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:oodline:problem:body-too-slow" in answer


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(serving, picture, metric):
    client = serving()
    for _ in range(5):
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
            raw.sendall(
                b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
                b"Content-Length: 9\r\n\r\nab"
            )
    until(lambda: metric(client, 'oodline_rejections_total{reason="client-left"}') >= 5)
    assert metric(client, "oodline_present_images") == 0
    assert client.post("/v1/predict", content=picture(), headers=PNG).status_code == 200


def test_a_client_that_does_not_wait_for_its_answer_is_not_worked_for(held, serving, picture, metric):
    client, content = serving(held), picture()
    held.gate.clear()
    head = (
        b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
        % len(content)
    )
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/predict", content=content, headers=PNG)
        assert held.waiting.wait(20)
        for _ in range(3):
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as raw:
                raw.sendall(head + content)
                until(lambda: metric(client, "oodline_queue_images") >= 1)
        until(lambda: metric(client, 'oodline_rejections_total{reason="client-left"}') >= 3)
        assert metric(client, "oodline_present_images") == 1
        held.gate.set()
        assert first.result().status_code == 200
    assert client.post("/v1/predict", content=content, headers=PNG).status_code == 200
    assert held.batches == [1, 1, 1]  # the warm-up, the first and the last


def test_a_failure_of_the_classifier_shows_no_stack_trace_and_does_not_end_the_service(guard, serving, picture):
    class Failing(ol.Guard):
        calls = 0

        def __call__(self, inputs):
            Failing.calls += 1
            if Failing.calls == 2:  # the first is the warm-up
                raise ZeroDivisionError("a secret of the inside")
            return super().__call__(inputs)

    failing = Failing(guard.classifier, guard.detector, guard.calibration, preprocessing=guard.preprocessing)
    client = serving(failing)
    answer = client.post("/v1/predict", content=picture(), headers=PNG)
    refused(answer, 500, "internal")
    assert "secret" not in answer.text
    assert client.post("/v1/predict", content=picture(), headers=PNG).status_code == 200


def test_an_answer_is_framed_by_nobody_and_runs_nothing(client):
    for path in ("/", "/v1/info", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_names_of_files_come_back_as_text_and_short(client, picture):
    name = "<img src=x onerror=alert(1)>" + "x" * 1000
    [row] = client.post("/v1/predict", files={"images": (name, picture())}).json()["verdicts"]
    assert row["name"] == name[:200]
    assert json.loads(json.dumps(row)) == row


def test_bad_images_in_a_crowd_disturb_no_good_one(serving, picture):
    client = serving()
    bad = [b"", b"text", picture("noise", (40, 30))[:300], png(60_000, 60_000), png(100, 100, bytes(50))]
    stop, codes = threading.Event(), set()

    def attack():
        while not stop.is_set():
            for content in bad:
                codes.add(client.post("/v1/predict", content=content, headers=PNG).status_code)

    with ThreadPoolExecutor(5) as pool:
        attacks = [pool.submit(attack) for _ in range(3)]
        good = [client.post("/v1/predict", content=picture("blue"), headers=PNG) for _ in range(30)]
        stop.set()
        for job in attacks:
            job.result()
    assert all(answer.json()["verdicts"][0]["class_name"] == "blue" for answer in good)
    assert codes == {415, 422}
