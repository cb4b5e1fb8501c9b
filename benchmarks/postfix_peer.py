"""Debian's Postfix as a relay with sender-dependent SASL: as documented, and tuned as far as we know how.

default  `smtp_sender_dependent_authentication` with one password map. Postfix switches its connection cache off in this
         mode: each message is a connection, a resumed TLS session and a login. All accounts are one destination, so an
         upstream limit of 3 an account leaves 3 connections for all ten together.
tuned    a transport of its own for each account (at most 3 processes each, own password map), TLS connections reused,
         no in-flow delay. Under an upstream limit reuse is off: parked connections would exceed it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.gauge import Gauge
from benchmarks.scenarios import Scenario
from benchmarks.upstream import Site
from tests.peers.postfix import PrivatePostfix, free_port, missing

COMMON = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_security_options": "noanonymous",
    "smtp_sasl_mechanism_filter": "plain",
    "smtp_tls_security_level": "secure",
    "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "message_size_limit": "52428800",
}


class PostfixPeer:
    """One variant; a fresh instance for each measurement."""

    def __init__(self, site: Site, *, tuned: bool) -> None:
        self.name = "postfix.tuned" if tuned else "postfix.default"
        self.port = free_port()
        self._site = site
        self._tuned = tuned
        self._folder = site.folder / self.name
        self._postfix: PrivatePostfix | None = None

    @staticmethod
    def missing() -> str:
        """Why it cannot run here; empty if it can."""
        return missing()

    def prepare(self) -> None:
        """Nothing is kept from one measurement to the next."""

    def start(self, scenario: Scenario, gauge: Gauge) -> None:
        """Start with an empty queue; its processes belong to `gauge`."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o755)
        site = self._site
        relayhost = f"[localhost]:{site.port}"
        settings = COMMON | {"relayhost": relayhost, "smtp_tls_CAfile": str(site.certificates.ca)}
        services = f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
        if self._tuned:
            settings |= {
                "in_flow_delay": "0",
                "sender_dependent_default_transport_maps": f"hash:{self._folder}/config/transports",
            }
            services += self._transports(reuse=scenario.max_per_account == 0)
        else:
            settings |= {
                "smtp_sender_dependent_authentication": "yes",
                "smtp_sasl_password_maps": f"hash:{self._folder}/config/passwords",
            }
            if scenario.max_per_account:
                settings["smtp_destination_concurrency_limit"] = str(scenario.max_per_account)
        postfix = PrivatePostfix(self._folder, settings, services, (self.port,))
        postfix.configure()
        self._tables(postfix, relayhost)
        self._postfix = postfix
        postfix.start(gauge.prefix)
        if master := postfix.master_pid():
            gauge.follow(master)

    def stop(self) -> None:
        """Stop it and remove its folder."""
        if self._postfix is not None:
            self._postfix.stop()
            self._postfix = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> Path:
        """Its log, while it runs."""
        return self._folder / "postfix.log"

    def _transports(self, *, reuse: bool) -> str:
        lines = []
        for number in range(len(self._site.accounts)):
            lines.append(
                f"account{number} unix - - n - 3 smtp\n"
                f"  -o smtp_sasl_password_maps=hash:{self._folder}/config/passwords{number}\n"
                f"  -o smtp_tls_connection_reuse={'yes' if reuse else 'no'}\n"
            )
        return "".join(lines)

    def _tables(self, postfix: PrivatePostfix, relayhost: str) -> None:
        accounts = self._site.accounts
        if not self._tuned:
            postfix.table("passwords", {address: f"{address}:{password}" for address, password in accounts.items()})
            return
        for number, (address, password) in enumerate(accounts.items()):
            postfix.table(f"passwords{number}", {relayhost: f"{address}:{password}"})
        postfix.table(
            "transports", {address: f"account{number}:{relayhost}" for number, address in enumerate(accounts)}
        )
