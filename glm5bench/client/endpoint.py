"""A running server: its address, its key, and the information that it reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..engines.known import engines
from .side import WITHIN_S, Said, Side


@dataclass
class Endpoint:
    """An inference server's HTTP surface. `base_url` has no slash at its end."""

    base_url: str
    api_key: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def redacted(self, text: str) -> str:
        """The text with the key redacted."""
        return text.replace(self.api_key, "<redacted>") if self.api_key else text

    @contextmanager
    def asking(self) -> Iterator[Side]:
        """One connection for several requests outside the load."""
        with Side(self.base_url, self.headers.items()) as side:
            yield side

    def ask(self, method: str, path: str, body: Any = None, *, within_s: float = WITHIN_S) -> Said:
        """The answer to one request. Raises httpx.HTTPError if there is none in time, or if it is too large."""
        with self.asking() as side:
            return side.ask(method, path, body, within_s=within_s)

    def get_json(self, path: str) -> Any:
        """The JSON at a path of this server; None if it has none."""
        try:
            said = self.ask("GET", path)
            return said.json() if said.status == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    def model(self) -> str | None:
        """The name under which it serves its first model; None if it reports none."""
        return model_name(self.get_json("/v1/models"))

    def info(self) -> dict[str, Any]:
        """The server's information, from the first path that it answers; empty if there is none."""
        for path in dict.fromkeys(path for engine in engines().values() for path in engine.info_paths):
            info = self.get_json(path)
            if isinstance(info, dict):
                return info
        return {}


def model_name(models: Any) -> str | None:
    """The name of the first model in an answer of /v1/models; None if there is none."""
    try:
        name = models["data"][0]["id"]
    except (KeyError, IndexError, TypeError):
        return None
    return name if isinstance(name, str) and name else None


def redacted_deeply(info: Any, endpoint: Endpoint) -> Any:
    """Server information without keys and tokens at any depth, because every rank of SGLang repeats all arguments."""
    if isinstance(info, dict):
        secret = ("token", "hf_token", "password", "secret")
        return {
            endpoint.redacted(k): "<redacted>" if "api_key" in k or k in secret else redacted_deeply(v, endpoint) for k, v in info.items()
        }
    if isinstance(info, list):
        return [redacted_deeply(v, endpoint) for v in info]
    return endpoint.redacted(info) if isinstance(info, str) else info
