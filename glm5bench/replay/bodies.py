"""The bodies of the requests of agent sessions, put together from blocks of token ids.

Every token id is written in a field of fixed width, so a block has the same number of bytes as every other one, and a run of blocks is one
copy. The first block of a prompt that not all sessions share has other tokens in each play. Therefore no play finds the cache of another
one, and the lengths are those of the file. All drawn from seed, repeat, concurrency and attempt.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sessions.file import MOST, Call, Session, Sessions, merged

BLOCKS, MARKS, TAILS, ORDER, ENTRIES = range(10, 15)  # separate streams of random numbers, other than those of client.workload
KEPT = 256 * 2**20  # bytes of blocks kept for plays to come
PLACE = ["\x00prompt\x00"]  # stands for the token ids

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Seed:
    """What all random numbers of a run are drawn from."""

    numbers: tuple[int, ...]

    def rng(self, stream: int, *more: int) -> np.random.Generator:
        """A generator for one purpose."""
        return np.random.default_rng([*self.numbers, stream, *more])


class Bodies:
    """Bodies for one server. `body` gives the JSON object of a request for a prompt and a number of output tokens.

    Its methods may be called from several threads.
    """

    def __init__(self, sessions: Sessions, seed: Seed, ids: tuple[int, int], body: Callable[[list[str], int], dict[str, Any]]) -> None:
        self._sessions, self._seed, self._body = sessions, seed, body
        self._first, self._last = ids
        self._table = _table(self._last)
        self._shared = _ids_of(sessions.sessions, below=sessions.shared_blocks) if sessions.shared_blocks else np.empty(0, dtype=np.int64)
        self._kept: OrderedDict[int, tuple[NDArray[np.int64], Bytes]] = OrderedDict()
        self._n_kept = 0
        self._lock = threading.Lock()

    def of(self, play: int, session: int, call: Call, output_tokens: int) -> bytes:
        """The body of a request of a play, with this length of the answer. `session`: its position in the file."""
        head, _, foot = json.dumps(self._body(PLACE, output_tokens), separators=(",", ":")).partition(json.dumps(PLACE))
        pieces = [*self._blocks(play, session, call), self._tail(play, session, call)]
        prompt = np.concatenate([piece.reshape(-1) for piece in pieces])
        prompt[-1] = ord("]")  # instead of the last comma
        return b"".join((head.encode(), b"[", prompt.tobytes(), foot.encode()))

    def _blocks(self, play: int, session: int, call: Call) -> list[Bytes]:
        if not call.runs:
            return []
        known, texts = self._texts(session)
        pieces = []
        is_marked = False
        for first, count in call.runs:
            at = int(np.searchsorted(known, first))
            piece = texts[at : at + count]
            n_shared = min(count, max(0, self._sessions.shared_blocks - first))
            if not is_marked and n_shared < count:
                pieces += [piece[:n_shared], self._mark(play, session, first + n_shared), piece[n_shared + 1 :]]
                is_marked = True
            else:
                pieces.append(piece)
        return pieces

    def _mark(self, play: int, session: int, block: int) -> Bytes:
        """The tokens of the block in this play."""
        return self._drawn(self._seed.rng(MARKS, play, session, block), self._block_tokens(session))

    def _tail(self, play: int, session: int, call: Call) -> Bytes:
        return self._drawn(self._seed.rng(TAILS, play, session, call.id), call.tail_tokens)

    def _block_tokens(self, session: int) -> int:
        return self._sessions.sessions[session].block_tokens

    def _drawn(self, rng: np.random.Generator, n: int) -> Bytes:
        return self._table[rng.integers(self._first, self._last, size=n)]

    def _texts(self, session: int) -> tuple[NDArray[np.int64], Bytes]:
        """All block ids of a session, sorted, and their texts, (B, bytes of a block)."""
        with self._lock:
            if session in self._kept:
                self._kept.move_to_end(session)
                return self._kept[session]
            made = self._made(session)
            self._kept[session] = made
            self._n_kept += made[1].nbytes
            while self._n_kept > KEPT and len(self._kept) > 1:
                self._n_kept -= self._kept.popitem(last=False)[1][1].nbytes
            return made

    def _made(self, session: int) -> tuple[NDArray[np.int64], Bytes]:
        told = self._sessions.sessions[session]
        known = _ids_of([told])
        n_shared, n = int(np.searchsorted(known, self._sessions.shared_blocks)), told.block_tokens
        size = n * self._table.shape[1]
        own = self._drawn(self._seed.rng(BLOCKS, 1 + session), (len(known) - n_shared) * n).reshape(-1, size)
        shared = self._drawn(self._seed.rng(BLOCKS, 0), len(self._shared) * n).reshape(-1, size)
        used = shared[np.searchsorted(self._shared, known[:n_shared])]
        return known, np.concatenate([used, own])


def _ids_of(sessions: Sequence[Session], below: int = MOST) -> NDArray[np.int64]:
    """All block ids below a number that these sessions use, sorted."""
    runs = merged(run for session in sessions for call in session.calls for run in call.runs if run[0] < below)
    return np.concatenate([np.arange(first, min(first + count, below)) for first, count in runs] or [np.empty(0, dtype=np.int64)])


def _table(last: int) -> Bytes:
    """The text of every id below `last` with a comma, in fields of equal width, (last, width). JSON allows spaces before a number."""
    width = len(str(last - 1)) + 1
    text = "".join(f"{i:>{width - 1}}," for i in range(last))
    return np.frombuffer(text.encode(), dtype=np.uint8).reshape(last, width)


@dataclass(frozen=True)
class Entry:
    """The first session of a user: the play and session, and the position of the first measured request."""

    play: int
    session: int
    first: int


class Order:
    """Which session each play is, and where the first play of each user begins. Every session is played once before one is played again."""

    def __init__(self, sessions: Sessions, seed: Seed, entry: tuple[float, float]) -> None:
        self._sessions, self._seed, self._entry = sessions, seed, entry
        self._cycles: dict[int, Sequence[int]] = {}

    def session(self, play: int) -> int:
        """Position in the file of the session of this play."""
        cycle, place = divmod(play, len(self._sessions.sessions))
        if cycle not in self._cycles:
            self._cycles[cycle] = self._seed.rng(ORDER, cycle).permutation(len(self._sessions.sessions)).tolist()
        return self._cycles[cycle][place]

    def entry(self, user: int) -> Entry:
        """Where a user enters: the requests before this place count as ended."""
        session = self.session(user)
        n = len(self._sessions.sessions[session].calls)
        return Entry(user, session, min(n - 1, int(n * self._seed.rng(ENTRIES, user).uniform(*self._entry))))
