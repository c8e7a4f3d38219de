"""`python -m pml_hashing` is the command `pml-hashing`."""

from pml_hashing.command import main

if __name__ == "__main__":
    main()
