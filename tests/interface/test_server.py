"""The page as it is served: nothing without a login, no file that Gradio did not receive."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

pytestmark = pytest.mark.slow
LOGIN = ("ada", "a secret")


@pytest.fixture(scope="module")
def guarded(serve):
    """The address of a page with a login."""
    return serve("--username", LOGIN[0], "--password", LOGIN[1])[0]


@pytest.fixture(scope="module")
def client(guarded):
    return Client(guarded, auth=LOGIN, verbose=False)


def status(address, body=None, headers=()):
    request = urllib.request.Request(address, body, dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def logged_in(address):
    """An opener that has the login's cookie."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    form = urllib.parse.urlencode({"username": LOGIN[0], "password": LOGIN[1]}).encode()
    opener.open(f"{address}/login", form, timeout=60).close()
    return opener


def events(client):
    """The names of the page's events that can be called over its API."""
    return sorted(client.view_api(return_format="dict")["named_endpoints"])


def test_nothing_is_served_without_a_login(guarded, client):
    body = json.dumps({"data": []}).encode()
    json_type = [("Content-Type", "application/json")]
    for name in ("/stems", "/generate"):
        assert name in events(client)
        assert status(f"{guarded}/gradio_api/call{name}", body, json_type) == 401
    for path in ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"):
        assert status(f"{guarded}/{path}") == 401
    queue = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    assert status(f"{guarded}/gradio_api/queue/join", queue, json_type) == 401
    assert status(f"{guarded}/gradio_api/upload", b"", json_type) == 401


def test_a_login_opens_a_track_that_no_one_else_gets(guarded, client, song_file):
    path, _ = client.predict(**generation(client, inpaint_audio=handle_file(str(song_file))))
    assert Path(path).read_bytes()[:4] == b"RIFF"
    assert status(f"{guarded}/gradio_api/file={urllib.parse.quote(path)}") == 401


@pytest.mark.parametrize("name", ["/generate", "/stems"])
def test_a_path_that_gradio_did_not_receive_is_not_opened(guarded, client, song_file, name):
    """`song_file` is audio that could be read; the call is refused before ours is reached."""
    stolen = {"path": str(song_file), "meta": {"_type": "gradio.FileData"}}
    parameters = client.view_api(return_format="dict")["named_endpoints"][name]["parameters"]
    defaults = [p["parameter_default"] if p["parameter_has_default"] else None for p in parameters]
    kinds = [p["component"] for p in parameters]
    data = [
        stolen if kind == "Audio" else value for kind, value in zip(kinds, defaults, strict=True)
    ]
    opener = logged_in(guarded)
    body = json.dumps({"data": data}).encode()
    call = urllib.request.Request(
        f"{guarded}/gradio_api/call{name}", body, {"Content-Type": "application/json"}
    )
    event = json.load(opener.open(call, timeout=60))["event_id"]
    answer = opener.open(f"{guarded}/gradio_api/call{name}/{event}", timeout=60).read().decode()
    assert "event: error" in answer
    assert "event: complete" not in answer


def test_an_error_is_a_sentence_over_the_api_too(client):
    with pytest.raises(Exception, match="add: needs the submixture as the Inpaint audio"):
        client.predict(**generation(client, prompt="add: bass"))


def generation(client, prompt="bass", inpaint_audio=None):
    """Arguments of a call of the Generation tab, few steps, the defaults of the page else."""
    parameters = client.view_api(return_format="dict")["named_endpoints"]["/generate"]["parameters"]
    call = {"api_name": "/generate"}
    for parameter in parameters:
        if not parameter["parameter_has_default"]:
            call[parameter["parameter_name"]] = None
        label = parameter["label"]
        if label == "Steps":
            call[parameter["parameter_name"]] = 2
        if label == "Inpaint audio":
            call[parameter["parameter_name"]] = inpaint_audio
    first = parameters[0]["parameter_name"]
    assert re.match(r"param_\d+|prompt", first)
    return call | {first: prompt}
