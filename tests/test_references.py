"""Reference pictures: what strangers' servers may do, what counts as a picture, and a collection that goes on."""

import hashlib
import io
import json
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import zlib
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dori_lite import files
from dori_lite.stable_diffusion import downloads, references
from dori_lite.stable_diffusion.references import (
    NotFound,
    as_target_image,
    collect,
    download_picture,
    open_picture,
    summary,
)


def noise(width=48, height=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype="uint8"))


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


PICTURE = encoded(noise(), "JPEG")


def answer(content=PICTURE, status="200 OK", **headers):
    """What a server says: a header `Content_Length=None` is left out."""
    headers = {"Content_Type": "image/jpeg", "Content_Length": len(content)} | headers
    lines = [f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items() if v is not None]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode() + content


def moved(to, status="302 Found"):
    return answer(b"", status, Location=to)


class Site:
    """A server on this machine: path → what it says, bytes or a function of the socket. It notes who asked for what."""

    def __init__(self, context=None):
        self.listening, self.context = socket.create_server(("127.0.0.1", 0)), context
        self.port, self.stopped = self.listening.getsockname()[1], threading.Event()
        self.pages, self.requests = {"/a.jpg": answer()}, []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                peer, _ = self.listening.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        wrap = self.context.wrap_socket if self.context else lambda peer, server_side: peer
        with suppress(OSError), wrap(peer, server_side=True) as peer:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (block := peer.recv(65536)):
                    return
                request += block
            self.requests.append(request.decode("ascii"))
            page = self.pages.get(self.requests[-1].split(" ")[1], answer(b"", "404 Not Found"))
            page(peer) if callable(page) else peer.sendall(page)
            with suppress(OSError):
                peer.shutdown(socket.SHUT_WR)

    def drip(self, begin, drop=b"x"):
        """Say `begin`, then a drop every 50 ms, each of them well within any timeout of a socket's."""

        def page(peer):
            peer.sendall(begin)
            while not self.stopped.wait(0.05):
                peer.sendall(drop)

        return page

    def asked(self):
        return [request.split(" ")[1] for request in self.requests]

    def __call__(self, path="/a.jpg", scheme="http"):
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def stop(self):
        self.stopped.set()
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)  # or `accept` goes on waiting
        self.listening.close()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def refused(one_line):
    """Call something that must find nothing, for exactly this reason."""
    return lambda reason, *call, **options: one_line(NotFound, f"^{re.escape(reason)}$", *call, **options)


@pytest.fixture
def hosts(monkeypatch):
    """What the resolver answers: host → addresses, or an error. It notes who asked; what is an address is one."""
    known, asked = {}, []

    def getaddrinfo(host, port, *args, **options):
        if re.fullmatch(r"[\d.]+|.*:.*", host):
            return real(host, port, *args, **options)
        asked.append(host)
        found = known[host](len(asked)) if callable(known[host]) else known[host]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    known["asked"] = asked
    return known


@pytest.fixture
def public(site, hosts, monkeypatch):
    """As if this machine were the public internet: its address is a global one, and the site's port the usual one."""
    real = downloads.is_public
    monkeypatch.setattr(downloads, "is_public", lambda address: address == "127.0.0.1" or real(address))
    monkeypatch.setattr(downloads, "PORTS", {"http": site.port, "https": 443})
    hosts |= {"far.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}
    return hosts


# ---- what is downloaded -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_bytes_come_as_they_are(site, kind):
    content = encoded(noise(), kind)
    site.pages["/a"] = answer(content, Content_Type="text/plain")  # the content counts, not what is said of it
    assert download_picture(site("/a"), private=True) == content


def test_what_is_asked(site):
    site.pages["/a%20b/%C3%BC%25?q=1&r=http://x/y"] = answer()
    assert download_picture(site("/a b/ü%25?q=1&amp;r=http://x/y#part"), private=True) == PICTURE
    line, *headers = site.requests[0].strip().split("\r\n")
    assert line == "GET /a%20b/%C3%BC%25?q=1&r=http://x/y HTTP/1.1"
    known = ["User-Agent: dori_lite", "Accept: */*", "Accept-Encoding: identity", "Connection: close"]
    assert headers == [f"Host: 127.0.0.1:{site.port}", *known]


def test_a_body_in_chunks_or_without_a_length(site):
    chunks = b"".join(b"%x;note\r\n%s\r\n" % (len(c), c) for c in (PICTURE[:100], PICTURE[100:], b""))
    site.pages["/chunks"] = answer(chunks, Content_Length=None, Transfer_Encoding="chunked")
    site.pages["/cut"] = answer(chunks[:-300], Content_Length=None, Transfer_Encoding="chunked")
    site.pages["/open"] = answer(Content_Length=None)
    for path in ("/chunks", "/open"):
        assert download_picture(site(path), private=True) == PICTURE
    with pytest.raises(NotFound, match=r"^connection failed \(IncompleteRead\)$"):
        download_picture(site("/cut"), private=True)


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "500 Oh", "503 Busy", "204 No Content", "302 Found"])
def test_another_status_is_the_reason(site, refused, status):
    site.pages["/x"] = answer(status=status)
    refused(f"HTTP {status[:3]}", download_picture, site("/x"), private=True)


def test_proxies_of_the_environment_are_not_used(site, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert download_picture(site(), private=True) == PICTURE


def test_entities_are_resolved_once_and_only_whole_ones():
    given = "http://x/?a=1&amp;b=2&copy=3&section=4&#38;c=5&amp;amp;d&x26;&lt;"
    assert downloads.unescaped(given) == "http://x/?a=1&b=2&copy=3&section=4&c=5&amp;d&x26;<"


@pytest.mark.parametrize("url", ["", "  \n", None, float("nan"), 7])
def test_no_url(refused, url):
    refused("no url", download_picture, url)


# ---- redirects --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_and_no_more(site, refused, status):
    for k in range(1, 5):
        site.pages[f"/{k}"] = moved(f"/{k - 1}", f"{status} Moved")
    site.pages["/0"] = answer()
    assert download_picture(site("/3"), private=True) == PICTURE
    refused("more than 3 redirects", download_picture, site("/4"), private=True)
    assert site.asked() == ["/3", "/2", "/1", "/0", "/4", "/3", "/2", "/1"]
    refused("more than 0 redirects", download_picture, site("/1"), private=True, redirects=0)


def test_a_loop_ends(site, refused):
    site.pages |= {"/x": moved("/y"), "/y": moved("/x")}
    refused("more than 3 redirects", download_picture, site("/x"), private=True)


def test_redirects_are_relative_to_where_they_stand(site):
    site.pages |= {"/deep/x?q": moved("y"), "/deep/y": moved(f"//127.0.0.1:{site.port}/z"), "/z": moved("/ü &amp;z")}
    site.pages["/%C3%BC%20&amp;z"] = answer()  # it was in UTF-8 and no HTML
    assert download_picture(site("/deep/x?q"), private=True) == PICTURE
    assert site.asked() == ["/deep/x?q", "/deep/y", "/z", "/%C3%BC%20&amp;z"]


@pytest.mark.parametrize(
    "to, reason",
    [
        ("http://inside.example/", "private address"),
        ("http://10.0.0.1/", "private address"),
        ("http://far.example:22/", "not a web address (port 22)"),
        ("file:///etc/passwd", "not a web address (file)"),
        ("http://me:secret@far.example/", "not a web address (with credentials)"),
        ("http://[/", "not a web address"),
    ],
)
def test_where_a_redirect_leads_is_checked_again(site, public, refused, to, reason):
    site.pages["/x"] = moved(to)
    url = f"http://far.example:{site.port}"
    assert download_picture(f"{url}/a.jpg") == PICTURE
    refused(reason, download_picture, f"{url}/x")


# ---- addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url, reason",
    [
        ("file:///etc/passwd", "(file)"),
        ("ftp://far.example/a.jpg", "(ftp)"),
        ("gopher://far.example/", "(gopher)"),
        ("data:image/png;base64,AAAA", "(data)"),
        ("far.example/a.jpg", ""),
        ("//far.example/a.jpg", ""),
        ("http:///a.jpg", ""),
        ("http://[::1/a.jpg", ""),
        ("http://far..example/", ""),
        ("http://far example/", ""),
        ("http://far.example:99999/", ""),
        ("http://me:secret@far.example/", "(with credentials)"),
        ("http://me@far.example/", "(with credentials)"),
        ("http://far.example:22/", "(port 22)"),
        ("https://far.example:8443/", "(port 8443)"),
    ],
)
def test_addresses_that_are_none_of_the_web(hosts, refused, url, reason):
    refused(f"not a web address {reason}".strip(), download_picture, url)
    assert hosts["asked"] == []


def test_an_address_within_another_and_a_foreign_name():
    place = downloads.taken_apart("HTTPS://Web.Archive.org/web/2020/http://bücher.example:81/a.jpg?u=http://x@y/")
    assert place == ("https", "web.archive.org", 443, "/web/2020/http://b%C3%BCcher.example:81/a.jpg?u=http://x@y/")
    assert downloads.taken_apart("http://bücher.example?q").host == "xn--bcher-kva.example"
    assert downloads.taken_apart("http://my_files.example?q") == ("http", "my_files.example", 80, "/?q")
    assert downloads.taken_apart("http://[2001:DB8::1]:443/")[1:3] == ("2001:db8::1", 443)


PRIVATE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 255.255.255.255
::1 :: fc00::1 fd12::1 fe80::1 fe80::1%eth0 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1
2002:7f00:1:: 2002:a00:1::1 64:ff9b::10.0.0.1 64:ff9b::7f00:1 2001:db8::1""".split()


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_asked(hosts, refused, monkeypatch, address):
    assert not downloads.is_public(address)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: pytest.fail("asked"))
    hosts |= {"one.example": [address], "two.example": ["93.184.215.14", address]}
    for host in ("one.example", "two.example"):  # one private address among public ones is enough
        refused("private address", download_picture, f"http://{host}/a.jpg")


@pytest.mark.parametrize(
    "address", "93.184.215.14 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1".split()
)
def test_public_addresses(address):
    assert downloads.is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_this_machine_by_any_name(refused, host):
    try:
        socket.getaddrinfo(host.strip("[]"), 80)
    except OSError:
        pytest.skip("this system does not read it as an address")
    refused("private address", download_picture, f"http://{host}/a.jpg")


def test_what_was_checked_is_what_is_asked(site, public):
    """A name whose second answer is an address inside."""
    public["far.example"] = lambda times: ["127.0.0.1"] if times == 1 else ["10.0.0.1"]
    assert download_picture(f"http://far.example:{site.port}/a.jpg") == PICTURE
    assert public["asked"] == ["far.example"] and "\r\nHost: far.example\r\n" in site.requests[0]


def test_a_dead_address_does_not_hide_the_next(site, hosts, monkeypatch):
    real = socket.create_connection

    def connect(address, timeout):
        if address[0] == "127.0.0.1":
            return real(address, timeout)
        assert timeout <= 10, "it leaves no time for the next"
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    hosts["two.example"] = ["192.0.2.1", "127.0.0.1"]
    assert download_picture(f"http://two.example:{site.port}/a.jpg", private=True) == PICTURE
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "error, reason",
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no such host"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary\nfailure"), "connection failed (Temporary failure)"),
        (OSError(24, "Too many open files"), "connection failed (Too many open files)"),
        ([], "no such host"),
    ],
)
def test_names_that_lead_nowhere(hosts, refused, error, reason):
    hosts["far.example"] = error
    refused(reason, download_picture, "http://far.example/a.jpg")


# ---- little time, little space ----------------------------------------------------------------------------


def test_a_resolver_that_does_not_answer(hosts, refused):
    stopped = threading.Event()
    hosts["far.example"] = lambda times: stopped.wait(60)
    refused("timed out", download_picture, "http://far.example/a.jpg", deadline=0.3)
    stopped.set()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silence(site, refused, scheme):
    """Of a server that takes the connection and says nothing, not even for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/"
        refused("timed out", download_picture, url, private=True, deadline=0.3)


@pytest.mark.parametrize(
    "begin, drop",
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
)
def test_dripping_ends_with_the_deadline(site, refused, begin, drop):
    """Each drop comes in time; all of them would take a minute and more."""
    site.pages["/x"] = site.drip(begin, drop)
    refused("timed out", download_picture, site("/x"), private=True, deadline=0.4)


def test_the_deadline_is_one_for_all_redirects(site, refused):
    def slow(peer):
        site.stopped.wait(0.3)
        peer.sendall(moved("/x"))

    site.pages["/x"] = slow
    refused("timed out", download_picture, site("/x"), private=True, deadline=0.5, redirects=50)


def test_too_large_by_its_own_word_is_not_read(site, refused):
    site.pages["/x"] = site.drip(answer(b"", Content_Length=10**12))
    refused("larger than 20 MB", download_picture, site("/x"), private=True)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_never_ends_is_cut(site, refused, chunked):
    def page(peer):
        peer.sendall(answer(b"", Content_Length=None, **({"Transfer_Encoding": "chunked"} if chunked else {})))
        while not site.stopped.is_set():
            peer.sendall(b"1000\r\n" + bytes(4096) + b"\r\n" if chunked else bytes(4096))

    site.pages["/x"] = page
    refused("larger than 0.1 MB", download_picture, site("/x"), private=True, most_bytes=100_000)


def test_the_largest_that_is_taken(site, refused):
    assert download_picture(site(), private=True, most_bytes=len(PICTURE)) == PICTURE
    site.pages["/open"] = answer(Content_Length=None)
    assert download_picture(site("/open"), private=True, most_bytes=len(PICTURE)) == PICTURE
    for path in ("/a.jpg", "/open"):
        reason = f"larger than {(len(PICTURE) - 1) / 1e6:g} MB"
        refused(reason, download_picture, site(path), private=True, most_bytes=len(PICTURE) - 1)


def test_compressed_is_refused(site, refused):
    site.pages["/x"] = answer(zlib.compress(PICTURE), Content_Encoding="deflate")
    refused("not a picture (compressed)", download_picture, site("/x"), private=True)
    site.pages["/x"] = answer(Content_Encoding="Identity")
    assert download_picture(site("/x"), private=True) == PICTURE


def test_connections_that_fail(site, refused, one_line):
    site.pages["/short"] = answer(PICTURE, Content_Length=len(PICTURE) + 9)
    total = len(PICTURE)
    refused(f"connection failed ({total} of {total + 9} bytes came)", download_picture, site("/short"), private=True)
    site.pages["/none"] = lambda peer: None
    refused("connection failed (RemoteDisconnected)", download_picture, site("/none"), private=True)
    site.pages["/odd"] = b"SSH-2.0\r\n"
    refused("connection failed (BadStatusLine)", download_picture, site("/odd"), private=True)
    site.stop()
    one_line(NotFound, r"^connection failed \(.*refused\)$", download_picture, site(), private=True)


# ---- TLS --------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path):
    """A site with a certificate of its own making for far.example; and the certificate."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=far.example -addext subjectAltName=DNS:far.example"
    command = ["openssl", "req", *options.split(), "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = Site(context)
    yield site, certificate
    site.stop()


def test_certificates_are_checked_against_the_name(secure, hosts, refused, one_line, monkeypatch):
    site, certificate = secure
    hosts |= {"far.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    far, other = (f"https://{host}:{site.port}/a.jpg" for host in ("far.example", "other.example"))
    one_line(NotFound, "^connection failed .self.signed certificate", download_picture, far, private=True)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(downloads, "tls", lambda: trusting)
    assert download_picture(far, private=True) == PICTURE
    one_line(NotFound, "^connection failed .Hostname mismatch", download_picture, other, private=True)
    site.pages["/x"] = site.drip(answer(b"", Content_Length=1000))
    refused("timed out", download_picture, far.replace("a.jpg", "x"), private=True, deadline=1.0)


def test_no_tls_where_it_should_be(one_line):
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve():
            peer, _ = plain.accept()
            with peer:
                peer.sendall(answer(b"", "400 Bad Request"))
                peer.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        url = f"https://127.0.0.1:{plain.getsockname()[1]}/"
        one_line(NotFound, r"^connection failed \(.*SSL", download_picture, url, private=True)


# ---- what a picture is ------------------------------------------------------------------------------------


def test_pages_are_no_pictures(site, refused):
    for text in (b"<!DOCTYPE html><title>Sold</title>", b"\xef\xbb\xbf\n<!-- x -->\n<HTML lang=en>"):
        site.pages["/x.jpg"] = answer(text)
        refused("not a picture (text/html)", download_picture, site("/x.jpg"), private=True)
    for content in (b'{"error": "gone"}', b"<svg xmlns='http://www.w3.org/2000/svg'/>", encoded(noise(), "TIFF")):
        site.pages["/x.jpg"] = answer(content)
        refused("not a picture (no JPEG, PNG, WEBP, GIF or BMP)", download_picture, site("/x.jpg"), private=True)
    site.pages["/x.jpg"] = answer(b"")
    refused("not a picture (empty)", download_picture, site("/x.jpg"), private=True)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_truncated_pictures_are_refused(refused, kind, share):
    content = encoded(noise(), kind)
    assert open_picture(content).size == (48, 32)
    refused("damaged picture", open_picture, content[: 16 + int(share * (len(content) - 16))])


def test_only_the_format_it_begins_like(refused):
    refused("damaged picture", open_picture, b"BM" + encoded(noise())[2:])
    refused("damaged picture", open_picture, b"\xff\xd8\xff" + bytes(range(256)))
    photo_cd = b"\xff\xd8\xff".ljust(2048, b"\0") + b"PCD_" + bytes(1_000_000)  # which says what it is further on
    assert Image.open(io.BytesIO(photo_cd)).format == "PCD"
    refused("damaged picture", open_picture, photo_cd)


def bomb(width, height):
    """A PNG whose header promises more than any memory holds."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_pixels_are_counted_before_they_are_decoded(refused, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    for width, height in ((100_000, 100_000), (8000, 7000)):  # the second is within Pillow's own limit
        refused("larger than 50 million pixels", open_picture, bomb(width, height))


def test_the_pixels_that_are_taken(site, refused):
    assert open_picture(PICTURE, most_pixels=48 * 32).size == (48, 32)
    refused("larger than 0.001535 million pixels", open_picture, PICTURE, most_pixels=48 * 32 - 1)
    reason = "larger than 0.001 million pixels"
    refused(reason, download_picture, site(), private=True, most_pixels=1000)


def test_every_kind_is_rgb():
    image = noise()
    assert np.array_equal(open_picture(encoded(image)), image)
    for kind in ("1", "L", "P", "CMYK", "I;16"):
        if kind == "I;16":
            given = Image.fromarray(np.asarray(image.convert("L")).astype("uint16") * 257)
            content, expected = encoded(given), image.convert("L").convert("RGB")
        else:
            given = image.convert(kind)
            content, expected = encoded(given, "JPEG" if kind == "CMYK" else "PNG"), given.convert("RGB")
        found = open_picture(content)
        assert found.mode == "RGB" and found.size == image.size
        apart = np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean()
        assert apart == 0 if kind != "CMYK" else apart < 20, kind  # JPEG of noise


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 64 * 64).astype("uint16").reshape(64, 64)
    grey = np.asarray(open_picture(encoded(Image.fromarray(ramp))))[..., 0]
    assert np.abs(grey.ravel() - np.linspace(0, 255, 64 * 64)).max() <= 1


def test_transparency_is_put_on_white():
    image = noise().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    alpha = np.asarray(image)[..., 3:] / 255
    expected = np.asarray(image)[..., :3] * alpha + 255 * (1 - alpha)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert np.abs(np.asarray(open_picture(encoded(image, kind, **options))) - expected).max() <= 1
    grey = Image.merge("LA", (image.convert("L"), image.getchannel("A")))
    assert np.asarray(open_picture(encoded(grey)))[0, :, 0].min() > 245  # its first line is all but clear
    palette = noise().convert("P")
    where = np.asarray(palette) == 7
    palette.putpixel((0, 0), 7)
    for kind in ("PNG", "GIF"):
        found = np.asarray(open_picture(encoded(palette, kind, transparency=7)))
        assert (found[0, 0] == 255).all() and (found[where] == 255).all() and (found < 255).any()
    plain = Image.new("RGB", (4, 4), (1, 2, 3))
    assert (np.asarray(open_picture(encoded(plain, transparency=(1, 2, 3)))) == 255).all()


def test_of_an_animation_the_first_frame():
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(first, kind, save_all=True, append_images=[second], duration=100)
        assert Image.open(io.BytesIO(content)).n_frames == 2
        red, green, blue = np.asarray(open_picture(content)).reshape(-1, 3).mean(0)
        assert red > 240 and green < 15 and blue < 15, kind


def test_pictures_stand_upright():
    image, exif = noise(), Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    found = open_picture(encoded(image, exif=exif))
    assert np.array_equal(found, image.transpose(Image.Transpose.ROTATE_270))
    content = encoded(image, exif=b"Exif\0\0nonsense")
    assert np.array_equal(open_picture(content), image)


def test_the_target_is_the_central_square_resized_with_lanczos():
    image = noise(64, 32)
    found = as_target_image(image, 16)
    assert found.shape == (3, 16, 16) and found.dtype == torch.float32 and found.is_contiguous()
    square = image.crop((16, 0, 48, 32))
    expected = np.asarray(square.resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1) / 255
    assert np.allclose(found, expected)
    tall = noise(32, 65)
    expected = np.asarray(tall.crop((0, 16, 32, 48)).resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    assert np.allclose(as_target_image(tall, 16), expected / 255)
    assert torch.equal(as_target_image(square, 32), torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255)
    assert as_target_image(Image.new("L", (3, 5), 255), 7).eq(1).all()  # and enlarged


def test_a_size_that_does_not_fit(one_line):
    one_line(ValueError, "size=0 is not a count", as_target_image, noise(), 0)


# ---- a whole list -----------------------------------------------------------------------------------------


def table(**urls):
    captions = [f"of {name} &amp; more" for name in urls]
    return pd.DataFrame({"name": [*urls], "caption": captions, "url": [*urls.values()]}, dtype=object)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_list_is_collected(site, tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path))
    webp = encoded(noise(seed=1), "WEBP")
    site.pages["/b.jpg?x&y"] = answer(webp)
    rows = table(one=site(), two=site("/b.jpg?x&amp;y"), three=site("/gone"), four="", five=None, six=pd.NA)
    rows.index = [5, 4, 3, 2, 1, 0]
    found = collect(rows, private=True)
    folder = tmp_path / "pictures"
    assert found[["name", "caption", "url"]].equals(rows) and [*found.index] == [*rows.index]
    assert [*found.columns[3:]] == ["origin", "path", "reason", "sha256"]
    assert [*found.origin] == ["url", "url", "", "", "", ""]
    assert [*found.path] == [str(folder / "one.jpg"), str(folder / "two.webp"), "", "", "", ""]
    assert [*found.reason] == ["", "", "HTTP 404", *["no url"] * 3]
    assert [*found.sha256] == [*(hashlib.sha256(data).hexdigest() for data in (PICTURE, webp)), "", "", "", ""]
    assert (folder / "one.jpg").read_bytes() == PICTURE and (folder / "two.webp").read_bytes() == webp
    assert names(folder) == ["one.jpg", "one.json", "three.json", "two.json", "two.webp"]
    assert "path" not in rows and found.equals(collect(found, private=True))
    assert summary(found) == "2 of 6 found (2 by url); missing: 3 no url, 1 HTTP 404"


def test_what_is_finished_is_not_asked_again(site, tmp_path, hosts):
    hosts["nowhere.example"] = socket.gaierror(socket.EAI_NONAME, "unknown")
    final = {"gone": "404 Not Found", "sold": "410 Gone", "legal": "451 Unavailable"}
    passing = {
        "busy": "503 Busy",
        "ill": "500 Oh",
        "slow": "408 Timeout",
        "many": "429 Too Many",
        "closed": "403 Forbidden",
    }
    site.pages |= {f"/{name}": answer(b"", status) for name, status in (final | passing).items()}
    site.pages |= {"/page": answer(b"<html>"), "/huge": answer(b"", Content_Length=10**9), "/turn": moved("/turn")}
    site.pages["/cut"] = answer(PICTURE, Content_Length=10**6)
    site.pages["/half"] = answer(PICTURE[:500])
    final = ["a.jpg", *final, "page", "huge", "turn"]
    passing = [*passing, "cut", "half"]
    rows = table(**{name: site(f"/{name}") for name in final + passing}, nowhere="http://nowhere.example/")
    first = collect(rows, tmp_path, private=True)
    assert first.set_index("name").reason.to_dict() == {
        "a.jpg": "",
        "gone": "HTTP 404",
        "sold": "HTTP 410",
        "legal": "HTTP 451",
        "page": "not a picture (text/html)",
        "huge": "larger than 20 MB",
        "turn": "more than 3 redirects",
        "busy": "HTTP 503",
        "ill": "HTTP 500",
        "slow": "HTTP 408",
        "many": "HTTP 429",
        "closed": "HTTP 403",
        "cut": f"connection failed ({len(PICTURE)} of 1000000 bytes came)",
        "half": "damaged picture",
        "nowhere": "no such host",
    }
    site.requests.clear()
    assert collect(rows, tmp_path, private=True).equals(first)
    assert sorted(site.asked()) == sorted(f"/{name}" for name in passing)
    assert hosts["asked"].count("nowhere.example") == 2
    site.pages["/busy"] = answer()
    assert summary(first) == (
        "1 of 15 found (1 by url); missing: 1 HTTP 404, 1 HTTP 410, 1 HTTP 451, 1 not a picture, 1 larger than 20 MB, "
        "1 more than 3 redirects, 1 HTTP 503, 1 HTTP 500, 1 HTTP 408, 1 HTTP 429, 1 HTTP 403, 1 connection failed, "
        "1 damaged picture, 1 no such host"
    )
    assert collect(rows, tmp_path, private=True).set_index("name").origin["busy"] == "url"


def test_what_was_late_is_asked_again(site, tmp_path):
    rows, site.pages["/drip"] = table(one=site("/drip")), site.drip(b"")
    assert collect(rows, tmp_path, private=True, deadline=0.3).reason[0] == "timed out"
    assert names(tmp_path) == []
    site.pages["/drip"] = answer()
    assert collect(rows, tmp_path, private=True).origin[0] == "url"


def test_limits_are_passed_on(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(references, "download_picture", lambda url, **limits: given.append((url, limits)) or PICTURE)
    collect(table(one="x"), tmp_path)
    collect(table(two="y"), tmp_path, deadline=3, private=True)
    assert given == [("x", {"deadline": 20, "private": False}), ("y", {"deadline": 3, "private": True})]


def test_private_addresses_are_a_reason_that_passes(site, tmp_path):
    rows = table(one=f"http://127.0.0.1:{site.port}/a.jpg", two="http://127.0.0.1/a.jpg")
    assert [*collect(rows, tmp_path).reason] == [f"not a web address (port {site.port})", "private address"]
    assert site.asked() == [] and names(tmp_path) == []
    assert collect(rows[:1], tmp_path, private=True).origin[0] == "url"


def test_a_changed_url_is_fetched_anew(site, tmp_path):
    site.pages["/b.png"] = answer(encoded(noise(seed=1)))
    collect(table(one=site(), two=site("/gone")), tmp_path, private=True)
    found = collect(table(one=site("/b.png"), two=site()), tmp_path, private=True)
    assert site.asked()[2:] in (["/b.png", "/a.jpg"], ["/a.jpg", "/b.png"])
    assert [*found.path] == [str(tmp_path / "one.png"), str(tmp_path / "two.jpg")]
    assert names(tmp_path) == ["one.json", "one.png", "two.jpg", "two.json"]
    found = collect(table(one=site("/busy"), two=site("/gone")), tmp_path, private=True)
    assert [*found.origin] == ["", ""] and names(tmp_path) == ["one.json", "two.json"]


def test_a_url_that_fails_for_now_leaves_the_former_picture(site, tmp_path):
    collect(table(one=site()), tmp_path, private=True)
    site.pages["/busy"] = answer(b"", "503 Busy")
    assert [*collect(table(one=site("/busy")), tmp_path, private=True).path] == [""]
    assert names(tmp_path) == ["one.jpg", "one.json"]
    assert collect(table(one=site()), tmp_path, private=True).origin[0] == "url"
    assert site.asked() == ["/a.jpg", "/busy"]


def test_a_picture_that_was_removed_is_fetched_anew(site, tmp_path):
    collect(table(one=site()), tmp_path, private=True)
    (tmp_path / "one.jpg").unlink()
    found = collect(table(one=site()), tmp_path, private=True)
    assert (tmp_path / "one.jpg").read_bytes() == PICTURE and found.origin[0] == "url"


def test_a_damaged_cache_is_refused_before_anything_is_asked(site, tmp_path, one_line):
    rows = table(one=site(), two=site("/a.jpg?2"))
    collect(rows[:1], tmp_path, private=True)
    (tmp_path / "one.jpg").write_bytes(encoded(noise(seed=1), "JPEG"))
    match = r"one\.jpg has changed since it was downloaded; remove it to download it again$"
    one_line(ValueError, match, collect, rows, tmp_path, private=True)
    assert site.asked() == ["/a.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"url": "x"}',
        '{"url": "x", "kind": "../../x", "sha256": "", "reason": ""}',
        '{"url": "x", "kind": "", "sha256": "", "reason": null}',
    ],
)
def test_a_damaged_record_is_refused(site, tmp_path, one_line, content):
    (tmp_path / "one.json").write_text(content)
    one_line(ValueError, r"one\.json is damaged.*; remove", collect, table(one=site()), tmp_path, private=True)


def test_a_picture_that_nobody_downloaded_is_neither_used_nor_lost(site, tmp_path, one_line):
    (tmp_path / "one.png").write_bytes(encoded(noise()))
    match = (
        r"one\.png was not downloaded by collect; move it to a folder of your own and give that as own, or remove it$"
    )
    one_line(ValueError, match, collect, table(one=site()), tmp_path, private=True)
    assert names(tmp_path) == ["one.png"] and site.asked() == []


def test_an_interrupted_call_keeps_what_is_finished(site, tmp_path, monkeypatch):
    rows, real = table(**{f"n{k}": site(f"/a.jpg?{k}") for k in range(6)}), references.download_picture
    site.pages |= {f"/a.jpg?{k}": answer() for k in range(6)}

    def interrupted(url, **options):
        if url.endswith("?3"):
            raise KeyboardInterrupt
        return real(url, **options)

    monkeypatch.setattr(references, "download_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(rows, tmp_path, private=True, workers=1)
    assert {f"n{k}.{kind}" for k in range(3) for kind in ("jpg", "json")} <= {*names(tmp_path)}
    assert "n3.json" not in names(tmp_path)
    monkeypatch.setattr(references, "download_picture", real)
    assert summary(collect(rows, tmp_path, private=True)) == "6 of 6 found (6 by url)"
    assert sorted(site.asked()) == [f"/a.jpg?{k}" for k in range(6)]  # once each


def test_what_has_not_begun_is_called_off(tmp_path, monkeypatch):
    begun = []

    def slow(url, **options):
        begun.append(url)
        threading.Event().wait(0.05)
        raise KeyboardInterrupt if len(begun) == 1 else NotFound("timed out")

    monkeypatch.setattr(references, "download_picture", slow)
    with pytest.raises(KeyboardInterrupt):
        collect(table(**{f"n{k}": "http://far.example/" for k in range(100)}), tmp_path, workers=1)
    assert len(begun) < 100


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_no_half_of_a_picture_is_left_under_its_name(site, tmp_path, monkeypatch, when):
    write, replace = files.Path.write_bytes, files.os.replace

    def half(path, data):
        write(path, data[:100])
        raise KeyboardInterrupt

    def renamed(source, target):
        if target.suffix == ".jpg":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patched = (files.Path, "write_bytes", half) if when == "writing" else (files.os, "replace", renamed)
        patch.setattr(*patched)
        collect(table(one=site()), tmp_path, private=True)
    assert names(tmp_path) == ["one.json"]
    assert collect(table(one=site()), tmp_path, private=True).origin[0] == "url"
    assert names(tmp_path) == ["one.jpg", "one.json"]


def test_several_at_once(site, tmp_path):
    """Four pages that each wait for the other three: with fewer workers none would be sent."""
    together = threading.Barrier(4)

    def page(peer):
        together.wait(10)
        peer.sendall(answer())

    site.pages |= {f"/{k}": page for k in range(4)}
    rows = table(**{f"n{k}": site(f"/{k}") for k in range(4)})
    assert summary(collect(rows, tmp_path, private=True, workers=4)) == "4 of 4 found (4 by url)"


# ---- pictures of one's own --------------------------------------------------------------------------------


def test_own_pictures_come_first(site, tmp_path):
    own, folder = tmp_path / "own", tmp_path / "cache"
    own.mkdir()
    (own / "one.PNG").write_bytes(encoded(noise(seed=1)))
    (own / "two.jpeg").write_bytes(PICTURE)
    for name in ("four.jpg", "three.txt", "three"):  # of no row, and no pictures
        (own / name).write_bytes(b"x")
    rows = table(one=site(), two="", three=site())
    found = collect(rows, folder, own=own, private=True)
    assert [*found.origin] == ["own", "own", "url"] and site.asked() == ["/a.jpg"]
    assert [*found.path] == [str(own / "one.PNG"), str(own / "two.jpeg"), str(folder / "three.jpg")]
    assert [*found.sha256] == [files.sha256(path) for path in found.path]
    assert names(folder) == ["three.jpg", "three.json"]
    assert summary(found) == "3 of 3 found (1 by url, 2 your own)"
    found = collect(rows, folder, private=True)  # and without them
    assert [*found.origin] == ["url", "", "url"] and [*found.reason] == ["", "no url", ""]


def test_own_pictures_that_cannot_be_used(site, tmp_path, one_line):
    own, rows = tmp_path / "own", table(one=site(), two=site())
    one_line(FileNotFoundError, "own='.*own' is no folder; name the one", collect, rows, tmp_path, own=own)
    own.mkdir()
    one_line(ValueError, "own is where downloads are kept", collect, rows, own, own=own)
    (own / "two.jpg").write_bytes(PICTURE[:1000])
    match = r"two\.jpg cannot be used: damaged picture; replace or remove it$"
    one_line(ValueError, match, collect, rows, tmp_path, own=own, private=True)
    (own / "two.jpg").write_bytes(PICTURE)
    (own / "two.jpeg").write_bytes(PICTURE)
    one_line(ValueError, r"two\.jpg and two\.jpeg have one name", collect, rows, tmp_path, own=own, private=True)
    assert site.asked() == []


# ---- what is no list --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../one", "a/b", "", "..", "a b", "one\n", None, 7])
def test_names_that_no_file_can_have(tmp_path, one_line, name):
    rows = pd.DataFrame({"name": ["fine", name], "url": "http://far.example/"}, dtype=object)
    one_line(ValueError, "^name .* does not fit; give letters", collect, rows, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_that_come_twice_or_are_too_long(tmp_path, one_line):
    for twice in ("one", "ONE"):
        rows = pd.DataFrame({"name": ["one", "two", twice], "url": ""})
        one_line(ValueError, "^name 'one' comes twice.*; give each row", collect, rows, tmp_path)
    rows = pd.DataFrame({"name": ["n" * 201], "url": ""})
    one_line(ValueError, "^name 'nnn.* is too long for a file", collect, rows, tmp_path)


def test_rows_that_are_none(tmp_path, one_line):
    one_line(ValueError, "give a DataFrame", collect, [{"name": "one", "url": ""}], tmp_path)
    for column in ("name", "url"):
        match = f"rows have no column '{column}'; there are:"
        one_line(ValueError, match, collect, table(one="").drop(columns=column), tmp_path)
    one_line(ValueError, "there are no rows", collect, table(one="")[:0], tmp_path)
    one_line(ValueError, "rows have no column 'origin'", summary, table(one=""))
    one_line(ValueError, "workers=0", collect, table(one=""), tmp_path, workers=0)
    for deadline in (0, -1, float("nan"), "soon"):
        one_line(ValueError, "deadline", collect, table(one=""), tmp_path / "new", deadline=deadline)
    assert not (tmp_path / "new").exists()


def test_the_summary_begins_with_the_most_frequent_reason():
    reasons = ["HTTP 404", "no such host", "connection failed (a)", "connection failed (b)", "connection failed"]
    found = pd.DataFrame({"origin": [""] * 5 + ["own"], "reason": [*reasons, ""]})
    said = "1 of 6 found (1 your own); missing: 3 connection failed, 1 HTTP 404, 1 no such host"
    assert summary(found) == said
    assert summary(found[:1]) == "0 of 1 found; missing: 1 HTTP 404"


def test_a_record_says_where_its_picture_is_from(site, tmp_path):
    collect(table(one=site()), tmp_path, private=True)
    record = {"url": site(), "kind": "jpg", "sha256": hashlib.sha256(PICTURE).hexdigest(), "reason": ""}
    assert json.loads((tmp_path / "one.json").read_text()) == record
