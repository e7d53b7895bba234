"""What an operator of many runs does not spend: time on looking for garbage, memory on kept connections."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from contract.operator.harness import write_serving_pair


def test_an_operator_looks_seldom_for_garbage_and_never_among_what_it_imported() -> None:
    program = (
        "import gc; from windlass.shell.main import COLLECT_AFTER, collect_seldom; collect_seldom(); "
        "print(gc.get_threshold() == COLLECT_AFTER, gc.get_freeze_count() > 10_000, gc.isenabled())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


async def connections_cost(small: bool, directory: Path, count: int = 60) -> float:
    """Kilobytes of memory for each connection that a server of reports keeps, in a process of its own."""
    program = f"""
import asyncio, ssl, sys
from windlass.shell.tls import read_in_small_pieces
if {small}: read_in_small_pieces()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4
async def answer(reader, writer):
    await reader.readexactly(4)
    writer.write(b"done")
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("{directory}/tls.crt", "{directory}/tls.key")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    client = ssl.create_default_context(cafile="{directory}/ca.crt")
    client.check_hostname = False
    async def talk():
        pair = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client)
        pair[1].write(b"word")
        await pair[0].readexactly(4)
        return pair
    kept = [await talk() for _ in range(5)]
    before = resident()
    kept += [await talk() for _ in range({count})]
    print((resident() - before) / {count})
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    return float((await process.communicate())[0])


async def test_a_kept_connection_costs_little_memory(tmp_path: Path) -> None:
    """Both ends are in the process, so that each connection counts twice."""
    write_serving_pair(tmp_path, "localhost")
    small, usual = await connections_cost(True, tmp_path), await connections_cost(False, tmp_path)
    assert small < 250, f"{small:.0f} KB, with asyncio's own buffers {usual:.0f} KB"
    assert small < usual / 2, f"{small:.0f} KB, with asyncio's own buffers {usual:.0f} KB"
