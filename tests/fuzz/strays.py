"""Requests to every route, in the document or not, and to addresses beside them: odd paths, queries and headers."""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from random import Random

from door_support import BOUNDARY, case, form, part
from hypothesis import strategies as st
from werkzeug.routing import Rule

from fuzz.application import GITHASH, SERVICE, STATES, TOKEN, Application, Asked, judged
from fuzz.chance import feed
from fuzz.noise import damage
from fuzz.report import options, report_of
from fuzz.zips import zip_damage

BATCH = 200
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "get", "X\u00e4")
WORDS = (
    "", "one", "all", "two", "..", "%2e%2e", "a b", "%00", "%ff", "%c3%28", "%ed%a0%80", "é", "a" * 5000, "{finished}",
    "0", "-1", "1e999", "9" * 30, "true", "null", "nan", "'", '"', "<b>", ";", "?", "#", "\\", "*", "[", "inf",
)  # fmt: skip
NAMES = ("wait", "revision", "status", "model", "dialect", "limit", "cursor", "since", "model_human_readable_id", "x")
HEADERS = {
    "Authorization": ("Bearer", "Bearer \xff", "Basic !!!", "Basic Og==", "Digest a=b", "Bearer ist_00_x", " "),
    "Range": ("bytes=0-", "bytes=-0", "bytes=9-1", "bytes=0-0,1-1", "bytes=99999999999999999999-", "x=1", "bytes=a-b"),
    "If-Range": ("x", '"x"', "Thu, 99 Jan 99999 00:00:00 GMT"),
    "If-Modified-Since": ("Thu, 01 Jan 1970 00:00:00 GMT", "0", "Thu, 99 Jan 99999 00:00:00 GMT"),
    "If-None-Match": ("*", "W/", '"'),
    "Host": ("", "x:y", "[::1", "evil.example", "127.0.0.1:999999", "a/b"),
    "Origin": ("null", "https://evil.example", "x"),
    "Accept": ("*/*;q=x", "application/xml", ""),
    "Content-Type": ("", "multipart/form-data", "multipart/form-data; boundary=", "application/json", "a/b; charset=x",
                     'multipart/form-data; boundary="\\', "application/x-www-form-urlencoded", "text/plain;" * 99),
    "Cookie": ("a=b; =; ;;", "session=\xff"),
    "Idempotency-Key": ("", "k", "k" * 201, "\xff"),
    "X-Forwarded-For": ("1.2.3.4", ","),
    "X-Forwarded-Host": ("evil.example",),
}  # fmt: skip


IDS = ("1", "1", "2", "3", "0", "9" * 30)
"""Of tickets, files, lines of a log and users; that of a ticket that waits for files, and of one that is claimed."""
FILLED = {
    "model": ("one", "all"),
    **dict.fromkeys(("ticket", "number", "user", "log_id"), IDS),
    "area": ("input", "results"),
    "category": ("info", "warning", "log"),
    "githash": (GITHASH,),
    "provider": ("penn",),
    "which": ("completed", "all"),
}
FIELDS = {
    "githash": (GITHASH, "0" * 40, "1"),
    "name": ("one", "fuzzed", "penn"),
    "status": ("ready", "success", "failed", "claimed", "x"),
    "services": (GITHASH, f"{GITHASH},,{GITHASH}", "x"),
    "provider": ("penn", "x"),
    "code": ("a", "a" * 300),
    "message": ("half & half", "%ff", "a\r\nb", "\0"),
    "chunk_start": ("0", "0.5", "nan", "-1", "1e999"),
    "chunk_end": ("1", "0.5", "inf", "x"),
    "progress": ("0", "0.5", "1", "-0", ""),
    "email": ("fuzz", "nobody"),
    "service": (SERVICE, "{}", "[" * 5000, "1e999"),
    "token": ("x" * 40, "ist_0_x", ""),
    "days": ("100", "nan", "-1", "1e999"),
}
"""Of forms of the DSS door."""


def stray(rules: list[Rule], random: Random) -> Asked:
    """Return a request."""
    rule = random.choice(rules)
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: _filled(found[1], random), rule.rule)
    if random.random() < 0.15:
        path = damage(path.encode(), random).decode("latin-1").lstrip("?") or "/"
    usual = sorted((rule.methods or {"GET"}) - {"HEAD", "OPTIONS"})
    method = random.choice(usual) if random.random() < 0.85 else random.choice(METHODS)
    query = "&".join(f"{random.choice(NAMES)}={random.choice(WORDS)}" for _ in range(random.choice((0, 0, 1, 2, 3))))
    body, kind = _body(random) if method in ("POST", "PUT", "PATCH") else (b"", None)
    headers = {**(TOKEN if random.random() < 0.85 else {}), **({"Content-Type": kind} if kind else {})}
    for name in random.sample(sorted(HEADERS), random.choice((0, 0, 1, 2, 3))):
        headers[name] = random.choice(HEADERS[name])
    return Asked(method, "/" + path.lstrip("/"), query, headers, body)


def _filled(name: str, random: Random) -> str:
    if random.random() < 0.25:
        return random.choice(WORDS)
    return random.choice(FILLED[name]) if name in FILLED else "{" + random.choice(STATES) + "}"


def _body(random: Random) -> tuple[bytes, str]:
    kind = random.random()
    if kind < 0.1:
        return random.choice((b"", b"{", b"[]", b"{}", b"a=b&c", b"\xff" * 100)), "application/json"
    if kind < 0.4:
        return _fields(random), "application/x-www-form-urlencoded"
    if kind < 0.5:
        file = part("myfile", b"<registry/>", random.choice(("a.itksnap", "b.nii.gz", "../c", "")))
        return form(file, part("submit", "send"))["data"], f"multipart/form-data; boundary={BOUNDARY}"
    content = case() if random.random() < 0.4 else zip_damage(case(), random)
    named = random.choice(("case", "zip_file", "image", "request_id"))
    parts = [part("model", random.choice(("one", "all"))), part(named, content, "c.zip")]
    body: bytes = form(*random.sample(parts, random.choice((1, 2, 2))))["data"]
    return (damage(body, random) if random.random() < 0.2 else body), f"multipart/form-data; boundary={BOUNDARY}"


def _fields(random: Random) -> bytes:
    """Return a form as the C++ client sends it, which encodes nothing."""
    chosen = random.sample(sorted(FIELDS), random.choice((1, 2, 3, 5, len(FIELDS))))
    content = "&".join(f"{name}={random.choice(FIELDS[name])}" for name in chosen).encode()
    return damage(content, random) if random.random() < 0.2 else content


def _shown(asked: Asked) -> str:
    """Return the method and the part of the path that says which door it is."""
    return f"{asked.method} {'/'.join(asked.path.split('/')[:4])[:30]}"


def main() -> None:
    """Send requests, a number of them or until the time is up."""
    asked = options()
    report, corpus = report_of(asked)
    logging.disable(logging.ERROR)
    # What watches for those who wait may look at the records once more when they are gone, and so make their file anew.
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        application = Application(Path(folder))
        rules = sorted(application.doors.app.url_map.iter_rules(), key=str)

        def send(request: Asked) -> None:
            content = request.stored()
            report.expect(content)
            verdict, _ = judged(application, request, _shown(request))
            report.note(content, verdict)

        def one(random: Random) -> None:
            if not report.over:
                send(stray(rules, random))

        for content in corpus.inputs():
            send(Asked.restored(content))
        number = asked.seed * 10_000
        while not report.over:
            feed(one, st.randoms(use_true_random=False), count=asked.examples or BATCH, number=number)
            if asked.examples:
                break
            number += 1
        application.close()
    report.write(over=True)


if __name__ == "__main__":
    main()
