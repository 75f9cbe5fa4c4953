"""`python -m heedful`, and what `accelerate launch -m heedful ...` starts."""

from heedful.cli import main

if __name__ == "__main__":
    main()
