"""Reading from a client that may be slow, or stop, on purpose."""

import io
import socket
import time

IDLE = 20.0  # seconds that a client may be silent
_LEAST_RATE = 32 * 1024  # bytes a second, on average over the time of IDLE
_BLOCK = 64 * 1024


class Deadline:
    """When a client must have sent, or taken, what it is to.

    In a transfer, `moved` puts it off by what the bytes may take, so that who sends a byte now and then is late soon.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Another one, from now."""
        self._end = time.monotonic() + seconds

    def begin(self) -> None:
        """The one of a transfer that begins now."""
        self.set(IDLE)

    def moved(self, count: int) -> None:
        """So many bytes of the transfer are done."""
        self._end = min(self._end + count / _LEAST_RATE, time.monotonic() + IDLE)

    def remaining(self) -> float:
        """Seconds until then, above 0.

        Raises:
            TimeoutError: the time is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client is too slow")
        return left


class TimedReader(io.RawIOBase):
    """The bytes of a connection; TimeoutError where they come too slowly.

    A timeout of the socket alone would start anew with every byte.

    Args:
        connection: the socket.
        deadline: see there; may be set again between reads.
    """

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        self._connection.settimeout(self._deadline.remaining())
        return self._connection.recv_into(buffer)


def send(connection: socket.socket, data: bytes, deadline: Deadline) -> None:
    """Send all bytes; TimeoutError where they are taken too slowly."""
    view = memoryview(data)
    for start in range(0, len(view), _BLOCK):
        block = view[start : start + _BLOCK]
        connection.settimeout(deadline.remaining())
        connection.sendall(block)
        deadline.moved(len(block))


def drain(connection: socket.socket, seconds: float = 2.0, most: int = 2**20) -> None:
    """Read and forget some of what a client still sends.

    Closing a connection with unread bytes resets it, and the client may never see the answer that it was refused with.
    """
    deadline = Deadline(seconds)
    try:
        connection.shutdown(socket.SHUT_WR)
        while most > 0:
            connection.settimeout(deadline.remaining())
            received = len(connection.recv(_BLOCK))
            if not received:
                return
            most -= received
    except OSError:  # TimeoutError, too: the client has had its chance
        return
