"""Environment variables that processes of the clients read."""

from __future__ import annotations

BACKEND = "CLIENTS_BACKEND"  # name of the backend
FOLDER = "CLIENTS_FOLDER"  # a folder that all ranks of a start share
