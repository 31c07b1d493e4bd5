"""Kinds of strings and numbers in a load balancer, each with what it may be made of.

Every string that reaches a configuration is of one of these. They allow what Octavia's API allows,
as far as its meaning in haproxy is the same as in Octavia's words; none allows a control character,
and so none a line break. The patterns are written for both Python and JSON Schema (ECMA 262), which
is why they end in `$(?!\\n)`: Python's `$` alone would let a final newline pass.
"""

from typing import Annotated

from msgspec import Meta

#: As RFC 9110 and 6265 have it, without the apostrophe, which haproxy's expressions cannot say.
_NAME = "[A-Za-z0-9!#$%&*+.^_`|~-]{1,255}"


def _text(pattern: str, description: str, *examples: str) -> Meta:
    return Meta(pattern=rf"^{pattern}$(?!\n)", description=description, examples=list(examples))


Id = Annotated[
    str,
    _text(
        "[0-9A-Za-z][0-9A-Za-z_-]{0,63}",
        "An id: 1 to 64 letters, digits, - and _. Octavia's are UUIDs.",
        "607226db-27ef-4d41-ae89-f2a800e9c2db",
    ),
]
#: For people; it is stored and given back, and reaches no configuration.
Text = Annotated[str, Meta(max_length=255)]

Port = Annotated[int, Meta(ge=1, le=65535)]
#: Share of the requests, compared with the other members'; 0: no new ones.
Weight = Annotated[int, Meta(ge=0, le=256)]
#: How many connections at once; -1 and 0: the default.
ConnectionLimit = Annotated[int, Meta(ge=-1, le=2_147_483_647)]
Milliseconds = Annotated[int, Meta(ge=0, le=24 * 24 * 60 * 60 * 1000)]
#: As long as keepalived and haproxy both understand.
Seconds = Annotated[int, Meta(ge=1, le=24 * 24 * 60 * 60)]
Retries = Annotated[int, Meta(ge=1, le=10)]
Position = Annotated[int, Meta(ge=1, le=2_147_483_647)]
MaxAge = Annotated[int, Meta(ge=0, le=2_147_483_647)]

HeaderName = Annotated[
    str, _text(_NAME, "The name of an HTTP header (RFC 9110, token).", "X-Tenant")
]
CookieName = Annotated[str, _text(_NAME, "The name of a cookie (RFC 6265, token).", "JSESSIONID")]
Url = Annotated[
    str,
    _text(
        r"https?://[A-Za-z0-9._~:/?#@!$&'()*+,;=%\[\]-]{1,247}",
        "An absolute http or https URL (RFC 3986).",
        "https://www.example.org/new",
    ),
]
UrlPath = Annotated[
    str,
    _text(
        "/[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{0,254}",
        "The path of a URL, perhaps with a query (RFC 3986).",
        "/health",
    ),
]
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DomainName = Annotated[
    str, _text(rf"(?=.{{1,253}}\.?$){_LABEL}(\.{_LABEL})*\.?", "A host name.", "www.example.org")
]
ExpectedCodes = Annotated[
    str,
    _text(
        "[1-5][0-9]{2}(-[1-5][0-9]{2}|(,[1-5][0-9]{2}){0,15})",
        "One HTTP status, a list, or a range.",
        "200",
        "200,202",
        "200-204",
    ),
]
Ciphers = Annotated[
    str,
    _text(
        "[A-Za-z0-9!+@=_.-]{1,64}(:[A-Za-z0-9!+@=_.-]{1,64}){0,63}",
        "Cipher suites by OpenSSL's names, separated by colons; those of TLS 1.3 among them.",
        "ECDHE-RSA-AES256-GCM-SHA384:TLS_AES_256_GCM_SHA384",
    ),
]
#: What a rule compares with: printable ASCII. Its type and comparison say more (validation.py).
RuleValue = Annotated[
    str,
    _text(
        "[ -~]{1,255}",
        "What to compare with: printable ASCII. For REGEX a regular expression.",
        "/images",
    ),
]
Pem = Annotated[
    str,
    Meta(
        pattern=r"^[\t\r\n -~]*-----BEGIN [A-Z0-9 ]+-----[\t\r\n -~]*$",
        max_length=1 << 18,
        description="One or several PEM blocks (RFC 7468).",
    ),
]
