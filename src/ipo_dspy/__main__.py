"""The command line as `python -m ipo_dspy`."""

from ipo_dspy.cli import main

if __name__ == "__main__":
    main()
