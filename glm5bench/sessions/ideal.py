"""How many prompt tokens an infinite prefix cache would have had. Pure.

Requests are seen in the order in which they were sent. A prompt finds the longest prefix, in blocks, that it shares with an earlier prompt
of the same play of its session. Blocks that all sessions share are also found in other plays. An engine always computes the last token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .file import Call, Session, Sessions


def block_ids(call: Call) -> NDArray[np.int64]:
    """The block ids of a prompt, in order."""
    return np.concatenate([np.arange(first, first + count) for first, count in call.runs] or [np.empty(0, dtype=np.int64)])


def common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many blocks two prompts share at their beginnings."""
    n = min(len(one), len(other))
    same = one[:n] == other[:n]
    return n if same.all() else int(np.argmin(same))


class Ideal:
    """An infinite cache since the last flush."""

    def __init__(self, sessions: Sessions) -> None:
        self._shared = sessions.shared_blocks
        self._plays: dict[int, list[NDArray[np.int64]]] = {}
        self._everywhere: list[NDArray[np.int64]] = []  # beginnings of prompts that consist of shared blocks

    def cached_tokens(self, play: int, session: Session, call: Call) -> int:
        """The tokens of this prompt that the cache has; then the cache has the whole prompt."""
        ids = block_ids(call)
        n_shared = int(np.argmin(ids < self._shared)) if len(ids) and not (ids < self._shared).all() else len(ids)
        if not self._shared:
            n_shared = 0
        found = max((common(ids, earlier) for earlier in self._plays.get(play, ())), default=0)
        found = max(found, max((common(ids[:n_shared], earlier) for earlier in self._everywhere), default=0))
        self._keep(self._plays.setdefault(play, []), ids)
        if n_shared:
            self._keep(self._everywhere, ids[:n_shared])
        return min(found * session.block_tokens, session.prompt_tokens(call) - 1)

    @staticmethod
    def _keep(known: list[NDArray[np.int64]], ids: NDArray[np.int64]) -> None:
        """Adds a prompt, and leaves out those that it begins with."""
        if any(len(k) >= len(ids) and common(k, ids) == len(ids) for k in known):
            return
        known[:] = [k for k in known if common(k, ids) < len(k)]
        known.append(ids)


def ideal_share(sessions: Sessions) -> float:
    """Share of all prompt tokens that an infinite cache would have if every session is played once, request by request."""
    cache = Ideal(sessions)
    asked = found = 0
    for play, session in enumerate(sessions.sessions):
        for call in session.calls:
            asked += session.prompt_tokens(call)
            found += cache.cached_tokens(play, session, call)
    return found / asked


def facts(sessions: Sessions) -> dict[str, float]:
    """Counts and means of a file, for its provenance and for people."""
    prompt = np.array([s.prompt_tokens(c) for s, c in sessions.calls])
    output = np.array([c.output_tokens for _, c in sessions.calls])
    return {
        "sessions": len(sessions.sessions),
        "requests": sessions.n_calls,
        "prompt_tokens": int(prompt.sum()),
        "output_tokens": int(output.sum()),
        "mean_prompt_tokens": float(prompt.mean()),
        "mean_output_tokens": float(output.mean()),
        "longest_tokens": sessions.longest_tokens,
        "longest_delay_s": sessions.longest_delay_s,
        "shared_blocks": sessions.shared_blocks,
        "ideal_hit_share": ideal_share(sessions),
    }
