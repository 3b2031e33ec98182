"""Frames over a stream socket, with the file descriptors that come along."""

from __future__ import annotations

import array
import os
import socket
from typing import NamedTuple, Optional

from . import _wire as wire
from ._errors import BrokenStream

_BUFFER_BYTES = 64 << 10
_FDS_MAX = 8
_FD_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(_FDS_MAX * _FD_BYTES)
_RECV_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Frame(NamedTuple):
    kind: int
    ident: int
    payload: bytearray


class Channel:
    """Blocking frames over `sock`, which it owns.

    A small frame costs one system call and one copy out of the buffer; the rest
    of a large one is received in place. Every payload is a bytearray of its own
    (so arrays over it are aligned, and may be kept by whoever got them).
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self.sock = sock
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._fds: list[int] = []

    def send(self, kind: int, ident: int, payload: bytes = b"") -> None:
        """Sends a whole frame. OSError if the other side is gone."""
        self.sock.sendall(wire.frame(kind, ident, payload))

    def read(self) -> Optional[Frame]:
        """The next frame, None at the end of the stream. Raises BrokenStream."""
        header_bytes = wire.HEADER.size
        while self._end - self._start < header_bytes:
            if not self._fill():
                return None
        size, kind, version, reserved, ident = wire.HEADER.unpack_from(self._buffer, self._start)
        if version != wire.VERSION or reserved != 0 or size > wire.PAYLOAD_BYTES_MAX:
            raise BrokenStream(
                f"a frame header with version {version}, reserved {reserved}, size {size}; expected "
                f"{wire.VERSION}, 0, at most {wire.PAYLOAD_BYTES_MAX}"
            )
        self._start += header_bytes
        at = self._start
        if self._end - at >= size:
            self._start += size
            return Frame(kind, ident, self._buffer[at : at + size])
        payload = self._read_large(size)
        return None if payload is None else Frame(kind, ident, payload)

    def _read_large(self, size: int) -> Optional[bytearray]:
        """A payload of which the buffer holds only the beginning."""
        payload = bytearray(size)
        have = self._end - self._start
        payload[:have] = self._view[self._start : self._end]
        self._start = self._end = 0
        view = memoryview(payload)
        while have < size:
            got = self._receive(view[have:])
            if not got:
                return None
            have += got
        return payload

    def _fill(self) -> int:
        """Receives behind what is left of the buffer, which it moves to the front."""
        left = self._end - self._start
        if self._start:
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        got = self._receive(self._view[left:])
        self._end += got
        return got

    def _receive(self, view: memoryview) -> int:
        got, ancillary, _, _ = self.sock.recvmsg_into([view], _ANCILLARY_BYTES, _RECV_FLAGS)
        if ancillary:
            self._keep_fds(ancillary)
        return got

    def _keep_fds(self, ancillary) -> None:
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET or kind != socket.SCM_RIGHTS:
                continue
            fds = array.array("i")
            fds.frombytes(data[: len(data) - len(data) % _FD_BYTES])
            for fd in fds:
                if len(self._fds) < _FDS_MAX:
                    self._fds.append(fd)
                else:
                    os.close(fd)

    def take_fd(self) -> Optional[int]:
        """The oldest descriptor received and not yet taken; it is the caller's to close."""
        return self._fds.pop(0) if self._fds else None

    def close(self) -> None:
        """Closes the socket and the descriptors nobody took."""
        while self._fds:
            os.close(self._fds.pop())
        self.sock.close()
