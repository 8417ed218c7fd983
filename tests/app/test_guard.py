"""Whoever reaches the page gets the page: no file of the server, no other endpoint, no other website."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fantasytalking.app.hosts import AllowedHosts, is_same_origin
from fantasytalking.media import write_image
from tests.app.conftest import Server
from tests.app.test_page import ASKED, FILES

httpx = pytest.importorskip("httpx")

META = {"meta": {"_type": "gradio.FileData"}}
API = "/gradio_api"


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def dependency(http: Any) -> int:
    """Gradio's number of the function that generates a video."""
    return next(item["id"] for item in http.get("/config").json()["dependencies"] if item["api_name"] == "talk")


def upload(http: Any, path: Path) -> str:
    return http.post(f"{API}/upload", files={"files": (path.name, path.read_bytes())}).json()[0]


def everything(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


@pytest.fixture
def refused_paths(server: Server, http: Any, tmp_path: Path) -> Iterator[list[str]]:
    """Files that no visitor uploaded, by every name that may lead to them."""
    secret = tmp_path / "secret.png"
    write_image(secret, np.full((64, 64, 3), 128, np.uint8))
    fifo, link, folder = (server.uploads / name for name in ("fifo.png", "link.png", "linked"))
    os.mkfifo(fifo)
    link.symlink_to(secret)
    folder.symlink_to(tmp_path)
    inside = upload(http, ASKED["portrait"])
    yield [
        *(str(secret), "/dev/zero", "/dev/stdin", "/proc/self/environ", "/etc/passwd", "", ".", "secret.png"),
        *(str(fifo), str(link), str(folder / "secret.png"), str(server.uploads), str(Path(inside).parent)),
        *(f"{inside}/../../../{secret}", f"{server.uploads}/..{secret}", os.path.relpath(inside), f"{inside}\0"),
        *(f"file://{secret}", "http://127.0.0.1:1/a.png", "https://example.com/a.png", str(server.output)),
    ]
    for path in (fifo, link, folder):
        path.unlink()


def test_no_input_takes_a_file_that_was_not_uploaded(
    server: Server, http: Any, dependency: int, refused_paths: list[str]
):
    own = {name: {"path": upload(http, ASKED[name]), **META} for name in ("portrait", "audio")}
    before = everything(server.uploads, server.output)
    tried = 0
    for path in refused_paths:
        files = ({"path": path}, {"path": path, **META}, {"path": path, "url": f"{server.url}/a.png", **META})
        for number, name in enumerate(FILES):
            for file in files if number == 0 else files[:2]:
                values = {**ASKED, **own, name: file}
                data = list(values.values())
                bodies = {
                    "queue/join": {"data": data, "fn_index": dependency, "session_hash": "thief"},
                    "call/talk": {"data": data},
                    "run/talk": {"data": data},
                    "api/talk/": {"data": data, "event_data": {"value": file}},
                    "call/v2/talk": values,
                }
                for endpoint, body in list(bodies.items())[: None if number == 0 else 1]:
                    answer = http.post(f"{API}/{endpoint}", json=body)
                    assert answer.status_code == 403 and "is not an uploaded file" in answer.text, (path, endpoint)
                    tried += 1
        for shape in ([{"image": {"path": path}}], {"video": {"path": path, **META}}, [[[{"deep": [{"path": path}]}]]]):
            answer = http.post(f"{API}/call/talk", json={"data": [shape], "event_data": None})
            assert answer.status_code == 403, (path, shape)
    assert tried == len(refused_paths) * (3 * 5 + 4 * 2)
    assert everything(server.uploads, server.output) == before


def test_a_path_that_is_no_text_is_refused(http: Any):
    for path in (1, 1.5, True, [str(ASKED["portrait"])], {"path": "/etc/passwd"}, {"a": 1}):
        assert http.post(f"{API}/call/talk", json={"data": [{"path": path}]}).status_code == 403


def test_only_uploaded_files_are_served(server: Server, http: Any, refused_paths: list[str], tmp_path: Path):
    inside = upload(http, ASKED["portrait"])
    assert http.get(f"{API}/file={inside}").content == Path(ASKED["portrait"]).read_bytes()
    kept = server.output / "kept.json"
    server.output.mkdir(exist_ok=True)
    kept.write_text("{}")
    for path in [*refused_paths, str(kept), str(ASKED["portrait"]), os.getcwd() + "/pyproject.toml"]:
        for method in ("GET", "HEAD"):
            answer = http.request(method, f"{API}/file={path}".replace("\0", "%00"))
            assert answer.status_code in (403, 404), (path, answer.status_code)
        assert http.get(f"{API}/file/{path}".replace("\0", "%00")).status_code in (403, 404)
    kept.unlink()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{API}/proxy=https://example.com/"),
        ("GET", f"{API}/runs"),
        ("GET", "/monitoring/summary"),
        ("GET", f"{API}/dev/reload"),
        ("GET", f"{API}/deep_link?session_hash=a"),
        ("GET", f"{API}/custom_component/1/client/component/index.js"),
        ("POST", f"{API}/component_server"),
        ("POST", f"{API}/process_recording"),
        ("POST", f"{API}/stream/1"),
        ("POST", f"{API}/vibe-edit/"),
        ("POST", "/login"),
        ("PUT", "/"),
        ("DELETE", f"{API}/upload"),
        ("OPTIONS", f"{API}/queue/join"),
    ],
)
def test_endpoints_that_the_page_does_not_need_are_closed(http: Any, method: str, path: str):
    assert http.request(method, path).status_code in (404, 405)


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{" * 10_000, "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" + b" " * 300_000 + b"]", "application/json", 413),
        (b'{"data": []}', "text/plain", 415),
        (b'{"data": []}', "", 415),
    ],
)
def test_a_body_that_cannot_be_checked_is_refused(http: Any, content: bytes, content_type: str, status: int):
    headers = {"content-type": content_type} if content_type else {}
    assert http.post(f"{API}/call/talk", content=content, headers=headers).status_code == status


def test_an_upload_states_a_length_that_there_is_room_for(http: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def chunks() -> Iterator[bytes]:
        yield b"--a\r\n"

    headers = {"content-type": "multipart/form-data; boundary=a"}
    assert http.post(f"{API}/upload", content=chunks(), headers=headers).status_code == 411
    monkeypatch.setattr("fantasytalking.app.guard.MAX_UPLOAD_FOLDER_BYTES", 1000)
    assert http.post(f"{API}/upload", files={"files": ("a.bin", b"1" * 2000)}).status_code == 507


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "192.168.1.1", "@"]
)
def test_another_host_name_is_refused(http: Any, host: str):
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", f"{API}/call/talk"), ("OPTIONS", "/")):
        assert http.request(method, path, headers={"Host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:7860"])
def test_a_name_of_this_machine_is_answered(http: Any, host: str):
    assert http.get("/config", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_another_website_is_refused(http: Any, headers: dict[str, str]):
    assert http.get("/config", headers=headers).status_code == 403
    assert http.post(f"{API}/upload", files={"files": ("a.png", b"1")}, headers=headers).status_code == 403


def test_the_page_itself_and_links_to_it_are_answered(server: Server, http: Any):
    assert http.get("/config", headers={"Origin": server.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    answer = http.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert answer.status_code == 200 and "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("bound", "allowed", "refused"),
    [
        ("127.0.0.1", ["localhost:1", "127.0.0.1", "[::1]"], ["127.0.0.2", "page.example", "10.0.0.1", "a@localhost"]),
        ("0.0.0.0", ["10.0.0.1:7860", "[2001:db8::1]", "localhost"], ["page.example", "", "::1::", "localhost/"]),
        ("::", ["10.0.0.1", "[::1]:7860"], ["page.example"]),
        ("192.0.2.7", ["192.0.2.7:7860"], ["192.0.2.8", "page.example"]),
        ("box.example", ["box.example", "BOX.example.:80"], ["a.box.example", "192.0.2.7"]),
    ],
)
def test_hosts_belong_to_what_is_listened_on(bound: str, allowed: list[str], refused: list[str]):
    hosts = AllowedHosts(bound)
    assert [name for name in allowed if not hosts.allows(name)] == []
    assert [name for name in refused if hosts.allows(name)] == []
    assert AllowedHosts(bound, ["Proxy.example"]).allows("proxy.example:443")


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:7860", "localhost:7860", True),
        ("https://box.example", "box.example", True),
        ("https://box.example", "box.example:443", True),
        ("http://box.example", "box.example:7860", False),
        ("http://localhost:7861", "localhost:7860", False),
        ("null", "localhost", False),
        ("file://", "localhost", False),
        ("http://", "", False),
    ],
)
def test_an_origin_is_the_host(origin: str, host: str, same: bool):
    assert is_same_origin(origin, host) is same


def test_the_record_of_a_video_is_reached_by_the_page_alone(http: Any, server: Server):
    """What a generated video writes is outside of what is served, until Gradio copies it there."""
    config = json.dumps(http.get("/config").json())
    assert str(server.output) not in config
