"""Servers that break HTTP, by accident or to do harm: pages, redirects and URLs with their reasons.

None instead of a reason: the image is downloaded.
"""

import gzip
import socket
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.pipelines.hostile_images import JPEG, SECRET_FILE
from tests.pipelines.web import Page, body, drip, endless, raw, redirect

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = f"Content-Length: {len(JPEG)}\r\n".encode()


def answer(head: bytes, content: bytes = JPEG) -> Page:
    """Status and headers as they are, and a body."""
    return raw(head + b"\r\n" + content)


def slowly(head: bytes, part: bytes) -> Page:
    """A part every 200 ms."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        for _ in range(100):
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(0.2)

    return write


def reset_after(head: bytes) -> Page:
    """Some bytes, and then the connection is reset."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        handler.wfile.flush()
        time.sleep(0.2)  # so that the client has read them
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        handler.connection.close()

    return write


def robots(*values: bytes) -> Page:
    return answer(OK + LENGTH + b"".join(b"X-Robots-Tag: " + value + b"\r\n" for value in values))


def to(location: bytes) -> Page:
    return answer(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n", b"")


PAGES: Mapping[str, tuple[Page, str | None]] = {
    # bodies
    "endless-body": (endless(OK + b"\r\n", b"x" * 100_000), "too_large"),
    "endless-chunks": (endless(CHUNKED, b"5\r\nhello\r\n" * 1000), "too_large"),
    "drip": (drip, "timeout"),
    "chunks-drip": (slowly(CHUNKED, b"1\r\nx\r\n"), "timeout"),
    "shorter-than-said": (answer(OK + b"Content-Length: 99999\r\n"), "incomplete_body"),
    "longer-than-said": (answer(OK + b"Content-Length: 10\r\n"), "bad_response"),
    "length-of-5000-digits": (
        answer(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n"),
        "bad_response",
    ),
    "length-with-a-sign": (answer(OK + b"Content-Length: +5\r\n"), "bad_response"),
    "length-of-two-numbers": (answer(OK + b"Content-Length: 5, 6\r\n"), "bad_response"),
    "chunk-of-2-to-the-64": (raw(CHUNKED + b"ffffffffffffffff\r\nx"), "incomplete_body"),
    "chunk-of-2-to-the-68": (raw(CHUNKED + b"fffffffffffffffff\r\nx"), "bad_response"),
    "chunk-below-zero": (raw(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"), "bad_response"),
    "chunk-with-a-long-extension": (slowly(CHUNKED + b"5;", b"x" * 1000), "timeout"),
    "empty-body": (answer(OK + b"Content-Length: 0\r\n", b""), "not_an_image"),
    "gzip": (body(gzip.compress(JPEG), Content_Encoding="gzip"), "not_an_image"),
    "gzip-bomb": (body(gzip.compress(bytes(10**8)), Content_Encoding="gzip"), "not_an_image"),
    "gzip-in-name-only": (body(JPEG, Content_Encoding="gzip"), None),
    "reset-in-the-body": (reset_after(OK + LENGTH + b"\r\n" + JPEG[:99]), "incomplete_body"),
    # status lines
    "no-answer": (raw(b""), "connection"),
    "reset": (reset_after(b""), "connection"),
    "noise": (raw(bytes(range(256)) * 9), "bad_response"),
    "a-page-without-headers": (raw(b"<html>old</html>"), "bad_response"),
    "an-image-without-headers": (raw(JPEG), "bad_response"),
    "status-of-letters": (answer(b"HTTP/1.1 OK OK\r\n"), "bad_response"),
    "status-of-five-digits": (answer(b"HTTP/1.1 99999 OK\r\n"), "bad_response"),
    "status-without-a-phrase": (answer(b"HTTP/1.1 200\r\n" + LENGTH), None),
    "another-protocol": (answer(b"ICY 200 OK\r\n"), "bad_response"),
    "status-drips": (slowly(b"", b"H"), "bad_response"),
    "endless-status": (endless(b"HTTP/1.1 200 ", b"x" * 10_000), "bad_response"),
    "204": (answer(b"HTTP/1.1 204 No Content\r\n", b""), "http_204"),
    "204-with-a-body": (answer(b"HTTP/1.1 204 No Content\r\n" + LENGTH), "bad_response"),
    "206": (answer(b"HTTP/1.1 206 Partial Content\r\n" + LENGTH), "http_206"),
    "304-with-a-body": (answer(b"HTTP/1.1 304 Not Modified\r\n" + LENGTH), "bad_response"),
    "300": (answer(b"HTTP/1.1 300 Multiple Choices\r\n" + LENGTH), "http_300"),
    "401": (answer(b"HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=x\r\n"), "http_401"),
    "407": (answer(b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n"), "http_407"),
    "999": (answer(b"HTTP/1.1 999 Request denied\r\n"), "http_999"),
    "continue-first": (raw(b"HTTP/1.1 100 x\r\n\r\n" + OK + LENGTH + b"\r\n" + JPEG), None),
    "hints-first": (
        raw(b"HTTP/1.1 103 x\r\nLink: <a>\r\n\r\n" + OK + LENGTH + b"\r\n" + JPEG),
        None,
    ),
    # headers
    "headers-drip": (slowly(OK, b"X: y\r\n"), "timeout"),
    "one-header-drips": (slowly(OK + b"X: ", b"y"), "timeout"),
    "header-with-NUL": (answer(OK + b"X: a\0b\r\n" + LENGTH), "bad_response"),
    "headers-folded": (answer(OK + b"X: a\r\n b\r\n" + LENGTH), None),
    "header-of-a-path": (
        answer(OK + LENGTH + b'Content-Disposition: inline; filename="../../x"\r\n'),
        None,
    ),
    "location-without-redirect": (answer(OK + LENGTH + b"Location: file:///x\r\n"), None),
    "cookies": (answer(OK + LENGTH + b"Set-Cookie: a=b; Domain=.\r\n" * 50), None),
    "another-content-type": (answer(OK + LENGTH + b"Content-Type: text/html\r\n"), None),
    # opting out
    "robots-upper-case": (robots(b"NOAI"), "robots_tag"),
    "robots-none": (robots(b"none"), "robots_tag"),
    "robots-second-line": (robots(b"otherbot: noai", b"noimageai"), "robots_tag"),
    "robots-not-unicode": (robots(b"noai, \xff\xfe\x80"), "robots_tag"),
    "robots-long": (robots(b"noai," + b"x" * 9000), "robots_tag"),
    "robots-of-another": (robots(b"otherbot: noai"), None),
    "robots-empty": (robots(b""), None),
    "robots-all": (robots(b"all"), None),
    # Retry-After
    "retry-garbage": (body(b"", 429, Retry_After="soon"), "http_429"),
    "retry-negative": (body(b"", 429, Retry_After="-1"), "http_429"),
    "retry-now": (body(b"", 429, Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"), "http_429"),
    "retry-impossible": (body(b"", 503, Retry_After="Thu, 99 Foo 9999 99:99:99"), "http_503"),
    "retry-of-another-status": (body(b"", 404, Retry_After="99999"), "http_404"),
}
# Each needs a host of its own, because the whole host pauses.
PAUSES: Mapping[str, tuple[Page, str]] = {
    "retry-huge": (body(b"", 429, Retry_After="9" * 400), "rate_limited"),
    "retry-days": (body(b"", 503, Retry_After="999999"), "rate_limited"),
    "retry-year-9999": (
        body(b"", 429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
        "rate_limited",
    ),
}

# Where a page redirects to. {here} is the address of the server.
LOCATIONS: Mapping[bytes, str | None] = {
    b"": "http_302",
    b"/loop": "too_many_redirects",
    b"?": "too_many_redirects",
    b"/good": None,
    b"../good": None,
    b"./a/../../good": None,
    b"//{here}/good": None,
    b"  http://{here}/good  ": None,
    b"HTTP://{here}/good#part": None,
    b"/\xff\xfe": "http_404",
    "/grün".encode(): "http_404",
    b"/a b\tc": "http_404",
    b"http://user:pass@{here}/good": "credentials",
    b"http://{here}@10.0.0.1/": "credentials",
    b"http://{here}\\@10.0.0.1/": "credentials",
    b"file://" + SECRET_FILE.encode(): "scheme",
    b"file:" + SECRET_FILE.encode(): "scheme",
    b"ftp://{here}/good": "scheme",
    b"gopher://{here}/good": "scheme",
    b"data:image/png;base64,iVBORw0KGgo=": "scheme",
    b"javascript:alert(1)": "scheme",
    b"blob:http://{here}/good": "scheme",
    b"//10.0.0.1/x": "private_address",
    b"http://127.1/": "private_address",
    b"http://2130706433/": "private_address",
    b"http://0x7f000001/": "private_address",
    b"http://017700000001/": "private_address",
    b"http://0/": "private_address",
    b"http://127.0.0.1:1/": "private_address",
    b"http://LOCALHOST/": "private_address",
    b"http://[::1]/": "private_address",
    b"http://[::]/": "private_address",
    b"http://[::ffff:127.0.0.1]/": "private_address",
    b"http://[::ffff:7f00:1]/": "private_address",
    b"http://[::127.0.0.1]/": "private_address",
    b"http://[64:ff9b::7f00:1]/": "private_address",
    b"http://[2002:7f00:1::]/": "private_address",
    b"http://[fe80::1]/": "private_address",
    b"http://[fe80::1%lo]/": "bad_url",
    b"http://[fe80::1%25lo]/": "bad_url",
    "http://１２７.0.0.1/".encode(): "private_address",
    "http://①②⑦.⓪.⓪.①/".encode(): "private_address",
    b"http://169.254.169.254/latest/meta-data/": "private_address",
    b"http://[fd00:ec2::254]/latest/": "private_address",
    b"http://100.64.0.1/": "private_address",
    b"http://192.0.0.1/": "private_address",
    b"http://": "too_many_redirects",
    b"http:///x": "http_404",
    b"http://[::1": "bad_url",
    b"http://[::g]/": "bad_url",
    b"http://1.1.1.1:99999/": "bad_url",
    b"http://1.1.1.1:x/": "bad_url",
    b"http://\xff\xfe/": "bad_url",
    b"http://" + b"a" * 5000 + b"/": "bad_url",
    b"http://a..invalid/": "bad_url",
    b"http://a\0b/": "bad_response",
}

# Rows of the list itself.
URLS: Mapping[str, str | None] = {
    "": "scheme",
    " ": "scheme",
    SECRET_FILE: "scheme",
    f"file://{SECRET_FILE}": "scheme",
    f"file://localhost{SECRET_FILE}": "scheme",
    f"FILE://{SECRET_FILE}": "scheme",
    "http:": "bad_url",
    "http://[::1": "bad_url",
    "http://a\0b.invalid/x": "bad_url",
    "http://\x1b[31mred.invalid/x": "bad_url",
    "http://a b.invalid/": "bad_url",
    "http://\u202egnp.invalid/": "bad_url",
    "http://me:secret@{here}/good": "credentials",
    "http://{here}/good?\0\x1b": "http_404",
    "http://{here}/" + "x" * 70_000: "http_414",
    "\n http://{here}/good \t": None,
    "https://{here}/good": "tls",
}


def pages() -> dict[str, Page]:
    """All pages by path."""
    found: dict[str, Page] = {f"/{name}": page for name, (page, _) in PAGES.items()}
    return {**found, "/good": body(JPEG), "/loop": redirect("/loop")}


def location_pages(here: str, secret: Path) -> dict[str, Page]:
    """The pages that redirect, by path. here: host and port. secret: in place of `SECRET_FILE`."""
    filled = [
        location.replace(b"{here}", here.encode()).replace(SECRET_FILE.encode(), bytes(secret))
        for location in LOCATIONS
    ]
    return {f"/to/{number}": to(location) for number, location in enumerate(filled)}
