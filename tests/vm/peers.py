"""What runs inside the machine: a server, and a client. They speak UDP, SCTP or TCP.

peers.py serve udp|sctp|tcp NAME PORT ADDRESS…    answers everything with NAME and who asked
peers.py ask   udp|sctp|tcp ADDRESS PORT COUNT    asks COUNT times, each from a socket of its own,
                                                  and prints the answers, as JSON
"""

import contextlib
import json
import select
import socket
import sys

KINDS = {
    "udp": (socket.SOCK_DGRAM, 17),
    "sctp": (socket.SOCK_STREAM, 132),
    "tcp": (socket.SOCK_STREAM, 6),
}
PATIENCE = 5.0


def serve(kind: str, name: str, port: str, *addresses: str) -> None:
    poll = select.poll()
    listening = {}
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, *KINDS[kind])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, int(port)))
        if kind != "udp":
            made.listen()
        poll.register(made, select.POLLIN)
        listening[made.fileno()] = made
    while True:
        for descriptor, _ in poll.poll():
            ready = listening[descriptor]
            if kind == "udp":
                _, peer = ready.recvfrom(2048)
                ready.sendto(f"{name} {peer[0]}\n".encode(), peer)
            else:
                connection, peer = ready.accept()
                # A health check may be gone already.
                with connection, contextlib.suppress(OSError):
                    connection.sendall(f"{name} {peer[0]}\n".encode())


def ask(kind: str, address: str, port: str, count: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    answers = []
    for _ in range(int(count)):
        with socket.socket(family, *KINDS[kind]) as asking:
            asking.settimeout(PATIENCE)
            try:
                asking.connect((address, int(port)))
                if kind == "udp":
                    asking.send(b"hello")
                answers.append(asking.recv(2048).decode().strip())
            except OSError as error:
                answers.append(f"{type(error).__name__} {error}")
    print(json.dumps(answers))


if __name__ == "__main__":
    (serve if sys.argv[1] == "serve" else ask)(*sys.argv[2:])
