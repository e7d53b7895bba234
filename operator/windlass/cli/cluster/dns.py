"""One DNS question over UDP, to learn whether a name server answers.

Used by `up`: for the host's name servers, and for the cluster's own once it should answer.
It must never be used to resolve names for anything else.
"""

from __future__ import annotations

import secrets
import socket
import struct

ADDRESS_RECORD = 1
NAME_SERVER_RECORD = 2
_HEADER = ">HHHHHH"
_RECURSION_DESIRED = 0x0100


def question(name: str, record: int) -> bytes:
    """The packet that asks for one record of a name; the root is the empty name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    header = struct.pack(_HEADER, secrets.randbelow(65536), _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack(">HH", record, 1)


def answer_count(
    server: str, name: str, record: int, *, port: int = 53, timeout_seconds: float = 1.0
) -> int | None:
    """How many records the server answers with; None when it is silent or unreachable."""
    asked = question(name, record)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(timeout_seconds)
        try:
            channel.connect((server, port))
            channel.send(asked)
            reply = channel.recv(4096)
        except OSError:
            return None
    if len(reply) < struct.calcsize(_HEADER) or reply[:2] != asked[:2]:
        return None
    return int(struct.unpack(_HEADER, reply[:12])[3])
