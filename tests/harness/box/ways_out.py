"""Twenty-odd ways out of a box, tried from inside. Runs as the box's command, alone.

    python ways_out.py < nothing    (the target is described in target.json, in the working folder)

Each way returns what it got, or raises OSError or another error with why not. Nothing here does
harm where it succeeds: it reads what the test put there, asks whether a signal would arrive, and
uses bounded amounts. Prints one JSON object: way to [whether it got something, what or why not].
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET: dict[str, Any] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
WAYS: dict[str, Callable[[], str]] = {}


class NothingFound(Exception):
    """It did not fail, but there was nothing."""


def way(function: Callable[[], str]) -> Callable[[], str]:
    WAYS[function.__name__.replace("_", " ")] = function
    return function


def call(name: str, *arguments: object) -> int:
    result = getattr(LIBC, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def syscall(number: int, *arguments: int) -> int:
    return call("syscall", ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))


def found(text: str | bytes) -> str:
    """The secret, if it is in there."""
    whole = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    if TARGET["secret"] not in whole:
        raise NothingFound("no secret in it")
    return "the secret"


def of_node(name: str) -> Path:
    return Path(TARGET["node"]) / name


# What lies about.


@way
def environment() -> str:
    return found(json.dumps(dict(os.environ)))


@way
def environment_of_the_node() -> str:
    return found(Path(f"/proc/{TARGET['pid']}/environ").read_bytes())


@way
def environment_of_any_process() -> str:
    texts = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            texts.append(entry.read_bytes())
        except OSError:
            continue
    return found(b"".join(texts))


@way
def list_of_processes() -> str:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(TARGET["node"]).encode() in entry.read_bytes():
                return str(entry)
        except OSError:
            continue
    raise NothingFound("only its own")


@way
def key() -> str:
    return found(of_node("key.json").read_text())


@way
def password() -> str:
    return found(of_node("password").read_text())


@way
def other_plan() -> str:
    return found(of_node("plans/other/plan.py").read_text())


@way
def other_workspace() -> str:
    return found(of_node("trainer/other/round.checkpoint").read_text())


@way
def blob_store() -> str:
    return found(next(of_node("blobs").iterdir()).read_text())


@way
def files_of_other_users() -> str:
    return Path("/etc/shadow").read_text()[:20]


@way
def root_of_the_first_process() -> str:
    return found(Path(f"/proc/1/root{of_node('key.json')}").read_text())


@way
def shared_memory() -> str:
    return found(Path("/dev/shm", TARGET["shared_memory"]).read_text())


@way
def kernel_keyring() -> str:
    return f"key {syscall(219 if os.uname().machine == 'aarch64' else 250, 0, -3, 1)}"


# Through its own folder, and what it was handed.


@way
def symbolic_link() -> str:
    os.symlink(of_node("key.json"), "key")
    return found(Path("key").read_text())


@way
def hard_link() -> str:
    os.link(of_node("key.json"), "hard")
    return found(Path("hard").read_text())


@way
def inherited_descriptors() -> str:
    known = {0, 1, 2, *TARGET["descriptors"]}
    for descriptor in range(1024):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        if descriptor not in known:
            return f"descriptor {descriptor}"
    raise NothingFound("its own only")


@way
def writing_through_a_handed_file() -> str:
    handed = TARGET["descriptors"][0]
    with open(f"/proc/self/fd/{handed}", "r+b") as file:
        file.write(b"changed")
    return "changed it"


@way
def mode_of_a_handed_file() -> str:
    os.fchmod(TARGET["descriptors"][0], 0o666)
    return "changed it"


@way
def cutting_the_log() -> str:
    os.ftruncate(1, 0)
    return "cut it"


@way
def writing_into_the_libraries() -> str:
    place = Path(TARGET["library"], f"box-test-{os.getpid()}")
    place.write_text("")
    place.unlink()
    return f"wrote into {place.parent}"


@way
def pickle_that_runs_a_shell() -> str:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], bytes], tuple[str]]:
            return _shell, (f"cat {of_node('key.json')}",)

    return found(pickle.loads(pickle.dumps(Payload())))  # noqa: S301


def _shell(command: str) -> bytes:
    return subprocess.run(["sh", "-c", command], capture_output=True, timeout=20).stdout


@way
def native_extension() -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        descriptor = call("open", str(of_node("key.json")).encode(), os.O_RDONLY)
        return found(os.read(descriptor, 1000))
    Path("steal.c").write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        "int steal(const char *p, char *to, int n) {\n"
        "  int f = open(p, O_RDONLY); return f < 0 ? -1 : read(f, to, n); }\n"
    )
    built = ["cc", "-shared", "-fPIC", "-o", "steal.so", "steal.c"]
    subprocess.run(built, check=True, capture_output=True, timeout=60)
    buffer = ctypes.create_string_buffer(1000)
    library = ctypes.CDLL(str(Path("steal.so").absolute()))
    if library.steal(str(of_node("key.json")).encode(), buffer, 1000) < 0:
        raise PermissionError(errno.EACCES, "compiled, loaded, and refused")
    return found(buffer.value)


# Other processes.


@way
def tracing_the_node() -> str:
    seize = 0x4206  # attaches without stopping
    pid = TARGET["pid"]
    call("ptrace", ctypes.c_long(seize), ctypes.c_long(pid), None, None)
    return "attached"


@way
def memory_of_the_node() -> str:
    class Piece(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(64)
    ours = Piece(ctypes.addressof(buffer), 64)
    theirs = Piece(TARGET["address"], 64)
    call(
        "process_vm_readv",
        *(TARGET["pid"], ctypes.byref(ours), ctypes.c_ulong(1), ctypes.byref(theirs)),
        *(ctypes.c_ulong(1), ctypes.c_ulong(0)),
    )
    return found(buffer.raw)


@way
def memory_file_of_the_node() -> str:
    with open(f"/proc/{TARGET['pid']}/mem", "rb") as memory:
        memory.seek(TARGET["address"])
        return found(memory.read(64))


@way
def signal_to_the_node() -> str:
    os.kill(TARGET["pid"], 0)
    if Path(f"/proc/{TARGET['pid']}").exists() or not Path("/proc/self").exists():
        return "it would arrive"
    raise NothingFound("that number is one of its own")


# The network.


@way
def port_of_the_node() -> str:
    with socket.create_connection(("127.0.0.1", TARGET["port"]), timeout=5) as connection:
        return found(connection.recv(100))


@way
def control_socket() -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(TARGET["control"])
        return found(connection.recv(100))


@way
def abstract_socket() -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect("\0" + TARGET["abstract"])
        return found(connection.recv(100))


@way
def datagram_without_connecting() -> str:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.sendto(b"hello", TARGET["datagrams"])
        return "sent one"


@way
def route_to_the_world() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.connect(("192.0.2.1", 53))  # sends nothing: asks for a route
        return f"from {any_socket.getsockname()[0]}"


@way
def name_service() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.settimeout(2)
        any_socket.sendto(b"a question", ("127.0.0.1", TARGET["name_service"]))
        return found(any_socket.recv(100))


@way
def socket_to_the_hypervisor() -> str:
    with socket.socket(40, socket.SOCK_STREAM):  # AF_VSOCK
        return "made one"


# The machine.


@way
def clock() -> str:
    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set it"


@way
def name_of_the_machine() -> str:
    before = socket.gethostname()
    call("sethostname", before.encode(), len(before))
    return "set it"


@way
def new_user_namespace() -> str:
    call("unshare", 0x10000000)
    return "made one"


@way
def mounting() -> str:
    Path("place").mkdir()
    call("mount", b"tmpfs", b"place", b"tmpfs", ctypes.c_ulong(0), None)
    call("umount2", b"place", 0)
    return "mounted one"


@way
def setting_of_the_kernel() -> str:
    file = Path("/proc/sys/kernel/core_pattern")
    with open(file, "r+") as opened:
        return f"could write {opened.name}"


@way
def io_uring() -> str:
    buffer = ctypes.create_string_buffer(256)
    os.close(syscall(425, 4, ctypes.addressof(buffer)))
    return "made one"


@way
def capabilities() -> str:
    buffer = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capget", header, buffer)
    held = buffer[0] | buffer[3]
    if not held:
        raise NothingFound("none")
    return f"{held:x}"


# More than its share.


@way
def processes_without_end() -> str:
    children: list[int] = []
    try:
        while len(children) < 2 * TARGET["processes"]:
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, 9)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{len(children)} processes"


@way
def memory_without_end() -> str:
    kept = bytearray(2 * TARGET["memory_bytes"])
    return f"{len(kept)} bytes"


@way
def file_without_end() -> str:
    with open("large", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * TARGET["file_bytes"])
    os.unlink("large")
    return f"{2 * TARGET['file_bytes']} bytes"


@way
def scratch_without_end() -> str:
    for folder in ("/tmp", "/dev/shm"):
        file = Path(folder, f"box-test-{os.getpid()}")
        try:
            with open(file, "wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, 2 * TARGET["scratch_bytes"])
            return f"{2 * TARGET['scratch_bytes']} bytes in {folder}"
        except OSError as error:
            refused = error
        finally:
            file.unlink(missing_ok=True)
    raise refused


@way
def more_than_its_limits() -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    return f"{soft} → {hard + 1} files"


def main() -> None:
    TARGET.update(json.loads(Path("target.json").read_text()))
    answers: dict[str, tuple[bool, str]] = {}
    for name, attempt in WAYS.items():
        try:
            answers[name] = (True, attempt())
        except Exception as error:  # noqa: BLE001  (whatever stops it is the answer)
            answers[name] = (False, f"{type(error).__name__}: {error}")
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
