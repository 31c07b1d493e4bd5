"""Until when a certificate is valid, without the libraries that know all of X.509.

They are 10 MB, and this is one field at a place that never changes (RFC 5280, 4.1): the second
time of the fifth or fourth element of the certificate's first.
"""

import re
import ssl
from datetime import datetime

from amphora_agent import der

_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def expiry(pem: str) -> datetime:
    """When the first certificate of a PEM expires.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    found = _FIRST.search(pem)
    if found is None:
        raise ValueError("there is no certificate in it")
    try:
        certificate = der.content(ssl.PEM_cert_to_DER_cert(found[0]), der.SEQUENCE)
        fields = list(der.elements(der.content(certificate, der.SEQUENCE)))
        # version (if it is not 1), serial number, signature algorithm, issuer, validity
        kind, validity = fields[4 if fields[0][0] == der.VERSION else 3]
        (_, _), (kind, after) = der.elements(validity)
        return der.time(kind, after)
    except (IndexError, ValueError) as error:
        raise ValueError(f"the certificate cannot be read: {error}") from None
