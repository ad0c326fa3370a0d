"""Text → token ids → rows [B, L, K]."""
