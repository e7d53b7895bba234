"""Faults of one rank: signals, exits, memory, disks, broken files, wrong settings."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from tests.causes.catalogue import fault
from windlass.api.meta import FailureClass
from windlass_workloads.checkpoint.errors import SaveError
from windlass_workloads.train.failures import NotFinite

CRASH, MEMORY = FailureClass.CRASH, FailureClass.OUT_OF_MEMORY
STORAGE, SETTING, INFRASTRUCTURE = (
    FailureClass.STORAGE,
    FailureClass.CONFIGURATION,
    FailureClass.INFRASTRUCTURE,
)
MEBIBYTE = 2**20


def libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def limit_memory(mebibytes: int) -> None:
    """Address space of this process, beyond what it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * MEBIBYTE,) * 2)


def small_disk(kilobytes: int, *, read_only: bool = False) -> Path:
    """A mount of its own that nobody else sees, and that ends with this process."""
    new_mounts = 0x00020000
    assert libc().unshare(new_mounts) == 0, os.strerror(ctypes.get_errno())
    private = 1 << 18 | 1 << 14
    assert libc().mount(b"none", b"/", None, private, None) == 0
    where = Path("store").resolve()
    where.mkdir(exist_ok=True)
    flags = 1 if read_only else 0
    options = f"size={kilobytes}k".encode()
    assert libc().mount(b"tmpfs", str(where).encode(), b"tmpfs", flags, options) == 0
    return where


# --- signals and exits -------------------------------------------------------------------------------------

for _signal in (
    "SIGKILL",
    "SIGSEGV",
    "SIGABRT",
    "SIGFPE",
    "SIGILL",
    "SIGTRAP",
    "SIGSYS",
    "SIGHUP",
    "SIGPIPE",
):

    @fault(f"signal-{_signal.lower()}", CRASH)
    def _(rank: int, number: int = getattr(signal, _signal)) -> None:
        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
        signal.pause()


@fault("null-pointer", CRASH)
def _(rank: int) -> None:
    ctypes.string_at(0)


@fault("stack-overflow-in-c", CRASH)
def _(rank: int) -> None:
    sys.setrecursionlimit(10**9)
    threading.stack_size(256 * 1024)

    def deeper(value: object) -> object:
        return sorted([value], key=deeper)

    thread = threading.Thread(target=deeper, args=(1,))
    thread.start()
    thread.join()


@fault("heap-corruption", CRASH)
def _(rank: int) -> None:
    free = libc().free
    free.argtypes = [ctypes.c_void_p]
    free(ctypes.addressof(ctypes.create_string_buffer(64)) + 8)


@fault("truncated-mapping", CRASH)
def _(rank: int) -> None:
    path = Path("mapped.bin")
    path.write_bytes(b"x" * 65536)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 65536)
        file.truncate(0)
        print(mapped[4096], flush=True)


@fault("silent-exit", CRASH)
def _(rank: int) -> None:
    os._exit(1)


@fault("exit-in-the-middle", CRASH)
def _(rank: int) -> None:
    print("step 12 loss 2.31", flush=True)
    raise SystemExit(3)


@fault("exit-with-words", CRASH)
def _(rank: int) -> None:
    sys.exit("giving up: loss has diverged")


# --- exceptions in the middle ------------------------------------------------------------------------------


@fault("recursion", CRASH)
def _(rank: int) -> None:
    def again(depth: int) -> int:
        return again(depth + 1) + 1

    again(0)


@fault("assertion", CRASH)
def _(rank: int) -> None:
    batch = torch.zeros(2, 3)
    assert batch.shape == (3, 2), f"expected (3, 2), got {tuple(batch.shape)}"


@fault("division-by-zero", CRASH)
def _(rank: int) -> None:
    tokens: list[int] = []
    print(1.0 / len(tokens))


@fault("key-in-the-middle", CRASH)
def _(rank: int) -> None:
    print({"loss": 1.0}["perplexity"])


@fault("token-beyond-the-vocabulary", CRASH)
def _(rank: int) -> None:
    torch.nn.Embedding(16, 4)(torch.tensor([[3, 99]]))


@fault("shapes-in-the-middle", CRASH)
def _(rank: int) -> None:
    torch.nn.Linear(8, 4)(torch.zeros(2, 9))


@fault("wrong-type-of-label", CRASH)
def _(rank: int) -> None:
    torch.nn.functional.cross_entropy(torch.zeros(2, 4), torch.zeros(2).int())


@fault("graph-freed", CRASH)
def _(rank: int) -> None:
    weight = torch.ones(3, requires_grad=True)
    loss = (weight * weight).sum()
    loss.backward()
    loss.backward()


@fault("loss-is-no-number", FailureClass.NUMERIC)
def _(rank: int) -> None:
    loss = torch.log(torch.tensor(-1.0))
    raise NotFinite(f"step 40: loss {float(loss)}, gradient norm nan, learning rate 0.001")


@fault("anomaly-in-backward", CRASH)
def _(rank: int) -> None:
    weight = torch.zeros(1, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True):
        (torch.sqrt(weight) * 0).sum().backward()


@fault("tool-that-fails", CRASH)
def _(rank: int) -> None:
    subprocess.run([sys.executable, "-c", "raise SystemExit(9)"], check=True)


@fault("interrupted", CRASH)
def _(rank: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()


@fault("too-many-open-files", CRASH)
def _(rank: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    kept = []
    while True:
        kept.append(open(os.devnull))  # noqa: SIM115 - to run out of them is the point


# --- memory ------------------------------------------------------------------------------------------------


@fault("memory-python", MEMORY)
def _(rank: int) -> None:
    limit_memory(200)
    kept = []
    while True:
        kept.append(bytearray(16 * MEBIBYTE))


@fault("memory-numpy", MEMORY)
def _(rank: int) -> None:
    limit_memory(200)
    np.ones((1024, 1024, 1024))


@fault("memory-torch", MEMORY)
def _(rank: int) -> None:
    limit_memory(200)
    torch.ones(1024, 1024, 1024)


@fault("memory-optimizer", MEMORY)
def _(rank: int) -> None:
    layer = torch.nn.Linear(3000, 3000)
    layer(torch.ones(1, 3000)).sum().backward()
    optimizer = torch.optim.AdamW(layer.parameters())
    limit_memory(8)
    optimizer.step()


@fault("memory-of-a-mapping", MEMORY)
def _(rank: int) -> None:
    limit_memory(64)
    mmap.mmap(-1, 512 * MEBIBYTE)


@fault("memory-of-a-fork", MEMORY)
def _(rank: int) -> None:
    raise OSError(12, os.strerror(12))


# --- disks -------------------------------------------------------------------------------------------------


@fault("disk-full-write", STORAGE)
def _(rank: int) -> None:
    (small_disk(256) / "checkpoint").write_bytes(b"x" * MEBIBYTE)


@fault("disk-full-torch-save", STORAGE)
def _(rank: int) -> None:
    torch.save(torch.ones(MEBIBYTE), small_disk(256) / "state.pt")


@fault("disk-full-safetensors", STORAGE)
def _(rank: int) -> None:
    safetensors.torch.save_file({"weight": torch.ones(MEBIBYTE)}, small_disk(256) / "model.safetensors")


@fault("disk-full-save", STORAGE)
def _(rank: int) -> None:
    try:
        (small_disk(256) / "checkpoint").write_bytes(b"x" * MEBIBYTE)
    except OSError as error:
        raise SaveError(f"checkpoint of step 40: {error}", full=True) from error


@fault("disk-out-of-inodes", STORAGE)
def _(rank: int) -> None:
    where = small_disk(40)
    for number in range(10**6):
        (where / f"shard-{number}").write_bytes(b"x")


@fault("disk-read-only", STORAGE)
def _(rank: int) -> None:
    (small_disk(256, read_only=True) / "manifest.json").write_text("{}")


@fault("disk-read-only-torch-save", STORAGE)
def _(rank: int) -> None:
    torch.save(torch.ones(4), small_disk(256, read_only=True) / "state.pt")


@fault("disk-error", STORAGE)
def _(rank: int) -> None:
    # The memory of a process at address 0 cannot be read, and the kernel says so as of a broken disk.
    with open("/proc/self/mem", "rb", buffering=0) as file:
        file.read(16)


@fault("disk-stale-handle", STORAGE)
def _(rank: int) -> None:
    raise OSError(116, os.strerror(116), "/store/step-00000040.i1/manifest.json")


@fault("disk-not-connected", STORAGE)
def _(rank: int) -> None:
    raise OSError(107, os.strerror(107), "/store/step-00000040.i1")


@fault("disk-quota", STORAGE)
def _(rank: int) -> None:
    raise OSError(122, os.strerror(122), "/store/step-00000040.i1/__0_0.distcp")


@fault("file-too-large", STORAGE)
def _(rank: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    Path("checkpoint").write_bytes(b"x" * MEBIBYTE)


@fault("torn-torch-file", STORAGE)
def _(rank: int) -> None:
    torch.save({"weight": torch.ones(4096)}, "state.pt")
    os.truncate("state.pt", 9000)
    torch.load("state.pt", weights_only=True)


# --- settings, before the first step -----------------------------------------------------------------------


@fault("module-missing", SETTING, early=True)
def _(rank: int) -> None:
    __import__("flash_attn_of_nobody")


@fault("name-missing-in-module", SETTING, early=True)
def _(rank: int) -> None:
    exec("from transformers import TrainerOfNobody")


@fault("file-missing", SETTING, early=True)
def _(rank: int) -> None:
    Path("/data/train.jsonl-of-nobody").read_text()


@fault("file-forbidden", SETTING, early=True)
def _(rank: int) -> None:
    path = Path("secret.jsonl")
    path.write_text("{}")
    path.chmod(0)
    os.setuid(65534)
    path.read_text()


@fault("model-of-unknown-kind", SETTING, early=True)
def _(rank: int) -> None:
    Path("config.json").write_text(json.dumps({"model_type": "model-of-nobody"}))
    AutoConfig.from_pretrained(".")


@fault("model-without-weights", SETTING, early=True)
def _(rank: int) -> None:
    tiny().config.save_pretrained(".")
    LlamaForCausalLM.from_pretrained(".")


@fault("adapter-without-targets", SETTING, early=True)
def _(rank: int) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny(), LoraConfig(target_modules=["layer_of_nobody"]))


@fault("state-of-another-shape", SETTING, early=True)
def _(rank: int) -> None:
    torch.nn.Linear(4, 4).load_state_dict(torch.nn.Linear(8, 4).state_dict())


@fault("argument-of-nobody", SETTING, early=True)
def _(rank: int) -> None:
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)], momentum=0.9)  # type: ignore[call-arg]


@fault("device-missing", SETTING, early=True)
def _(rank: int) -> None:
    torch.ones(1, device="cuda")


@fault("rows-that-are-no-json", SETTING, early=True)
def _(rank: int) -> None:
    json.loads('{"messages": [}')


@fault("text-of-another-encoding", SETTING, early=True)
def _(rank: int) -> None:
    b'{"text": "caf\xe9"}'.decode()


def tiny() -> LlamaForCausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))


# --- the world around --------------------------------------------------------------------------------------


@fault("service-refuses", INFRASTRUCTURE)
def _(rank: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2)


@fault("service-hangs-up", INFRASTRUCTURE)
def _(rank: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
    urllib.request.urlopen(f"http://127.0.0.1:{server.getsockname()[1]}/api", timeout=2)


@fault("name-not-resolved", INFRASTRUCTURE)
def _(rank: int) -> None:
    socket.getaddrinfo("mlflow.nobody.invalid", 80)


@fault("network-unreachable", INFRASTRUCTURE)
def _(rank: int) -> None:
    new_network = 0x40000000
    assert libc().unshare(new_network) == 0
    socket.create_connection(("192.0.2.1", 80), timeout=2)


@fault("port-taken", INFRASTRUCTURE)
def _(rank: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    socket.create_server(server.getsockname())
