"""The Atom feed: releases, yanks, what watches found, and failures of cells that have been released before."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_MOST = 100
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot have."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An entry of the feed."""

    at: str
    """ISO 8601, UTC."""
    title: str
    """In one line."""
    text: str
    """What happened, and why."""
    link: str
    """The cell's page, relative to the site."""
    name: str
    """Unique among all events, and the same in every feed."""


def newest(events: Iterable[Event]) -> list[Event]:
    """The events that the feed shows, newest first."""
    return sorted((event for event in events if event.at), key=lambda event: (event.at, event.name))[-_MOST:][::-1]


def render(events: Sequence[Event], url: str) -> str:
    """The feed of these events, newest first. Links are absolute if the site's `url` is known."""
    base = f"{url.rstrip('/')}/" if url else ""
    head = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        "<title>flagrelease: releases and regressions</title>",
        f"<id>{_id(f'feed {url}')}</id>",
        f"<updated>{events[0].at if events else '1970-01-01T00:00:00+00:00'}</updated>",
        "<author><name>flagrelease</name></author>",
        f'<link rel="self" href={quoteattr(f"{base}feed.xml")}/>',
        f"<link href={quoteattr(f'{base}index.html')}/>",
    ]
    return "\n".join([*head, *(_entry(event, base) for event in events), "</feed>", ""])


def _entry(event: Event, base: str) -> str:
    return (
        f"<entry><title>{_text(event.title)}</title><id>{_id(event.name)}</id><updated>{_text(event.at)}</updated>"
        f"<link href={quoteattr(base + event.link)}/><summary>{_text(event.text)}</summary></entry>"
    )


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _id(name: str) -> str:
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'flagrelease:{name}')}"
