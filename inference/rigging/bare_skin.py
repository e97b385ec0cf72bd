"""The skin's picture where the scan shows none: below hair that is an object of its own, in the mouth, in sockets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ..bake import spread_over_surface
from ..facing import smoothstep
from ..photo_check import LUMA
from ..raster import fragment_chunks
from ..surface import Mesh
from ..template import MOUTH, SKIN, SOCKET, RigTemplate, triangles
from .shape_fit import MM
from .uv_picture import sampled

FloatArray = NDArray[np.floating]

SKIN_REACH = 0.3  # box units over which skin's colours are carried on below hair: then they are the mean
ROOTS = 0.55  # share of the roots' colour in that of a scalp below hair
ROOT_SHADE = 0.75  # of the hair's colour: roots are darker
SHOWN = 0.5  # trust from which on a vertex shows the face
LEAST_SKIN = 0.05  # of summed trust, of 1: with less there is no skin to carry on

MOUTH_INSIDE = np.array([0.34, 0.10, 0.11])  # sRGB
MOUTH_DEPTH = (1 * MM, 16 * MM)  # from the lips' rim, over which their colour goes over to that
LID_PINK = np.array([0.72, 0.42, 0.40])  # the rim of a lid and the corner of an eye
SOCKET_INSIDE = np.array([0.42, 0.17, 0.16])
SOCKET_DEPTH = (0.5 * MM, 7 * MM)
PINKNESS = 0.6  # share of pink at the lids' rim, the rest is skin
FULL_LIGHT = 0.6  # luma of a face from which on insides are as light as named; in darker photos they are darker
RIM_NEIGHBOURS = 8  # of whose colours the rim's is the mean
PLAIN_LIPS = 0.5  # of the painted region, from which on a vertex is lip
LIP_EDGE = (2.2 * MM, 3.6 * MM)  # from the lips' rim: lips touch 3 mm before it, and what is behind no photo shows
SEAM_SHADE = 0.75  # of that colour where lips meet: little light comes there


def paint_bare_skin(
    template: RigTemplate,
    vertices: FloatArray,
    albedo: NDArray[np.uint8],
    trust: FloatArray,
    covered: FloatArray,
    hair_colour: FloatArray,
) -> NDArray[np.uint8]:
    """(t, t, 3) the skin's picture with its unseen parts painted.

    vertices:    (v, 3) of the fitted template, as photographed.
    albedo:      (t, t, 3) uint8 sRGB as baked, where hair is printed on the scalp and lips run on into the mouth.
    trust:       (v,) how far a vertex was fitted to skin that the scan shows.
    covered:     (v,) in [0, 1] how far the hair object covers a vertex.
    hair_colour: (3,) sRGB of the hair.
    """
    seen = sampled(template, albedo, (SKIN, MOUTH, SOCKET))
    colour = under_hair(template, vertices, seen, trust * (1 - covered), hair_colour)
    share = covered.copy()
    skin = template.vertices_of(SKIN)
    face = seen[skin[trust[skin] > SHOWN]]
    light = min(1.0, float(np.median(face @ LUMA)) / FULL_LIGHT) if len(face) else 1.0
    for part, inside, depth in ((MOUTH, MOUTH_INSIDE, MOUTH_DEPTH), (SOCKET, SOCKET_INSIDE, SOCKET_DEPTH)):
        own = template.vertices_of(part)
        rim = np.intersect1d(own, template.vertices_of(SKIN))
        from_rim = cKDTree(template.vertices[rim]).query(template.vertices)[0]
        source = rim
        if part == MOUTH:  # closed lips hide their edges, and teeth behind open ones are printed on them
            lips = template.vertices_of(SKIN)
            lips = lips[template.lips[lips] > PLAIN_LIPS]
            source = lips[from_rim[lips] > LIP_EDGE[1]]
            own = np.union1d(own, lips)
            share[own] = np.maximum(share[own], 1 - smoothstep(from_rim[own], *LIP_EDGE))
        nearest = cKDTree(template.vertices[source]).query(template.vertices[own], k=RIM_NEIGHBOURS)[1]
        at_rim = seen[source[nearest]].mean(axis=1)
        if part == MOUTH:
            at_rim *= SEAM_SHADE
        else:
            at_rim += PINKNESS * (light * LID_PINK - at_rim)
        is_lip = np.isin(own, template.vertices_of(SKIN))
        inwards = np.where(is_lip, 0.0, smoothstep(from_rim[own], *depth))[:, None]
        colour[own] = at_rim + inwards * (light * inside - at_rim)
    is_inside = template.part[template.part <= SOCKET] != SKIN

    picture = albedo.copy()
    quads = template.part <= SOCKET
    faces, uv_faces = triangles(template.faces[quads]), triangles(template.uv_faces[quads])
    inside_face = np.tile(is_inside, 2)
    values = np.column_stack([colour, share])
    touched = inside_face | (share[faces].max(axis=1) > 0)
    faces, uv_faces, inside_face = faces[touched], uv_faces[touched], inside_face[touched]
    side = len(albedo)
    for _, cover in fragment_chunks(template.uv * side, uv_faces, (side, side)):
        at = cover.interpolate(values, faces)
        weight = np.where(inside_face[cover.face], 1.0, at[:, 3])[:, None]
        old = picture[cover.row, cover.column]
        picture[cover.row, cover.column] = np.rint(np.clip(old + weight * (at[:, :3] * 255 - old), 0, 255))
    return picture


def under_hair(
    template: RigTemplate, vertices: FloatArray, seen: FloatArray, trust: FloatArray, hair_colour: FloatArray
) -> FloatArray:
    """(v, 3) what lies below the hair: the skin around carried on, with the roots of hair on the scalp.

    seen: (v, 3) sRGB of the vertices; trust: (v,) that it is skin's.
    """
    surface = template.vertices_of(SKIN, MOUTH, SOCKET)  # the first of the template
    trust = trust[surface]
    if trust.mean() < LEAST_SKIN:
        return np.tile(hair_colour, (len(template.vertices), 1))
    mean = np.average(seen[surface], axis=0, weights=trust)
    mesh = Mesh(vertices[surface], triangles(template.faces[template.part <= SOCKET]))
    colour = np.tile(mean, (len(template.vertices), 1))
    colour[surface] += spread_over_surface(mesh, seen[surface] - mean, trust, SKIN_REACH)
    roots = ROOTS * template.scalp[:, None]
    return colour + roots * (ROOT_SHADE * hair_colour - colour)
