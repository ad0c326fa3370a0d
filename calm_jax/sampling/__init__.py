"""Hidden states to text: temperature without likelihoods, and generation."""
