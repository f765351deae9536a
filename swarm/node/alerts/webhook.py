"""Posts one message to a webhook: HTTPS, or HTTP on this machine."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import trio

from swarm.errors import ConfigurationError, RemoteError
from swarm.node.alerts.alerting import Message
from swarm.node.home.config import is_loopback
from swarm.node.home.keys import read_password

POST_S = 10.0


def open_webhook(url: str, token: str | None) -> Callable[[Message], Awaitable[None]]:
    """What posts a message to `url`, within POST_S, and raises RemoteError if that fails. `token`
    goes along as `Authorization: Bearer`. Redirects are not followed, answers not read."""
    import httpx  # not for nodes without alerts: it costs some megabytes

    host = urlsplit(url).hostname or ""
    headers = {"content-type": "application/json", "user-agent": "swarm"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    # The system's certificates: institutions have their own. A proxy is for other machines only.
    certificates = ssl.create_default_context()
    is_here = is_loopback(host)

    async def post(message: Message) -> None:
        body = msgspec.json.encode(message)
        try:
            with trio.fail_after(POST_S):
                async with (
                    httpx.AsyncClient(verify=certificates, trust_env=not is_here) as client,
                    client.stream("POST", url, content=body, headers=headers) as answer,
                ):
                    status = answer.status_code
        except trio.TooSlowError:
            raise RemoteError(f"{host} has not answered for {POST_S:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            why = str(error) or type(error).__name__
            raise RemoteError(f"{host} cannot be posted to ({why})") from None
        if not 200 <= status < 300:
            raise RemoteError(
                f"{host} answers {status}: correct `alerts.webhook` or `alerts.token_file` in "
                "node.toml, and restart the node"
            )

    return post


def read_token(path: Path) -> str:
    """The token in a file of mode 600. Raises ConfigurationError."""
    token = read_password(path).strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise ConfigurationError(f"{path} holds no token: write one into its first line")
    return token
