"""A fold's checkpoint: safetensors weights with the fold's spec in the file's metadata. No pickle."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from fundus_core.ensemble import Normalise
from fundus_core.errors import BundleError
from fundus_core.files import whole_file
from fundus_core.schema import build
from fundus_train.network import FundusNetwork, build_backbone
from fundus_train.recipe import Recipe, as_recorded

SPEC = "fundus_spec"


@dataclass(frozen=True)
class CheckpointSpec:
    """What a fold's weights belong to."""

    recipe: Recipe
    fold: int
    normalise: Normalise


def save_checkpoint(path: Path, network: FundusNetwork, spec: CheckpointSpec) -> None:
    """Write the weights and the spec, whole or not at all."""
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    with whole_file(path) as partial:
        partial.write_bytes(save(state, {SPEC: json.dumps(asdict(spec))}))  # so a full disk is an OSError


def load_checkpoint(path: Path) -> tuple[FundusNetwork, CheckpointSpec]:
    """Return the network of a checkpoint, in evaluation mode on the CPU, and its spec.

    Raises:
        BundleError: not a checkpoint of this project, or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()[SPEC])
            said["recipe"] = as_recorded(said["recipe"])
            spec = build(CheckpointSpec, said, BundleError, path.name)
        state = load_file(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"'{path}' is no fold checkpoint ({error!r}). Train it again.") from None
    backbone = build_backbone(_untrained(spec.recipe))
    network = FundusNetwork(backbone, spec.normalise)
    network.load_state_dict(state)
    return network.eval(), spec


def _untrained(recipe: Recipe) -> Recipe:
    return replace(recipe, network=replace(recipe.network, pretrained=False))
