from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.tri_grid import (
    PLANE_AXES,
    PlaneMerge,
    cell_by_cell,
    is_cell_by_cell,
    plane_means,
    plane_points,
    sample_planes,
)

Layout = Callable[[Tensor], Tensor]


def five_dimensional(planes: Tensor, points: Tensor, box_side: float) -> Tensor:
    """(n, 3, channels, m) by the trilinear grid_sample the published code uses, one call per plane."""
    x, y, z = (points * 2 / box_side).unbind(dim=-1)
    coordinates = [(x, y, z), (x, z, y), (y, z, x)]  # columns, rows, slices
    return torch.stack(
        [
            F.grid_sample(
                planes[:, k],
                torch.stack(axes, dim=-1)[:, None, None],
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )[:, :, 0, 0]
            for k, axes in enumerate(coordinates)
        ],
        dim=1,
    )


@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize("merge", ["mean", "concat"])
@pytest.mark.parametrize("layout", [lambda planes: planes, cell_by_cell], ids=["channel_by_channel", "cell_by_cell"])
def test_sampling_equals_a_trilinear_lookup_in_each_plane(depth: int, merge: PlaneMerge, layout: Layout) -> None:
    random = torch.Generator().manual_seed(0)
    planes = torch.randn(2, 3, 5, depth, 7, 7, generator=random, dtype=torch.float64, requires_grad=True)
    # Up to twice the box, so that fading at its sides and the zeros outside are met as well.
    points = (torch.rand(2, 500, 3, generator=random, dtype=torch.float64) - 0.5) * 1.4
    apart = five_dimensional(planes, points, box_side=0.7)
    expected = apart.mean(dim=1) if merge == "mean" else apart.flatten(1, 2)
    actual = sample_planes(layout(planes), points, 0.7, merge)
    torch.testing.assert_close(actual, expected.transpose(1, 2), rtol=0, atol=1e-12)

    weight = torch.randn(actual.shape, generator=random, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((actual * weight).sum(), planes, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad((expected.transpose(1, 2) * weight).sum(), planes)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [lambda planes: planes, cell_by_cell], ids=["channel_by_channel", "cell_by_cell"])
def test_single_precision_differs_by_rounding_only(layout: Layout) -> None:
    random = torch.Generator().manual_seed(0)
    planes = torch.randn(1, 3, 8, 3, 64, 64, generator=random)
    points = (torch.rand(1, 2000, 3, generator=random) - 0.5) * 0.7
    expected = five_dimensional(planes.double(), points.double(), 0.7).flatten(1, 2).transpose(1, 2).float()
    actual = sample_planes(layout(planes), points, 0.7, "concat")
    # A coordinate's rounding error moves a point by 2e-6 cells, across which these random planes change by about 1.
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def test_laying_planes_out_cell_by_cell_changes_no_value() -> None:
    planes = torch.randn(2, 3, 5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    laid_out = cell_by_cell(planes)
    assert torch.equal(laid_out, planes)
    assert is_cell_by_cell(laid_out) and not is_cell_by_cell(planes)
    assert is_cell_by_cell(cell_by_cell(planes[:1]).expand(2, -1, -1, -1, -1, -1))  # one head for two cameras


@pytest.mark.parametrize(
    ("plane", "cell", "point"),
    [
        # cell: slice, row, column; the box is 3 wide, so cells lie at -1, 0 and 1 on each axis.
        (0, (0, 1, 2), (1.0, 0.0, -1.0)),
        (0, (1, 2, 0), (-1.0, 1.0, 0.0)),
        (1, (0, 1, 2), (1.0, -1.0, 0.0)),
        (1, (2, 0, 1), (0.0, 1.0, -1.0)),
        (2, (0, 1, 2), (-1.0, 1.0, 0.0)),
        (2, (2, 0, 1), (1.0, 0.0, -1.0)),
    ],
)
def test_a_cell_is_found_where_the_head_frame_says(
    plane: int, cell: tuple[int, int, int], point: tuple[float, float, float]
) -> None:
    planes = torch.zeros(1, 3, 1, 3, 3, 3)
    planes[0, plane, 0][cell] = 1.0
    read = sample_planes(planes, torch.tensor([[point]]), 3.0, "concat")[0, 0]
    expected = torch.zeros(3)
    expected[plane] = 1.0
    torch.testing.assert_close(read, expected)


def test_planes_tell_each_other_what_they_hold_at_a_common_coordinate() -> None:
    res = 4
    places = plane_points(res, 1, 0.7)[:, 0]  # (3, res, res, 3); the coordinate a plane has not is 0
    planes = places.permute(0, 3, 1, 2)[None]  # channel x, y or z holds that coordinate
    told = plane_means(planes)[0].view(3, 2, 3, res, res)
    for plane in range(3):
        others = [other for other in range(3) if other != plane]
        for place, other in enumerate(others):
            shared = ({*PLANE_AXES[plane][:2]} & {*PLANE_AXES[other][:2]}).pop()
            for axis in range(3):
                # Along the axis that only the other plane has, coordinates cancel out.
                expected = places[plane, ..., axis] if axis == shared else torch.zeros(res, res)
                torch.testing.assert_close(told[plane, place, axis], expected, atol=1e-7, rtol=0)
