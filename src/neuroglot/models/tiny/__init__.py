"""The embedded model: a LLaVA of three million parameters, its tokenizer, and the recipe that trained it."""
