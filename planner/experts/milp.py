"""ExFlow's integer program, for HiGHS through scipy.

    maximise    sum over consecutive layers, experts e and f, devices d of  affinity[l][e][f] * y[l, e, f, d]
    subject to  each expert on one device; N / devices experts of each layer on each device;
                y[l, e, f, d] <= x[l, e, d]  and  y[l, e, f, d] <= x[l + 1, f, d]

with x in {0, 1} and y in [0, 1], which an optimum makes 0 or 1 by itself. Devices are alike, so expert 0 of the first layer is
put on device 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Counts = npt.NDArray[np.int64]


def solve(flows: Counts, devices: int, time_limit: float) -> tuple[Counts, bool] | None:
    """(device[layer][expert], whether it is proved to be the best) for ``flows`` of shape (layers - 1, N, N); None if nothing
    was found in ``time_limit`` seconds."""
    layers, experts = len(flows) + 1, flows.shape[1]
    places = layers * experts * devices
    layer, one, other = np.nonzero(flows)
    pairs = len(layer)
    objective = np.zeros(places + pairs * devices)
    objective[places:] = -np.repeat(flows[layer, one, other], devices)
    upper = np.ones(len(objective))
    upper[1:devices] = 0
    integral = np.zeros(len(objective))
    integral[:places] = 1
    constraints = [
        _one_place(layers * experts, devices, len(objective)),
        _full(layers, experts, devices, len(objective)),
    ]
    if pairs:
        from_place = ((layer * experts + one) * devices)[:, None] + np.arange(devices)
        to_place = (((layer + 1) * experts + other) * devices)[:, None] + np.arange(devices)
        constraints.append(
            _no_more_than(places, np.concatenate([from_place.ravel(), to_place.ravel()]), len(objective))
        )
    found = milp(
        objective,
        integrality=integral,
        bounds=Bounds(0, upper),
        constraints=constraints,
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    device = found.x[:places].reshape(layers, experts, devices).argmax(2).astype(np.int64)
    return device, bool(found.status == 0)


def _one_place(nodes: int, devices: int, variables: int) -> Any:
    """Each expert is on one device."""
    rows = np.repeat(np.arange(nodes), devices)
    matrix = coo_array((np.ones(nodes * devices), (rows, np.arange(nodes * devices))), (nodes, variables))
    return LinearConstraint(matrix.tocsr(), 1, 1)


def _full(layers: int, experts: int, devices: int, variables: int) -> Any:
    """Each device has its part of each layer."""
    column = np.arange(layers * experts * devices)
    rows = column // (experts * devices) * devices + column % devices
    matrix = coo_array((np.ones(len(column)), (rows, column)), (layers * devices, variables))
    return LinearConstraint(matrix.tocsr(), experts // devices, experts // devices)


def _no_more_than(first: int, places: npt.NDArray[Any], variables: int) -> Any:
    """A pair meets on a device only if both are there: the variables from ``first``, once for either end."""
    count = len(places)
    rows = np.arange(count)
    meets = first + rows % (count // 2)
    matrix = coo_array(
        (np.repeat([1.0, -1.0], count), (np.concatenate([rows, rows]), np.concatenate([meets, places]))),
        (count, variables),
    )
    return LinearConstraint(matrix.tocsr(), -np.inf, 0)
