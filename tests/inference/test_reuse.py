"""Rebuild, rebake and reroll of a finished head, on models whose heads are known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from inference import head_file, pipeline, reuse
from inference.bake import subdivide
from inference.edited_mesh import read_mesh
from inference.errors import (
    BadOption,
    HeadFileDamaged,
    HeadFileMissing,
    HeadOfOtherModel,
    MeshFarFromHead,
    NoOtherVersion,
    TextureCoordinatesUnusable,
)
from inference.messages import Options
from inference.pipeline import Models, load_models, reconstruct
from inference.preview import draw_view
from inference.progress import Cancelled
from inference.surface import Mesh, is_watertight, weld
from inference.versions import other_version
from tests.neck_and_sphere import write_pliable_weights, write_varied_weights

WANTED_DB = 25.0  # of the input view after re-baking


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`Options.model` of heads that differ by their latents."""
    return str(write_varied_weights(tmp_path_factory.mktemp("weights") / "varied.safetensors"))


@pytest.fixture(scope="module")
def models(model: str) -> Models:
    return load_models(model, "cpu")


@pytest.fixture(scope="module")
def folder(astronaut: Path, model: str, models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished head."""
    out_dir = tmp_path_factory.mktemp("heads") / "astronaut"
    reconstruct(astronaut, out_dir, Options(model, "cpu", grid=48, faces=2500, texture=256), models)
    return out_dir


@pytest.fixture(scope="module")
def options(folder: Path) -> Options:
    return reuse.folder_options(folder, {})[0]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def glb(folder: Path) -> trimesh.Trimesh:
    return trimesh.load_mesh(folder / "head.glb", process=False)


def albedo(folder: Path) -> np.ndarray:
    return np.asarray(glb(folder).visual.material.baseColorTexture.convert("RGB"))


# --- rebuild


def test_rebuilt_with_the_same_options_a_head_is_the_same_to_the_last_byte_without_its_photo_or_any_encoder(
    folder, options, models, tmp_path, monkeypatch
):
    def forbidden(*_: object) -> None:
        raise AssertionError("neither faces nor encoders are to be asked")

    monkeypatch.setattr(pipeline, "align", forbidden)
    monkeypatch.setattr(pipeline, "refine", forbidden)
    without = dataclasses.replace(models, head=dataclasses.replace(models.head, visible=None, occluded=None))
    reuse.rebuild(folder, tmp_path / "again", options, without)
    for name in ("head.glb", "head.safetensors", "portrait.png", "preview.png"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_rebuilt_at_another_quality_it_is_the_same_head_in_other_triangles(folder, models, tmp_path):
    options, notes = reuse.folder_options(folder, {"grid": 64, "faces": 4000, "texture": 128})
    report = reuse.rebuild(folder, tmp_path / "fine", options, models, notes=notes)
    assert report["made_by"] == "rebuild" and report["mesh"]["watertight"]
    assert report["mesh"]["faces"] == pytest.approx(4000, rel=0.05) and albedo(tmp_path / "fine").shape == (128, 128, 3)
    assert glb(tmp_path / "fine").volume == pytest.approx(glb(folder).volume, rel=0.01)
    assert (tmp_path / "fine" / "head.safetensors").is_file()


def test_another_fit_to_the_photo_is_found_anew(folder, models, tmp_path):
    options, _ = reuse.folder_options(folder, {"refinement": "off"})
    assert reuse.rebuild(folder, tmp_path / "off", options, models)["refinement"]["level"] == "off"
    assert head_file.read(tmp_path / "off").source.refinement is None


def test_a_rebuilt_seed_is_the_head_a_new_reconstruction_makes_of_it(folder, astronaut, models, tmp_path):
    options, _ = reuse.folder_options(folder, {"seed": 7})
    reuse.rebuild(folder, tmp_path / "rebuilt", options, models)
    reconstruct(astronaut, tmp_path / "new", options, models)
    assert (tmp_path / "rebuilt" / "head.glb").read_bytes() == (tmp_path / "new" / "head.glb").read_bytes()
    assert (tmp_path / "rebuilt" / "head.glb").read_bytes() != (folder / "head.glb").read_bytes()


# --- reroll


@pytest.fixture(scope="module")
def rerolled(folder: Path, options: Options, models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("rerolled") / "3"
    reuse.reroll(folder, out_dir, 3, options, models)
    return out_dir


def test_rerolling_keeps_every_texel_of_the_photo_and_every_vertex_it_sees(folder, rerolled):
    before, after = head_file.read(folder).finished, head_file.read(rerolled).finished
    seen = before.visibility_map > 0
    assert 0.1 < seen.mean() < 0.9
    assert np.array_equal(albedo(folder)[seen], albedo(rerolled)[seen])
    assert np.array_equal(before.visibility_map, after.visibility_map)
    stay = before.visibility > 0
    assert np.array_equal(before.mesh.vertices[stay], after.mesh.vertices[stay])
    old, new = glb(folder), glb(rerolled)
    assert np.array_equal(old.vertices[stay], new.vertices[stay])
    assert np.array_equal(old.faces, new.faces) and np.array_equal(old.visual.uv, new.visual.uv)


def test_rerolling_moves_and_paints_the_unseen_side_without_tearing_or_turning_it(folder, rerolled):
    before, after = head_file.read(folder).finished, head_file.read(rerolled).finished
    way = np.linalg.norm(after.mesh.vertices - before.mesh.vertices, axis=1)
    assert way.max() > 0.002  # of a surface that this model moves by 0.02 at most
    unseen = before.visibility_map == 0
    assert (albedo(folder)[unseen] != albedo(rerolled)[unseen]).any()
    assert is_watertight(weld(after.mesh)[0])
    assert len(weld(after.mesh)[0].vertices) == len(weld(before.mesh)[0].vertices)
    corners = [mesh.vertices[mesh.faces] for mesh in (before.mesh, after.mesh)]
    old, new = (np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]) for c in corners)
    assert (np.einsum("ij,ij->i", old, new) > 0).all()


def test_through_the_photos_camera_a_rerolled_head_looks_the_same(folder, rerolled):
    views = []
    for path in (folder, rerolled):
        kept = head_file.read(path)
        view = draw_view(textured(kept.finished, albedo(path)), kept.source.portrait.camera, 256)
        views.append(view.astype(int))
    # Pixels the matte does not trust are imagined too, and their detail is drawn anew.
    assert np.abs(views[0] - views[1]).mean() < 0.2


def textured(finished: head_file.FinishedMesh, picture: np.ndarray) -> Any:
    """What `draw_view` needs of a head."""
    from inference.bake import TexturedHead

    return TexturedHead(
        finished.mesh,
        finished.uv,
        picture,
        finished.visibility,
        finished.visibility_map,
        {},
        "kept",
        finished.visibility,
    )


def test_seed_0_rerolled_leads_back_to_the_first_version(folder, rerolled, options, models, tmp_path):
    reuse.reroll(rerolled, tmp_path / "back", 0, options, models)
    there, back = head_file.read(folder), head_file.read(tmp_path / "back")
    generator = models.head.generator
    assert torch.equal(there.source.whole(generator).planes, back.source.whole(generator).planes)
    surface, _ = subdivide(there.finished.mesh, there.finished.uv, 200_000)
    beside = cKDTree(surface.vertices).query(back.finished.mesh.vertices)[0]
    # Near what is seen vertices are held back; elsewhere they return onto the same surface.
    assert np.median(beside) < 0.002 and np.percentile(beside, 99) < 0.01


def test_only_what_the_mask_leaves_to_the_occluded_encoder_changes(folder, rerolled, models):
    before, after = (head_file.read(path).source for path in (folder, rerolled))
    generator = models.head.generator
    change = (before.whole(generator).planes != after.whole(generator).planes).any(dim=1)
    mask = before.mask
    assert torch.equal(mask, after.mask) and torch.equal(before.visible.planes, after.visible.planes)
    assert not change[mask >= 1].any() and change[mask <= 0].any()


def test_versions_differ_each_from_each_and_the_same_seed_is_the_same(models, folder):
    encoder, portrait = models.head.occluded, head_file.read(folder).source.portrait
    given = pipeline.encoder_input(portrait, models, encoder)
    w_plus = encoder.latent(given)
    versions = [other_version(w_plus, seed, given, encoder) for seed in (0, 1, 2, 3)]
    assert torch.equal(versions[0], w_plus)
    distances = [float((a - b).norm()) for a in versions for b in versions if a is not b]
    assert min(distances) > 0.1 * float((w_plus - encoder.w_avg).norm())
    assert torch.equal(versions[2], other_version(w_plus, 2, given, encoder))


def test_a_model_without_encoders_says_that_it_has_one_version_only(astronaut, tmp_path, monkeypatch):
    from functools import partial

    path = str(write_pliable_weights(tmp_path / "pliable.safetensors"))
    monkeypatch.setattr(pipeline, "optimise_w_plus", partial(pipeline.optimise_w_plus, steps=3))
    options = Options(path, "cpu", grid=48, faces=1500, texture=128, refinement="off")
    models = load_models(path, "cpu")
    reconstruct(astronaut, tmp_path / "head", options, models)
    with pytest.raises(NoOtherVersion):
        reuse.reroll(tmp_path / "head", tmp_path / "out", 1, options, models)
    report = reuse.rebuild(tmp_path / "head", tmp_path / "again", options, models)
    assert report["latents"]["found_by"] == "w_plus_optimisation" and report["latents"]["steps"] == 3


# --- rebake


def psnr_of_input_view(folder: Path, other: Path) -> float:
    """How like two heads look through the photo's camera, in flat light, where the eroded matte is."""
    from scipy import ndimage

    views = []
    for path in (folder, other):
        kept = head_file.read(path)
        views.append(draw_view(textured(kept.finished, albedo(path)), kept.source.portrait.camera, 256).astype(float))
    matte = head_file.read(folder).source.portrait.matte
    inside = ndimage.binary_erosion(matte.reshape(256, 2, 256, 2).mean((1, 3)) > 0.95, iterations=4)
    both = inside & (views[0] != 128).any(-1)
    return float(10 * np.log10(255**2 / ((views[0] - views[1])[both] ** 2).mean()))


def test_rebaked_onto_its_own_mesh_a_head_keeps_its_texture(folder, options, models, tmp_path):
    report = reuse.rebake(folder, folder / "head.glb", tmp_path / "own", options, models)
    assert report["made_by"] == "rebake" and report["mesh"]["watertight"]
    apart = np.abs(albedo(folder).astype(int) - albedo(tmp_path / "own"))
    seen = head_file.read(folder).finished.visibility_map > 0
    # The GLB's single precision moves vertices by nothing one could see, but hair behind is drawn anew for it.
    assert apart[seen].mean() < 0.5 and apart.mean() < 2
    assert np.allclose(glb(folder).visual.uv, glb(tmp_path / "own").visual.uv, atol=1e-6)


@pytest.mark.parametrize("kind", ["obj", pytest.param("ply", marks=pytest.mark.thorough)])
def test_a_coarser_mesh_without_coordinates_is_unwrapped_and_shows_the_photo(folder, options, models, tmp_path, kind):
    whole, _ = weld(Mesh(np.asarray(glb(folder).vertices), np.asarray(glb(folder).faces)))
    coarse = trimesh.Trimesh(whole.vertices, whole.faces, process=False).simplify_quadric_decimation(face_count=1500)
    coarse.export(tmp_path / f"coarse.{kind}")
    finer = dataclasses.replace(options, texture=512)
    report = reuse.rebake(folder, tmp_path / f"coarse.{kind}", tmp_path / "out", finer, models)
    assert report["mesh"]["faces"] <= 1500 and report["options"]["texture"] == 512
    assert psnr_of_input_view(folder, tmp_path / "out") > WANTED_DB
    reuse.reroll(tmp_path / "out", tmp_path / "rolled", 1, finer, models)  # what came out can be used again


def test_a_mesh_that_keeps_its_coordinates_or_fails(folder, options, models, tmp_path):
    mesh = glb(folder)
    mesh.visual.uv[:] = mesh.visual.uv * [0.5, 1.0] % 0.3  # folded over itself
    mesh.export(tmp_path / "folded.glb")
    with pytest.raises(TextureCoordinatesUnusable, match="overlap"):
        reuse.rebake(folder, tmp_path / "folded.glb", tmp_path / "out", options, models, own_uv_only=True)
    assert not (tmp_path / "out").exists()
    report = reuse.rebake(folder, tmp_path / "folded.glb", tmp_path / "out", options, models)
    assert any("unwrapped anew" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]), "Z up"),
        (trimesh.transformations.scale_matrix(100), "centimetres"),
        (trimesh.transformations.scale_matrix(0.01), "too small"),
        (trimesh.transformations.translation_matrix([0.5, 0, 0]), "Export it where the head lies"),
    ],
    ids=["turned", "large", "small", "aside"],
)
def test_a_mesh_far_from_the_head_is_refused_with_what_to_do(folder, options, models, tmp_path, change, advice):
    mesh = glb(folder)
    mesh.apply_transform(change)
    mesh.export(tmp_path / "far.obj")
    with pytest.raises(MeshFarFromHead) as refused:
        reuse.rebake(folder, tmp_path / "far.obj", tmp_path / "out", options, models)
    assert advice in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_quad_mesh_open_at_the_neck_and_wound_inwards_is_painted(folder, options, models, tmp_path):
    mesh = glb(folder)
    whole, _ = weld(Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces)))
    above = (whole.vertices[whole.faces][:, :, 1] > 0.01).all(axis=1)
    lines = [f"v {x} {y} {z}" for x, y, z in whole.vertices]
    # Pairs of the same vertices make quads whose second half has no area.
    lines += [f"f {c + 1} {b + 1} {a + 1} {a + 1}" for a, b, c in whole.faces[above]]
    (tmp_path / "open.obj").write_text("\n".join(lines))
    edited = read_mesh(tmp_path / "open.obj")
    assert len(edited.mesh.faces) == above.sum() and edited.uv is None
    reuse.rebake(folder, tmp_path / "open.obj", tmp_path / "out", options, models)
    assert glb(tmp_path / "out").volume > 0 and psnr_of_input_view(folder, tmp_path / "out") > WANTED_DB


# --- what a folder must hold


def test_options_of_a_folder_are_changed_by_name_and_unknown_ones_are_told(folder, tmp_path):
    other = tmp_path / "head"
    shutil.copytree(folder, other)
    report = json.loads((other / "head.json").read_text())
    report["options"]["lipstick"] = "red"
    del report["options"]["refinement"]
    (other / "head.json").write_text(json.dumps(report))
    options, notes = reuse.folder_options(other, {"grid": 48})
    assert options.grid == 48 and options.refinement == Options().refinement
    assert len(notes) == 1 and "lipstick" in notes[0]
    with pytest.raises(BadOption, match="colour"):
        reuse.folder_options(other, {"colour": 3})
    with pytest.raises(BadOption):
        reuse.folder_options(other, {"grid": 3})
    (other / "head.json").write_text("{")
    with pytest.raises(HeadFileDamaged):
        reuse.folder_options(other, {})
    with pytest.raises(HeadFileMissing):
        reuse.folder_options(tmp_path / "none", {})


def test_a_head_of_another_model_is_refused(folder, options, simple_model, tmp_path):
    with pytest.raises(HeadOfOtherModel, match="varied"):
        reuse.rebuild(folder, tmp_path / "out", options, load_models(simple_model, "cpu"))


@pytest.mark.parametrize("verb", ["rebuild", "rebake", "reroll"])
def test_cancelling_leaves_nothing_and_the_head_as_it_was(folder, options, models, tmp_path, verb):
    before = files(folder)
    out = tmp_path / "out"
    run = {
        "rebuild": lambda progress: reuse.rebuild(folder, out, options, models, progress),
        "rebake": lambda progress: reuse.rebake(folder, folder / "head.glb", out, options, models, progress),
        "reroll": lambda progress: reuse.reroll(folder, out, 5, options, models, progress),
    }[verb]
    told: list[float] = []
    run(lambda fraction, _: told.append(fraction))
    assert np.diff(told).min() > -1e-9 and told[-1] == pytest.approx(1.0)  # it never goes back, but for rounding
    shutil.rmtree(out)
    for moment in (0.1, 0.6):

        def give_up(fraction: float, _: str, moment: float = moment) -> None:
            if fraction > moment:
                raise Cancelled

        with pytest.raises(Cancelled):
            run(give_up)
    assert list(tmp_path.iterdir()) == [] and files(folder) == before
