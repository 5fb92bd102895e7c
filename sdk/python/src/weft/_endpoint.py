"""Where a cluster is and how to be let in: found in the same places as the command line looks."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import urlsplit

from ._errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping

StrPath = Union[str, "os.PathLike[str]"]

_PROBE_TIMEOUT_S = 0.3
_ADD_ONE = "start one with `weft up`, or add one with `weft context add NAME ADMIN_JSON`"


@dataclass(frozen=True)
class Endpoint:
    """Where a cluster is and how to be let in."""

    server: str
    """As in ``https://10.0.0.1:7700``."""
    token: str | None = None
    """A bearer token."""
    ca: StrPath | None = None
    """The cluster's CA certificate (PEM); without it those of the system are trusted."""
    cert: StrPath | None = None
    """A client certificate (PEM)."""
    key: StrPath | None = None
    """Its key (PEM)."""

    @classmethod
    def from_admin(cls, path: StrPath) -> Endpoint:
        """Read an ``admin.json``, or the one in a directory."""
        file = Path(path)
        if file.is_dir():
            file /= "admin.json"
        try:
            admin = json.loads(file.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{file}: not JSON: {error}") from error
        return cls.from_mapping(admin, str(file))

    @classmethod
    def from_mapping(cls, admin: object, where: str) -> Endpoint:
        """Take the fields of an ``admin.json``; `where` names their place in errors."""
        if not isinstance(admin, dict) or not isinstance(admin.get("server"), str):
            raise ConfigError(f"{where}: it does not say where the server is (`server`)")
        known = {name: admin.get(name) or None for name in ("ca", "cert", "key", "token")}
        for name, value in known.items():
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{where}: `{name}` is not text")
        return cls(server=admin["server"], **known)

    @property
    def base_url(self) -> str:
        """The address with its scheme; ``https`` unless another is given."""
        server = self.server if "://" in self.server else f"https://{self.server}"
        return server.rstrip("/")

    def ssl_context(self) -> ssl.SSLContext:
        """Trust the cluster's CA and show the client's certificate."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            files = ", ".join(str(file) for file in (self.ca, self.cert, self.key) if file)
            raise ConfigError(f"the certificates are not usable: {error} ({files})") from error
        return context


def discover(
    *,
    server: str | None = None,
    token: str | None = None,
    ca: StrPath | None = None,
    context: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Endpoint:
    """Find a cluster.

    In this order: ``server`` and ``WEFT_SERVER``; ``context`` and ``WEFT_CONTEXT``, a name of the
    config file or the path of an ``admin.json`` or its directory; the config file's current
    context; the ``admin.json`` of the default data directory, while a server runs on it.
    """
    env = os.environ if env is None else env
    token = token or env.get("WEFT_TOKEN")
    # What a program says comes before what its environment says.
    server = server or (None if context else env.get("WEFT_SERVER"))
    if server:
        return Endpoint(server=server, token=token, ca=ca or env.get("WEFT_CA"))
    endpoint = _chosen(context or env.get("WEFT_CONTEXT"), env)
    return replace(endpoint, token=token or endpoint.token, ca=ca or endpoint.ca)


def default_namespace(namespace: str | None) -> str | None:
    """Return the namespace to work in: as given, or that of ``WEFT_NAMESPACE``."""
    return namespace or os.environ.get("WEFT_NAMESPACE") or None


def _chosen(context: str | None, env: Mapping[str, str]) -> Endpoint:
    path, config = _config(env)
    context = context or config.get("current")
    if context:
        contexts = config.get("contexts", {})
        if context in contexts:
            return Endpoint.from_mapping(contexts[context], f"{path}: contexts.{context}")
        if Path(context).exists():
            return Endpoint.from_admin(context)
        raise ConfigError(
            f"there is no context {context!r}",
            next="`weft context ls` lists them; a path of an admin.json works as well",
        )
    file = _xdg(env, "XDG_DATA_HOME", ".local/share") / "weft" / "admin.json"
    if file.is_file():
        endpoint = Endpoint.from_admin(file)
        if _listens(endpoint.base_url):
            return endpoint
    raise ConfigError("no cluster is configured and none runs on this machine", next=_ADD_ONE)


def _config(env: Mapping[str, str]) -> tuple[Path, dict[str, Any]]:
    asked_for = env.get("WEFT_CONFIG")
    default = _xdg(env, "XDG_CONFIG_HOME", ".config") / "weft" / "config.toml"
    path = Path(asked_for) if asked_for else default
    try:
        return path, tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if asked_for is None:
            return path, {}
        raise ConfigError(f"config file {path}: it is not there") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"config file {path}: {error}") from error


def _xdg(env: Mapping[str, str], variable: str, beneath_home: str) -> Path:
    value = env.get(variable)
    return Path(value) if value else Path(env.get("HOME", "/")) / beneath_home


def _listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        with socket.create_connection(
            (address.hostname or "", address.port or 443), timeout=_PROBE_TIMEOUT_S
        ):
            return True
    except OSError:
        return False
