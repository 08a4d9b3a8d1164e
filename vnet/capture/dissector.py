"""The Wireshark dissector of events: a Lua program, written from the fields of the records.

Field ``head`` of a ring event is ``vnet.ring.head`` in display filters; those of the source are ``vnet.device`` and
so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs

from drivers.contracts.events import Topic
from vnet.capture.fields import Choice, FieldKind, Layout, Many, Nested, Optional, Scalar, Text, innermost
from vnet.capture.payload import CHECKSUMS, DISSECTORS, KINDS, LAYOUTS, SOURCE, field_prefix

__all__ = ["dissector", "field_names", "title"]

TYPES: Mapping[str, str] = {"Q": "uint64", "?": "bool", "d": "double"}

PROGRAM = """\
-- Dissector of the events that "vnet capture" writes. Written by "vnet capture --dissector"; do not edit.

local vnet = Proto("vnet", "vnet event")

-- Fields by name of the filter.
local fields = {
%(fields)s
}

-- Layout of the place of an event, and of each kind of event: triples of a field, its kind, and the kind within it.
local source = {
%(source)s
}
local events = {
%(events)s
}

local read = {}

function read.uint64(tvb, at, tree, field)
    local range = tvb(at, 8)
    tree:add_le(field.proto, range)
    local value = range:le_uint64()
    return at + 8, field.hex and "0x" .. value:tohex():gsub("^0+(%%x)", "%%1"):lower() or tostring(value)
end

function read.double(tvb, at, tree, field)
    tree:add_le(field.proto, tvb(at, 8))
    return at + 8, string.format("%%g", tvb(at, 8):le_float())
end

function read.bool(tvb, at, tree, field)
    tree:add(field.proto, tvb(at, 1))
    return at + 1, tvb(at, 1):uint() ~= 0 and "yes" or "no"
end

function read.string(tvb, at, tree, field)
    local length = tvb(at, 4):le_uint()
    local text = length > 0 and tvb(at + 4, length):string(ENC_UTF_8) or ""
    tree:add(field.proto, tvb(at, 4 + length), text)
    return at + 4 + length, text
end

function read.bytes(tvb, at, tree, field)
    local length = tvb(at, 4):le_uint()
    if length > 0 then tree:add(field.proto, tvb(at + 4, length)) end
    return at + 4 + length, length .. " bytes"
end

function read.optional(tvb, at, tree, field, inner)
    if tvb(at, 1):uint() == 0 then return at + 1, "" end
    return read[inner[1]](tvb, at + 1, tree, field, inner[2])
end

function read.many(tvb, at, tree, field, inner)
    local count, texts = tvb(at, 2):le_uint(), {}
    at = at + 2
    for index = 1, count do
        at, texts[index] = read[inner[1]](tvb, at, tree, field, inner[2])
    end
    return at, "[" .. table.concat(texts, ", ") .. "]"
end

local function read_all(tvb, at, tree, layout)
    local texts, text = {}, nil
    for _, each in ipairs(layout) do
        at, text = read[each[2]](tvb, at, tree, fields[each[1]], each[3])
        if text ~= "" then table.insert(texts, each[1]:match("[^.]+$") .. " " .. text) end
    end
    return at, table.concat(texts, ", ")
end

function read.nested(tvb, at, tree, _, inner)
    local branch = tree:add(tvb(at), inner.title)
    local stop, text = read_all(tvb, at, branch, inner.layout)
    branch:set_len(stop - at)
    branch:append_text(": " .. text)
    return stop, "(" .. text .. ")"
end

local function dissect(proto, tvb, pinfo, root)
    pinfo.cols.protocol = proto.name:lower()
    local length = tvb(4, 4):le_uint()
    local name = tvb(8, length):string()
    local event = events[name]
    local tree = root:add(proto, tvb(), (event and event.title or name))
    local place = root:add(vnet, tvb(), "vnet event")
    place:add(fields["vnet.event"].proto, tvb(8, length))
    if event == nil or event.checksum ~= tvb(0, 4):le_uint() then
        tree:add_expert_info(PI_UNDECODED, PI_WARN, "written by another version: install its dissector")
        pinfo.cols.info = name .. " of another version"
        return tvb:len()
    end
    local at, where, what = 8 + length, nil, nil
    at, where = read_all(tvb, at, place, source)
    place:append_text(": " .. where)
    at, what = read_all(tvb, at, tree, event.layout)
    tree:append_text(": " .. what)
    local texts = {}
    for _, field in ipairs({"device", "link", "side", "queue"}) do
        local text = where:match(field .. " ([^,]+)")
        if text then table.insert(texts, text) end
    end
    pinfo.cols.src = where:match("host ([^,]+)") or ""
    pinfo.cols.info = table.concat(texts, " ") .. ": " .. event.title .. (what ~= "" and " (" .. what .. ")" or "")
    return at
end

local own, protos = {vnet = {}}, {vnet = vnet}
for _, name in ipairs({%(dissectors)s}) do
    local proto = Proto(name, name:gsub("-", " ") .. " event")
    function proto.dissector(tvb, pinfo, root) return dissect(proto, tvb, pinfo, root) end
    own[name], protos[name] = {}, proto
end
for _, field in pairs(fields) do table.insert(own[field.of], field.proto) end
for name, proto in pairs(protos) do proto.fields = own[name] end
"""


@attrs.frozen
class _Field:
    """A field of the dissector."""

    of: str
    """Name of its dissector; vnet for those of the place."""
    type: str
    hex: bool
    label: str


def title(name: str) -> str:
    """Return the name of a class or a field in words, such as "status changed"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()


def field_names() -> list[str]:
    """Return the names of all fields, in order."""
    return sorted(_fields())


def dissector() -> str:
    """Return the program."""
    fields = _fields()
    events = []
    for name, kind in KINDS.items():
        layout = "".join(_triples(_prefix(kind.topic), LAYOUTS[kind]))
        events.append(f'    {name} = {{title = "{title(name)}", checksum = {CHECKSUMS[kind]}, layout = {{{layout}}}}},')
    return PROGRAM % {
        "fields": "\n".join(f"    {_declaration(name, fields[name])}" for name in sorted(fields)),
        "source": "".join(f"    {each}\n" for each in _triples("vnet", SOURCE)).rstrip(),
        "events": "\n".join(events),
        "dissectors": ", ".join(f'"{name}"' for name in DISSECTORS.values()),
    }


def _prefix(topic: Topic) -> str:
    return f"vnet.{field_prefix(topic)}"


def _declaration(name: str, field: _Field) -> str:
    base = {"uint64": f", base.{'HEX' if field.hex else 'DEC'}", "bytes": ""}.get(field.type, "")
    proto = f'ProtoField.{field.type}("{name}", "{field.label}"{base})'
    return f'["{name}"] = {{of = "{field.of}", hex = {str(field.hex).lower()}, proto = {proto}}},'


def _fields() -> dict[str, _Field]:
    """Return all fields by name. Raises TypeError if two fields of one name differ."""
    fields = {"vnet.event": _Field("vnet", "string", False, "Event")}
    places = [("vnet", "vnet", SOURCE)]
    places += [(DISSECTORS[kind.topic], _prefix(kind.topic), LAYOUTS[kind]) for kind in KINDS.values()]
    for of, prefix, layout in places:
        for name, field in _declared(of, prefix, layout):
            if fields.setdefault(name, field) != field:
                raise TypeError(f"{name} is of two types: {field} and {fields[name]}")
    return fields


def _declared(of: str, prefix: str, layout: Layout) -> Iterator[tuple[str, _Field]]:
    for own, kind in layout.fields.items():
        name = f"{prefix}.{own}"
        inner = innermost(kind)
        if isinstance(inner, Nested):
            yield from _declared(of, name, inner.layout)
        else:
            yield name, _Field(of, _leaf_type(inner), own in layout.hexadecimal, title(own).capitalize())


def _leaf_type(kind: FieldKind) -> str:
    match kind:
        case Scalar(code):
            return TYPES[code]
        case Text(raw):
            return "bytes" if raw else "string"
        case Choice():
            return "string"
    raise TypeError(f"no field for {kind}")


def _triples(prefix: str, layout: Layout) -> Iterator[str]:
    """Yield the field, the kind, and the kind within it, of each field of a layout."""
    for own, kind in layout.fields.items():
        yield f'{{"{prefix}.{own}", {_kind(f"{prefix}.{own}", kind)}}}, '


def _kind(name: str, kind: FieldKind) -> str:
    """Return the name of the function that reads a kind, and its last argument if it has one."""
    match kind:
        case Optional(inner):
            return f'"optional", {{{_kind(name, inner)}}}'
        case Many(inner):
            return f'"many", {{{_kind(name, inner)}}}'
        case Nested(layout):
            words = title(layout.record.__name__).capitalize()
            return f'"nested", {{title = "{words}", layout = {{{"".join(_triples(name, layout))}}}}}'
    return f'"{_leaf_type(kind)}"'
