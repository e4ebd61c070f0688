"""The status page: publications, subscriptions and their bit rates, in one page without scripts.

Neighbours: `http` serves it at /, for the machine's user. All names are escaped, because clients choose them.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Template

from signal_manager.sfu.metrics import Gauges
from signal_manager.sfu.sessions import Session

__all__ = ["render_status"]

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width"><title>Local SFU</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#d6d9de, #3a3f47); --soft: light-dark(#5b6470, #9aa4b2); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
p, th { color: var(--soft); font-weight: normal; }
dl { display: flex; flex-wrap: wrap; gap: 0 2.5rem; } dt { color: var(--soft); } dd { margin: 0; font-size: 1.5rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .35rem .8rem .35rem 0; }
tr { border-bottom: 1px solid var(--line); } code { font-size: .9em; }
</style></head><body>
<h1>Local SFU</h1>
<p>For one machine, development and tests. This page renews itself every two seconds.</p>
<dl>$figures</dl>
<h2>Sessions</h2>
<table><thead><tr><th>Session</th><th>State</th><th>Publishes</th><th>Pulls</th><th>Data channels</th></tr></thead>
<tbody>$rows</tbody></table>
</body></html>
""")


def render_status(gauges: Gauges, sessions: Iterable[Session], *, tick: float) -> str:
    """Return the page as HTML.

    Args:
        gauges: the present numbers of sessions, tracks and channels.
        sessions: the sessions to list.
        tick: the seconds that each track's recent bytes cover.
    """
    figures = "".join(
        f"<div><dt>{name.replace('_', ' ')}</dt><dd>{getattr(gauges, name)}</dd></div>"
        for name in Gauges.__dataclass_fields__
    )
    rows = "".join(_row(session, tick) for session in sessions)
    return _PAGE.substitute(figures=figures, rows=rows or '<tr><td colspan="5">none yet</td></tr>')


def _row(session: Session, tick: float) -> str:
    published = [
        f"{escape(name)} ({publication.codec.name}, "
        + ", ".join(
            f"{escape(layer.rid)} {_rate(layer.rates.recent_bytes, tick)}".strip()
            for layer in publication.layers.values()
        )
        + ")"
        for name, publication in session.tracks.published.items()
    ]
    pulled = [
        f"{escape(subscription.publication.track_name)} ({subscription.stream.packets} packets)"
        for subscription in session.tracks.router.subscriptions.values()
        if subscription.publication is not None
    ]
    channels = [escape(channel.name) for channel in session.channels.channels.values()]
    state = "connected" if session.is_connected else "not connected"
    cells = [f"<code>{session.id[:8]}</code>", state, *("<br>".join(cell) for cell in (published, pulled, channels))]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _rate(size: int, seconds: float) -> str:
    return f"{size * 8 / seconds / 1000:.0f} kbit/s"
