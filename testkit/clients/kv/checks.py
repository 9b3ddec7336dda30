"""Counts what was as it should be."""

import os

HOST, PORT = os.environ["HOST"], int(os.environ["PORT"])
URL = f"redis://{HOST}:{PORT}"
_done = 0


def same(found, expected):
    global _done
    assert found == expected, f"expected {expected!r}, got {found!r}"
    _done += 1


def end():
    print(f"ok {_done} checks")
