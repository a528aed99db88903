"""Whom the service answers: requests that name it, not those of other sites' pages, and who has a token."""

import asyncio
import socket

import httpx
import pytest

from oodline.errors import DataError, SettingError
from oodline.serve import ServeSettings, create_app
from oodline.serve.tokens import Tokens

PNG = {"content-type": "image/png"}


def status(client, host, path="/healthz", **headers):
    return client.get(path, headers={"host": host, **headers}).status_code


@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/info", "/metrics", "/openapi.json"])
def test_a_name_that_was_made_to_point_here_is_not_answered(client, path):
    port = client.base_url.port
    for host in ("127.0.0.1", f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST", "localhost.", f"[::1]:{port}"):
        assert status(client, host, path) == 200, host
    evil = ["evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0"]
    evil += ["192.0.2.1", "127.0.0.1@evil.example", "localhost,evil.example", "localhost/x", "a b", "", "[::1", "::1:x"]
    for host in evil:
        assert status(client, host, path) == 421, host
    answer = client.get(path, headers={"host": "evil.example"})
    assert answer.json()["type"] == "urn:oodline:problem:misdirected"
    assert "allowed_host" in answer.json()["remedy"]
    assert answer.headers["cache-control"] == "no-store"


def test_names_are_allowed_by_choice(serving):
    client = serving(allowed_host=("ood.example.org", "*.inner.example"))
    for host in ("ood.example.org", "OOD.example.org:8000", "a.inner.example", "a.b.inner.example", "127.0.0.1"):
        assert status(client, host) == 200, host
    for host in ("example.org", "inner.example", "xinner.example", "ood.example.org.evil.example"):
        assert status(client, host) == 421, host
    assert status(serving(allowed_host=("*",)), "whatever.example") == 200


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example/path", " a.example", "*."])
def test_what_is_no_name_of_a_host_is_refused(name):
    with pytest.raises(SettingError, match="`allowed_host` must be names of hosts"):
        ServeSettings(allowed_host=(name,))


def test_away_from_this_machine_addresses_count_and_names_where_a_token_is_asked_for(guard):
    def answers(host, token=None, server="192.0.2.7", **settings):
        app = create_app(guard, None, ServeSettings(**settings), token=token)
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/healthz", "query_string": b""}
        scope |= {"headers": [(b"host", host.encode())], "server": (server, 80), "scheme": "http"}
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.disconnect"}

        asyncio.run(app(scope, receive, send))
        app.state.service.close()
        return sent[0]["status"]

    assert answers("192.0.2.7:8000") == 200
    assert answers("[2001:db8::1]:8000") == 200
    assert answers(socket.gethostname()) == 200
    assert answers("evil.example") == 421
    assert answers("evil.example", token="x") == 200  # whose page has none
    assert answers("evil.example", token="x", allowed_host=("a.example",)) == 421
    assert answers("evil.example", server="::ffff:127.0.0.1", token="x") == 421
    assert answers("evil.example", server="/run/socket") == 200  # no name points there


def test_the_pages_of_other_sites_are_not_answered(client, picture):
    own = f"http://127.0.0.1:{client.base_url.port}"
    files = {"images": picture("red")}  # as a form that any page may send
    assert client.post("/v1/predict", files=files, headers={"origin": own}).status_code == 200
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"http://localhost:{client.base_url.port}",
        "x",
    ):
        answer = client.post("/v1/predict", files=files, headers={"origin": origin})
        assert answer.status_code == 403, origin
        assert answer.json()["type"] == "urn:oodline:problem:foreign-origin"
        assert "access-control-allow-origin" not in answer.headers
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    assert client.options("/v1/predict", headers=asked).status_code == 403


def test_behind_a_proxy_the_page_of_an_allowed_name_is_its_own(serving, picture):
    client = serving(allowed_host=("ood.example.org",))
    post = {"content": picture("red"), "headers": {**PNG, "origin": "https://ood.example.org"}}
    assert client.post("/v1/predict", **post).status_code == 200
    post = {"content": picture("red"), "headers": {**PNG, "origin": "https://other.example.org"}}
    assert client.post("/v1/predict", **post).status_code == 403
    everyone = serving(allowed_host=("*",))
    assert everyone.post("/v1/predict", **post).status_code == 403


def test_nothing_that_was_judged_is_kept_by_anybody(client, picture):
    for answer in (
        client.post("/v1/predict", content=picture("red"), headers=PNG),
        client.post("/v1/explain", content=picture("red"), headers=PNG),
        client.post("/v1/predict", content=b"", headers=PNG),
        client.get("/v1/info"),
        client.get("/metrics"),
        client.get("/healthz"),
        client.get("/nowhere"),
    ):
        assert answer.headers["cache-control"] == "no-store"
    assert client.get("/page.js").headers["cache-control"] == "no-cache"


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_several_tokens_open_it_and_metrics_may_have_their_own(guard, serving, tmp_path):
    client = serving(token=["one", "two"], metrics_token="three")
    for token, info, metrics in (("one", 200, 401), ("two", 200, 401), ("three", 401, 200), ("four", 401, 401)):
        assert client.get("/v1/info", headers=bearer(token)).status_code == info
        assert client.get("/metrics", headers=bearer(token)).status_code == metrics
    alone = serving(metrics_token="three")
    assert alone.get("/v1/info").status_code == 200
    assert alone.get("/metrics").status_code == 401
    refusals = create_app(guard, metrics_token="x").openapi()["paths"]
    assert "401" in refusals["/metrics"]["get"]["responses"]
    assert "401" not in refusals["/v1/info"]["get"]["responses"]


def test_a_file_of_tokens_is_read_again_and_where_it_is_gone_nobody_gets_in(serving, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# of the team\nold\n\n  spaced  \n")
    client = serving(token=path)

    def opens(token):
        return client.get("/v1/info", headers=bearer(token)).status_code == 200

    assert [opens(token) for token in ("old", "spaced", "new", "# of the team")] == [True, True, False, False]
    path.write_text("new\n")  # within the same tick of the clock, of the same length
    assert (opens("old"), opens("new")) == (False, True)
    path.with_name("other").write_text("third")
    path.with_name("other").replace(path)
    assert (opens("new"), opens("third")) == (False, True)
    for content in (b"", b"# nothing\n", b"\xff\xfe\n"):
        path.write_bytes(content)
        assert not opens("third")
    path.unlink()
    assert not opens("third")
    path.write_text("back")
    assert opens("back")


def test_tokens_that_open_nothing_are_refused(tmp_path):
    for empty in ("", [], ["a", ""], " "):
        with pytest.raises(SettingError, match="`token` must not be empty"):
            Tokens(empty)
    with pytest.raises(DataError, match="cannot be read"):
        Tokens(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("# none\n")
    with pytest.raises(SettingError, match="is empty"):
        Tokens(tmp_path / "empty")


def test_an_app_that_is_called_without_a_network_has_no_host_to_check(guard):
    async def ask():
        transport = httpx.ASGITransport(create_app(guard))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return (await client.get("/healthz")).status_code

    assert asyncio.run(ask()) == 200
