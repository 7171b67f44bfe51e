"""`python -m neuroglot.cli`."""

from __future__ import annotations

from neuroglot.cli import main

main()
