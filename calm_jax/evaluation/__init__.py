"""How good a model is: reconstruction, BrierLM, and their errors."""
