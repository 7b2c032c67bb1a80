"""The digest of tensors: alike for alike ones, another for any other."""

from __future__ import annotations

import torch

from gmn_opt.weights.digest import digest


def test_a_digest_is_of_values_shapes_dtypes_and_order() -> None:
    x, y = torch.arange(6.0).view(2, 3), torch.ones(2, dtype=torch.int64)
    known = digest([x, y])
    assert known == digest([x.clone().mT.contiguous().mT, y.requires_grad_(False)])
    changed = x.clone()
    changed[1, 2] += 1e-6
    others = [[y, x], [x], [x.view(3, 2), y], [x.double(), y], [changed, y], [x.flip(0), y], []]
    assert len({known, *map(digest, others)}) == len(others) + 1
    assert digest([torch.zeros(())]) != digest([torch.zeros(0)])
