"""Counts the operations of a traced program."""

import jax
import numpy as np


def products(jaxpr):
    """Operations of all matrix products and convolutions of a program, loops included."""
    total = 0
    for equation in jaxpr.eqns:
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inner = [
            leaf
            for leaf in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            )
            if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ]
        for one in inner:
            total += repeats * products(getattr(one, "jaxpr", one))
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            sides = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * int(np.prod(sides)) * equation.outvars[0].aval.size
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * kernel.size // outputs * equation.outvars[0].aval.size
    return total
