"""Clusters are found where the command line finds them."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

import weft
from weft._endpoint import discover

if TYPE_CHECKING:
    from pathlib import Path


def admin(path: Path, server: str) -> Path:
    files = {name: f"/{name}.pem" for name in ("ca", "cert", "key")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"server": server, "token": "secret", **files}))
    return path


def test_what_is_given_comes_before_the_environment_and_that_before_files(tmp_path: Path) -> None:
    file = admin(tmp_path / "a/admin.json", "https://file:1")
    config = tmp_path / "weft/config.toml"
    config.parent.mkdir()
    config.write_text('current = "lab"\n[contexts.lab]\nserver = "https://lab:1"\ntoken = ""\n')
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert discover(env=env).server == "https://lab:1"
    assert discover(env=env).token is None
    env["WEFT_CONTEXT"] = str(file)
    assert discover(env=env) == weft.Endpoint(
        "https://file:1", "secret", "/ca.pem", "/cert.pem", "/key.pem"
    )
    assert discover(env={**env, "WEFT_CONTEXT": str(file.parent)}).server == "https://file:1"
    env.update({"WEFT_SERVER": "env:1", "WEFT_CA": "/env.pem", "WEFT_TOKEN": "other"})
    assert discover(env=env) == weft.Endpoint("env:1", "other", "/env.pem")
    assert discover(env=env).base_url == "https://env:1"
    assert discover(context="lab", env=env).server == "https://lab:1"
    assert discover(server="http://arg:1/", env=env).base_url == "http://arg:1"


def test_the_default_data_directory_counts_while_a_server_listens(tmp_path: Path) -> None:
    env = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(weft.ConfigError, match="no cluster") as caught:
        discover(env=env)
    assert caught.value.next is not None
    assert "weft up" in caught.value.next
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        admin(tmp_path / "weft/admin.json", url)
        assert discover(env=env).server == url
    with pytest.raises(weft.ConfigError, match="no cluster"):
        discover(env=env)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "server"),
        ('{"server": 7}', "server"),
        ('{"server": "https://x", "ca": 7}', "ca"),
    ],
)
def test_an_admin_file_that_is_none_says_so(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "admin.json"
    file.write_text(text)
    with pytest.raises(weft.ConfigError, match=words):
        weft.Client.from_admin(tmp_path)
    file.unlink()
    with pytest.raises(weft.ConfigError, match=r"admin\.json"):
        weft.Client.from_admin(tmp_path)


def test_config_files_and_contexts_that_are_none_say_so(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "WEFT_CONFIG": str(tmp_path / "c.toml")}
    with pytest.raises(weft.ConfigError, match="not there"):
        discover(env=env)
    (tmp_path / "c.toml").write_text("current = ")
    with pytest.raises(weft.ConfigError, match=r"c\.toml"):
        discover(env=env)
    (tmp_path / "c.toml").write_text("")
    with pytest.raises(weft.ConfigError, match="no context 'lab'"):
        discover(context="lab", env=env)
