"""One finding: what was checked, the verdict, an explanation, and the next step. All commands print it alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import ServerError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `is_well`: None where nobody could tell, or where a reader should know and nothing is wrong."""

    what: str
    is_well: bool | None
    said: str
    next_step: str = ""
    failure_class: str = "node_fault"  # of points that could not be measured for it

    @property
    def verdict(self) -> str:
        """One word: `ok`, `LACKS`, or `?` for what could not be checked."""
        return "?" if self.is_well is None else "ok" if self.is_well else "LACKS"

    def lines(self) -> list[str]:
        """The finding as it is printed everywhere: verdict, what, explanation, and the next step if something is to be done."""
        told = [f"{self.verdict:<5}  {self.what}: {self.said}"]
        return told + ([f"       next: {self.next_step}"] if self.is_well is not True and self.next_step else [])

    def of_node(self, hardware: str, node: str) -> Finding:
        """The same, as one of several nodes."""
        return replace(self, what=f"{hardware}: {self.what} of {node}")


def refuse(found: Sequence[Finding], host_name: str) -> None:
    """Raises ServerError with everything that is not well."""
    wrong = [f for f in found if f.is_well is False]
    if wrong:
        said = "; ".join(f"{f.what}: {f.said}" for f in wrong)
        raise ServerError(
            f"Node {host_name} lacks what the job needs: {said}.", failure_class=wrong[0].failure_class, next_step=wrong[0].next_step
        )
