"""`python -m fantasytalking` is the command `fantasytalking`; launchers take it as `-m fantasytalking train`."""

from fantasytalking.cli import main

if __name__ == "__main__":
    main()
