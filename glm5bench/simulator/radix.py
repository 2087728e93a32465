"""A prefix cache as SGLang's radix cache behaves: pages of tokens, least recently used first out, one cache for each data-parallel group.

A page is known by everything before it. A prompt finds its longest known prefix in whole pages. Pages of running requests are held. Pages
of requests that have ended stay until the memory is needed. With a host tier, pages that leave the GPU's memory stay in the host's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Page = bytes  # a digest of the tokens of a page and of all pages before it


def pages_of(prompt: str | Sequence[int], page_tokens: int) -> list[Page]:
    """The whole pages of a prompt, token ids or text (a word counts as a token)."""
    words = prompt.split() if isinstance(prompt, str) else None
    tokens = np.array([hash(w) for w in words] if words is not None else prompt, dtype=np.int64)
    found, before = [], b""
    for begin in range(0, len(tokens) - page_tokens + 1, page_tokens):
        before = hashlib.blake2b(tokens[begin : begin + page_tokens].tobytes(), digest_size=12, key=before).digest()
        found.append(before)
    return found


@dataclass
class Held:
    """The pages that a running request holds. `device` and `host`: how many of its first pages were found there."""

    pages: list[Page]
    device: int
    host: int
    n_own: int = 0  # pages of these that are in the cache since its prefill

    @property
    def found(self) -> int:
        """Pages that need no prefill."""
        return self.device + self.host


class Radix:
    """The cache of one group. Sizes are in pages."""

    def __init__(self, page_tokens: int, host_pages: int = 0) -> None:
        self.page_tokens = page_tokens
        self._holders: dict[Page, int] = {}  # pages in the GPU's memory that requests hold
        self._free: OrderedDict[Page, None] = OrderedDict()  # pages in the GPU's memory that nobody holds, least recently used first
        self._host: OrderedDict[Page, None] = OrderedDict()
        self._host_pages = host_pages
        self._n_answers = 0

    @property
    def held_pages(self) -> int:
        """Pages that requests hold."""
        return len(self._holders)

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def take(self, pages: list[Page], most: int) -> Held:
        """Holds the longest known prefix of these pages, at most `most` of them."""
        device = host = 0
        for page in pages[:most]:
            if not host and (page in self._holders or page in self._free):
                device += 1
            elif page in self._host or page in self._holders or page in self._free:
                host += 1
            else:
                break
        held = Held(pages, device, host, device + host)
        for page in pages[: held.found]:
            self._hold(page)
        return held

    def commit(self, held: Held) -> None:
        """After its prefill, all whole pages of a prompt are in the cache."""
        for page in held.pages[held.n_own :]:
            self._hold(page)
        held.n_own = len(held.pages)

    def release(self, held: Held, answer_tokens: int) -> None:
        """Releases the pages of a request, and keeps those of its answer, which no other prompt contains."""
        for _ in range(answer_tokens // self.page_tokens):
            self._n_answers += 1
            self._free[b"answer %d" % self._n_answers] = None
        for page in reversed(held.pages[: held.n_own]):  # the end of a prompt leaves the cache before its beginning
            self._holders[page] -= 1
            if not self._holders[page]:
                del self._holders[page]
                self._free[page] = None

    def evict(self, most_free: int) -> None:
        """Removes pages that nobody holds until at most `most_free` are left."""
        while len(self._free) > max(0, most_free):
            page, _ = self._free.popitem(last=False)
            if self._host_pages and not page.startswith(b"answer"):
                self._host[page] = None
                self._host.move_to_end(page)
                if len(self._host) > self._host_pages:
                    self._host.popitem(last=False)

    def clear(self) -> None:
        """Empties the cache, except for pages that requests hold."""
        self._free.clear()
        self._host.clear()

    def _hold(self, page: Page) -> None:
        self._free.pop(page, None)
        self._holders[page] = self._holders.get(page, 0) + 1
