"""What the diffusion methods share: UNet, autoencoder, guidance branches and samplers."""
