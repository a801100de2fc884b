"""The write-ahead log of metrics: one JSON object a line, in the order logged, no (name, step) twice."""

import functools
import json
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CHUNK, LONG_LINE = 1 << 22, 1 << 10

FIELDS: dict[str, Any] = {"key": str, "value": int | float, "step": int, "timestamp": int}

Record = dict[str, Any]
"""``{"key": str, "value": float, "step": int, "timestamp": int (ms since 1970), "attempt": int}``"""


class WriteAheadLog:
    """Appends metrics to ``path``. :meth:`add` only fills a buffer; :meth:`flush` writes it and forces it to disk.

    Opening repairs a last line that a crash left unfinished and learns which (name, step) pairs are there.

    Args:
        path: file, usually ``metrics.jsonl``; its directory must exist.
        attempt: number of this start of the run, kept with every record.
    """

    def __init__(self, path: Path, attempt: int) -> None:
        self.path, self.attempt = path, attempt
        self._steps: dict[str, array[int]] = {}
        self._buffer: list[tuple[str, float, int, int]] = []
        self._buffer_lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self.size = _repair(self._file)
        for record in records(path):
            self._note(record["key"], record["step"])

    def add(self, metrics: Mapping[str, Any], step: int, timestamp: int) -> None:
        """Buffer ``metrics`` of ``step``, but for those that the log holds already.

        Args:
            metrics: name to number, or to a tensor with one element.
            step: any 64-bit integer; usually, but not necessarily, above that of the call before.
            timestamp: milliseconds since 1970.
        """
        with self._buffer_lock:
            for name, value in metrics.items():
                number = float(value)
                if self._note(name, step):
                    self._buffer.append((name, number, step, timestamp))

    def flush(self) -> int:
        """Write what is buffered and force it to disk; returns the size of the log in bytes.

        Raises:
            OSError: the disk is full, for instance; nothing is half written and the buffer is kept.
        """
        with self._file_lock:
            with self._buffer_lock:
                buffered, self._buffer = self._buffer, []
            if buffered:
                lines = b"".join(_encode(*item, self.attempt) for item in buffered)
                try:
                    view = memoryview(lines)
                    while view:
                        view = view[os.write(self._file, view) :]
                    os.fsync(self._file)
                except OSError:
                    with self._buffer_lock:
                        self._buffer = buffered + self._buffer
                    os.ftruncate(self._file, self.size)
                    raise
                self.size += len(lines)
            return self.size

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._file >= 0:
            try:
                self.flush()
            finally:
                os.close(self._file)
                self._file = -1

    def _note(self, name: str, step: int) -> bool:
        steps = self._steps.get(name)
        if steps is None:
            self._steps[name] = array("q", (step,))
        elif step > steps[-1]:
            steps.append(step)
        else:
            position = bisect_left(steps, step)
            if steps[position] == step:
                return False
            steps.insert(position, step)
        return True


def read(path: Path, offset: int, limit: int) -> tuple[list[Record], int]:
    """Up to ``limit`` whole lines of the log from byte ``offset``.

    Returns:
        The records and the offset after the last line read; equal to ``offset`` at the end of the log. A line that
        does not parse (a damaged disk) is skipped.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(min(CHUNK, limit * LONG_LINE))
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)[:limit]
    return list(_parse(lines)), offset + sum(map(len, lines))


def records(path: Path) -> Iterator[Record]:
    """All records of the log at ``path``, in order; none if there is no such file."""
    offset, previous = 0, -1
    while offset != previous and path.exists():
        previous = offset
        batch, offset = read(path, offset, limit=1 << 16)
        yield from batch


def _parse(lines: list[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in FIELDS.items()):
            yield record


def _encode(name: str, value: float, step: int, timestamp: int, attempt: int) -> bytes:
    number = repr(value) if value - value == 0 else json.dumps(value)
    line = f'{{"key": {_quoted(name)}, "value": {number}, "step": {step}, "timestamp": {timestamp}'
    return f'{line}, "attempt": {attempt}}}\n'.encode()


_quoted = functools.lru_cache(maxsize=4096)(json.dumps)


def _repair(file: int) -> int:
    """Cut an unfinished last line off the log; returns the size that remains."""
    size = position = os.fstat(file).st_size
    while position > 0:
        start = max(0, position - CHUNK)
        newline = os.pread(file, position - start, start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position != size:
        os.ftruncate(file, position)
        os.fsync(file)
    return position
