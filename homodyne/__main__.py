"""``python -m homodyne``: the command line, for jobs that know the interpreter but not its path of programs."""

from homodyne.cli import main

if __name__ == "__main__":
    main()
