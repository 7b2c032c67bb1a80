"""Operator names by what matters about them when they need no rule of their own."""

FACTORIES = frozenset(
    {
        "empty", "empty_like", "empty_strided", "full", "full_like", "new_empty",
        "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones", "ones_like",
        "scalar_tensor", "zeros", "zeros_like",
    }
)  # fmt: skip
"""Make tensors whose elements are all alike, or not yet written."""

RANDOM = frozenset(
    {
        "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial", "normal",
        "normal_", "normal_functional", "poisson", "rand", "rand_like", "randint",
        "randint_like", "randn", "randn_like", "randperm", "uniform_",
    }
)  # fmt: skip
"""Draw numbers that differ from element to element."""

ALIKE = frozenset({"rand", "rand_like", "randn", "randn_like"})
"""Draw each element independently from one and the same distribution."""

DROPS = frozenset(
    {
        "alpha_dropout", "bernoulli", "bernoulli_", "dropout", "feature_alpha_dropout",
        "feature_dropout", "native_dropout", "rrelu_with_noise",
    }
)  # fmt: skip
"""Treat each element by a draw of its own."""

NONLINEAR = frozenset(
    {
        "_prelu_kernel", "abs", "celu", "cos", "elu", "erf", "exp", "gelu", "hardsigmoid",
        "hardswish", "hardtanh", "leaky_relu", "log_sigmoid_forward", "mish", "prelu", "relu",
        "relu6", "rrelu_with_noise", "selu", "sigmoid", "silu", "sin", "softplus", "softsign",
        "square", "tanh", "threshold",
    }
)  # fmt: skip
"""Count as the activation function of the neurons that they act on."""

POINTWISE = frozenset(
    {
        "angle", "celu", "clamp", "complex", "copy", "elu", "frexp",
        "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "imag",
        "isclose", "lerp", "log_sigmoid_forward", "logit", "masked_fill", "mish", "nan_to_num",
        "polar", "real", "rrelu_with_noise", "silu", "softplus", "softshrink",
        "special_ndtr", "threshold", "where",
    }
)  # fmt: skip
"""Act on each element alone though ATen does not always tag them so."""

NOT_POINTWISE = frozenset(
    {
        "bernoulli_", "bucketize", "dropout", "fill", "fill_", "masked_scatter",
        "native_dropout", "normal_", "searchsorted", "uniform_", "zero_",
    }
)  # fmt: skip
"""Tagged pointwise, or like it, but handled otherwise."""

KEEPS_UNIFORM = frozenset(
    {
        "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "as_strided", "chunk", "clone",
        "contiguous", "detach", "diagonal", "expand", "expand_as", "fill_", "flatten", "flip",
        "index_select", "lift_fresh", "mean", "movedim", "narrow", "permute", "repeat",
        "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "sum", "t",
        "to", "transpose", "unbind", "unflatten", "unsafe_chunk", "unsafe_split", "unsqueeze",
        "view", "view_copy", "zero_",
    }
)  # fmt: skip
"""Turn tensors of equal elements into tensors of equal elements."""
