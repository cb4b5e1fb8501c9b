"""What can be set of traces for OpenTelemetry."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator

from relay.config.fields import ExistingFile, Form, Name, Section, YesNo
from relay.config.wording import Wrong

_PATH = "/v1/traces"  # of the OTLP/HTTP specification
# A token (RFC 9110 5.6.2), and visible characters but commas.
_HEADER = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100})\s*=\s*([ -+\--~]{0,4000}?)\s*")


def _collector(url: str) -> str:
    """`http[s]://host[:port][/path]`, with the path of the specification where none is given; empty: none."""
    right = "give http://HOST:4318 or https://HOST[:PORT][/PATH]"
    if not url:
        return url
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise Wrong("", f"not the address of a collector; {right}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Wrong("", f"not the address of a collector; {right}")
    if parts.username is not None or parts.query or parts.fragment:
        raise Wrong("", f"a login, ? or # in it; {right}, and what lets you in as OTLP_HEADERS")
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+", parts.hostname):
        raise Wrong("", f"not a host name; {right}")
    if not re.fullmatch(r"[A-Za-z0-9._~/%-]{0,500}", parts.path):
        raise Wrong("", f"not a path; {right}")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path if parts.path.strip('/') else _PATH}"


def headers_of(text: str) -> dict[str, str]:
    """`name=value,name=value` as OTEL_EXPORTER_OTLP_HEADERS has it, without its percent-encoding. Raises ValueError."""
    found = {}
    for part in text.split(","):
        match = _HEADER.fullmatch(part)
        if match is None:
            raise ValueError("not of the form NAME=VALUE, with commas between")
        found[match[1]] = match[2]
    return found


class TelemetrySettings(Section):
    """Traces of every message for an OpenTelemetry collector; needs the extra `otel`."""

    otlp_endpoint: Annotated[
        str, AfterValidator(_collector), Form("the address of a collector", "http://HOST:4318 or https://HOST[:PORT]")
    ] = Field(default="", description="collector that gets them, by OTLP over HTTP: http://HOST:4318 (none: no traces)")
    otlp_headers: Annotated[SecretStr | None, Form("a list of headers", "NAME=VALUE with commas between")] = Field(
        default=None, description="headers for it, NAME=VALUE,…; better as a file in the secrets folder"
    )
    otlp_ca_file: ExistingFile | None = Field(
        default=None, description="CA file trusted for it in place of the system's"
    )
    addresses: YesNo = Field(
        default=False, description="traces also name senders, recipients and what upstreams replied"
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Form("a ratio", "a number from 0 to 1")] = (
        Field(default=1.0, description="part of the messages that is traced, the same in every process")
    )
    service_name: Name = Field(default="relay", description="how this relay is called there")

    @field_validator("otlp_headers")
    @classmethod
    def _readable(cls, headers: SecretStr | None) -> SecretStr | None:
        if headers is not None:
            try:
                headers_of(headers.get_secret_value())
            except ValueError as error:
                raise Wrong("", f"the value given is {error}") from None
        return headers
