"""Write the head as one GLB file. Here metres begin, and here texture coordinates turn over."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from .bake import TexturedHead
from .png import save_png
from .surface import metres_from_head, vertex_normals

SKIN_ROUGHNESS = 0.6  # dry skin and hair between oily forehead (.4) and cloth
NODE_NAME = "Head"
VISIBILITY_ATTRIBUTE = "_VISIBILITY"  # glTF wants an underscore before names of one's own
CONFIDENCE_ATTRIBUTE = "_CONFIDENCE"
HAIR_ATTRIBUTE = "_HAIR"


def write_glb(head: TexturedHead, path: Path) -> None:
    """Write mesh, texture, normals, visibility, confidence and, where it is known, what is hair.

    glTF's axes are the head frame's (+y up, +z out of the face), so only scale and origin change. Vertices are split
    at the seams of the texture, with one shared normal, so that no seam shows in the shading.
    """
    to_metres = metres_from_head()
    # trimesh wants v upwards and turns it back on export.
    uv = np.column_stack([head.uv[:, 0], 1.0 - head.uv[:, 1]])
    skin = PBRMaterial(
        name="Skin", baseColorTexture=_Texture(head.albedo), metallicFactor=0.0, roughnessFactor=SKIN_ROUGHNESS
    )
    attributes = {VISIBILITY_ATTRIBUTE: head.visibility, CONFIDENCE_ATTRIBUTE: head.confidence}
    if head.hair is not None:
        attributes[HAIR_ATTRIBUTE] = head.hair
    mesh = trimesh.Trimesh(
        vertices=head.mesh.vertices @ to_metres[:3, :3].T + to_metres[:3, 3],
        faces=head.mesh.faces,
        vertex_normals=vertex_normals(head.mesh),
        vertex_attributes={name: values.astype(np.float32) for name, values in attributes.items()},
        visual=TextureVisuals(uv=uv, material=skin),
        process=False,  # keep every vertex, also those at the same place
    )
    scene = trimesh.Scene()
    scene.add_geometry(mesh, node_name=NODE_NAME, geom_name=NODE_NAME)
    path.write_bytes(scene.export(file_type="glb", include_normals=True))


class _Texture:
    """A picture as far as trimesh's export asks for one, which would compress it slowly."""

    format = "PNG"

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def save(self, stream: BinaryIO, format: str) -> None:
        """Write the file. `format` is always PNG, as is our own."""
        save_png(Image.fromarray(self._pixels), stream)
