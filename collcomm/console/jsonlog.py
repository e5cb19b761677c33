"""Log records as JSON, an object a line, for whatever collects logs: `collcomm coordinator --log-format json`."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

MOST_TEXT = 10_000


class JsonFormatter(logging.Formatter):
    """``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``; then the facts of the record, if it was logged with
    ``extra={"facts": {...}}``: for events of a group ``event``, ``group``, ``epoch``, ``member``, ``name``, ``cause``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:MOST_TEXT],
        }
        facts = getattr(record, "facts", None)
        if isinstance(facts, dict):
            line |= {name: value for name, value in facts.items() if name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[:MOST_TEXT]
        return json.dumps(line, default=str)


def log_as(style: str, level: int = logging.INFO) -> None:
    """Log to standard error: as "text" for people, or as "json"."""
    if style == "text":
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        return
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler])
