"""The DNS of the node's cluster: answers ``<service>.<namespace>[.svc[.cluster.local]]`` with the service's address.

``dns.py API CA TOKEN ADDRESS`` listens on port 53 of the address.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.request

# https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1
AUTHORITATIVE, NO_SUCH_NAME = 0x8580, 3
TYPE_A, CLASS_IN, TTL = 1, 1, 1
POINTER_TO_THE_QUESTION = 0xC00C
HEADER = 12

addresses: dict[str, str] = {}


def follow(api: str, authority: str, token: str) -> None:
    """Keep `addresses` up to date."""
    context = ssl.create_default_context(cafile=authority)
    request = urllib.request.Request(
        f"{api}/api/v1/services?watch=true", headers={"Authorization": f"Bearer {token}"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, context=context) as events:
                addresses.clear()
                for line in events:
                    take(json.loads(line))
        except OSError as error:
            print(f"the services cannot be read: {error}", flush=True)
        time.sleep(0.5)


def take(event: dict[str, object]) -> None:
    """Take one event of a watch: each service that exists comes first, as one that was added."""
    service = event["object"]
    assert isinstance(service, dict)
    address = service.get("spec", {}).get("clusterIP")
    if not address or address == "None":
        return
    name = "{name}.{namespace}".format_map(service["metadata"])
    for suffix in ("", ".svc", ".svc.cluster.local"):
        if event["type"] == "DELETED":
            addresses.pop(name + suffix, None)
        else:
            addresses[name + suffix] = address


def answer(query: bytes) -> bytes:
    """Return the answer to a query of one question."""
    at, labels = HEADER, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    question = query[HEADER : at + 5]
    address = addresses.get(".".join(labels).lower())
    flags = AUTHORITATIVE | (0 if address else NO_SUCH_NAME)
    if address is None or kind != TYPE_A:
        return query[:2] + struct.pack(">HHHHH", flags, 1, 0, 0, 0) + question
    record = struct.pack(">HHHIH", POINTER_TO_THE_QUESTION, TYPE_A, CLASS_IN, TTL, 4)
    header = query[:2] + struct.pack(">HHHHH", flags, 1, 1, 0, 0)
    return header + question + record + socket.inet_aton(address)


def main() -> None:
    """Answer until the process ends."""
    api, authority, token, address = sys.argv[1:]
    threading.Thread(target=follow, args=(api, authority, token), daemon=True).start()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        query, client = server.recvfrom(1500)
        try:
            server.sendto(answer(query), client)
        except (IndexError, UnicodeDecodeError, struct.error) as error:
            print(f"not a query: {error}", flush=True)


if __name__ == "__main__":
    main()
