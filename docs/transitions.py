"""Draw the picture of the session's table in docs/architecture.md; with --check, only tell whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from signal_manager.protocol.state_machine import TRANSITIONS, Reaction, State

PAGE = Path(__file__).with_name("architecture.md")
OPENING = "<!-- made by docs/transitions.py -->\n"
CLOSING = "<!-- end -->\n"


def picture() -> str:
    """Return the table as a Mermaid state diagram; inputs that are ignored are left out."""
    names = {state: state.name.lower() for state in State}
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{state}" as {names[state]}' for state in State]
    lines.append(f"    [*] --> {names[State.AWAITING_CONNECT]}")
    arrows: dict[tuple[State, State, Reaction], list[str]] = {}
    for (state, event), move in TRANSITIONS.items():
        if move.reaction is not Reaction.IGNORE:
            arrows.setdefault((state, move.state, move.reaction), []).append(event.value)
    for (source, target, reaction), events in arrows.items():
        lines.append(f"    {names[source]} --> {names[target]}: {', '.join(events)} / {reaction}")
    lines += [f"    {names[State.CLOSED]} --> [*]", "```", ""]
    return "\n".join(lines)


def page_with_picture(page: str) -> str:
    """Return the page with the present picture between its marks."""
    before, rest = page.split(OPENING)
    after = rest.split(CLOSING)[1]
    return before + OPENING + picture() + CLOSING + after


def main() -> int:
    """Write the page, or check it."""
    page = PAGE.read_text()
    current = page_with_picture(page)
    if "--check" in sys.argv[1:]:
        return int(page != current)
    PAGE.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
