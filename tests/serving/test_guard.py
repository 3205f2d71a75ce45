"""Who is answered: nobody but the person at this machine."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from grigri_fast.serving.guard import Guard

TOKEN = "secret-token"
HERE = "http://127.0.0.1:8765"


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())} bytes")


@pytest.fixture
def client() -> TestClient:
    site = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    return TestClient(
        Guard(site, port=8765, token=TOKEN, max_body_bytes=1000),
        base_url=HERE,
        follow_redirects=False,
    )


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_the_token_in_the_address_becomes_a_cookie(client) -> None:
    assert client.get("/").status_code == 401
    first = client.get(f"/?token={TOKEN}")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/").status_code == 200
    client.cookies.clear()
    assert client.get("/").status_code == 401


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", "\u00e4"])
def test_a_wrong_token_is_no_token(client, token: str) -> None:
    assert client.get("/", params={"token": token}).status_code == 401
    bearer = {"Authorization": f"Bearer {token}".encode()}
    assert client.get("/photo/1", headers=bearer).status_code == 401
    cookie = {"Cookie": f"grigri-fast-8765={token}".encode()}
    assert client.get("/photo/1", headers=cookie).status_code == 401


def test_the_token_counts_in_the_address_of_the_first_page_alone(client) -> None:
    assert client.get(f"/photo/1?token={TOKEN}").status_code == 401
    assert client.post(f"/?token={TOKEN}").status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil:8765", ""],
)
def test_another_host_is_not_answered(client, host: str) -> None:
    assert client.get("/", headers={**BEARER, "Host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_others_are_not_answered(client, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        assert client.request(method, "/predict", headers={**BEARER, **headers}).status_code == 403


def test_its_own_pages_are_answered(client) -> None:
    own = {**BEARER, "Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/predict", content=b"123", headers=own).text == "3 bytes"
    other_name = {**BEARER, "Host": "localhost:8765", "Origin": "http://localhost:8765"}
    assert client.get("/", headers=other_name).status_code == 200


def test_a_body_is_bounded_with_and_without_its_length(client) -> None:
    assert client.post("/", content=bytes(1000), headers=BEARER).text == "1000 bytes"
    assert client.post("/", content=bytes(1001), headers=BEARER).status_code == 413
    pieces = (bytes(300) for _ in range(4))  # sent without a length
    assert client.post("/", content=pieces, headers=BEARER).status_code == 413


def test_every_answer_forbids_what_the_pages_do_not_need(client) -> None:
    for headers in ({}, BEARER, {"Host": "evil.example"}):
        policy = client.get("/", headers=headers).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
