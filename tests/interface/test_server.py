"""The page as it is served: nothing without a login, no file that Gradio did not receive."""

import json
import urllib.error
import urllib.parse
import urllib.request
import zipfile
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


def call(client, name, **values):
    """Call an event of the page: a parameter that is not given has the page's own value."""
    parameters = client.view_api(return_format="dict")["named_endpoints"][name]["parameters"]
    page = {
        p["parameter_name"]: p["parameter_default"] if p["parameter_has_default"] else None
        for p in parameters
    }
    return client.predict(**page | values, api_name=name)


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
    given = handle_file(str(song_file))
    values = {"prompt": "The sound of the bass", "inpaint_audio": given, "steps": 2}
    _, path, _ = call(client, "/generate", **values)
    assert Path(path).read_bytes()[:4] == b"RIFF"
    assert status(f"{guarded}/gradio_api/file={urllib.parse.quote(path)}") == 401


def test_stems_over_the_api_are_a_zip_with_all_tracks(client, song_file):
    values = {"task": "extract", "given": handle_file(str(song_file)), "prompts": "bass"}
    result = call(client, "/stems", steps=2, **values)
    (archive,) = [Path(value) for value in result if str(value).endswith(".zip")]
    names = zipfile.ZipFile(archive).namelist()
    assert names == [f"{song_file.stem}_{n}.wav" for n in ("mixture", "bass", "residual")] + [
        "info.json"
    ]


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


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("/generate", {"prompt": "add: bass"}, "Inpaint audio"),
        ("/stems", {"prompts": "bass"}, "mixture"),
        ("/stems", {"steps": "many"}, "steps"),
        ("/stems", {"steps": 10**9}, "steps"),
        ("/stems", {"task": "generate", "seconds": 1e9}, "seconds"),
        ("/stems", {"task": "sing"}, "task"),
        ("/stems", {"eta": [1]}, "eta"),
    ],
)
def test_an_error_over_the_api_names_what_is_wrong(client, name, values, named):
    with pytest.raises(Exception, match=named):
        call(client, name, **values)


def test_a_file_over_the_limit_is_not_taken(guarded):
    body = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.wav\r\n\r\n"
    body += bytes(3_000_000) + b"\r\n--x--\r\n"
    call = urllib.request.Request(
        f"{guarded}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        logged_in(guarded).open(call, timeout=60)
    assert caught.value.code == 413
