"""Entry point of the `relay` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; the exit status is 0 done, 1 refused or not found, 2 wrong usage."""
    from relay.cli.tree import run
    from relay.credentials.hardening import harden_process

    harden_process()  # commands hold passwords, too; the daemon says what could not be done
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
