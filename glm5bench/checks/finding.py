"""One finding: what was checked, the verdict, an explanation, and the next step. All commands print it in the same format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import ServerError


@dataclass(frozen=True)
class Finding:
    """One item that was checked. `is_well`: None if it could not be checked, or if it is a note and not a fault."""

    what: str
    is_well: bool | None
    said: str
    next_step: str = ""
    failure_class: str = "node_fault"  # of the points that cannot be measured because of it

    @property
    def verdict(self) -> str:
        """One word: `ok`, `MISSING`, or `?` if the item could not be checked."""
        return "?" if self.is_well is None else "ok" if self.is_well else "MISSING"

    def lines(self) -> list[str]:
        """The finding as all commands print it: verdict, item, explanation, and the next step if the item is not well."""
        told = [f"{self.verdict:<7}  {self.what}: {self.said}"]
        return told + ([f"         next: {self.next_step}"] if self.is_well is not True and self.next_step else [])

    def of_node(self, hardware: str, node: str) -> Finding:
        """The same finding, labelled as that of one of several nodes."""
        return replace(self, what=f"{hardware}: {self.what} of {node}")


def refuse(found: Sequence[Finding], host_name: str) -> None:
    """Raises ServerError with all findings that are not well."""
    wrong = [f for f in found if f.is_well is False]
    if wrong:
        said = "; ".join(f"{f.what}: {f.said}" for f in wrong)
        raise ServerError(
            f"Node {host_name} cannot run the job: {said}.", failure_class=wrong[0].failure_class, next_step=wrong[0].next_step
        )
