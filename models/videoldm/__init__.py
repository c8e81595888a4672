"""The Video LDM family: latent video diffusion as the papers describe it."""
