"""`python -m vod2` is the command `vod2`."""

from vod2.commands import main

if __name__ == "__main__":
    main()
