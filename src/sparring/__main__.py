"""`python -m sparring`, also for torchrun and accelerate."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="sparring")
