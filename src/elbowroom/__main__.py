"""``python -m elbowroom``, for where the console script is not on the path."""

from elbowroom.cli import main

main()
