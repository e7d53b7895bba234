"""Causes every fault of the catalogue and writes down what an agent would have seen of it.

    python -m tests.causes.record [NAME ...]

Ranks are forked from a parent that has imported everything, as an agent's are, in a scratch directory; they end as a
rank does (`tasks.train`): with the failure they can name, its exit code and their log. Ranks that are left when the
others have ended are stopped, as the leader does. Needs root (mounts and namespaces of the ranks' own).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tests.causes import gangs, single
from tests.causes.catalogue import CATALOGUE, Fault
from windlass.api.meta import ExitCode
from windlass_workloads.train.failures import failure_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TAIL_LINES = 40
LIMIT_SECONDS = 40.0
ALONE_SECONDS = 2.5
"""How long ranks may go on after the first end, before they are stopped."""

NEUTRAL = (
    (re.compile(re.escape(sys.prefix) + r"/lib\w*/python[\d.]+/site-packages"), "/opt/venv/lib"),
    (re.compile(re.escape(str(ROOT))), "/opt/windlass"),
    (re.compile(r"/tmp/[\w./-]*causes-\w+"), "/scratch"),
    (re.compile(r"[\w.+/-]*/lib/python3\.\d+/"), "/usr/lib/python3/"),
    (re.compile(re.escape(socket.gethostname())), "node"),
    (re.compile(r"\b0x[0-9a-f]{6,}"), "0x7f00"),
)
assert gangs and single


def neutral(text: str) -> str:
    """Without what is of this machine only."""
    for pattern, instead in NEUTRAL:
        text = pattern.sub(instead, text)
    return text


def be_rank(fault: Fault, rank: int, where: Path) -> NoReturn:
    """The life of one rank, in a forked process."""
    log = os.open(where / f"log-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(where)
    faulthandler.enable(all_threads=True)
    code: int = ExitCode.SUCCESS
    try:
        fault.deed(rank)
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
        if not isinstance(ending.code, int):
            print(ending.code, file=sys.stderr)
    except BaseException as error:
        failure, code = failure_of(error)
        traceback.print_exc()
        with contextlib.suppress(OSError, MemoryError):
            (where / f"said-{rank}").write_text(
                json.dumps({**failure.to_wire(), "at": time.time()}, default=str)
            )
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def follow(children: dict[int, int]) -> dict[int, dict[str, Any]]:
    """How each rank ended, by rank; those that go on alone are stopped."""
    ends: dict[int, dict[str, Any]] = {}
    began = time.monotonic()
    deadline, stopping = began + LIMIT_SECONDS, False
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            rank = children.pop(pid)
            end: dict[str, Any] = {"rank": rank, "at": time.time()}
            code = os.waitstatus_to_exitcode(status)
            end |= {"signal": -code} if code < 0 else {"exitCode": code}
            ends[rank] = end | ({"stopped": True} if stopping else {})
            deadline = min(deadline, time.monotonic() + ALONE_SECONDS)
        elif time.monotonic() > deadline:
            stopping = True
            for left in children:
                os.kill(left, signal.SIGKILL)
            deadline = time.monotonic() + LIMIT_SECONDS
        else:
            time.sleep(0.005)
    return ends


def record(fault: Fault) -> dict[str, Any]:
    """Causes one fault; the document that describes it."""
    where = Path(tempfile.mkdtemp(prefix="causes-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    children = {}
    for rank in range(fault.world):
        pid = os.fork()
        if pid == 0:
            be_rank(fault, rank, where)
        children[pid] = rank
    began = time.time()
    ends = follow(children)
    rows = []
    for rank in sorted(ends):
        end = ends[rank]
        said = where / f"said-{rank}"
        told = json.loads(said.read_text()) if said.exists() else None
        if told is not None:
            end["at"] = min(end["at"], told.pop("at"))
            end["failure"] = json.loads(neutral(json.dumps(told)))
        end["at"] = round(end["at"] - began, 3)
        lines = neutral((where / f"log-{rank}").read_text(errors="backslashreplace")).splitlines()
        rows.append(end | {"log": [line[:400] for line in lines[-TAIL_LINES:]]})
    shutil.rmtree(where)
    label = {"class": str(fault.label), "firstFailed": fault.cause}
    return {"name": fault.name, "caused": True, "label": label, "early": fault.early, "ends": rows}


def main(names: list[str]) -> None:
    """Records some faults, or all."""
    for name in names or list(CATALOGUE):
        document = record(CATALOGUE[name])
        text = yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True)
        (HERE / "cases" / f"{name}.yaml").write_text(text)
        last = document["ends"][document["label"]["firstFailed"] or 0]
        print(name, {key: last.get(key) for key in ("exitCode", "signal")}, last["log"][-1:], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
