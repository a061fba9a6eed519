"""Access to a server: pages of other sites, other machines, and clients with a token."""

import httpx
import pytest

from helpers.cli_calls import call
from helpers.serving import files, png, serving
from ipo_dspy.demo import DemoTask
from ipo_dspy.errors import InputError
from ipo_dspy.serve import server


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example:8000"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "[x"}]
)
def test_without_a_token_pages_of_other_sites_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.get("/program", headers=headers)
    assert answer.status_code == 403
    assert "set a token" in answer.json()["error"]


def test_a_link_of_another_site_may_be_followed(client: httpx.Client) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200
    assert client.post("/classify", headers=followed).status_code == 403


def test_a_token_protects_all_but_the_page_and_the_health(task: DemoTask) -> None:
    token = "dog-or-cat-1234"
    with serving(task.program, token=token) as client:
        assert [client.get(path).status_code for path in ("/healthz", "/", "/style.css", "/openapi.json")] == [200] * 4
        for wrong in (
            {},
            {"authorization": "Bearer x"},
            {"authorization": token},
            httpx.Headers({"authorization": "Bearer \xe9"}, encoding="latin-1"),
        ):
            refused = client.post("/classify", files=files(png(task, 0)), headers=wrong)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"].endswith("send the header Authorization: Bearer TOKEN")
            assert token not in refused.text
        assert [client.get(path).status_code for path in ("/metrics", "/program", "/other")] == [401] * 3
        client.headers["authorization"] = f"Bearer {token}"
        assert client.post("/classify", files=files(png(task, 0))).status_code == 200
        assert client.get("/metrics").status_code == 200


def test_other_machines_need_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "serve", "best.json", "--host", "0.0.0.0", "--port", "0")
    message = "--host must be a loopback address without a token, got '0.0.0.0'; set IPO_DSPY_SERVE_TOKEN"
    assert (code, message in err) == (2, True)


@pytest.mark.parametrize("token", ["", " x", "x\ny", "é"])
def test_a_token_that_no_client_can_send_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.TOKEN, token)
    with pytest.raises(InputError, match="IPO_DSPY_SERVE_TOKEN must be printable ASCII"):
        server.read_token()
