"""HEAL (Welivita & Pu, 2022): a graph of what people in distress wrote on Reddit and what others answered.

Nodes: stressors (five keywords, and a story that they were found in), expectations, feedback, affective states (one for
each other node). Response nodes are ids only in what was released, so they and their affective states are left out, and
expectations take the place of responses (systems/kemi.md, E).

The text is raw: the heaviest node is about methods of suicide. `self_harm_flagged_nodes.json` names nodes that must be
left out, and without that file nothing is read. The screen of `heedful.safety` then reads labels and stories as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from heedful.corpora.base import need_file, read_json
from heedful.errors import DataError, NotFoundError, shown
from heedful.knowledge.item import Draft, Edge, Ids, Item, Source
from heedful.knowledge.readers import Encoder, Reader

FLAGS = "self_harm_flagged_nodes.json"
NODES = {"stressors": "stressor", "expectations": "expectation", "feedback": "feedback"}
AFFECTS = "affective_states"
EDGES = (AFFECTS, "expectations-responses", "expectations-stressors", "responses-feedback", "stressors-responses")
_RESPONSE = re.compile(r"r\d+")


def files(place: Path) -> dict[str, Path]:
    """All files of the graph.

    Raises:
        NotFoundError: one is missing; the file of flags is named first.
    """
    try:
        flags = need_file(place, FLAGS)
    except NotFoundError as err:
        raise NotFoundError(
            f"'{place}' has no '{FLAGS}'. Without the list of flagged nodes HEAL is not read, because it holds talk "
            "about methods of suicide; put the list beside the folders 'nodes' and 'edges'."
        ) from err
    names = [f"nodes/{name}.json" for name in (*NODES, AFFECTS)] + [f"edges/{name}.json" for name in EDGES]
    return {FLAGS: flags, **{name: need_file(place, name) for name in names}}


def read(place: Path, encoder: Encoder | None) -> Source:
    """The graph. The encoder is not asked.

    Raises:
        NotFoundError: a file is missing, or the list of flagged nodes is.
        DataError: a node twice, an edge to a node that is not there, a flag on one; file and number are named.
    """
    paths = files(place)
    ids = Ids()
    found: list[tuple[str, Mapping[str, Any], str]] = []
    for name, kind in NODES.items():
        path = paths[f"nodes/{name}.json"]
        for where, node in _records(path, "nodes"):
            found.append((kind, {**node, "id": ids.add(node.get("id"), where)}, where))
    flagged = _flags(paths[FLAGS], {node["id"]: kind for kind, node, _ in found})
    drafts = [_draft(kind, node, where, flagged) for kind, node, where in found]
    affects = {
        (id := ids.add(node.get("id"), where)): ({**node, "id": id}, where)
        for where, node in _records(paths[f"nodes/{AFFECTS}.json"], "nodes")
    }
    edges: list[Edge] = []
    left: Counter[str] = Counter()
    parents: dict[str, str] = {}
    for name in EDGES:
        for where, edge in _records(paths[f"edges/{name}.json"], "edges"):
            one, other, weight = _ends(edge, where, ids)
            if name == AFFECTS:
                parents[other] = one
            if _RESPONSE.fullmatch(one) or _RESPONSE.fullmatch(other):
                left["edges of responses, whose texts were not released"] += 1
            else:
                edges.append(Edge(one, other, weight))
    for id, (node, where) in affects.items():
        parent = parents.get(id)
        if parent is None:
            raise DataError(f"{where}: the affective state {shown(id)} belongs to no node; an edge to it is missing.")
        if _RESPONSE.fullmatch(parent):
            left["affective states of responses"] += 1
        else:
            drafts.append(Draft(item=_item("affect", node, where), parent=parent))
    return Source(drafts=tuple(drafts), edges=tuple(edges), left_out=dict(left))


def _records(path: Path, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and content of every record; places count from 1."""
    content = read_json(path)
    records = content.get(key) if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise DataError(f"{path}: expected an object with a list '{key}'.")
    for number, record in enumerate(records, start=1):
        where = f"{path}, {key.removesuffix('s')} {number}"
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected an object.")
        yield where, record


def _flags(path: Path, kinds: Mapping[str, str]) -> frozenset[str]:
    content = read_json(path)
    if not isinstance(content, dict) or set(content) != set(NODES):
        raise DataError(f"{path}: expected an object with the lists {', '.join(NODES)}.")
    for name, kind in NODES.items():
        if not isinstance(content[name], list) or not all(isinstance(id, str) for id in content[name]):
            raise DataError(f"{path}: '{name}' must be a list of ids, each a text.")
        for id in content[name]:
            if kinds.get(id) != kind:
                raise DataError(
                    f"{path}: it flags the {kind} {shown(id)}, which the graph does not have. List and graph do not "
                    "belong together; get both again."
                )
    return frozenset(id for name in NODES for id in content[name])


def _item(kind: str, node: Mapping[str, Any], where: str) -> Item:
    label, value = node.get("label"), node.get("value")
    if not isinstance(label, str) or isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise DataError(f"{where}: a node needs a text 'label' and a number 'value' from 0 up.")
    return Item(id=node["id"], kind=kind, text=label, source="heal", weight=float(value))


def _draft(kind: str, node: Mapping[str, Any], where: str, flagged: frozenset[str]) -> Draft:
    item = _item(kind, node, where)
    story = node.get("story", "")
    if not isinstance(story, str):
        raise DataError(f"{where}: 'story' must be a text.")
    return Draft(
        item=item,
        search=f"{item.text}. {story}" if story else item.text,
        stories=(story,) if story else (),
        marked="flagged" if item.id in flagged else None,
    )


def _ends(edge: Mapping[str, Any], where: str, ids: Ids) -> tuple[str, str, float]:
    one, other, weight = edge.get("from"), edge.get("to"), edge.get("value")
    for end in (one, other):
        if not isinstance(end, str) or (end not in ids.where and not _RESPONSE.fullmatch(end)):
            raise DataError(
                f"{where}: the edge leads to {shown(end)}, which is no node of the graph (a dangling edge)."
            )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
        raise DataError(f"{where}: 'value' must be a number from 0 up, but it is {shown(weight)}.")
    return str(one), str(other), float(weight)


HEAL = Reader(
    name="heal",
    title="HEAL: stressors, expectations, feedback and feelings of people in distress",
    folders=("kemi/heal_kg", "heal_kg"),
    files=files,
    read=read,
    advice="It has no licence that allows to pass it on; get it from https://github.com/anuradha1992/HEAL.",
)
