"""`python -m neuroglot`."""

from __future__ import annotations

from neuroglot.cli import main

if __name__ == "__main__":
    main()
