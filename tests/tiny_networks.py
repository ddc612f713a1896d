"""Options of the smallest networks that keep every part of a method."""

from __future__ import annotations

from typing import Any

SCAM: dict[str, Any] = {
    "num_latent_per_labels": 3,
    "num_latents_bg": 2,
    "latent_dim": 16,
    "num_blocks": 4,
    "attention_latent_dim": 24,
    "positional_embedding_dim": 8,
    "conv_features_dim_first": 4,
    "num_filters_last_layer": 4,
}
SCA_DM: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "attention_resolutions": (2,),
    "num_res_blocks": 1,
    "num_feat": 1,
    "ch": 32,
    "ch_mult": (1, 1),
    "first_stage_blocks": 1,
    "n_embed": 64,
    "steps": 2,
}
