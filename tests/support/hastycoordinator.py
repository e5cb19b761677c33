"""`collcomm`, but pairs return from their relays after three seconds, not after a minute."""

from __future__ import annotations

from collcomm.cli import main
from collcomm.membership import ways

RETURN_SECONDS = 3.0

if __name__ == "__main__":
    ways.RETURN_SECONDS = RETURN_SECONDS
    main()
