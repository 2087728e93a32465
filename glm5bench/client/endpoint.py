"""A server that answers somewhere: its address, its key, and what it says of itself."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

import httpx


def system_trust() -> ssl.SSLContext:
    """Whom this system trusts: also where httpx, which brings certificates of its own, would not."""
    return ssl.create_default_context()


@dataclass
class Endpoint:
    """An inference server's HTTP surface. `base_url` has no slash at its end."""

    base_url: str
    api_key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def options(self) -> dict[str, Any]:
        """How httpx is to ask it: with its key, past proxies, and trusting whom this system trusts."""
        verify = system_trust() if self.base_url.startswith("https:") else False  # there is no TLS: reading certificates takes 30 ms
        return {"headers": self.headers, "trust_env": False, "verify": verify}

    def redacted(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self.api_key, "<redacted>") if self.api_key else text

    def get_json(self, path: str) -> Any:
        """The JSON at a path of this server, or None where it has none."""
        try:
            answer = httpx.get(self.base_url + path, timeout=30, **self.options)
            return answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    def model(self) -> str | None:
        """The name under which it serves its first model; None where it does not say."""
        try:
            return str(self.get_json("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            return None

    def info(self) -> dict[str, Any]:
        """What the engine tells of itself: SGLang's server information, or vLLM's version; empty where it tells nothing."""
        for path in ("/server_info", "/get_server_info", "/version"):
            info = self.get_json(path)
            if isinstance(info, dict):
                return info
        return {}


def redacted_deeply(info: Any, endpoint: Endpoint) -> Any:
    """Server information without keys and tokens, however deep they stand: every rank of SGLang's repeats all arguments."""
    if isinstance(info, dict):
        return {k: "<redacted>" if "api_key" in k or k == "token" else redacted_deeply(v, endpoint) for k, v in info.items()}
    if isinstance(info, list):
        return [redacted_deeply(v, endpoint) for v in info]
    return endpoint.redacted(info) if isinstance(info, str) else info
