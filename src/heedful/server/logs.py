"""What is written down about a request: when, which route, which answer, how long. No content, no query, no names.

One JSON object a line on the logger `heedful.server`. The route is the pattern of the table
(`/api/tokens/{token_id}`), not the path that was asked for: what somebody types into an address may be anything.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

LOGGER: Final = logging.getLogger("heedful.server")
BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0)
"""Upper ends of the histogram of seconds."""


def note(event: str, **facts: str | float | int | bool | None) -> None:
    """One line. Facts are numbers and short names that this program chose."""
    LOGGER.info(json.dumps({"event": event, **facts}, ensure_ascii=True))


def fault(err: BaseException, **facts: str | float | int | None) -> None:
    """An error that nobody expected: its class and where it came from. Its message may hold anything and stays out."""
    frames = traceback.extract_tb(err.__traceback__)
    where = [f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames[-6:]]
    LOGGER.error(json.dumps({"event": "fault", "error": type(err).__name__, "where": where, **facts}))


def to_stderr() -> None:
    """Send the lines to stderr; libraries that could log content stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter('{"at": "%(asctime)s", "level": "%(levelname)s", "line": %(message)s}'))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for name in (
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "fastapi",
        "multipart",
        "python_multipart",
        "asyncio",
        "fpdf",
        "fontTools",
    ):
        logging.getLogger(name).handlers[:] = [logging.NullHandler()]
        logging.getLogger(name).propagate = False


class Metrics:
    """Counters of this process, as Prometheus reads them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._seconds: Counter[tuple[str, float]] = Counter()
        self._sums: defaultdict[str, float] = defaultdict(float)

    def count(self, name: str, n: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += n

    def took(self, route: str, seconds: float) -> None:
        """One more request of a route."""
        with self._lock:
            for end in BUCKETS:
                self._seconds[route, end] += seconds <= end
            self._seconds[route, float("inf")] += 1
            self._sums[route] += seconds

    def text(self, **gauges: float) -> str:
        """All of it in the text format of Prometheus; `gauges` are values of this moment."""
        with self._lock:
            counts, seconds, sums = dict(self._counts), dict(self._seconds), dict(self._sums)
        lines: list[str] = []
        for name in sorted({name for name, _ in counts}):
            lines.append(f"# TYPE heedful_{name} counter")
            lines += [
                f"heedful_{name}{_labels(dict(pairs))} {v:g}" for (n, pairs), v in sorted(counts.items()) if n == name
            ]
        lines.append("# TYPE heedful_request_seconds histogram")
        for (route, end), value in sorted(seconds.items()):
            le = "+Inf" if end == float("inf") else f"{end:g}"
            lines.append(f"heedful_request_seconds_bucket{_labels({'route': route, 'le': le})} {value}")
        for route, total in sorted(sums.items()):
            lines.append(f"heedful_request_seconds_sum{_labels({'route': route})} {total:.6f}")
            lines.append(f"heedful_request_seconds_count{_labels({'route': route})} {seconds[route, float('inf')]}")
        for name, now in sorted(gauges.items()):
            lines += [f"# TYPE heedful_{name} gauge", f"heedful_{name} {now:g}"]
        return "\n".join(lines) + "\n"


def _labels(labels: dict[str, Any]) -> str:
    inside = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
