"""`python -m ants_lightning` is the command `ants-lightning`."""

from ants_lightning.cli import main

if __name__ == "__main__":
    main()
