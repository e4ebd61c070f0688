"""`python -m signal_manager` is the command line."""

from signal_manager.cli.main import main

if __name__ == "__main__":
    main()
