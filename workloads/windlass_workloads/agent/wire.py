"""The connection between a follower and its leader: JSON lines over TCP after a mutual challenge.

Both prove that they can read the run's store by the key in it; the key itself never travels. Must
never act on a line of someone who has not proved that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
import secrets
from typing import Final

from pydantic import ValidationError

from windlass_workloads.agent.messages import Downward, Hello, Upward
from windlass_workloads.checkpoint.store import GANG_KEY, RunStore

LINE_LIMIT: Final = 16 << 20
GREETING_SECONDS: Final = 3.0
KEY_BYTES: Final = 32
ATTEMPT: Final = re.compile(r"[0-9]{1,18}")


class Refusal(Exception):
    """The other side is not of this gang, or does not speak its language."""


class Link:
    """One connection; lines in, lines out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Upward | Downward) -> None:
        """Queues a message; a connection that is gone is noticed by who reads from it."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(message.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")

    async def line(self, limit_seconds: float) -> bytes:
        """The next line; Refusal at the end of the connection or after so long a silence."""
        try:
            line = await asyncio.wait_for(self._reader.readline(), limit_seconds)
        except TimeoutError as error:
            raise Refusal("silence") from error
        except (OSError, ValueError) as error:
            raise Refusal(f"connection lost: {error}") from error
        if not line.endswith(b"\n"):
            raise Refusal("connection closed")
        return line

    async def flush(self, limit_seconds: float) -> None:
        """Waits until what was queued has been handed to the kernel."""
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.drain(), limit_seconds)

    def close(self) -> None:
        """Ends the connection; what was queued is still sent."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()

    async def say(self, **fields: str) -> None:
        """Sends one line of the greeting."""
        self._writer.write(json.dumps(fields).encode() + b"\n")
        await self.flush(GREETING_SECONDS)

    async def heard(self, *names: str) -> list[str]:
        """The texts of these names in the next line of the greeting."""
        try:
            fields = json.loads(await self.line(GREETING_SECONDS))
            found = [fields[name] for name in names]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refusal("not a greeting") from error
        # Proofs are taken over these texts: letters beyond ASCII are in no greeting of ours.
        if not all(isinstance(each, str) and each.isascii() for each in found):
            raise Refusal("not a greeting")
        return found


def gang_key(store: RunStore) -> bytes | None:
    """The key of this run's agents, or None before its first leader made it; Refusal when it is none."""
    data = store.read(GANG_KEY)
    if not data:
        return None
    try:
        key = bytes.fromhex(data.decode())
    except ValueError as error:
        raise Refusal(f"{GANG_KEY} is damaged: {error}") from error
    if len(key) != KEY_BYTES:
        raise Refusal(f"{GANG_KEY} is damaged: it holds {len(key)} bytes, expected {KEY_BYTES}")
    return key


def make_gang_key(store: RunStore) -> bytes:
    """The key; made if nobody has yet."""
    store.create(GANG_KEY, secrets.token_hex(KEY_BYTES).encode(), mode=0o600)
    key = gang_key(store)
    if key is None:
        raise Refusal("the gang's key cannot be read back")
    return key


async def greet_follower(link: Link, key: bytes, attempt: int) -> Hello:
    """The leader's side: who is there? Refusal when they cannot prove it or belong to a newer attempt."""
    mine = secrets.token_hex(KEY_BYTES)
    await link.say(challenge=mine, attempt=str(attempt))
    text, theirs, proof = await link.heard("hello", "challenge", "proof")
    if not hmac.compare_digest(proof, _proof(key, "follower", mine, theirs, text)):
        raise Refusal("wrong key")
    try:
        hello = Hello.model_validate_json(text)
    except ValidationError as error:
        raise Refusal("not a hello") from error
    await link.say(proof=_proof(key, "leader", theirs, mine, text))
    if hello.attempt > attempt:
        raise Refusal("a newer attempt's agent came to an old leader")
    return hello


async def greet_leader(link: Link, key: bytes, hello: Hello) -> None:
    """The follower's side. Refusal when the leader is of an older attempt or cannot prove itself."""
    challenge, attempt = await link.heard("challenge", "attempt")
    if not ATTEMPT.fullmatch(attempt) or int(attempt) < hello.attempt:
        raise Refusal("the leader is of an older attempt")
    mine, text = secrets.token_hex(KEY_BYTES), hello.model_dump_json(by_alias=True)
    await link.say(hello=text, challenge=mine, proof=_proof(key, "follower", challenge, mine, text))
    (proof,) = await link.heard("proof")
    if not hmac.compare_digest(proof, _proof(key, "leader", mine, challenge, text)):
        raise Refusal("the leader has another key")


def _proof(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()
