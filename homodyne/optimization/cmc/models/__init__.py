"""What the consensus engine asks of a model, and models from functions in JAX or NumPyro."""
