"""A virtual machine with a kernel of Debian's, for what the kernel of this machine does not have.

    with VirtualMachine(lab, image(BOOKWORM), files={"/etc/hostname": b"amphora"}) as vm:
        vm.run("modprobe ip_vs")

Its processor is emulated (qemu's TCG), about twenty times slower than the real one: it needs
nothing of this machine but memory. It boots Debian with the agent installed (see ``lab.debian``),
and has one network card, to this machine's loopback: the agent's API is at ``vm.api_port`` there,
and what the machine sends to ``GATEWAY`` arrives there. Networks with clients and members are made
inside.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import shlex
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import debian
from lab.agent import free_port
from lab.archive import CACHE, UnavailableError
from lab.debian import Release
from lab.lifecycle import Starting
from lab.network import CommandError, Lab
from lab.waiting import until

GATEWAY = "10.0.2.2"
"""This machine's loopback, as seen from inside."""

PACKAGES = ("keepalived", "kmod", "linux-image-cloud-amd64")
"""What the disk has besides what every Debian of the laboratory has."""

BOOT_SCRIPT = "/lab/boot"
"""A file of which the machine makes use at each boot, before anything of the agent starts."""

_ADDRESS = "10.0.2.15"
_API, _SHELL = 9443, 9444
_MEMORY = "512"
_DISK_SIZE = "2G"
_BOOT_TIMEOUT = 180.0
_LZ4 = b"\x02!L\x18"
_KEPT = 2

# One script a connection: its last line is the exit code.
_SHELL_SOCKET = f"""\
[Socket]
ListenStream={_SHELL}
Accept=yes
[Install]
WantedBy=sockets.target
"""
_SHELL_SERVICE = """\
[Service]
ExecStart=/bin/sh
StandardInput=socket
StandardOutput=socket
StandardError=socket
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root
KillMode=process
"""

# The part of a config drive, and of the one who plugs ports: all is there before the agent starts.
_FILES_SERVICE = f"""\
[Unit]
DefaultDependencies=no
After=local-fs.target systemd-tmpfiles-setup.service
Before=network-pre.target amphora-netns.service amphora-network.service amphora-agent.service
Wants=network-pre.target
[Service]
Type=oneshot
StandardError=journal+console
# The card's driver may be still to come.
ExecStart=/sbin/modprobe --all qemu_fw_cfg virtio_net
ExecStart=/bin/tar -xf /sys/firmware/qemu_fw_cfg/by_name/opt/lab/files/raw -C /
ExecStart=/sbin/ip link set lo up
ExecStart=/sbin/ip address add {_ADDRESS}/24 dev eth0
ExecStart=/sbin/ip link set eth0 up
ExecStart=/sbin/ip route add default via {GATEWAY}
ExecStart=/bin/sh -c 'if [ -e {BOOT_SCRIPT} ]; then exec sh -eu {BOOT_SCRIPT}; fi'
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
"""

_MAKE_DISK = """
install -m 644 "$1"/lab-* "$2/etc/systemd/system/"
chroot "$2" systemctl enable --quiet lab-shell.socket lab-files.service
chroot "$2" systemctl mask --quiet getty.target systemd-networkd-wait-online.service
chroot "$2" systemctl disable --quiet keepalived.service
printf '/dev/nvme0n1 / ext4 defaults,noatime 0 0\\n' >"$2/etc/fstab"
cp "$2"/boot/vmlinuz-* "$1/vmlinuz"
rm -rf "$2"/boot/*
mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d "$2" "$1/disk" "$3"
"""

_COMMAND_LINE = (
    "root=/dev/nvme0n1 rw console=ttyS0 net.ifnames=0 panic=-1 "
    # Measures against side channels cost an emulated processor dearly.
    "mitigations=off nokaslr tsc=reliable no_timer_check"
)


@dataclass(frozen=True)
class Image:
    """A disk, which no machine writes to, and the kernel that boots it."""

    disk: Path
    kernel: Path


class BootError(RuntimeError):
    """The machine was started and cannot be spoken to; the text has the end of its console."""


def image(release: Release, *, cache: Path = CACHE / "vm") -> Image:
    """A disk with the Debian that ``lab.debian`` makes, kept until what it is made of changes.

    Raises UnavailableError, InstallationError.
    """
    layers = debian.tree(release, more=PACKAGES)
    made_of = (layers[0].name, _SHELL_SOCKET, _SHELL_SERVICE, _FILES_SERVICE, _MAKE_DISK)
    place = cache / hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
    cache.mkdir(parents=True, exist_ok=True)
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as scratch:
                _make_disk(layers, Path(scratch))
                Path(scratch, "made").rename(place)
        newest_first = sorted(cache.iterdir(), key=lambda path: -path.stat().st_mtime)
        for outdated in newest_first[_KEPT:]:
            shutil.rmtree(outdated)
    return Image(place / "disk", place / "vmlinux")


class VirtualMachine(Starting):
    """A machine on an image; what it writes to its disk is lost when it ends, not when it reboots.

    ``files`` are put into it at each boot, before the agent starts.
    """

    def __init__(self, lab: Lab, image: Image, *, files: Mapping[str, bytes]) -> None:
        self.api_port, self._shell_port = free_port(), free_port()
        self._lab = lab
        self._image = image
        self._files = files
        self._directory = lab.directory()
        self._console = self._directory / "console"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, timeout: float = _BOOT_TIMEOUT) -> VirtualMachine:
        """Boot, and wait until it can be spoken to. Raises UnavailableError, BootError."""
        files = self._directory / "files.tar"
        files.write_bytes(_tar(self._files))
        self._lab.record.add_workplace(self._directory)
        ports = {_API: self.api_port, _SHELL: self._shell_port}
        forwarded = "".join(f",hostfwd=tcp:127.0.0.1:{ours}-:{its}" for its, ours in ports.items())
        try:
            with (self._directory / "qemu").open("wb") as said:
                self._process = subprocess.Popen(
                    [
                        *(
                            "qemu-system-x86_64",
                            "-nodefaults",
                            "-no-user-config",
                            "-display",
                            "none",
                        ),
                        *("-accel", "tcg,thread=multi,tb-size=128", "-cpu", "qemu64", "-M", "q35"),
                        *("-smp", "2", "-m", _MEMORY, "-device", "virtio-rng-pci"),
                        *("-serial", f"file:{self._console}"),
                        *("-kernel", str(self._image.kernel), "-append", _COMMAND_LINE),
                        # The drivers of both are built into the kernel: no initial disk is needed.
                        "-drive",
                        f"if=none,id=disk,file={self._image.disk},format=raw,snapshot=on,cache=unsafe",
                        *("-device", "nvme,drive=disk,serial=1"),
                        *(
                            "-netdev",
                            f"user,id=net{forwarded}",
                            "-device",
                            "virtio-net-pci,netdev=net",
                        ),
                        *("-fw_cfg", f"name=opt/lab/files,file={files}"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                )
        except FileNotFoundError:
            raise UnavailableError("the program qemu-system-x86_64 is not installed") from None
        self._await(self._answers, timeout)
        return self

    def reboot(self) -> None:
        """In order, as an operator does it; returns when it is up again. Raises BootError."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.run("systemctl --no-block reboot")

        def is_another() -> bool:
            try:
                return self.run("cat /proc/sys/kernel/random/boot_id", timeout=5) != before
            except OSError:
                return False

        self._await(is_another, _BOOT_TIMEOUT)

    def run(self, script: str, *, check: bool = True, timeout: float = 120) -> str:
        """What a shell script prints, its errors too; raises CommandError when one of its commands
        fails and must not, TimeoutError."""
        answer = self._ask(f"sh -euc {shlex.quote(script)} </dev/null", timeout)
        output, _, status = answer.rstrip("\n").rpartition("\n")
        if check and status != "0":
            raise CommandError(f"{script}\nexit code {status}: {output.strip()}")
        return output

    def console(self, *, lines: int = 40) -> str:
        """The end of what the kernel and the first process have said."""
        try:
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Pull the plug. May be called again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _await(self, is_up: Callable[[], bool], timeout: float) -> None:
        try:
            until(lambda: self._ended() or is_up(), "the machine is up", timeout=timeout)
        except TimeoutError as error:
            raise BootError(f"{error}\n{self.console()}") from None
        if self._ended():
            said = (self._directory / "qemu").read_text(errors="replace")
            raise BootError(f"qemu ended: {said}\n{self.console()}")

    def _ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _answers(self) -> bool:
        try:
            return self.run("true", check=False, timeout=5) == ""
        except OSError:  # qemu takes the connection, and ends it when nobody listens inside
            return False

    def _ask(self, command: str, timeout: float) -> str:
        with socket.create_connection(("127.0.0.1", self._shell_port), timeout) as connection:
            connection.sendall(f"{command}; printf '\\n%s\\n' $?; exit\n".encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        if not answer.endswith(b"\n"):
            raise ConnectionError("the machine did not answer")
        return answer.decode(errors="replace")


def _make_disk(layers: list[Path], scratch: Path) -> None:
    made = scratch / "made"
    made.mkdir()
    units = {
        "lab-shell.socket": _SHELL_SOCKET,
        "lab-shell@.service": _SHELL_SERVICE,
        "lab-files.service": _FILES_SERVICE,
    }
    for name, text in units.items():
        (made / name).write_text(text)
    target = scratch / "target"
    debian.run_mounted(layers, scratch, target, _MAKE_DISK, str(made), str(target), _DISK_SIZE)
    (made / "vmlinux").write_bytes(_uncompressed((made / "vmlinuz").read_bytes()))
    for used in ("vmlinuz", *units):
        (made / used).unlink()


def _uncompressed(kernel: bytes) -> bytes:
    """The kernel proper: qemu starts it at its own entry, without a loader that unpacks it."""
    begin = kernel.find(_LZ4)
    while begin >= 0:
        # What follows the packed kernel is no more of it: an error that says nothing.
        unpacked = subprocess.run(
            ["lz4", "-dc"], input=kernel[begin:], capture_output=True, check=False
        ).stdout
        if unpacked.startswith(b"\x7fELF"):
            return unpacked
        begin = kernel.find(_LZ4, begin + 1)
    raise UnavailableError("the kernel is not packed with lz4: it cannot be unpacked here")


def _tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()
