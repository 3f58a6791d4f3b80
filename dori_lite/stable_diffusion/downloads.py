"""Download from addresses of strangers: little time, little space, and nothing on the reader's own network.

    data = download("http://example.org/a.jpg", deadline=20.0)  # bytes, of whatever is there

Old lists of URLs are full of hosts that are gone, silent, or somebody else's by now.
"""

import functools
import html
import io
import queue
import re
import socket
import ssl
import threading
import time
from contextlib import closing
from html.entities import html5
from http.client import HTTPException, HTTPResponse
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from ..ranges import check_count, check_positive

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
NO_SUCH_HOST = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
UNICAST, NAT64 = ip_network("2000::/3"), ip_network("64:ff9b::/96")


class NotFound(ValueError):
    """There is no picture. The message is the reason in a few words: one of these, and perhaps (its detail).

    no url, not a web address, no such host, private address, connection failed, timed out, HTTP 404 (or another
    status), more than 3 redirects, larger than 20 MB, larger than 50 million pixels, not a picture, damaged picture.
    """


class Place(NamedTuple):
    """An address taken apart, each part ready to be sent; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str


def download(
    url: str, *, deadline: float = 20.0, most_bytes: int = 20_000_000, redirects: int = 3, private: bool = False
) -> bytes:
    """What is at `url`, an http or https address whose HTML entities are resolved first.

    `deadline` is in seconds and holds for all of it, from looking up the name to the last byte, redirects included.
    `private` allows addresses that are not public, and any port. Proxies are not used. Raises NotFound with the reason.
    """
    end = time.monotonic() + check_positive("deadline", deadline)
    check_count("redirects", redirects, 0)
    url = unescaped(url.strip()) if isinstance(url, str) else ""
    if not url:
        raise NotFound("no url")
    try:
        for _ in range(redirects + 1):
            place = taken_apart(url, private)
            with closing(connect(place, end, private)) as sock:
                response = ask(sock, place, end)
                location = response.headers["Location"] if response.status in REDIRECTS else None
                if not location:
                    return body(response, most_bytes)
            # http.client reads headers as latin-1, servers write UTF-8
            url = joined(url, location.encode("latin-1").decode("utf-8", "replace"))
    except TimeoutError:
        raise NotFound("timed out") from None
    except (OSError, HTTPException) as error:
        what = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or type(error).__name__
        raise NotFound(f"connection failed ({' '.join(str(what).split()):.60})") from None
    raise NotFound(f"more than {redirects} redirects")


# ---- addresses ------------------------------------------------------------------------------------------


def unescaped(url: str) -> str:
    """`url` with its HTML entities resolved; only those that end in a semicolon, or `&copy=2` would become `©=2`."""

    def character(match):
        known = match[1].startswith("#") or match[1] + ";" in html5
        return html.unescape(match[0]) if known else match[0]

    return re.sub(r"&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});", character, url)


def joined(url: str, location: str) -> str:
    """Where a redirect from `url` leads."""
    try:
        return urljoin(url, location.strip())
    except ValueError:
        raise NotFound("not a web address") from None


def taken_apart(url: str, private: bool = False) -> Place:
    """The parts of an address. Raises NotFound unless it is http or https, without credentials, on a usual port."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:  # UnicodeError is one
        raise NotFound("not a web address") from None
    if parts.scheme not in PORTS:
        raise NotFound(f"not a web address ({parts.scheme:.20})" if parts.scheme else "not a web address")
    if "@" in parts.netloc:
        raise NotFound("not a web address (with credentials)")
    if not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", host, re.ASCII):
        raise NotFound("not a web address")
    if not private and port not in PORTS.values():
        raise NotFound(f"not a web address (port {port})")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, host, port, quote(path, safe="!$%&'()*+,/:;=?@[]~"))  # what is quoted already stays so


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet; an IPv6 one that stands for an IPv4 one is what that is."""
    ip = ip_address(address)
    if ip.version == 6:
        inner = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        if inner is None and ip not in UNICAST:
            return False
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


# ---- one connection -------------------------------------------------------------------------------------


def left(end: float) -> float:
    """Seconds until `end`; TimeoutError when there are none."""
    if (seconds := end - time.monotonic()) <= 0:
        raise TimeoutError
    return seconds


def resolved(host: str, port: int, end: float) -> list[str]:
    """The addresses of a host. The system's resolver knows no deadline, so a thread waits for it in our stead."""
    answer = queue.SimpleQueue()

    def resolve():
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        found = answer.get(timeout=left(end))
    except queue.Empty:
        raise TimeoutError from None
    if not found or (isinstance(found, socket.gaierror) and found.errno in NO_SUCH_HOST):
        raise NotFound("no such host")
    if isinstance(found, Exception):
        raise found
    return list(dict.fromkeys(place[0] for *_, place in found))


def connect(place: Place, end: float, private: bool):
    """A socket to the host: to one of the very addresses that were checked, so that a second answer cannot differ."""
    addresses = resolved(place.host, place.port, end)
    if not private and not all(is_public(address) for address in addresses):
        raise NotFound("private address")
    for k, address in enumerate(addresses):
        try:  # one that says nothing leaves time for the others
            sock = socket.create_connection((address, place.port), timeout=left(end) / (len(addresses) - k))
            break
        except OSError:
            if k + 1 == len(addresses):
                raise
    if place.scheme == "http":
        return sock
    try:
        sock.settimeout(left(end))
        return tls().wrap_socket(sock, server_hostname=place.host)
    except BaseException:
        sock.close()
        raise


@functools.cache
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class Timed(io.RawIOBase):
    """What a socket receives until `end`: its own timeout would begin anew with every byte that drips in."""

    def __init__(self, sock, end: float):
        self.sock, self.end = sock, end

    def makefile(self, mode):  # all that HTTPResponse wants of a socket
        return io.BufferedReader(self)

    def readable(self):
        return True

    def readinto(self, buffer):
        self.sock.settimeout(left(self.end))
        return self.sock.recv_into(buffer)


def ask(sock, place: Place, end: float) -> HTTPResponse:
    """Ask for a place: the response, its headers read and its body not."""
    host = f"[{place.host}]" if ":" in place.host else place.host
    host += "" if place.port == PORTS[place.scheme] else f":{place.port}"
    headers = {"Host": host, "User-Agent": "dori_lite", "Accept": "*/*", "Accept-Encoding": "identity"}
    lines = [f"GET {place.path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items()), "Connection: close", "", ""]
    sock.settimeout(left(end))
    sock.sendall("\r\n".join(lines).encode("ascii"))
    response = HTTPResponse(Timed(sock, end), method="GET")
    response.begin()
    return response


def body(response: HTTPResponse, most_bytes: int) -> bytes:
    """The body of a response, unless there is none, it is compressed or too large, or not all of it comes."""
    if response.status != 200:
        raise NotFound(f"HTTP {response.status}")
    if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        raise NotFound("not a picture (compressed)")
    promised = response.length or 0  # None without a Content-Length
    data = response.read(most_bytes + 1) if promised <= most_bytes else b""
    if max(promised, len(data)) > most_bytes:
        raise NotFound(f"larger than {most_bytes / 1e6:g} MB")
    if len(data) < promised:  # http.client takes a connection that ends early for the end of the body
        raise NotFound(f"connection failed ({len(data)} of {promised} bytes came)")
    return data
