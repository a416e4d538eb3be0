"""Seeded mutations of files: of their bytes, of the values in structured files, of ONNX messages.

A mutation is a function (content, random numbers) -> content. The same random numbers give the same
content, so that an input that fails can be made again.
"""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import onnx
import yaml

Mutation = Callable[[bytes, Random], bytes]
Place = tuple[Any, Any]
"""A container, and the key or the index of one of its values."""

DEEP, LONG = "<deep>", "<long>"
"""Values for which `_rendered` puts text that no writer of JSON or YAML would write."""
RAW = {DEEP: "[" * 4000 + "]" * 4000, LONG: "9" * 5000}
"""Such a value -> its text."""
TAGGED = {
    "<date>": "2026-99-99",
    "<time>": "!!timestamp x",
    "<bool>": "!!bool x",
    "<loop>": "&l [*l]",
    "<object>": "!!python/object/apply:os.getcwd []",
    "<laughs>": "[&a [x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a,*a], "
    "&c [*b,*b,*b,*b,*b,*b,*b,*b], &d [*c,*c,*c,*c,*c,*c,*c,*c]]",
}
"""The same for YAML alone."""
NAMES = (
    "", "x", "..", "../../outside", "../../../outside/secret.txt", "../../../outside/keep/run",
    "a/b", "a\\b", "/etc/hostname", "nul\0", "two\nlines", "\ud800", "x" * 400, "<script>",
    "self", "class", "__class__", "%s%n", "-o",
)  # fmt: skip
"""Names with separators, control characters, halves of characters or a meaning of their own."""
NUMBERS = (
    0, -1, 1, 7, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), 2**31, 2**63,
    -(2**63), 10**30,
)  # fmt: skip
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, [0, "x"], {"x": [1]}, DEEP)
VALUES: tuple[Any, ...] = (*NAMES, *NUMBERS, *OTHERS, LONG)


# Bytes


def flipped(content: bytes, rng: Random) -> bytes:
    """Flip some bits."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 40)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(content: bytes, rng: Random) -> bytes:
    """Cut off the end, or take out the middle."""
    first, last = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
    return content[:first] if rng.random() < 0.5 else content[:first] + content[last:]


def stuffed(content: bytes, rng: Random) -> bytes:
    """Put in zeros, bytes that are no UTF-8, a repetition of a part, or random bytes."""
    at = rng.randint(0, len(content))
    part = rng.choice((bytes(rng.choice((1, 8, 999))), b"\xff\xfe\x80", content[at : at + 64] * 9))
    return content[:at] + (part or rng.randbytes(16)) + content[at:]


def blanked(content: bytes, rng: Random) -> bytes:
    """Replace a stretch by zeros, as a disk that failed does, or by nothing at all."""
    first, last = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
    return rng.choice((b"", bytes(len(content)), content[:first] + bytes(last - first)))


BYTES: tuple[Mutation, ...] = (flipped, flipped, cut, stuffed, blanked)


# Trees of values


def places(tree: Any) -> Iterator[Place]:
    """All places of a tree of dicts and lists, from the top down."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if _is_list(tree) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def _is_list(tree: Any) -> bool:
    return isinstance(tree, list)


def deformed(tree: Any, rng: Random) -> Any:
    """Change one to three values of a tree, in place; its new value."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        every = list(places(tree))
        if not every or rng.random() < 0.02:
            return rng.choice(VALUES)
        rng.choice(CHANGES)(*rng.choice(every), rng)
    return tree


def _replace(container: Any, key: Any, rng: Random) -> None:
    container[key] = rng.choice(VALUES)


def _retype(container: Any, key: Any, rng: Random) -> None:
    """The same value as another type: a number as text, text as a list, a list as a mapping."""
    value = container[key]
    if isinstance(value, dict):
        container[key] = list(value.items())
    elif isinstance(value, list):
        container[key] = dict(enumerate(value))
    else:
        container[key] = rng.choice((str(value), [value], {"value": value}))


def _remove(container: Any, key: Any, rng: Random) -> None:
    del container[key]


def _rename(container: Any, key: Any, rng: Random) -> None:
    """Another key; in a list, the value twice."""
    if isinstance(container, dict):
        container[rng.choice((*NAMES, 3, f"{key}x"))] = container.pop(key)
    else:
        container.insert(key, container[key])


def _exchange(container: Any, key: Any, rng: Random) -> None:
    """The value of another key."""
    keys = list(container) if isinstance(container, dict) else range(len(container))
    other = rng.choice(list(keys))
    container[key], container[other] = container[other], container[key]


CHANGES = (_replace, _replace, _replace, _retype, _remove, _remove, _rename, _exchange)


def _rendered(text: str, raw: dict[str, str]) -> bytes:
    """Text in UTF-8 with the raw text of values; halves of characters make it invalid."""
    for name, instead in raw.items():
        for quoted in (f'"{name}"', f"'{name}'", name):
            text = text.replace(quoted, instead)
    return text.encode("utf-8", "surrogatepass")


def of_json(content: bytes, rng: Random) -> bytes:
    """Change values of a JSON file; characters beyond ASCII are escaped or written as they are."""
    tree = deformed(json.loads(content), rng)
    return _rendered(json.dumps(tree, indent=2, ensure_ascii=rng.random() < 0.5), RAW)


def of_lines(content: bytes, rng: Random) -> bytes:
    """Change values in one line of a file of JSON lines, or the order of the lines."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    if rng.random() < 0.1:
        rng.shuffle(lines)
    elif rng.random() < 0.1:
        del lines[at]
    else:
        tree = deformed(json.loads(lines[at]), rng)
        lines[at] = _rendered(json.dumps(tree), RAW)
    return b"\n".join(lines) + b"\n"


def of_yaml(content: bytes, rng: Random) -> bytes:
    """Change values of a YAML file; some become tags, dates that cannot be, or aliases."""
    tree = deformed(yaml.safe_load(content), rng)
    if rng.random() < 0.2 and list(places(tree)):
        container, key = rng.choice(list(places(tree)))
        container[key] = rng.choice(tuple(TAGGED))
    return _rendered(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), RAW | TAGGED)


# ONNX messages


def of_onnx(content: bytes, rng: Random) -> bytes:
    """Change one to three fields of an ONNX model, or values in its metadata."""
    model = onnx.load_from_string(content)
    if model.metadata_props and rng.random() < 0.6:
        entry = rng.choice(model.metadata_props)
        entry.value = _plain(of_json(entry.value.encode(), rng))
    for _ in range(rng.choice((0, 1, 1, 2)) if model.metadata_props else rng.choice((1, 1, 2, 3))):
        _change_field(rng.choice(list(_messages(model))), rng)
    return model.SerializeToString()


def _plain(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _messages(message: Any) -> Iterator[Any]:
    """A message and all messages inside of it that have a field, the contents of tensors apart."""
    if message.ListFields():
        yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if _several(value) else (value,):
            yield from _messages(inner)


def _several(value: Any) -> bool:
    return hasattr(value, "__delitem__")


def _change_field(message: Any, rng: Random) -> None:
    field, value = rng.choice(message.ListFields())
    if _several(value):
        _change_list(value, field.message_type is not None, rng)
    elif field.message_type is not None or rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.enum_type is not None:
        setattr(message, field.name, rng.choice(field.enum_type.values).number)
    else:
        setattr(message, field.name, _other(value, rng))


def _change_list(values: Any, of_messages: bool, rng: Random) -> None:
    """Take out, repeat or exchange elements of a repeated field, or change one."""
    at, how = rng.randrange(len(values)), rng.random()
    if how < 0.3:
        del values[at]
    elif how < 0.5:
        values.append(values[at])
    elif of_messages:
        values[at].CopyFrom(values[rng.randrange(len(values))])
    else:
        values[at] = _other(values[at], rng)


def _other(value: Any, rng: Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, str):
        kinds = ("Conv", "Relu", "Reshape", "If", "Loop", "Resize", "ConstantOfShape", "Nothing")
        return rng.choice((*kinds, *(name for name in NAMES if name != "\ud800"), value + "x"))
    if isinstance(value, bytes):
        return rng.choice(BYTES)(value, rng)
    if isinstance(value, float):
        return float(rng.choice(NUMBERS)) if rng.random() < 0.9 else value + 1
    return rng.choice((0, 1, 2, 3, 5, 11, 16, 100, 10_000, 2**31 - 1, -1))


FORMS: dict[str, Mutation] = {
    ".json": of_json,
    ".jsonl": of_lines,
    ".yaml": of_yaml,
    ".onnx": of_onnx,
}
"""Ending of a file -> the mutation of its values."""


def mutated(name: str, content: bytes, rng: Random) -> bytes:
    """One mutation of a file: mostly of its values where it is a structured one, else of bytes."""
    form = FORMS.get(name[name.rfind(".") :])
    if form is not None and rng.random() < 0.8:
        return form(content, rng)
    return rng.choice(BYTES)(content, rng)
