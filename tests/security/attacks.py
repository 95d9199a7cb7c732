"""Shared by the attacks: files that act when read carelessly, and texts that are obeyed."""

from __future__ import annotations

import os
from pathlib import Path


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.makedirs, (str(self.marker),)


SCRIPT = "<script>window.hacked = 1</script>"
# By what it would do where it is not taken for text.
TEXTS = {
    "script": SCRIPT,
    "attribute": '"\'><img src=x onerror="window.hacked = 1">',
    "template": "{{7*191}}{% raw %}",
    "cell": "| a | b\n| --- | --- |\n",
    "link": "[click](javascript:window.hacked=1)",
    "code": "`</code><svg onload=window.hacked=1>",
    "latex": "\\input{/etc/passwd}\\write18{touch hacked}$$%#&_^~",
    "row": "[2pt]*",
    "formula": "=cmd|'/c calc'!A1",
    "escape": "\x1b]0;title\x07\x1b[2J\x1b[31m\x9b31m\r\x08",
    "direction": "\u202eevil\u2066\u200b",
    "markup": "[bold red]x[/][link=https://evil.example]y",
    "surrogate": "\ud800 lone",
    "path": "../../../escaped/x",
    "formula of figures": r"$\frac{x}{",
    "null": "a\0b",
}
# Those that no output may have in it, whatever its format.
OBEYED = ("\x1b", "\x9b", "\x07", "\x08", "\0", "\u202e", "\u2066", "\u200b")
