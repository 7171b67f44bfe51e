"""`python -m neuroglot`."""

from neuroglot.cli import main

if __name__ == "__main__":
    main()
