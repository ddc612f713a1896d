"""Lightning Fabric: devices, processes and precision of a training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import Unavailable, UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from sisbench.training.recipe import Recipe


def make_fabric(recipe: Recipe) -> Fabric:
    """One device, or one process a device (DDP).

    Raises:
        Unavailable: Lightning Fabric is not installed.
        UserError: a device or precision that Fabric or this machine does not know.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise Unavailable(
            "training needs Lightning Fabric", 'install it: pip install "sisbench[train]"'
        ) from error
    strategy: Any = "auto"
    if recipe.devices > 1:
        # a method may hold parameters that a phase does not use (SCA-DM's label embedding)
        strategy = DDPStrategy(start_method="spawn", find_unused_parameters=True)
    precision: Any = recipe.precision
    try:
        with warnings.catch_warnings():  # one process is what was asked for, srun or not
            warnings.filterwarnings("ignore", message="The `srun` command")
            return Fabric(
                accelerator=recipe.device,
                devices=recipe.devices,
                precision=precision,
                strategy=strategy,
            )
    except Exception as error:  # Fabric raises what its plugins raise: values, imports, its own
        raise UserError(
            f"device '{recipe.device}' x {recipe.devices}, precision '{recipe.precision}': "
            f"{str(error).splitlines()[0]}",
            "set device, devices and precision of the recipe to what this machine has",
        ) from error
