"""What is known of every video of an archive: one SQLite file, which only the coordinator writes.

Others may read it at any time (write-ahead log).
"""

import functools
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from vod2.archive.inputs import Signature, video_id
from vod2.archive.tasks import Done
from vod2.atomic import full_disk_errno
from vod2.bounded import load_json
from vod2.errors import UserError

PENDING, RUNNING, DONE, FAILED = "pending", "running", "done", "failed"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS videos (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    note TEXT,
    frames INTEGER,
    seconds REAL,
    result TEXT,
    sha256 TEXT,
    worker TEXT,
    ended REAL
);
CREATE INDEX IF NOT EXISTS videos_in_order ON videos (status, size DESC, number);
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# What is forgotten of a video that is detected again.
_AFRESH = (
    "attempts = 0, failures = 0, error = NULL, note = NULL, frames = NULL, seconds = NULL, result = NULL, "
    "sha256 = NULL, worker = NULL, ended = NULL"
)


# The latter where damaged bytes are part of SQLite's own message.
_DAMAGED = (sqlite3.DatabaseError, UnicodeDecodeError)


class Video(NamedTuple):
    """A video that is to be done; `number` is its row, `size` in bytes."""

    number: int
    id: str
    path: str
    size: int


class Scan(NamedTuple):
    """How many videos are new, have changed since they were done or failed, and are as they were."""

    new: int = 0
    changed: int = 0
    same: int = 0


class Counts(NamedTuple):
    """Videos by their status."""

    pending: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return sum(self)


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _on_intact_file(
    method: Callable[Concatenate["Manifest", _Arguments], _Result],
) -> Callable[Concatenate["Manifest", _Arguments], _Result]:
    """An error of SQLite about a damaged or locked file becomes a UserError."""

    @functools.wraps(method)
    def told(self: "Manifest", *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.ProgrammingError:  # a fault of the code, such as another thread
            raise
        except _DAMAGED as error:
            raise self._refused(error) from error

    return told


class Manifest:
    """The table `videos` (docs/scaling.md tells its columns) and the settings that the results were made with.

    Every method is one transaction: after a kill the file is as after the last one that returned.

    Args:
        path: of the file, on a local disk: SQLite's log does not work on network file systems. Folders are made.

    Raises:
        UserError: the file is no manifest. Every method raises it where the file is damaged, or locked for a minute.

    Example:
        >>> manifest = Manifest(":memory:")
        >>> manifest.add([("/videos/a.mp4", Signature(10, 1))])
        Scan(new=1, changed=0, same=0)
        >>> [video.path for video in manifest.pending(None, limit=5)]
        ['/videos/a.mp4']
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = str(path)
        if self.path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        # No implicit transactions: `with self._db` and BEGIN say where one begins and ends.
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=60)
        except _DAMAGED as error:
            raise UserError(f"{self.path} cannot be opened ({error}): give another --manifest") from error
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            # A power cut may lose the last rows, which are then done again; a killed process loses nothing.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except _DAMAGED as error:
            self._db.close()  # its lock would stay for as long as the error is known
            if full_disk_errno(error) is not None:
                raise self._refused(error) from error
            raise UserError(f"{self.path} is no manifest ({error}): give another --manifest, or delete it") from error

    def close(self) -> None:
        """Let go of the file; its log is merged into it."""
        self._db.close()

    @_on_intact_file
    def keep_settings(self, settings: Mapping[str, Any]) -> None:
        """What results depend on must be as in the first run; keys that only one of the two has do not count.

        Args:
            settings: {name: value that JSON can hold}.

        Raises:
            UserError: otherwise; names what differs.
        """
        rows = self._db.execute("SELECT key, value FROM settings")
        try:
            before = {key: load_json(value) for key, value in rows}
        except (TypeError, ValueError) as error:  # a value that is no text, or no JSON
            raise self._refused(error) from error
        now = json.loads(json.dumps(dict(settings)))
        differing = [key for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]
        if differing:
            listed = ", ".join(f"{key} ({before[key]} before, now {now[key]})" for key in differing[:5])
            raise UserError(f"{self.path} was made with other settings: {listed}; give another --output")
        with self._transaction():
            values = [(key, json.dumps(value)) for key, value in now.items()]
            self._db.executemany("INSERT OR IGNORE INTO settings VALUES (?, ?)", values)

    @_on_intact_file
    def add(self, found: Iterable[tuple[str, Signature]]) -> Scan:
        """Videos that were found, each (absolute path, signature).

        One whose signature is not that of its row is pending again; its result stays until the new one replaces it. A
        name that is no text (bytes that are not UTF-8) is a failed video: it cannot be written into results.
        """
        new = changed = same = 0
        with self._transaction():
            for path, signature in found:
                known = self._db.execute(
                    "SELECT number, size, mtime_ns FROM videos WHERE id = ?", (video_id(path),)
                ).fetchone()
                if known is None:
                    self._insert(path, signature)
                    new += 1
                elif known[1:] != tuple(signature):
                    self._db.execute(
                        f"UPDATE videos SET size = ?, mtime_ns = ?, status = 'pending', {_AFRESH} WHERE number = ?",
                        (*signature, known[0]),
                    )
                    changed += 1
                else:
                    same += 1
        return Scan(new, changed, same)

    def _insert(self, path: str, signature: Signature) -> None:
        status, error = PENDING, None
        readable = path.encode("utf-8", "backslashreplace").decode()
        if readable != path:
            status, error = FAILED, f"the name {readable!r} is not UTF-8: rename the file"
        self._db.execute(
            "INSERT INTO videos (id, path, size, mtime_ns, status, error) VALUES (?, ?, ?, ?, ?, ?)",
            (video_id(path), readable, *signature, status, error),
        )

    @_on_intact_file
    def recover(self) -> int:
        """Videos that were running when the coordinator ended are pending; returns how many.

        That it was killed is nobody's failure and does not count as one.
        """
        with self._transaction():
            return self._db.execute("UPDATE videos SET status = 'pending' WHERE status = 'running'").rowcount

    @_on_intact_file
    def retry_failed(self) -> int:
        """All failed videos are pending, as if they had never been tried; returns how many."""
        with self._transaction():
            changed = self._db.execute(f"UPDATE videos SET status = 'pending', {_AFRESH} WHERE status = 'failed'")
            return changed.rowcount

    @_on_intact_file
    def pending(self, after: Video | None, limit: int) -> list[Video]:
        """At most `limit` pending videos that come after one, the largest first: short ones fill the gaps at the end.

        Args:
            after: the last of those that were given before; None for the first.
            limit: how many.
        """
        size, number = (1 << 62, 1 << 62) if after is None else (after.size, -after.number)
        rows = self._db.execute(
            "SELECT number, id, path, size FROM videos WHERE status = 'pending' AND (size, -number) < (?, ?) "
            "ORDER BY size DESC, number LIMIT ?",
            (size, number, limit),
        )
        videos = [Video(*row) for row in rows]
        # SQLite keeps any value in any column.
        if not all(isinstance(video.path, str) and isinstance(video.id, str) for video in videos):
            raise self._unusable("a path is no text")
        return videos

    @_on_intact_file
    def start(self, video: str, worker: str) -> None:
        """The video begins on a worker (host:process)."""
        self._update(video, "status = 'running', attempts = attempts + 1, worker = ?", worker)

    @_on_intact_file
    def finish(self, video: str, done: Done, result: str, seconds: float, worker: str) -> None:
        """The video is done.

        Args:
            video: its id.
            done: what the worker said.
            result: the file, relative to the output folder.
            seconds: of all its tasks.
            worker: the last one.
        """
        self._update(
            video,
            "status = 'done', error = NULL, note = ?, frames = ?, seconds = ?, sha256 = ?, size = ?, mtime_ns = ?, "
            "result = ?, worker = ?, ended = ?",
            *(done.note or None, done.frames, round(seconds, 3), done.sha256, *done.signature),
            *(result, worker, time.time()),
        )

    @_on_intact_file
    def again(self, video: str, error: str) -> int:
        """An attempt has failed for a reason that may pass; returns how many have. The video stays as it is."""
        self._update(video, "failures = failures + 1, error = ?", error)
        (failures,) = self._db.execute("SELECT failures FROM videos WHERE id = ?", (video,)).fetchone()
        return failures

    @_on_intact_file
    def fail(self, video: str, error: str, worker: str) -> None:
        """The video is given up."""
        self._update(video, "status = 'failed', error = ?, worker = ?, ended = ?", error, worker, time.time())

    @_on_intact_file
    def counts(self) -> Counts:
        """Of all videos."""
        of_status = dict(self._db.execute("SELECT status, COUNT(*) FROM videos GROUP BY status").fetchall())
        if unknown := of_status.keys() - set(Counts._fields):
            raise self._unusable(f"the status {unknown.pop()!r}")
        return Counts(**of_status)

    def rows(self, status: str) -> Iterator[dict[str, Any]]:
        """The rows of one status, {column: value}."""
        try:
            cursor = self._db.execute("SELECT * FROM videos WHERE status = ? ORDER BY number", (status,))
            names = [column[0] for column in cursor.description]
            for row in cursor:
                yield dict(zip(names, row, strict=True))
        except _DAMAGED as error:
            raise self._refused(error) from error

    @_on_intact_file
    def forget_results(self, videos: Iterable[str]) -> None:
        """The results of these are gone or damaged: they are pending again."""
        with self._transaction():
            for video in videos:
                self._db.execute(f"UPDATE videos SET status = 'pending', {_AFRESH} WHERE id = ?", (video,))

    def _unusable(self, reason: object) -> UserError:
        return UserError(f"{self.path} cannot be used ({reason}): restore a copy, or delete it to begin anew")

    def _refused(self, error: Exception) -> Exception:
        """What SQLite's error is to the user: a full disk, or a file that is held, unreadable or damaged."""
        if (number := full_disk_errno(error)) is not None:
            return OSError(number, os.strerror(number), self.path)
        return UserError(
            f"{self.path} cannot be used ({error}): see that no other program holds it and that its disk works; if it "
            "is damaged, restore a copy, or delete it to begin anew"
        )

    def _update(self, video: str, assignments: str, *values: Any) -> None:
        self._db.execute(f"UPDATE videos SET {assignments} WHERE id = ?", (*values, video))

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    """Ends in COMMIT, or in ROLLBACK where its block raises."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # SQLite may have rolled back by itself.
        if kind is None or self._database.in_transaction:
            self._database.execute("COMMIT" if kind is None else "ROLLBACK")
