"""`collcomm bench`: times the library, and its peers on the same work, alternately in one run."""

from __future__ import annotations
