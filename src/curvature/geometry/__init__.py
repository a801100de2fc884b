"""Manifolds: batched, differentiable maps on stacks of matrices."""
