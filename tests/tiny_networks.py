"""The smallest network of every method, and one value for each of its options.

A new method or layout editor adds one entry to ``METHODS`` or ``EDITORS``; ``test_all_methods.py``
tests it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
CONTROLNET: dict[str, Any] = {
    "unet": {
        "sample_size": 16,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
    },
    "vae": {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "text_encoder": {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 70,
        "max_position_embeddings": 16,
    },
    "steps": 2,
}
_TOKENIZER = {"tokenizer": str(Path(__file__).parent / "fixtures" / "controlnet" / "tokenizer")}
SEMANTIC_STYLEGAN: dict[str, Any] = {
    "size": 16,
    "style_dim": 8,
    "n_mlp": 2,
    "local_layers": 3,
    "base_layers": 1,
    "depth_layers": 2,
    "local_channel": 4,
    "coarse_channel": 8,
    "coarse_size": 8,
    "min_feat_size": 4,
    "channel_multiplier": 1,
    "steps": 3,
    "lambda_lpips": 0.0,
    "mean_latent_draws": 16,
}


@dataclass(frozen=True)
class Once:
    """One option set once: something about the method has to change by it.

    Attributes:
        value: another value than the tiny network's.
        base: options that both sides of the comparison have.
        along: options that only go with ``value``.
    """

    value: Any
    base: Mapping[str, Any] = field(default_factory=dict)
    along: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """An option that is only checked: this value is an error that names the option."""

    value: Any


@dataclass(frozen=True)
class Tiny:
    """The smallest network of a method on celebamask_hq, in pictures of 64 pixels at most.

    Attributes:
        library: an optional one that it needs.
        options: construction options.
        once: every option of the method's ``Options``, set once.
        manifests: key layouts under ``tests/fixtures`` -> the label space they are for.
    """

    options: Mapping[str, Any]
    once: Mapping[str, Once | Refused]
    manifests: Mapping[str, str] = field(default_factory=dict)
    library: str = ""


_FAMILY = {
    "label_nc": Once(20),
    "contain_dontcare_label": Once(True),
    "semantic_nc": Refused(5),
    "ngf": Once(8),
    "max_channels": Once(8),
    "nhidden": Once(4),
    "crop_size": Once(128),
    "aspect_ratio": Once(2.0),
    "num_upsampling_layers": Once("more"),
    "norm_G": Once("spadeinstance3x3"),
}
_FRAME_SIZES = {"height": 64, "width": 64, "num_filters_last_layer": 2, "num_up_layers": 5}
_AS_SCAM = {"ngf": 64, "crop_size": None, **_FRAME_SIZES}  # the official frame's are left open
_FRAME = {
    "num_labels": Once(20, base=_AS_SCAM),
    "height": Once(128, base=_AS_SCAM),
    "width": Once(128, base=_AS_SCAM),
    "num_filters_last_layer": Once(4, base=_AS_SCAM),
    "num_up_layers": Once(4, base=_AS_SCAM),
    "variant": Once("scam", along=_AS_SCAM),
}
_VAE = {
    **_FRAME,
    "no_instance": Once(False),
    "nef": Once(8),
    "use_vae": Once(False),
    "z_dim": Once(4),
    "encoder_size": Once(32),
    "norm_E": Once("instance"),
    "ade_labels": Once("shifted", base={"contain_dontcare_label": True}),
}
_VAE_OPTIONS = {"ngf": 4, "nef": 4, "z_dim": 8, "crop_size": 64, "encoder_size": 16}

_AS_SCAM_INADE = {"crop_size": None, **_FRAME_SIZES}
_INADE = {
    "label_nc": Refused(7),
    "contain_dontcare_label": Once(True, along={"label_nc": 18}),
    "semantic_nc": Refused(5),
    "ngf": Once(8),
    "z_dim": Once(4),
    "noise_nc": Once(2),
    "crop_size": Once(128),
    "aspect_ratio": Once(2.0),
    "num_upsampling_layers": Once("more"),
    "add_sketch": Once(True),
    "num_labels": Once(20, base=_AS_SCAM_INADE),
    "height": Once(128, base=_AS_SCAM_INADE),
    "width": Once(128, base=_AS_SCAM_INADE),
    "num_filters_last_layer": Once(4, base=_AS_SCAM_INADE),
    "num_up_layers": Once(4, base=_AS_SCAM_INADE),
    "variant": Once("scam", along=_AS_SCAM_INADE),
}
_INADE_OPTIONS = {"ngf": 4, "z_dim": 8, "noise_nc": 3, "crop_size": 64}

METHODS: dict[str, Tiny] = {
    "pix2pixhd": Tiny(
        {"ngf": 4, "nef": 2, "crop_size": 64, "n_blocks_global": 1},
        {
            "label_nc": Once(20),
            "no_instance": Once(False),
            "label_feat": Once(False, along={"instance_feat": False}),
            "instance_feat": Once(False, along={"label_feat": False}),
            "feat_num": Once(2),
            "ngf": Once(8),
            "nef": Once(4),
            "netG": Once("local"),
            "n_downsample_global": Once(3),
            "n_blocks_global": Once(2),
            "n_blocks_local": Once(1, base={"netG": "local"}),
            "n_downsample_E": Once(3),
            "crop_size": Once(128),
            "aspect_ratio": Once(2.0),
            "clusters": Refused("no such file.npz"),
        },
        {
            "spade/pix2pixhd.celebamask19_feat": "celebamask_hq",
            "spade/pix2pixhd.ade151_feat": "ade20k",
        },
    ),
    "clade": Tiny(
        _VAE_OPTIONS,
        {
            **{k: v for k, v in _FAMILY.items() if k != "nhidden"},
            **_VAE,
            "norm_G": Once("spadebatch3x3"),
            "add_dist": Once(True),
            "norm_dist": Once(False, base={"add_dist": True}),
        },
        {
            "spade/clade.ade20k151": "ade20k",
            "spade/clade.ade20k151_icpe": "ade20k",
            "spade/clade.celebamask19_vae": "celebamask_hq",
            "spade/scam-clade.celebahq": "celebamask_hq",
        },
    ),
    "sean-clade": Tiny(
        {**_FRAME_SIZES, "style_dim": 8, "encoder_first_filters": 2},
        {
            "num_labels": Once(20),
            "height": Once(128),
            "width": Once(128),
            "num_filters_last_layer": Once(4),
            "num_up_layers": Once(4),
            "style_dim": Once(4),
            "encoder_first_filters": Once(4),
            "apply_spectral_norm": Once(False),
            "small_h": Refused(99),
            "small_w": Refused(99),
        },
        {
            "spade/sean_clade.celebamask19": "celebamask_hq",
            "spade/sean_clade.ade20k151": "ade20k",
        },
    ),
    "spade": Tiny(
        {**_VAE_OPTIONS, "nhidden": 8},
        {**_FAMILY, **_VAE},
        {
            "spade/spade.celebamask19": "celebamask_hq",
            "spade/spade.ade20k151": "ade20k",
            "spade/spade.ade20k151_vae": "ade20k",
            "spade/scam-spade.celebahq": "celebamask_hq",
        },
    ),
    "sean": Tiny(
        {"ngf": 4, "nhidden": 8, "crop_size": 64, "style_length": 8, "style_encoder_ngf": 2},
        {
            **_FAMILY,
            "no_instance": Refused(False),
            "style_length": Once(4),
            "num_fc_mu": Once(21),
            "style_encoder_ngf": Once(4),
        },
        {"spade/sean.celebamask19": "celebamask_hq", "spade/sean.ade151_extrapolated": "ade20k"},
    ),
    "inade": Tiny(
        _INADE_OPTIONS,
        {**_INADE, "use_vae": Once(True)},
        {
            "inade/inade.celebamaskhq-novae": "celebamask_hq",
            "inade/inade.ade20k-novae": "ade20k",
        },
    ),
    "v-inade": Tiny(
        _INADE_OPTIONS,
        {**_INADE, "use_vae": Refused(False)},
        {
            "inade/inade.celebamaskhq-vae": "celebamask_hq",
            "inade/inade.ade20k-vae": "ade20k",
            "inade/inade.cityscapes-vae": "cityscapes",
            "inade/inade.deepfashion-vae": "deepfashion",
            "inade/scam-inade.celebahq": "celebamask_hq",
            "inade/scam-inade.ade20k": "ade20k",
        },
    ),
    "scam": Tiny(
        {**SCAM, "num_up_layers": 4, "height": 64, "width": 64},
        {
            "num_labels": Refused(5),
            "num_latent_per_labels": Once(2),
            "num_latents_bg": Once(3),
            "latent_dim": Once(8),
            "attention_latent_dim": Once(48),
            "generator_attention_latent_dim": Once(48),
            "positional_embedding_dim": Once(12),
            "num_blocks": Once(3),
            "num_cross_heads": Once(2),
            "num_self_heads": Once(2),
            "num_heads": Once(2),
            "conv_features_dim_first": Once(8),
            "use_self_attention": Once(False),
            "attention_type": Once("simplex"),
            "num_filters_last_layer": Once(8),
            "num_up_layers": Once(3),
            "height": Once(32),
            "width": Once(32),
            "add_noise": Once(False),
        },
        {
            "scam/scam.celebahq": "celebamask_hq",
            "scam/scam.ade20k": "ade20k",
            "scam/scam.idesigner": "idesigner",
        },
    ),
    "ca2sis": Tiny(
        {"resolution": 64, "style_dim": 8, "style_enc_feat_dim": 1},
        {
            "label_nc": Once(20),
            "contain_dontcare_label": Once(True),
            "exclude_bg": Once(False),
            "ade_labels": Once(
                "shifted", base={"contain_dontcare_label": True, "exclude_bg": False}
            ),
            "style_dim": Once(4),
            "style_enc_feat_dim": Once(2),
            "mapping_dim": Once(8),
            "noise_encoder": Once(False),
            "tanh": Once(False),
            "ds_mode": Once("cityscapes"),
            "resolution": Once(128),
            "no_embedding": Once(True),
            "sean_style_encoder": Once(True),
            "no_group_conv": Once(True),
            "no_cross_attention": Once(True),
        },
        {
            "ca2sis/ca2sis.celebamaskhq": "celebamask_hq",
            "ca2sis/ca2sis.ade20k": "ade20k",
            "ca2sis/ca2sis.cityscapes": "cityscapes",
        },
    ),
    "sca-dm": Tiny(
        {**SCA_DM, "image_size": 32},
        {
            "steps": Once(4),
            "scale": Once(1.0),
            "guidance": Once("paper"),
            "eta": Once(1.0),
            "quantize": Once(False),
            "ema": Once(False),
            "timesteps": Once(500),
            "linear_start": Once(0.01),
            "linear_end": Once(0.03),
            "size": Once((128, 64)),
            "image_size": Once(64),
            "in_channels": Once(4),
            "model_channels": Once(64),
            "channel_mult": Once((1, 1)),
            "num_res_blocks": Once(2),
            "attention_resolutions": Once((1,)),
            "num_head_channels": Once(16),
            "use_mask_attn": Once(False),
            "context_dim": Refused(7),
            "num_classes": Once(18),
            "num_downsample": Once(7),
            "num_upsample": Once(4),
            "num_feat": Once(2),
            "output_dim": Once(128),
            "n_embed": Once(32),
            "z_channels": Once(4),
            "ch": Once(64),
            "ch_mult": Once((1, 2)),
            "first_stage_blocks": Once(2),
            "resolution": Once(32, base={"image_size": None}),
        },
        {
            "sca_dm/sca_dm.celebamask_hq": "celebamask_hq",
            "sca_dm/sca_dm.cityscapes": "cityscapes",
        },
    ),
    "oasis": Tiny(
        {"channels_G": 2, "z_dim": 3, "crop_size": 64},
        {
            "semantic_nc": Once(20),
            "contain_dontcare_label": Once(True),
            "channels_G": Once(4),
            "z_dim": Once(4),
            "no_3dnoise": Once(True),
            "crop_size": Once(128),
            "aspect_ratio": Once(2.0),
            "param_free_norm": Once("instance"),
            "spade_ks": Once(5),
            "labels": Once("shifted"),
            "noise_per": Once("class"),
        },
        {"oasis/oasis.ade20k": "ade20k"},
    ),
    "sc-gan": Tiny(
        {"ngf": 4, "nff": 3, "nrf": 4, "z_dim": 8, "crop_size": 64},
        {
            "label_nc": Once(20),
            "contain_dontcare_label": Once(True, base={"labels": "as_is"}),
            "semantic_nc": Refused(5),
            "labels": Once("as_is"),
            "crop_size": Once(128),
            "aspect_ratio": Once(2.0),
            "ngf": Once(8),
            "nff": Once(4),
            "nrf": Once(8),
            "nef": Once(8),
            "use_vae": Once(False),
            "z_dim": Once(4),
            "num_experts_conv": Once(2),
            "num_experts_norm": Once(4),
            "temperature": Once(5.0),
            "position": Once(False),
            "pyr_pos": Once(False),
            "pyr_rng": Once(6),
            "ig_sz": Once(5),
            "ig_sigma": Once(1.0),
            "ig_iter": Once(2),
            "ig_relative": Once(True, base={"ig_iter": 2}),
            "no_spectral_on_routing": Once(False),
            "norm_G": Once("sccsyncbatch3x3"),
            "norm_E": Once("instance"),
        },
        {"scgan/scgan.celebamaskhq512": "celebamask_hq", "scgan/scgan.ade20k256": "ade20k"},
    ),
    "maskgan": Tiny(
        {"ngf": 4, "n_downsample_global": 2, "n_blocks_global": 2, "size": (64, 64)},
        {
            "label_nc": Once(20),
            "ngf": Once(8),
            "n_downsample_global": Once(3),
            "n_blocks_global": Once(3),
            "size": Once((64, 32)),
            "demo_labels": Once(True),
            "B_ngf": Refused(0),
            "vae_ngf": Refused(0),
            "vae_latent": Refused(0),
        },
        {"maskgan/maskgan.celebamask19": "celebamask_hq"},
    ),
    "sdm": Tiny(
        {
            "num_channels": 32,
            "channel_mult": (1, 1),
            "num_res_blocks": 1,
            "attention_resolutions": (32,),
            "num_head_channels": 32,
            "image_size": 32,
            "steps": 2,
        },
        {
            "steps": Once(3),
            "sampler": Once("ddim"),
            "spacing": Once("stride"),
            "scale": Once(1.0),
            "eta": Once(1.0, base={"sampler": "ddim"}),
            "timesteps": Once(500),
            "size": Once((64, 32)),
            "image_size": Once(64),
            "num_channels": Once(64),
            "channel_mult": Once((1, 2)),
            "num_res_blocks": Once(2),
            "attention_resolutions": Once((32, 16)),
            "num_head_channels": Once(16),
            "num_heads": Once(2, base={"num_head_channels": -1}),
            "num_classes": Once(18),
            "no_instance": Once(True),
            "edges": Refused("both"),
            "semantic_channels": Refused(7),
            "ade_labels": Refused("raw"),
        },
        {
            "sdm/sdm.celeba256": "celebamask_hq",
            "sdm/sdm.ade20k256": "ade20k",
            "sdm/sdm.cityscapes512x256": "cityscapes",
            "sdm/sdm.coco256": "coco_stuff",
        },
    ),
    "codiff": Tiny(
        {
            "model_channels": 32,
            "channel_mult": (1, 1),
            "num_res_blocks": 1,
            "attention_resolutions": (2,),
            "num_heads": 4,
            "context_dim": 16,
            "mask_embed_dim": 64,
            "image_size": 8,
            "ch": 32,
            "ch_mult": (1, 1),
            "first_stage_blocks": 1,
            "steps": 2,
        },
        {
            "variant": Once(512),
            "text": Once(True, base={"n_layer": 1, "vocab_size": 8}),
            "caption": Refused("a caption"),
            "captions": Refused({"a": "a caption"}),
            "vocabulary": Refused("vocab.txt"),
            "steps": Once(4),
            "eta": Once(0.0),
            "seg_mask_schedule": Refused("sine"),
            "seg_mask_scale_factor": Refused(-1.0),
            "timesteps": Once(500),
            "linear_start": Once(0.01),
            "linear_end": Once(0.03),
            "image_size": Once(16),
            "in_channels": Once(4),
            "model_channels": Once(64),
            "channel_mult": Once((1, 2)),
            "num_res_blocks": Once(2),
            "attention_resolutions": Once((1,)),
            "num_heads": Once(2),
            "influence_channels": Refused(33),
            "context_dim": Once(24),
            "mask_embed_dim": Once(16),
            "n_layer": Once(2, base={"text": True, "vocab_size": 8, "n_layer": 1}),
            "vocab_size": Once(9, base={"text": True, "vocab_size": 8, "n_layer": 1}),
            "max_seq_len": Once(5, base={"text": True, "vocab_size": 8, "n_layer": 1}),
            "ch": Once(64),
            "ch_mult": Once((1, 2)),
            "first_stage_blocks": Once(2),
            "z_channels": Once(4),
            "scale_factor": Once(0.5),
        },
        {},
    ),
    "controlnet": Tiny(
        CONTROLNET,
        {
            "base": Refused("base/that/is/not/here"),
            "prompt": Once("a face", base=_TOKENIZER),
            "negative_prompt": Once("a face", base=_TOKENIZER),
            "palette": Refused("ade20k"),
            "steps": Once(3),
            "guidance": Once(2.0, base={**_TOKENIZER, "prompt": "a face"}),
            "strength": Once(0.5),
            "eta": Once(1.0),
            "size": Once((64, 32)),
            "resolution": Once((64, 64), base={"size": 32}),
            "tokenizer": Once(_TOKENIZER["tokenizer"]),
            "unet": Once({**CONTROLNET["unet"], "sample_size": 8}),
            "controlnet": Once(
                {
                    "block_out_channels": [8, 16],
                    "layers_per_block": 1,
                    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                    "cross_attention_dim": 8,
                    "norm_num_groups": 4,
                    "attention_head_dim": 2,
                    "conditioning_embedding_out_channels": [4, 8],
                }
            ),
            "vae": Once({**CONTROLNET["vae"], "layers_per_block": 2}),
            "text_encoder": Once({**CONTROLNET["text_encoder"], "num_hidden_layers": 2}),
            "scheduler": Once({"beta_end": 0.02}),
        },
        library="diffusers",
    ),
    "semantic-stylegan": Tiny(
        SEMANTIC_STYLEGAN,
        {
            "size": Once(32),
            "style_dim": Once(4),
            "n_mlp": Once(3),
            "seg_dim": Once(12, along={"transparent_dims": (10,)}),
            "groups": Refused((0, 1)),
            "local_layers": Once(4),
            "base_layers": Once(2),
            "depth_layers": Once(3),
            "local_channel": Once(8),
            "coarse_channel": Once(4),
            "coarse_size": Once(16, base={"size": 32}),
            "min_feat_size": Once(8, base={"size": 32, "coarse_size": 16}),
            "channel_multiplier": Once(2, base={"size": 64}),
            "residual_refine": Refused("yes"),
            "detach_texture": Once(True),
            "transparent_dims": Once(()),
            "truncation": Refused("none"),
            "randomize_noise": Once(True),
            "steps": Once(4),
            "lr": Once(0.2),
            "lambda_lpips": Refused("none"),
            "lambda_mse": Once(10.0),
            "lambda_mean": Once(0.0),
            "noise_regularize": Once(0.0, base={"no_noises": False}),
            "w_plus": Once(False),
            "no_noises": Once(False),
            "finetune_steps": Once(2),
            "mean_latent_draws": Once(8),
            "mean_latent_seed": Once(1),
            "lpips_trunk": Refused(1),
            "keep_inversions": Refused("no"),
        },
        {"semantic_stylegan/semantic_stylegan.celebamask13": "celebamask_hq"},
    ),
}

EDITORS: dict[str, Tiny] = {
    "semantic-vae": Tiny(
        {"latent": 16, "mask_size": 32},
        {
            "classes": Refused(7),
            "latent": Once(4),
            "resolution": Refused(128),
            "mask_size": Once(16),
            "lstm_layers": Once(1),
            "bidirectional": Once(False),
            "no_LSTM": Once(True),
            "do_perm": Once(True),
        },
        {"ca2sis/semvae.celebamaskhq": "celebamask_hq"},
    ),
    "frankenmask": Tiny(
        {"ndf": 2, "ngf": 2, "latent": 16, "layers": 2},
        {
            "nc": Refused(7),
            "ndf": Once(4),
            "ngf": Once(4),
            "latent": Once(8),
            "heads": Once(4),
            "layers": Once(1),
            "absent": Once("as_computed"),
        },
        {"frankenmask/frankenmask.celebamaskhq": "celebamask_hq"},
    ),
}
