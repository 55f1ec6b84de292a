"""Hostile inputs as values, for ``make fuzz``: written as files, kept, and made by mutations.

A mutation changes bytes, a JSON value or a folder's files, and returns a few words on what it did.
"""

import base64
import copy
import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Files = dict[str, bytes | str]
"""By path: the content, or what stands there instead: ``fifo``, ``folder``, ``link TARGET``."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its files, and the arguments that its kind reads them with."""

    kind: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes | str]
    mutations: tuple[str, ...]

    def write(self, folder: Path) -> None:
        """Write the files below ``folder``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            elif content == "fifo":
                os.mkfifo(path)
            elif content == "folder":
                path.mkdir(exist_ok=True)
            else:
                path.symlink_to(content.removeprefix("link "))

    def to_json(self) -> str:
        """Return the input as a text that :meth:`from_json` reads."""
        content = {
            "kind": self.kind,
            "mutations": self.mutations,
            "arguments": self.arguments,
            "files": {
                name: base64.b64encode(content).decode()
                if isinstance(content, bytes)
                else [content]
                for name, content in self.files.items()
            },
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Input":
        """Return the input that :meth:`to_json` wrote."""
        raw = json.loads(text)
        files = {
            name: content[0] if isinstance(content, list) else base64.b64decode(content)
            for name, content in raw["files"].items()
        }
        return cls(raw["kind"], tuple(raw["arguments"]), files, tuple(raw["mutations"]))


def mark(text: str) -> str:
    """Return a string, as value or key, that :func:`dump` writes as ``text``, JSON or not."""
    return f"\ue000{text.encode('utf-8', 'surrogatepass').hex()}\ue001"


_MARKED = re.compile('"\ue000([0-9a-f]*)\ue001"')


def dump(tree: Any) -> bytes:
    """Return the JSON of ``tree``, with what :func:`mark` marked put in."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    text = _MARKED.sub(lambda marked: bytes.fromhex(marked[1]).decode("utf-8", "replace"), text)
    return text.encode("utf-8", "surrogatepass")


VALUES = (
    None, True, False, -1, 10, 31, 255, 256, 2**31, 2**63, 2**64, 10**30, 0.0, 1.0, 1.5, "", "1",
    "\n", "\ud800", [], {}, [[]], [[0]], [0], {"input": [[0]], "output": [[0]]},
    *map(mark, (
        "NaN", "Infinity", "-Infinity", "1e400", "-0", "1E0", "01", "+1", "1.", ".5", "0x1", "'a'",
        r'"\ud800"', r'"\u0000"', '"a\tb"', "", "nul", "1 // one", "9" * 5000, "[1,]", "{'a':1}",
        *("[" * depth + "]" * depth for depth in (5, 90, 990, 1010, 3000, 100_000)),
        *('{"a":' * depth + "1" + "}" * depth for depth in (5, 90, 1000, 100_000)), "[" * 100_000,
    )),
)  # fmt: skip
"""Values that are wrong in most places."""

KEYS = ("", "train", "test", "input", "output", "attempt_1", "attempt_3", "id", "a\nb", "\x1b[2J",
        "\u202e", "\ud800", "é", "0" * 300, "Input", "input ", "__class__", "../x",
        "name")  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """Return one of the values; a copy, as later mutations change what is in a tree."""
    return copy.deepcopy(rng.choice(VALUES))


def pick(rng: random.Random, tree: Any) -> tuple[Any, Any] | None:
    """Return a list or object somewhere in ``tree`` and a position in it; None for an empty one."""
    if not isinstance(tree, list | dict) or not tree:
        return None
    while True:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        child = tree[key]
        if not isinstance(child, list | dict) or not child or rng.random() < 0.3:
            return tree, key
        tree = child


def mutate_tree(rng: random.Random, tree: Any) -> str:
    """Change a value of a JSON tree in place."""
    place = pick(rng, tree)
    if place is None:
        return "nothing to change"
    inside, key = place
    value = inside[key]
    changes = ["replace", "replace", "replace", "delete", "wrap"]
    if type(value) is int and 0 <= value <= 9:
        changes += ["recolor"] * 3
    if isinstance(inside, dict):
        changes += ["rename", "repeat the key", "repeat the key", "add a key"]
    else:
        changes += ["double", "cut", "fill", "swap"]
    change = rng.choice(changes)
    match change:
        case "replace":
            inside[key] = odd_value(rng)
        case "delete":
            del inside[key]
        case "wrap":
            inside[key] = [value]
        case "recolor":
            inside[key] = rng.choice((-1, 10, rng.randrange(10)))
        case "rename":
            inside[rng.choice(KEYS)] = inside.pop(key)
        case "add a key":
            inside[rng.choice(KEYS)] = odd_value(rng)
        case "repeat the key":
            again = json.dumps(key) + " " * rng.randrange(3)  # to JSON the same key
            inside[mark(again)] = rng.choice((value, value, odd_value(rng)))
        case "double":
            inside.insert(rng.randrange(len(inside) + 1), value)
        case "cut":
            del inside[key:]
        case "fill":
            inside += [value] * rng.choice(
                (1, 30, max(0, 30 - len(inside)), max(0, 31 - len(inside)))
            )
        case _:
            other = rng.randrange(len(inside))
            inside[key], inside[other] = inside[other], value
    return f"{change} {str(key)[:40]!r}"


def mutate_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return the content with some bytes changed."""
    at = rng.randrange(len(content) + 1)
    length = rng.choice((1, 1, 2, 8, 64, 1024))
    change = rng.choice((
        "flip", "flip", "cut", "delete", "insert", "double", "digit", "mark", "encode", "append",
        "prepend", "nothing left",
    ))  # fmt: skip
    before, after = content[:at], content[at:]
    match change:
        case "flip" if after:
            content = before + bytes([after[0] ^ 1 << rng.randrange(8)]) + after[1:]
        case "cut":
            content = before
        case "delete":
            content = before + after[length:]
        case "insert":
            content = before + rng.randbytes(length) + after
        case "double":
            content = before + after[:length] + after
        case "digit" if after:
            content = before + rng.choice((b"0", b"9", b",", b"[", b"]", b'"', b" ")) + after[1:]
        case "mark":
            content = b"\xef\xbb\xbf" + content
        case "encode":
            encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-7"))
            content = content.decode("latin-1").encode(encoding)
        case "append":
            content += rng.choice(
                (b"\n", b" \t\r\n", b"\0", b"]", b"{}", b",", b"\xff", b"\x1a", b"\x0c")
            )
        case "prepend":
            content = (
                rng.choice((b"\n ", b"\0", b"\xc2\xa0", b"\x0b", b"//\n", b"\xed\xa0\x80"))
                + content
            )
        case _:
            content = b""
    return content, f"bytes: {change} at {at}"


def mutate_files(rng: random.Random, files: Files) -> str:
    """Put something else in the place of a file, or the file in another place."""
    name = rng.choice(sorted(files))
    stem = name.removesuffix(".json")
    content = files.pop(name)
    folder, _, short = name.rpartition("/")
    folder = f"{folder}/" if folder else ""
    change = rng.choice((
        "missing", "missing", "folder", "folder", "fifo", "link to itself", "link in a circle",
        "link to nothing", "link to zeros", "link to a name too long", "linked", "capitals",
        "hostile name", "in a folder", "twice", "beside others", "loop beside",
    ))  # fmt: skip
    match change:
        case "missing":
            pass
        case "folder" | "fifo":
            files[name] = change
        case "link to itself":
            files[name] = f"link {short}"
        case "link in a circle":
            files |= {name: "link other", f"{folder}other": f"link {short}"}
        case "link to nothing":
            files[name] = "link nothing"
        case "link to zeros":
            files[name] = "link /dev/zero"
        case "link to a name too long":
            files[name] = f"link {'x' * 300}"
        case "linked":
            files |= {name: "link real", f"{folder}real": content}
        case "capitals":
            files[f"{stem}.JSON"] = content
        case "hostile name":
            mark_ = rng.choice(
                ("\n", "\x1b[2J", "\udcff", "\u202e", "\t", "é", " ", "'", "%s", "{}")
            )
            files[f"{stem}{mark_}.json"] = content
        case "in a folder":
            files[f"{folder}inner/{short}"] = content
        case "twice":
            files |= {name: content, f"{folder}inner/{short}": content}
        case "beside others":
            files |= {name: content, f"{folder}README.md": b"text", f"{folder}x.json.bak": b"{"}
        case _:
            files |= {name: content, f"{folder}loop": "link ."}
    return f"{change}: {name[:40]!r}"
