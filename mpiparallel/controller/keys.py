"""Who may connect to the port: the two keys, and the question that ZeroMQ asks about every connection.

The server binds a socket for that question (ZAP, RFC 27 of ZeroMQ) and answers it in its own loop by
`Keys.answer`. The answer's user id is the role, which ZeroMQ attaches to every message of that connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import zmq
from zmq.utils import z85

from mpiparallel.connection_file import Role

ZAP_ADDRESS = "inproc://zeromq.zap.01"


class Pair(NamedTuple):
    """A CURVE key pair as Z85 text."""

    public: str
    secret: str

    @classmethod
    def new(cls) -> Pair:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())


@dataclass(frozen=True)
class Keys:
    """The keys of one controller."""

    server: Pair
    client: Pair
    engine: Pair

    @classmethod
    def new(cls) -> Keys:
        return cls(Pair.new(), Pair.new(), Pair.new())

    def role(self, public: bytes) -> Role | None:
        """Return what the holder of a key (32 bytes) may do; None for a key that is not ours."""
        try:
            text = z85.encode(public).decode()
        except ValueError:
            return None
        if text == self.client.public:
            return "client"
        return "engine" if text == self.engine.public else None

    def answer(self, question: Sequence[bytes]) -> tuple[list[bytes], str]:
        """Return the reply to a question of ZAP, and the address of a peer it turns away (else "")."""
        version, sequence, _domain, address, _identity, mechanism, *credentials = question
        role = self.role(credentials[0]) if mechanism == b"CURVE" and credentials else None
        if role is None:
            no = [version, sequence, b"400", b"no key of this controller", b"", b""]
            return no, address.decode(errors="replace")
        return [version, sequence, b"200", b"OK", role.encode(), b""], ""
