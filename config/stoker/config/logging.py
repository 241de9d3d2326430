"""How a Stoker process logs: one line a record, on standard error, as text or as JSON.

Only the processes that Stoker itself starts call this; in a producer app logging is the app's own business.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from stoker.config.settings import Settings


def setup_logging(settings: Settings) -> None:
    """Send all log records of this process to standard error, as `log_level` and `log_format` say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text_formatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)


def text_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, pid, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
