"""Methods of semantic image synthesis behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sisbench.core.registry import Registry

if TYPE_CHECKING:
    from sisbench.core.label_space import LabelSpace
    from sisbench.methods.base import Method
    from sisbench.methods.editor import LayoutEditor

registry = Registry(
    "sisbench.methods",
    {
        "spade": "sisbench.methods.spade:SPADE",
        "pix2pixhd": "sisbench.methods.pix2pixhd:Pix2PixHD",
        "clade": "sisbench.methods.clade:CLADE",
        "sean": "sisbench.methods.sean:SEAN",
        "sean-clade": "sisbench.methods.sean_clade:SEANCLADE",
        "inade": "sisbench.methods.inade:INADE",
        "v-inade": "sisbench.methods.inade:VINADE",
        "scam": "sisbench.methods.scam:SCAM",
        "ca2sis": "sisbench.methods.ca2sis:CA2SIS",
        "sca-dm": "sisbench.methods.sca_dm:SCADM",
        "oasis": "sisbench.methods.oasis:OASIS",
        "sc-gan": "sisbench.methods.scgan:SCGAN",
        "maskgan": "sisbench.methods.maskgan:MaskGAN",
        "sdm": "sisbench.methods.sdm:SDM",
        "codiff": "sisbench.methods.codiff:CoDiff",
        "controlnet": "sisbench.methods.controlnet:ControlNet",
        "semantic-stylegan": "sisbench.methods.semantic_stylegan:SemanticStyleGAN",
    },
    "sisbench.methods.base:Method",
)

editors = Registry(
    "sisbench.editors",
    {
        "semantic-vae": "sisbench.methods.semantic_vae:SemanticVAE",
        "frankenmask": "sisbench.methods.frankenmask:FrankenMask",
    },
    "sisbench.methods.editor:LayoutEditor",
)


def create(name: str, space: LabelSpace | str, **options: Any) -> Method:
    """A method built for a label space, in its official size unless ``options`` say otherwise.

    Args:
        name: registry name, as ``"sean"`` (papers' spellings, as ``"CA2-SIS"``, are understood), or
            ``"./file.py:Class"``.
        space: a label space, or the name of one, as ``"celebamask_hq"``.
        options: fields of the method's ``Options``.

    Raises:
        UserError: unknown name or option; the nearest one is named.
    """
    method: Method = registry.get(name)(**options)
    return method.setup(space)


def create_editor(name: str, space: LabelSpace | str, **options: Any) -> LayoutEditor:
    """A layout editor built for a label space; arguments and errors as for ``create``."""
    editor: LayoutEditor = editors.get(name)(**options)
    return editor.setup(space)
