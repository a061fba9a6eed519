"""Programs on the Hugging Face Hub: `repository` publishes and fetches them, `card` describes them."""
