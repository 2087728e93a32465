"""A server that answers somewhere: its address, its key, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx


@dataclass
class Endpoint:
    """An inference server's HTTP surface. `base_url` has no slash at its end."""

    base_url: str
    api_key: str

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def redacted(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self.api_key, "<redacted>") if self.api_key else text

    def get_json(self, path: str) -> Any:
        """The JSON at a path of this server, or None where it has none."""
        try:
            answer = httpx.get(self.base_url + path, headers=self.headers, timeout=30, trust_env=False)
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
