"""Small damage to files, by their kind: bytes, JSON and YAML values and structure, safetensors headers, templates.

Every function takes the file's bytes and a random generator and returns other bytes. What is damaged is valid up to the
damage, so that it reaches the code behind the parser.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import yaml

Mutation = Callable[[bytes, random.Random], bytes]

#: Values that have broken readers: of the wrong type, of a size that is taken before it is checked, or no text at all.
NASTY: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.0, 1e-320, 2**31, 2**63, 10**30, -(10**18)),
    *(math.inf, -math.inf, math.nan, "", " ", "0", "1e9", "nan", "true", "null", "\ud800", "\x00", "a" * 5000, "é"),
    *("/etc/passwd", "../../etc", "..", ".", "C:\\x", "http://127.0.0.1:1/x", "{{", "(", "[a-", "(a+)+$", "%s%s%s%n"),
    *([], {}, [[]], [None], [{}], {"": None}, {"a": {"b": {"c": []}}}, [1, "a", None], [0] * 500, ["x"] * 50),
]  # fmt: skip
#: What published sandbox escapes and endless templates are made of.
TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ (messages|attr('__class__')).__base__ }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * (10**9) }}",
    "{{ 'x'|center(10**9) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set x = namespace(v='a') %}{% for i in range(60) %}{% set x.v = x.v ~ x.v %}{% endfor %}{{ x.v }}",
    "{{ 2 ** (2 ** 40) }}",
    "{{ raise_exception('no') }}",
    "{{ messages[99].content }}",
    "{{ undefined.attribute.of.nothing }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% generation %}",
    "{{ messages.append(1) }}",
]
#: Entities that grow as they are read.
YAML_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, cut, doubled, set to a constant or put in."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64, 1000))
        change = rng.randrange(6)
        if change == 0:
            data = data[:at] + bytes(b ^ (1 << rng.randrange(8)) for b in data[at : at + length]) + data[at + length :]
        elif change == 1:
            data = data[:at]
        elif change == 2:
            data = data[:at] + data[at + length :]
        elif change == 3:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif change == 4:
            data = data[:at] + bytes([rng.choice((0, 255, 32, 10, 34, 123))]) * length + data[at + length :]
        else:
            data = data[:at] + rng.randbytes(length) + data[at:]
    return data


def damage_values(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three of its nodes replaced, removed, doubled, renamed, wrapped or swapped."""
    holder = {"root": json.loads(json.dumps(value))}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parents = _containers(holder)
        parent = rng.choice(parents)
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not keys:
            continue
        key = rng.choice(keys)
        change = rng.randrange(8)
        if change <= 2:
            parent[key] = nasty(rng)
        elif change == 3 and parent is not holder:
            del parent[key]
        elif change == 4:
            parent[key] = rng.choice(
                ([parent[key]], {"x": parent[key]}, [copy.deepcopy(parent[key]) for _ in range(3)])
            )
        elif change == 5:
            other = rng.choice(keys)
            parent[key], parent[other] = parent[other], parent[key]
        elif change == 6 and isinstance(parent, dict) and parent is not holder:
            parent[rng.choice((f"{key}_", "unknown", "", "\ud800", "a\x00b", str(key).upper()))] = parent[key]
        else:
            parent[key] = _near(parent[key], rng)
    return holder["root"]


def nasty(rng: random.Random) -> Any:
    """One of NASTY, of its own: one that is changed later must not come to hold itself."""
    return copy.deepcopy(rng.choice(NASTY))


def _near(value: Any, rng: random.Random) -> Any:
    """A value of the same type that is a little or very different."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value * 1000, value * 10**9, 0, float(value), value + 0.5)
        )
    if isinstance(value, float):
        return rng.choice(
            (-value, value * 1e9, 1.0 / value if value else 1.0, int(value) if math.isfinite(value) else 0)
        )
    if isinstance(value, str):
        return rng.choice(
            (value.upper(), value[:-1], value + value, value + "\n", value[::-1], f" {value}", f"{value}\x00")
        )
    return nasty(rng)


def _containers(value: Any) -> list[Any]:
    found, queue = [], [value]
    while queue:
        entry = queue.pop()
        if isinstance(entry, dict | list):
            found.append(entry)
            queue.extend(entry.values() if isinstance(entry, dict) else entry)
    return found


def as_json(value: Any) -> bytes:
    """What a careless writer leaves: NaN and infinity as Python spells them, lone surrogates as escapes."""
    return json.dumps(value).encode("ascii")


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Mostly values and structure; sometimes bytes, a byte-order mark, deep nesting, a doubled key."""
    odd = rng.randrange(12)
    if odd == 0:
        return damage_bytes(data, rng)
    if odd == 1:
        return rng.choice(
            (b"\xef\xbb\xbf" + data, data.decode().encode("utf-16"), b"[" * 100_000, b'{"a":' * 50_000, b"", b"null")
        )
    if odd == 2 and data.lstrip().startswith(b"{"):
        return data.lstrip().replace(b"{", b'{"a": 1, "a": 2, ', 1)
    return as_json(damage_values(json.loads(data), rng))


def damage_lines(data: bytes, rng: random.Random) -> bytes:
    """JSON Lines: one row's values, or the bytes."""
    lines = data.splitlines()
    if not lines or rng.randrange(5) == 0:
        return damage_bytes(data, rng)
    at = rng.randrange(len(lines))
    lines[at] = damage_json(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def damage_yaml(data: bytes, rng: random.Random) -> bytes:
    """Values and structure, bytes, an alias bomb, a Python tag."""
    odd = rng.randrange(10)
    if odd == 0:
        return damage_bytes(data, rng)
    if odd == 1:
        return rng.choice(
            (YAML_BOMB, "!!python/object/apply:os.system ['true']\n", "&a [*a]\n", "? [1]\n: 2\n", "a: 2001-99-99\n")
        ).encode()
    return yaml.safe_dump(damage_values(json.loads(json.dumps(yaml.safe_load(data), default=str)), rng)).encode(
        "utf-8", "surrogatepass"
    )


def damage_template(data: bytes, rng: random.Random) -> bytes:
    """A hostile expression put in at a random place, or the bytes damaged."""
    if rng.randrange(3) == 0:
        return damage_bytes(data, rng)
    at = rng.choice([i for i in range(len(data) + 1) if data[i : i + 2] in (b"{{", b"{%", b"")] or [0])
    return data[:at] + rng.choice(TEMPLATES).encode() + data[at:]


def damage_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header's values and structure, its header's length, the values, or any bytes."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    change = rng.randrange(6)
    if change <= 2:
        header = as_json(damage_values(json.loads(header), rng))
        return len(header).to_bytes(8, "little") + header + body
    if change == 3:
        return rng.choice((0, 1, length - 1, length + 1, 2**31, 2**40, 2**63)).to_bytes(8, "little") + data[8:]
    if change == 4:  # extreme values in sound tensors: NaN, infinity, the smallest and the largest numbers
        at = rng.randrange(max(1, len(body) // 4)) * 4
        return (
            data[: 8 + length]
            + body[:at]
            + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
            + body[at + 4 :]
        )
    return damage_bytes(data, rng)


#: By the end of the file's name, the longest first.
KINDS: dict[str, Mutation] = {
    ".safetensors": damage_tensors,
    ".jsonl": damage_lines,
    ".json": damage_json,
    ".yaml": damage_yaml,
    ".jinja": damage_template,
}


def damage(name: str, data: bytes, rng: random.Random) -> bytes:
    """The file `name` damaged as its kind is; bytes alone where the kind has no mutation of its own."""
    for end, mutation in KINDS.items():
        if name.endswith(end):
            return mutation(data, rng)
    return damage_bytes(data, rng)
