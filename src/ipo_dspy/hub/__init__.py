"""Programs on the Hugging Face hub: `repository` publishes and fetches them, `card` describes them."""
