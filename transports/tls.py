"""TLS 1.3 on data connections: both ends show a certificate of the run's own authority.

The protocol runs beside the socket (`ssl.SSLObject` between two memory buffers), so that many records go to the kernel in
one system call and come from it in one, and a `TlsLine` can stand where a socket stands in `TcpStream`, with the same flags
and errors.

Who it is that has the certificate the handshake inside tells (`handshake`): names in certificates are for people.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from ..errors import AuthenticationFailed
from .base import Buffer
from .stream import TcpStream

BATCH_BYTES = 1 << 18  # sealed or unsealed in one go: sixteen records, which stay in L2
JOIN_BYTES = 1 << 14  # a record's content
FIRST_BYTES = 1 << 12  # the same for somebody who has not proved yet who it is
CIPHER = "TLS_AES_128_GCM_SHA256"  # the fastest; Python can ask for it since 3.15, before that OpenSSL takes AES-256
_NOSIGNAL = socket.MSG_NOSIGNAL


class Tls:
    """This peer's certificate and key, and the authority that the others' certificates have to come from; PEM files.

    Raises AuthenticationFailed when they cannot be read or do not fit together.
    """

    def __init__(self, authority: Path, certificate: Path, key: Path):
        try:
            self._server = _context(ssl.PROTOCOL_TLS_SERVER, authority, certificate, key)
            self._client = _context(ssl.PROTOCOL_TLS_CLIENT, authority, certificate, key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise AuthenticationFailed(f"cannot use {certificate}, {key.name} and {authority.name}: {why}") from None

    def accepted(self, sock: socket.socket) -> TlsLine:
        return TlsLine(sock, self._server, server_side=True)

    def dialled(self, sock: socket.socket) -> TlsLine:
        return TlsLine(sock, self._client, server_side=False)


def _context(protocol: int, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # members move from host to host
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # nobody resumes a session
    if hasattr(context, "set_ciphersuites"):
        context.set_ciphersuites(CIPHER)
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context


class TlsLine:
    """A connected socket with TLS on top, with the methods of a socket that `TcpStream` and the handshake use.

    Sending takes what it could seal and hand to the kernel. When the kernel does not take all, the last byte is not counted as
    taken until it does, so that whoever sends comes back to it.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool):
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._raw = memoryview(bytearray(FIRST_BYTES))
        self._sealed: memoryview | bytes = b""  # what the kernel has not taken yet
        self._early = 0  # 1: the last byte that was sealed has not been counted as taken
        self._ready = False
        self.may_have_more = False  # unsealed bytes may be there although the socket has nothing to read

    def fileno(self) -> int:
        return self.sock.fileno()

    def widen(self) -> None:
        """Large amounts are to come."""
        self._raw = memoryview(bytearray(BATCH_BYTES))

    def close(self) -> None:
        self.sock.close()

    def setsockopt(self, *arguments: int) -> None:
        self.sock.setsockopt(*arguments)

    def handshake(self) -> bool:
        """Go on with TLS's own handshake on a non-blocking socket; True when it is over. Raises OSError."""
        while not self._ready:
            try:
                self._tls.do_handshake()
                self._ready = self.may_have_more = True
            except ssl.SSLWantReadError:
                if not self._flush(_NOSIGNAL):
                    raise ConnectionResetError from None  # some hundred bytes: the kernel takes them
                try:
                    if not self._feed(0):
                        raise ConnectionResetError from None
                except BlockingIOError:
                    return False
            except ssl.SSLError:
                self._flush(_NOSIGNAL)  # the alert tells the other side why
                raise
        return self._flush(_NOSIGNAL)

    def recv(self, count: int) -> bytes:
        data = bytearray(count)
        return bytes(data[: self.recv_into(memoryview(data))])

    def recv_into(self, target: memoryview, _nbytes: int = 0, flags: int = 0) -> int:
        """Bytes that were read, 0 at the end of the stream. Raises BlockingIOError, OSError."""
        got, wanted = 0, len(target)
        read = self._tls.read
        while True:
            if self.may_have_more:
                try:
                    while got < wanted:
                        count = int(read(wanted - got, target[got:]))
                        if not count:
                            return got
                        got += count
                    self.may_have_more = bool(self._incoming.pending or self._tls.pending())
                    return got
                except ssl.SSLWantReadError:
                    self.may_have_more = False
                except ssl.SSLZeroReturnError:
                    return got
            try:
                if not self._feed(flags):
                    return got
            except BlockingIOError:
                if got:
                    return got
                raise
            flags = socket.MSG_DONTWAIT  # whatever trickles in, wait once only

    def _feed(self, flags: int) -> int:
        count = self.sock.recv_into(self._raw, 0, flags)
        if count:
            self._incoming.write(self._raw[:count])
            self.may_have_more = True
        return count

    def sendall(self, data: bytes) -> None:
        """For the first words on a connection, which the kernel takes at once."""
        if self.send(data) != len(data):
            raise ConnectionResetError

    def send(self, data: Buffer, flags: int = _NOSIGNAL) -> int:
        return self.sendmsg((data,), (), flags)

    def sendmsg(self, parts: Sequence[Buffer], _ancillary: tuple[()] = (), flags: int = _NOSIGNAL) -> int:
        """Bytes that were taken. Raises BlockingIOError when none are, OSError."""
        if self._sealed:
            if not self._flush(flags):
                raise BlockingIOError
            if self._early:
                self._early = 0
                return 1
        data = [memoryview(part) for part in parts if len(part)]
        if len(data) > 1 and sum(map(len, data)) <= JOIN_BYTES:
            data = [memoryview(b"".join(data))]  # one record, and one copy that costs less than another record
        taken = 0
        for part in data:
            for start in range(0, len(part), BATCH_BYTES):
                batch = part[start : start + BATCH_BYTES]
                done = 0
                while done < len(batch):
                    done += self._tls.write(batch[done:])
                taken += done
                if not self._flush(flags):
                    self._early = 1
                    if taken == 1:
                        raise BlockingIOError
                    return taken - 1
        return taken

    def _flush(self, flags: int) -> bool:
        """Hand to the kernel what is sealed; False when it does not take all now."""
        if not self._sealed:
            self._sealed = memoryview(self._outgoing.read())
        try:
            while self._sealed:
                self._sealed = self._sealed[self.sock.send(self._sealed, flags) :]
                if not self._sealed:
                    self._sealed = memoryview(self._outgoing.read())
        except BlockingIOError:
            return False
        return True


class TlsStream(TcpStream):
    """A `TcpStream` on a `TlsLine`; bytes are counted before they are sealed."""

    __slots__ = ("_line",)

    def __init__(self, line: TlsLine, member: int):
        super().__init__(line.sock, member)
        line.widen()
        self._line = line
        self._recv = line.recv_into
        self._recv_several = None
        self._send = line.sendmsg
        self._send_one = line.send

    @property
    def has_unread(self) -> bool:
        return bool(self._residue) or self._line.may_have_more
